//! What of a packet matters: addresses, ports, protocol, and where they stand. Nothing in it is trusted.

use aya_ebpf::programs::TcContext;
use orlop_abi::{ConnectionKey, MAPPED, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

use super::{ETHERNET, sctp};

pub const IPV4: u16 = 0x0800_u16.to_be();
pub const IPV6: u16 = 0x86dd_u16.to_be();
const PROTO_ICMP: u8 = 1;
const PROTO_ICMPV6: u8 = 58;
/// Extension headers of IPv6 that are walked over before we give up.
const EXTENSIONS: u32 = 4;

/// Shortest and usual header.
pub const IPV4_HEADER: usize = 20;
pub const IPV6_HEADER: usize = 40;

/// TCP flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP, UDP or SCTP.
    Transport,
    /// ICMP of the packet's family.
    Icmp,
    /// Another protocol.
    Other,
    /// No IP packet, or none that can be read.
    Foreign,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fragment {
    /// All of a datagram.
    Whole,
    /// Its beginning, with the ports.
    First,
    /// A part without ports.
    Later,
}

/// A packet as the rest of the program sees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Headers {
    /// Where the transport header begins.
    pub transport: usize,
    pub key: ConnectionKey,
    /// Bytes from the IP header on.
    pub length: u32,
    /// Number of the datagram that a fragment is of.
    pub id: u32,
    pub kind: Kind,
    pub fragment: Fragment,
    pub v4: bool,
    /// Another node sent it on, in a packet of its own.
    pub carried: bool,
    /// Flags of TCP, or what they would be of SCTP; 0 of UDP.
    pub flags: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// What is written together with it: the protocol, and IPv4's checksum or IPv6's length of the payload.
    pub beside: [u16; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4 {
    pub version_length: u8,
    pub tos: u8,
    pub total: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub proto: u8,
    pub checksum: u16,
    pub source: u32,
    pub destination: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv6 {
    pub version_class_label: u32,
    pub payload: u16,
    pub next: u8,
    pub hops: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// The first bytes of a transport header: of TCP up to its flags, of SCTP up to the type of the first chunk.
#[repr(C)]
pub struct Transport {
    pub source: u16,
    pub destination: u16,
    sequence: [u8; 8],
    offset_or_chunk: u8,
    pub flags: u8,
}

#[inline(always)]
pub const fn mapped(ip: u32) -> [u32; 4] {
    [0, 0, MAPPED, ip]
}

#[inline(always)]
fn kind(proto: u8, icmp: u8) -> Kind {
    match proto {
        PROTO_TCP | PROTO_UDP | PROTO_SCTP => Kind::Transport,
        proto if proto == icmp => Kind::Icmp,
        _ => Kind::Other,
    }
}

/// Reads the headers. What is no IP packet, or shorter than it says, is none of ours.
#[inline(always)]
pub fn headers(ctx: &TcContext, into: &mut Headers) -> Kind {
    // SAFETY: the verifier lets words be read at odd places on the machines that can, and we run on no others.
    match unsafe { read(ctx, into) } {
        true => into.kind,
        false => Kind::Foreign,
    }
}

/// Farthest place that is read without asking the kernel for a copy.
const NEAR: usize = 256;

/// A value of the packet: out of its memory where it lies in one piece, as headers nearly always do.
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: usize) -> Option<T> {
    if offset <= NEAR {
        let place = ctx.data() + offset;
        if place + size_of::<T>() <= ctx.data_end() {
            // SAFETY: the packet has these bytes; only types of integers are read.
            return Some(unsafe { (place as *const T).read_unaligned() });
        }
    }
    ctx.load(offset).ok()
}

/// Headers stand at odd places in memory.
#[inline(never)]
#[target_feature(enable = "allows-misaligned-mem-access")]
fn read(ctx: &TcContext, into: &mut Headers) -> bool {
    fields(ctx, into).is_some()
}

#[inline(always)]
fn fields(ctx: &TcContext, into: &mut Headers) -> Option<()> {
    // SAFETY: the kernel hands a valid context; the fields are readable.
    let (protocol, frame) = unsafe { ((*ctx.skb.skb).protocol as u16, (*ctx.skb.skb).len) };
    match protocol {
        IPV4 => ipv4::<ETHERNET>(ctx, frame, into)?,
        IPV6 => ipv6::<ETHERNET>(ctx, frame, into)?,
        _ => return None,
    }
    ports(ctx, into)
}

/// The headers of a packet of the same family that stands behind the first header, if that is of the usual length.
#[inline(always)]
pub fn inner(ctx: &TcContext, v4: bool, into: &mut Headers) -> Kind {
    // SAFETY: as in `headers`.
    match unsafe { read_inner(ctx, v4, into) } {
        true => into.kind,
        false => Kind::Foreign,
    }
}

#[inline(never)]
#[target_feature(enable = "allows-misaligned-mem-access")]
fn read_inner(ctx: &TcContext, v4: bool, into: &mut Headers) -> bool {
    // SAFETY: the kernel hands a valid context; the field is readable.
    let frame = unsafe { (*ctx.skb.skb).len };
    let read = match v4 {
        true => ipv4::<{ ETHERNET + IPV4_HEADER }>(ctx, frame, into),
        false => ipv6::<{ ETHERNET + IPV6_HEADER }>(ctx, frame, into),
    };
    read.and_then(|()| ports(ctx, into)).is_some()
}

#[inline(always)]
fn ipv4<const BASE: usize>(ctx: &TcContext, frame: u32, into: &mut Headers) -> Option<()> {
    let ip: Ipv4 = at(ctx, BASE)?;
    let header = usize::from(ip.version_length & 0xf) * 4;
    let length = u32::from(u16::from_be(ip.total));
    // A packet of segments to be (GSO) may say 0.
    let there = frame.wrapping_sub(BASE as u32);
    if ip.version_length >> 4 != 4 || header < IPV4_HEADER || length > there {
        return None;
    }
    let place = u16::from_be(ip.fragment);
    let fragment = match (place & 0x1fff, place & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    *into = Headers {
        key: ConnectionKey {
            source: mapped(ip.source),
            destination: mapped(ip.destination),
            source_port: 0,
            destination_port: 0,
            proto: u32::from(ip.proto),
        },
        kind: kind(ip.proto, PROTO_ICMP),
        fragment,
        v4: true,
        carried: BASE != ETHERNET,
        flags: 0,
        ttl: ip.ttl,
        beside: [u16::from(ip.proto), ip.checksum],
        transport: BASE + header,
        length: if length == 0 { there } else { length },
        id: u32::from(ip.id),
    };
    Some(())
}

#[repr(C)]
struct Extension {
    next: u8,
    length: u8,
    fragment: u16,
    id: u32,
}

#[inline(always)]
fn ipv6<const BASE: usize>(ctx: &TcContext, frame: u32, into: &mut Headers) -> Option<()> {
    let ip: Ipv6 = at(ctx, BASE)?;
    let there = frame.wrapping_sub(BASE as u32);
    let length = u32::from(u16::from_be(ip.payload)) + IPV6_HEADER as u32;
    if length > there {
        return None;
    }
    let (mut next, mut at) = (ip.next, BASE + IPV6_HEADER);
    let (mut fragment, mut id) = (Fragment::Whole, 0);
    for _ in 0..EXTENSIONS {
        match next {
            // Hop by hop, routing, destination.
            0 | 43 | 60 => {
                let extension: Extension = ctx.load(at).ok()?;
                next = extension.next;
                at += (usize::from(extension.length) + 1) * 8;
            }
            44 => {
                let extension: Extension = ctx.load(at).ok()?;
                let place = u16::from_be(extension.fragment);
                fragment = match (place >> 3, place & 1) {
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                next = extension.next;
                id = extension.id;
                at += 8;
                // Behind a later fragment's header is data.
                if fragment == Fragment::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    *into = Headers {
        key: ConnectionKey {
            source: ip.source,
            destination: ip.destination,
            source_port: 0,
            destination_port: 0,
            proto: u32::from(next),
        },
        kind: kind(next, PROTO_ICMPV6),
        fragment,
        v4: false,
        carried: BASE != ETHERNET,
        flags: 0,
        ttl: ip.hops,
        beside: [u16::from(ip.next), ip.payload],
        transport: at,
        length: if ip.payload == 0 { there } else { length },
        id,
    };
    Some(())
}

/// Fills in what the transport header says.
#[inline(always)]
fn ports(ctx: &TcContext, headers: &mut Headers) -> Option<()> {
    if headers.kind != Kind::Transport || headers.fragment == Fragment::Later {
        return Some(());
    }
    if headers.key.proto == u32::from(PROTO_UDP) {
        let both: [u16; 2] = at(ctx, headers.transport)?;
        headers.key.source_port = both[0];
        headers.key.destination_port = both[1];
        return Some(());
    }
    let transport: Transport = at(ctx, headers.transport)?;
    headers.key.source_port = transport.source;
    headers.key.destination_port = transport.destination;
    headers.flags = match headers.key.proto as u8 {
        PROTO_TCP => transport.flags,
        _ => sctp::flags(transport.offset_or_chunk),
    };
    Some(())
}
