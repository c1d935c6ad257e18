//! Services as the kernel programs look them up.

/// What a program dials.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    /// Network byte order.
    pub addr: u32,
    /// Network byte order.
    pub port: u16,
    /// [`PROTO_TCP`](crate::PROTO_TCP) or [`PROTO_UDP`](crate::PROTO_UDP).
    pub proto: u8,
    /// [`SCOPE_ADDRESS`](crate::SCOPE_ADDRESS).
    pub scope: u8,
}

/// What stands behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Whose slots to use.
    pub service: u32,
    /// Slots `0..count` of the set are filled; 0 means refuse.
    pub count: u16,
    /// [`SET_CLUSTER`](crate::SET_CLUSTER) or [`SET_LOCAL`](crate::SET_LOCAL).
    pub set: u8,
    /// `FRONTEND_…` bits.
    pub flags: u8,
    /// How long a client stays with its backend (reserved).
    pub affinity_seconds: u32,
    /// Zero.
    pub reserved: u32,
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

/// One endpoint of one service port. The same pod behind two services is two backends: so a backend that is
/// looked up says at once whether it still belongs to the service of a remembered flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Network byte order.
    pub addr: u32,
    /// Network byte order.
    pub port: u16,
    /// Zero (weights and drain states are to come).
    pub flags: u16,
    /// The service it belongs to.
    pub service: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FrontendKey>() == 8 && align_of::<FrontendKey>() == 4);
const _: () = assert!(size_of::<Frontend>() == 16 && align_of::<Frontend>() == 4);
const _: () = assert!(size_of::<SlotKey>() == 8 && align_of::<SlotKey>() == 4);
const _: () = assert!(size_of::<Backend>() == 16 && align_of::<Backend>() == 4);

#[cfg(feature = "user")]
mod pod {
    use super::{Backend, Frontend, FrontendKey, SlotKey};

    // SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
    unsafe impl aya::Pod for FrontendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SlotKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backend {}
}
