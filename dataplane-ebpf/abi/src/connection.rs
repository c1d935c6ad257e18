//! What the programs remember about connections whose packets they translate.
//!
//! ```text
//! client ─▶ service    becomes    node ─▶ backend     one entry, keyed by what the first packet looked like
//! backend ─▶ node      becomes    service ─▶ client   and one for the way back
//! ```

use crate::Ip;

/// A packet's addresses and ports as they come in.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey {
    /// Source address.
    pub source: Ip,
    /// Destination address.
    pub destination: Ip,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// Protocol number.
    pub proto: u32,
}

/// What they become.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Source address.
    pub source: Ip,
    /// Destination address.
    pub destination: Ip,
    /// Network byte order.
    pub source_port: u16,
    /// Network byte order.
    pub destination_port: u16,
    /// `Connection::…` bits.
    pub flags: u16,
    /// Longest packet that the [way](Self::way) on takes, bytes from the IP header on.
    pub mtu: u16,
    /// Backend id.
    pub backend: u32,
    /// Service id.
    pub service: u32,
    /// Second of the last packet in this direction, since the machine started.
    pub seen: u32,
    /// Second of the first packet of the connection.
    pub made: u32,
    /// The device that its packets came in by, once it is known that the source may; 0: not known yet.
    pub device: u32,
    /// The way on.
    pub way: Way,
}

/// Where packets of a connection go on, as the routing table said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Way {
    /// When it said so: the second, since the machine started, and how often routes had changed until then, added up. At any
    /// other moment it has to be asked again. 0: it was not asked.
    pub asked: u32,
    /// The device.
    pub device: u32,
    /// Hardware addresses of the next hop, and of the device.
    pub hardware: [[u8; 6]; 2],
}

impl Connection {
    /// The way back: from the backend to the client.
    pub const REPLY: u16 = 1;
    /// This side has said that it is done (FIN, RST, SHUTDOWN).
    pub const CLOSED: u16 = 1 << 1;
    /// The other side has answered.
    pub const ANSWERED: u16 = 1 << 2;
    /// It is netfilter's: its packets are left alone, and its port is not given to another.
    pub const FOREIGN: u16 = 1 << 3;
    /// Its packets go to the backend's node as they came, each in a packet of this node's; answers pass here no more, so there
    /// is no entry for them.
    pub const DIRECT: u16 = 1 << 4;
}

/// A datagram in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source address.
    pub source: Ip,
    /// Destination address.
    pub destination: Ip,
    /// Its number.
    pub id: u32,
    /// Protocol number.
    pub proto: u32,
}

/// The ports of a packet, network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// What went through a service, of both directions.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// New connections: calls at the socket, or first packets.
    pub connections: u64,
    /// Translated packets (none for connections made at the socket: they are not seen again).
    pub packets: u64,
    /// Their bytes, from the IP header on.
    pub bytes: u64,
    /// Refused or dropped for want of an endpoint, or because the source may not.
    pub rejected: u64,
}

/// Why a packet was dropped; the index in `DROPS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drop {
    /// No endpoint anywhere: the sender was told (ICMP port unreachable).
    NoEndpoint = 0,
    /// Policy `Local`, and none on this node.
    NoLocalEndpoint = 1,
    /// Not in the ranges of the load balancer.
    SourceRange = 2,
    /// No free port to masquerade with.
    NoPort = 3,
    /// No room for another connection.
    NoRoom = 4,
    /// Shorter than its headers say.
    Truncated = 5,
    /// A later fragment of a datagram whose first was not seen.
    Fragment = 6,
    /// The kernel refused to change the packet.
    Rewrite = 7,
    /// No policy lets it in.
    PolicyIngress = 8,
    /// No policy lets it out.
    PolicyEgress = 9,
    /// A pod's packet with a source that is not the pod's.
    Source = 10,
    /// A packet for a service in a packet that no node sent, or that came from a pod.
    Tunnel = 11,
}

impl Drop {
    /// All reasons, by index, as metrics name them.
    pub const NAMES: [&'static str; 12] = [
        "no-endpoint",
        "no-local-endpoint",
        "source-range",
        "no-port",
        "no-room",
        "truncated",
        "fragment",
        "rewrite",
        "policy-ingress",
        "policy-egress",
        "forged-source",
        "forged-tunnel",
    ];
}

const _: () = assert!(size_of::<ConnectionKey>() == 40 && align_of::<ConnectionKey>() == 4);
const _: () = assert!(size_of::<Connection>() == 80 && align_of::<Connection>() == 4);
const _: () = assert!(size_of::<FragmentKey>() == 40 && align_of::<FragmentKey>() == 4);
const _: () = assert!(size_of::<Ports>() == 4 && align_of::<Ports>() == 2);
const _: () = assert!(size_of::<Counters>() == 32 && align_of::<Counters>() == 8);

#[cfg(feature = "user")]
mod pod {
    use super::{Connection, ConnectionKey, Counters, FragmentKey, Ports};

    // SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
    unsafe impl aya::Pod for ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Connection {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FragmentKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Ports {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counters {}
}
