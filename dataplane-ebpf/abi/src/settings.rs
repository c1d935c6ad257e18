//! What holds for every service.

use crate::Ip;

/// The one value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Settings {
    /// Cookie of the node's own network namespace; 0: unknown.
    pub host_netns: u64,
    /// What backends see as the source of masqueraded IPv4 packets; all zero: nothing can be masqueraded.
    pub masquerade_v4: Ip,
    /// The same for IPv6.
    pub masquerade_v6: Ip,
    /// First source port of masqueraded packets, host byte order.
    pub first_port: u16,
    /// How many ports from there on.
    pub ports: u16,
    /// `Settings::…` bits.
    pub flags: u32,
}

impl Settings {
    /// Programs of the node reach node ports at 127.0.0.1, too.
    pub const LOOPBACK_NODE_PORTS: u32 = 1;
    /// There is a way to tell pods by their address: [`RANGE_PODS`](crate::RANGE_PODS).
    pub const PODS_KNOWN: u32 = 1 << 1;
    /// Only sockets of the node's own network namespace are translated.
    pub const HOST_SOCKETS_ONLY: u32 = 1 << 2;
    /// Some network namespaces stand in `UNTRANSLATED`.
    pub const SOME_UNTRANSLATED: u32 = 1 << 3;
}

const _: () = assert!(size_of::<Settings>() == 48 && align_of::<Settings>() == 8);

// SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Settings {}
