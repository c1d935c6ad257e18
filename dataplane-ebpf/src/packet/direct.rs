//! Direct server return, the first half: a client's packet goes to the backend's node as it came, inside a packet of this node's
//! (IPv4 in IPv4, IPv6 in IPv6) that is addressed to the backend, so that it takes the way of all packets for pods. There
//! [`super::landing`] translates it, and the answers go straight to the client.
//!
//! Nothing is seen of the answers: a connection is one entry, which says where it goes ([`Connection::DIRECT`]).

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS,
    },
    helpers::generated::bpf_skb_adjust_room,
    programs::TcContext,
};
use orlop_abi::{BACKEND_AWAY, Backend, Drop, FRONTEND_DIRECT, Frontend, Ip, PROTO_TCP};

use super::{
    ETHERNET, GO_ON, SHOT, deliver, guard,
    parse::{Headers, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6},
    reject, rewrite,
    rewrite::{Refused, store},
    work::Work,
};
use crate::{count, maps::settings};

/// Protocol numbers: IPv4 in a packet, and IPv6.
pub const PROTO_IPV4: u8 = 4;
pub const PROTO_IPV6: u8 = 41;
/// Room is made, or taken away, right behind the Ethernet header.
pub const BEHIND_ETHERNET: u32 = 1;
const HOPS: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000_u16.to_be();
/// Bits of the traffic class that say what queues on the way do with a packet: they are the inner packet's alone, for they are
/// not looked at where the outer one ends (RFC 6040, compatibility mode).
const CONGESTION: u8 = 3;

/// Whether a new connection of somebody outside goes to its backend in this way.
#[inline(always)]
pub fn may(frontend: &Frontend, backend: &Backend, source: &Ip, device: u32) -> bool {
    let direct = frontend.flags & FRONTEND_DIRECT != 0 && backend.flags & BACKEND_AWAY != 0;
    direct && backend.ip != *source && !guard::is_pods(device)
}

/// How much a packet grows.
#[inline(always)]
pub const fn overhead(v4: bool) -> usize {
    if v4 { IPV4_HEADER } else { IPV6_HEADER }
}

/// Sends the packet to the node of the backend; [`GO_ON`] if it does not get that far.
#[inline(never)]
pub fn send(ctx: &TcContext, work: &mut Work) -> i32 {
    let Work { headers, to, now, route, .. } = work;
    let more = overhead(headers.v4) as u16;
    let Some(from) = settings().map(|all| if headers.v4 { all.masquerade_v4 } else { all.masquerade_v6 })
    else {
        return SHOT;
    };
    let known = deliver::way(*now, headers, to, route);
    let result = match known {
        true => BPF_FIB_LKUP_RET_SUCCESS,
        false => {
            let packet = (guard::device(ctx), longest(ctx, headers));
            deliver::look_up(ctx.skb.skb.cast(), packet, headers, (&from, &to.destination), route)
        }
    };
    if result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        // SAFETY: after this answer the kernel has filled in the MTU.
        let mtu = unsafe { route.__bindgen_anon_1.mtu_result };
        return reject::too_big(ctx, headers, mtu.saturating_sub(more));
    }
    // Nobody to send to, or the last hop: the stack says so to the client.
    if !deliver::is_way(result) || headers.ttl <= 1 {
        return GO_ON;
    }
    if !known && result == BPF_FIB_LKUP_RET_SUCCESS {
        deliver::remember(*now, headers, route, more);
    }
    let packed = rewrite::ip(ctx, headers, &headers.key.source, &headers.key.destination, 0, true)
        .and_then(|()| room(ctx, headers))
        .and_then(
            |()| if headers.v4 { v4(ctx, &from, &to.destination) } else { v6(ctx, &from, &to.destination) },
        );
    if packed.is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    deliver::send(ctx, result, route)
}

/// The length of the outer packet; of many segments in one packet, that of the longest.
#[inline(always)]
fn longest(ctx: &TcContext, headers: &Headers) -> u16 {
    let more = overhead(headers.v4) as u32;
    // SAFETY: the kernel hands a valid context; the field is readable.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    let tcp = headers.key.proto == u32::from(PROTO_TCP);
    let length = match (segment, tcp) {
        (0, _) => headers.length + more,
        // The kernel makes segments of TCP as much shorter as the packet grows.
        (_, true) => {
            let words = ctx.load::<u8>(headers.transport + 12).map_or(0, |offset| offset >> 4);
            segment + (headers.transport - ETHERNET) as u32 + u32::from(words) * 4
        }
        (_, false) => segment + (headers.transport - ETHERNET) as u32 + 8 + more,
    };
    length.min(u32::from(u16::MAX)) as u16
}

/// Makes room for another IP header.
#[inline(always)]
fn room(ctx: &TcContext, headers: &Headers) -> Result<(), Refused> {
    let kind = if headers.v4 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 };
    // Datagrams are not cut in other places than their sender did.
    let fixed = if headers.key.proto == u32::from(PROTO_TCP) { 0 } else { BPF_F_ADJ_ROOM_FIXED_GSO };
    let (more, flags) = (overhead(headers.v4) as i32, u64::from(kind | fixed));
    // SAFETY: no addresses.
    let result = unsafe { bpf_skb_adjust_room(ctx.skb.skb.cast(), more, BEHIND_ETHERNET, flags) };
    if result == 0 { Ok(()) } else { Err(Refused) }
}

/// The frame's length behind the Ethernet header, as a header says it: what does not fit is zero.
#[inline(always)]
fn length(ctx: &TcContext, header: usize) -> u16 {
    // SAFETY: the kernel hands a valid context; the field is readable.
    let length = unsafe { (*ctx.skb.skb).len }.wrapping_sub((ETHERNET + header) as u32);
    u16::try_from(length).unwrap_or(0)
}

#[inline(always)]
fn v4(ctx: &TcContext, from: &Ip, to: &Ip) -> Result<(), Refused> {
    let inner: Ipv4 = ctx.load(ETHERNET + IPV4_HEADER).map_err(|_| Refused)?;
    let mut outer = Ipv4 {
        version_length: 0x45,
        tos: inner.tos & !CONGESTION,
        total: length(ctx, 0).to_be(),
        id: 0,
        fragment: DONT_FRAGMENT,
        ttl: HOPS,
        proto: PROTO_IPV4,
        checksum: 0,
        source: from[3],
        destination: to[3],
    };
    outer.checksum = reject::checksum((&raw mut outer).cast(), IPV4_HEADER as u32, 0).ok_or(Refused)?;
    store(ctx, ETHERNET, &outer)
}

#[inline(always)]
fn v6(ctx: &TcContext, from: &Ip, to: &Ip) -> Result<(), Refused> {
    let inner: Ipv6 = ctx.load(ETHERNET + IPV6_HEADER).map_err(|_| Refused)?;
    // Version, class and flow label: one flow's packets take one way.
    let word = inner.version_class_label & !(u32::from(CONGESTION) << 20).to_be();
    let outer = Ipv6 {
        version_class_label: word,
        payload: length(ctx, IPV6_HEADER).to_be(),
        next: PROTO_IPV6,
        hops: HOPS,
        source: *from,
        destination: *to,
    };
    store(ctx, ETHERNET, &outer)
}
