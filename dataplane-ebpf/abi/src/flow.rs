//! What the programs remember about sockets, so that answers come from the address that was asked; and about clients.

use crate::Ip;

/// One direction of a conversation of an unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    /// Socket cookie.
    pub cookie: u64,
    /// The service address (to the backend) or the backend's address (back).
    pub ip: Ip,
    /// Network byte order.
    pub port: u16,
    /// [`FlowKey::TO_BACKEND`] or [`FlowKey::TO_SERVICE`].
    pub direction: u16,
    /// Zero.
    pub reserved: u32,
}

impl FlowKey {
    /// From the service address to the backend in use.
    pub const TO_BACKEND: u16 = 0;
    /// From a backend's address to the service address the program knows.
    pub const TO_SERVICE: u16 = 1;
}

/// The other side of a [`FlowKey`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The address.
    pub ip: Ip,
    /// Network byte order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// Backend id; the flow holds only while this backend has the same address and service.
    pub backend: u32,
    /// Service id.
    pub service: u32,
}

/// What a connected socket asked for, and what it got. Its key is the socket's cookie; it goes when the socket is closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Address of the service.
    pub service_ip: Ip,
    /// Address of the backend.
    pub backend_ip: Ip,
    /// Port of the service, network byte order.
    pub service_port: u16,
    /// Port of the backend, network byte order.
    pub backend_port: u16,
    /// Backend id.
    pub backend: u32,
    /// Service id.
    pub service: u32,
    /// Protocol number.
    pub proto: u32,
}

/// A client of a service with session affinity.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AffinityKey {
    /// Its address; for programs that pass the socket hooks, whose address is not known yet, the cookie of their network
    /// namespace in the last two words.
    pub client: Ip,
    /// Service id.
    pub service: u32,
}

/// Where it goes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Backend id.
    pub backend: u32,
    /// Second of its last new connection, since the machine started.
    pub seen: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 32 && align_of::<FlowKey>() == 8);
const _: () = assert!(size_of::<Flow>() == 28 && align_of::<Flow>() == 4);
const _: () = assert!(size_of::<Peer>() == 48 && align_of::<Peer>() == 4);
const _: () = assert!(size_of::<AffinityKey>() == 20 && align_of::<AffinityKey>() == 4);
const _: () = assert!(size_of::<Affinity>() == 8 && align_of::<Affinity>() == 4);

#[cfg(feature = "user")]
mod pod {
    use super::{Affinity, AffinityKey, Flow, FlowKey, Peer};

    // SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Peer {}
    // SAFETY: as above.
    unsafe impl aya::Pod for AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Affinity {}
}
