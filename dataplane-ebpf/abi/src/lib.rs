//! The bytes shared with the kernel: what stands in the maps, spelled out and asserted.
//!
//! For: the kernel programs and `orlop-dataplane`, which must agree on every byte.
//! Not for: logic, or the words of Kubernetes (`orlop-dataplane::model`).
//!
//! ```text
//! FRONTENDS  address, port, protocol, scope ─▶ service, number of slots
//! SLOTS      service, set, slot             ─▶ backend
//! BACKENDS   backend                        ─▶ address, port, the service it belongs to
//! FLOWS      socket, address, port          ─▶ the other side of a translation (unconnected UDP; least recently used)
//! PEERS      socket                         ─▶ what the program asked for, and what it got (connected sockets, until closed)
//! ```
//!
//! Addresses and ports are in network byte order, as the kernel hands them over: nothing is swapped per packet.
#![no_std]

mod flow;
mod service;

pub use flow::{Flow, FlowKey, Peer};
pub use service::{Backend, Frontend, FrontendKey, SlotKey};

/// Version of everything in this crate. Pinned maps live in a directory of this number, because a pinned map is
/// reused without a comparison of types: any change of a key, a value or a capacity needs a new number.
pub const SCHEMA: u32 = 2;

/// Most service addresses (address, port and protocol) a node can hold.
pub const MAX_FRONTENDS: u32 = 65_536;
/// Most backends, counted once per service port they belong to.
pub const MAX_BACKENDS: u32 = 262_144;
/// Most slots: every backend can stand in one of each [set](SET_CLUSTER).
pub const MAX_SLOTS: u32 = 262_144;
/// Remembered translations of unconnected UDP sockets, two per conversation; the least recently used make room.
pub const MAX_FLOWS: u32 = 16_384;

/// Most open sockets that are connected to a service. Beyond that a connection works, but shows its backend as peer.
pub const MAX_PEERS: u32 = 131_072;

/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;

/// Scope of a front end: an address of its own (cluster IP). Others, such as node ports, take the next numbers.
pub const SCOPE_ADDRESS: u8 = 0;

/// Set of slots that holds the endpoints of policy `Cluster`.
pub const SET_CLUSTER: u8 = 0;
/// Set of slots that holds the endpoints of policy `Local`.
pub const SET_LOCAL: u8 = 1;

/// The service has endpoints, but none that its policy allows from this node: the packet counts as dropped, and
/// the program sees `EPERM`, which is what a dropped datagram looks like to its sender.
pub const FRONTEND_NONE_LOCAL: u8 = 1;
/// Clients stay with their backend (reserved: no program reads it yet).
pub const FRONTEND_AFFINITY: u8 = 2;
