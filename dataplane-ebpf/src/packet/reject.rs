//! Answers of our own: a service without endpoints says so at once, and a packet that is too big for the way behind the
//! translation is told how big it may be. RFC 792, RFC 4443; upstream refuses TCP, UDP and SCTP alike with port unreachable.
//!
//! A packet whose headers have options or extensions gets no answer; it is dropped. But for the first fragment of an IPv6 packet:
//! its quotation has the transport header where the sender's kernel looks for it, right behind the first header.

use aya_ebpf::{
    bindings::BPF_F_INGRESS,
    helpers::generated::{bpf_csum_diff, bpf_skb_adjust_room, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_tail, bpf_skb_load_bytes},
    programs::TcContext,
};
use orlop_abi::Drop;

use super::{
    ETHERNET, SHOT, Side,
    parse::{Fragment, Headers, IPV4_HEADER, IPV6_HEADER},
    rewrite::store,
};
use crate::count;

/// What is quoted of the transport header.
const QUOTED: usize = 8;
const TTL: u8 = 64;
/// Where room is made or taken away (`BPF_ADJ_ROOM_NET`).
const BEHIND_IP: u32 = 0;
/// Where an IPv6 header says what follows it.
const NEXT_HEADER: usize = 6;

/// An error: type and code of each family, and the word behind the checksum.
struct Error {
    v4: [u8; 2],
    v6: [u8; 2],
    word: u32,
}

#[inline(always)]
pub fn port_unreachable(ctx: &TcContext, headers: &Headers, side: Side) -> i32 {
    answer(ctx, headers, &Error { v4: [3, 3], v6: [1, 4], word: 0 }, side)
}

/// Only for what came in: the node's own sockets know their MTU.
#[inline(always)]
pub fn too_big(ctx: &TcContext, headers: &Headers, mtu: u16) -> i32 {
    answer(ctx, headers, &Error { v4: [3, 4], v6: [2, 0], word: u32::from(mtu).to_be() }, Side::In)
}

#[inline(never)]
fn answer(ctx: &TcContext, headers: &Headers, error: &Error, side: Side) -> i32 {
    let plain = ETHERNET + if headers.v4 { IPV4_HEADER } else { IPV6_HEADER };
    if headers.transport != plain && (headers.v4 || headers.fragment != Fragment::First) {
        return SHOT;
    }
    let built = if headers.v4 { v4(ctx, headers, error) } else { v6(ctx, headers, error) };
    if built.is_none() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    // SAFETY: the kernel hands a valid context; the field is readable. The helper takes no addresses.
    unsafe {
        let device = (*ctx.skb.skb).ifindex;
        // Who sent it is not the hop before, nor is the source here an address that the hop before would take from us.
        if headers.carried {
            return bpf_redirect_neigh(device, core::ptr::null_mut(), 0, 0) as i32;
        }
        let flags = if side == Side::Out { u64::from(BPF_F_INGRESS) } else { 0 };
        bpf_redirect(device, flags) as i32
    }
}

#[repr(C)]
struct V4 {
    version_length: u8,
    tos: u8,
    total: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    proto: u8,
    checksum: u16,
    source: u32,
    destination: u32,
    icmp: Icmp,
    quoted: [u8; IPV4_HEADER + QUOTED],
}

#[repr(C)]
struct Icmp {
    kind: [u8; 2],
    checksum: u16,
    word: u32,
}

#[inline(always)]
fn v4(ctx: &TcContext, headers: &Headers, error: &Error) -> Option<()> {
    let mut packet = V4 {
        version_length: 0x45,
        // Network control, as the kernel's own errors.
        tos: 0xc0,
        total: (size_of::<V4>() as u16).to_be(),
        id: 0,
        fragment: 0,
        ttl: TTL,
        proto: 1,
        checksum: 0,
        source: headers.key.destination[3],
        destination: headers.key.source[3],
        icmp: Icmp { kind: error.v4, checksum: 0, word: error.word },
        quoted: ctx.load(ETHERNET).ok()?,
    };
    packet.checksum = checksum((&raw mut packet).cast(), IPV4_HEADER as u32, 0)?;
    let icmp = (size_of::<V4>() - IPV4_HEADER) as u32;
    packet.icmp.checksum = checksum((&raw mut packet.icmp).cast(), icmp, 0)?;
    put(ctx, headers, &packet)
}

#[repr(C)]
struct V6 {
    version_class_label: u32,
    payload: u16,
    next: u8,
    hops: u8,
    source: [u32; 4],
    destination: [u32; 4],
    icmp: Icmp,
    quoted: [u8; IPV6_HEADER],
    transport: [u8; QUOTED],
}

#[inline(always)]
fn v6(ctx: &TcContext, headers: &Headers, error: &Error) -> Option<()> {
    const ICMP: u32 = (size_of::<V6>() - IPV6_HEADER) as u32;
    let mut packet = V6 {
        version_class_label: 0x6000_0000_u32.to_be(),
        payload: (ICMP as u16).to_be(),
        next: 58,
        hops: TTL,
        source: headers.key.destination,
        destination: headers.key.source,
        icmp: Icmp { kind: error.v6, checksum: 0, word: error.word },
        quoted: [0; _],
        transport: [0; _],
    };
    quote(ctx, ETHERNET, &mut packet.quoted)?;
    quote(ctx, headers.transport, &mut packet.transport)?;
    packet.quoted[NEXT_HEADER] = headers.key.proto as u8;
    // The pseudo header: both addresses, which stand side by side, length and protocol.
    let pseudo = ICMP.to_be().wrapping_add(58_u32.to_be());
    let addresses = sum((&raw mut packet.source).cast(), 32, pseudo)?;
    packet.icmp.checksum = checksum((&raw mut packet.icmp).cast(), ICMP, addresses)?;
    put(ctx, headers, &packet)
}

/// Copies bytes of the packet to where they are quoted, without a detour.
#[inline(always)]
fn quote<const LENGTH: usize>(ctx: &TcContext, offset: usize, into: &mut [u8; LENGTH]) -> Option<()> {
    let into = (&raw mut *into).cast();
    // SAFETY: `into` is so many bytes long; the kernel checks the place in the packet.
    let result = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset as u32, into, LENGTH as u32) };
    (result == 0).then_some(())
}

/// Makes the frame as long as the answer, and sends it back to the hardware address it came from.
#[inline(always)]
fn put<T>(ctx: &TcContext, headers: &Headers, packet: &T) -> Option<()> {
    let hardware: [[u8; 6]; 2] = ctx.load(0).ok()?;
    let length = (ETHERNET + size_of::<T>()) as u32;
    // SAFETY: the kernel hands a valid context, whose field is readable; no addresses.
    let result = unsafe {
        // The end of one that was unpacked cannot be changed (`encapsulation` stays set), but what follows its first header can.
        match headers.carried {
            true => bpf_skb_adjust_room(ctx.skb.skb.cast(), length.wrapping_sub((*ctx.skb.skb).len) as i32, BEHIND_IP, 0),
            false => bpf_skb_change_tail(ctx.skb.skb.cast(), length, 0),
        }
    };
    if result != 0 {
        return None;
    }
    store(ctx, ETHERNET, packet).ok()?;
    store(ctx, 0, &[hardware[1], hardware[0]]).ok()
}

#[inline(always)]
fn sum(at: *mut u32, length: u32, seed: u32) -> Option<u32> {
    // SAFETY: the callers pass parts of their own values, a whole number of words.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at, length, seed) };
    u32::try_from(sum).ok()
}

/// The checksum of so many bytes of one's own.
#[inline(always)]
pub fn checksum(at: *mut u32, length: u32, seed: u32) -> Option<u16> {
    let sum = sum(at, length, seed)?;
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    Some(!(sum as u16))
}
