//! Kubernetes Services as eBPF map entries.
//!
//! For: turning Service, EndpointSlice and NetworkPolicy events into the maps that the programs in `dataplane-ebpf` read, and
//! keeping programs and maps in the kernel while this process comes and goes.
//! Not for: watching the API (the caller sends [`Update`]s), or DNS.
//!
//! ```text
//! Update ─▶ ingest ─▶ index ──dirty services──▶ compile ─▶ ids ─▶ diff ──ordered MapOps──▶ maps (kernel)
//!                                                                   ▲                        │
//!                                                                   └── read back, repair ◀──┘
//! ```
#![deny(unsafe_code)]

pub mod compile;
pub mod describe;
pub mod devices;
pub mod diff;
pub mod explain;
pub mod flows;
pub mod health;
pub mod ids;
pub mod index;
pub mod ingest;
pub mod kube_proxy;
pub mod loader;
pub mod maglev;
pub mod maps;
pub mod measure;
pub mod model;
mod netlink;
pub mod netns;
pub mod policy;
pub mod reconcile;
pub mod select;
pub mod sizes;
pub mod status;
pub mod sweep;
#[expect(unsafe_code, reason = "the only door to bpf(2) beside aya; every block says why it holds")]
mod sys;
pub mod tables;
#[cfg(test)]
mod tests;

// The fixtures of the unit tests serve the root tier, too, and name the crate from outside.
#[cfg(test)]
extern crate self as orlop_dataplane;

pub use describe::{
    ConnectionView, Counted, ServiceView, connections, counted, describe, explain_pinned, policies,
};
pub use loader::{LoadError, uninstall};
pub use orlop_abi::{Counters, Hits};
pub use reconcile::{DataplaneConfig, Error, Sockets, Update, run};
pub use status::Status;
