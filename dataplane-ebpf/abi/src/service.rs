//! Services as the kernel programs look them up.

use crate::{Ip, PLACES};

/// What a program dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// The address; see [`SCOPE_NODE`](crate::SCOPE_NODE).
    pub ip: Ip,
    /// Network byte order.
    pub port: u16,
    /// [`PROTO_TCP`](crate::PROTO_TCP), [`PROTO_UDP`](crate::PROTO_UDP) or [`PROTO_SCTP`](crate::PROTO_SCTP).
    pub proto: u8,
    /// [`SCOPE_ADDRESS`](crate::SCOPE_ADDRESS) or [`SCOPE_NODE`](crate::SCOPE_NODE).
    pub scope: u8,
}

/// What stands behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Whose slots to use.
    pub service: u32,
    /// Slots `0..cluster` of [`SET_CLUSTER`](crate::SET_CLUSTER) are filled.
    pub cluster: u16,
    /// Slots `0..local` of [`SET_LOCAL`](crate::SET_LOCAL) are filled.
    pub local: u16,
    /// `FRONTEND_…` bits.
    pub flags: u16,
    /// Zero.
    pub reserved: u16,
    /// How long a client stays with its backend after its last new connection; 0: it does not.
    pub affinity_seconds: u32,
}

/// One place of a service's choice.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// Service id.
    pub service: u32,
    /// [`SET_CLUSTER`](crate::SET_CLUSTER) or [`SET_LOCAL`](crate::SET_LOCAL).
    pub set: u16,
    /// Counted from 0.
    pub slot: u16,
}

/// A part of a table of choices, with a [key](SlotKey) whose `slot` counts parts. It is as large as what the kernel makes room
/// for (1,024 bytes with its key and its own words).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Backend ids. What is beyond the table's end is 0.
    pub backends: [u32; PLACES],
}

/// One endpoint of one service port. The same pod behind two services is two backends: so a backend that is
/// looked up says at once whether it still belongs to the service of a remembered flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub ip: Ip,
    /// Network byte order.
    pub port: u16,
    /// `BACKEND_…` bits: the sets it is in. In none, it only keeps its running conversations.
    pub flags: u16,
    /// The service it belongs to.
    pub service: u32,
}

/// An endpoint of this node, by what a packet says that another node sent on as it came.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiverKey {
    /// Its address.
    pub ip: Ip,
    /// The service it belongs to.
    pub service: u32,
}

/// The data of a key of `RANGES`: matched bit by bit, so the service comes first and counts whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// Service id, [`RANGE_PODS`](crate::RANGE_PODS) or [`RANGE_NODES`](crate::RANGE_NODES).
    pub service: u32,
    /// The network's address; IPv4 prefixes count from bit 96.
    pub ip: Ip,
}

impl Range {
    /// Length in bits of a key that names one address.
    pub const WHOLE: u32 = 32 + 128;
}

const _: () = assert!(size_of::<FrontendKey>() == 20 && align_of::<FrontendKey>() == 4);
const _: () = assert!(size_of::<Frontend>() == 16 && align_of::<Frontend>() == 4);
const _: () = assert!(size_of::<SlotKey>() == 8 && align_of::<SlotKey>() == 4);
const _: () = assert!(size_of::<Backend>() == 24 && align_of::<Backend>() == 4);
const _: () = assert!(size_of::<ReceiverKey>() == 20 && align_of::<ReceiverKey>() == 4);
const _: () = assert!(size_of::<Range>() == 20 && align_of::<Range>() == 4);

#[cfg(feature = "user")]
mod pod {
    use super::{Backend, Frontend, FrontendKey, Places, Range, ReceiverKey, SlotKey};

    // SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
    unsafe impl aya::Pod for FrontendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SlotKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Places {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ReceiverKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Range {}
}
