//! Containers and images on one machine.
//!
//! ```text
//!  Runtime (this process) ──▶ orlop-shim, one per pod ──▶ creator (throw-away, `create`) ──▶ containers
//!     ├── spec [p]    what was asked for → OCI spec and last steps      ├── cgroup   limits, counters
//!     ├── seccomp [p] profiles → BPF                                    ├── sandbox  pinned namespaces
//!     ├── image       references, store, registries                     └── log      CRI files, read back
//! ```
//! Not for: deciding which containers should run (the agent), pod addresses (`orlop-cni`), Kubernetes objects.

#![deny(unsafe_code)]

pub mod api;
mod apparmor;
mod bundle;
pub mod cgroup;
mod client;
pub mod create;
mod details;
mod devices;
mod dial;
mod ends;
mod errors;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
pub mod ids;
pub mod image;
pub mod log;
mod records;
mod remove;
pub mod resolve;
pub mod rlimits;
mod rootfs;
mod sandbox;
pub mod seccomp;
mod shim;
mod signal;
pub mod spec;
mod start;
pub mod stream;
mod sys;
mod sysctl;
mod update;
mod usage;
mod userns;
mod view;

pub use api::{
    AppArmor, Container, ContainerSpec, ContainerState, Device, ExecOutput, ExecRequest, Exit, ImageVolume,
    Mount, PodRef, Propagation, Resources, RuntimeConfig, RuntimeEvent, Sandbox, SandboxSpec, Seccomp, User,
    UserRequest,
};
pub use apparmor::{AppArmorError, ProfileError};
pub use bundle::container_id;
pub use client::{Layers, Runtime};
pub use details::{Counted, Counters, Depth, PodCounters, Processes};
pub use errors::{
    BoxError, ExecError, NotRun, OpenError, RemoveError, SandboxError, ShimError, StartError, StopError,
    UpdateError,
};
pub use records::{list, stats};
pub use sysctl::NotThePods;
pub use usage::Usage;
