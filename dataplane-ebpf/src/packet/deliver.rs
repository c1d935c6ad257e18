//! Where a translated packet goes: straight to the device behind its new address, as the routing table says.
//!
//! It cannot be left to the stack: a packet that comes in with an address of the node as its source is taken for a forgery.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as Route},
    helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use orlop_abi::{Connection, Drop, Ip, Way};

use super::{NEXT, SHOT, parse::Headers, reject, rewrite, work::Work};
use crate::{
    count,
    maps::{CONNECTIONS, ROUTES},
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Number of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;

/// Translates the packet and sends it on.
#[inline(never)]
pub fn deliver(ctx: &TcContext, work: &mut Work) -> i32 {
    let Work { headers, to, now, route, .. } = work;
    let known = way(*now, headers, to, route);
    let result = match known {
        true => BPF_FIB_LKUP_RET_SUCCESS,
        false => find(ctx, headers, &to.source, &to.destination, route),
    };
    if result == BPF_FIB_LKUP_RET_FRAG_NEEDED {
        // SAFETY: after this answer the kernel has filled in the MTU.
        let mtu = unsafe { route.__bindgen_anon_1.mtu_result };
        return reject::too_big(ctx, headers, mtu);
    }
    let hop = is_way(result) && headers.ttl > 1;
    if !known && result == BPF_FIB_LKUP_RET_SUCCESS {
        remember(*now, headers, route, 0);
    }
    if rewrite::translate(ctx, headers, to, hop).is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    go(ctx, result, hop, to.flags, route)
}

/// What the time and the routes are, in a number that never comes again.
#[inline(always)]
fn moment(now: u32) -> u32 {
    // SAFETY: user space writes it whole.
    now.wrapping_add(ROUTES.get(0).map_or(0, |changes| *changes))
}

/// The way on, if the routing table was asked this moment, and the packet is no longer than the device takes. (One of many segments
/// is: the table knows better.)
#[inline(always)]
pub fn way(now: u32, headers: &Headers, to: &Connection, route: &mut Route) -> bool {
    let Way { asked, device, hardware: [dmac, smac] } = to.way;
    if asked != moment(now) || headers.length > u32::from(to.mtu) {
        return false;
    }
    (route.ifindex, route.dmac, route.smac) = (device, dmac, smac);
    true
}

/// Keeps the way on with the connection of the packet, which grows by so many bytes.
#[inline(always)]
pub fn remember(now: u32, headers: &Headers, route: &Route, more: u16) {
    let Some(entry) = CONNECTIONS.get_ptr_mut(&headers.key) else { return };
    // SAFETY: after this answer the kernel has filled in the MTU.
    let mtu = unsafe { route.__bindgen_anon_1.mtu_result };
    let (device, hardware) = (route.ifindex, [route.dmac, route.smac]);
    // SAFETY: the map holds the element until the program ends; who reads half of it sends one packet astray.
    unsafe {
        (*entry).mtu = mtu.saturating_sub(more);
        (*entry).way = Way { asked: moment(now), device, hardware };
    }
}

/// Where a translated packet goes on its way through a connection with these flags.
#[inline(always)]
pub fn go(ctx: &TcContext, result: u32, hop: bool, flags: u16, route: &Route) -> i32 {
    if hop {
        return send(ctx, result, route);
    }
    // Nobody to send to: the node itself, or nowhere. A packet on its last hop is the stack's to bury.
    match flags & Connection::REPLY != 0 && result == BPF_FIB_LKUP_RET_NOT_FWDED {
        true => come_home(ctx),
        false => NEXT,
    }
}

/// An answer that the node itself waits for comes from the address that was asked: whoever guards the backend's device would take
/// it for a forgery. So it comes in by the loopback device, which is nobody's.
#[inline(always)]
fn come_home(ctx: &TcContext) -> i32 {
    let hardware = [[0u8; 6]; 2];
    if rewrite::store(ctx, 0, &hardware).is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    // SAFETY: no addresses.
    unsafe { bpf_redirect(LOOPBACK, u64::from(BPF_F_INGRESS)) as i32 }
}

/// Whether the routing table knows a next hop.
#[inline(always)]
pub fn is_way(result: u32) -> bool {
    result == BPF_FIB_LKUP_RET_SUCCESS || result == BPF_FIB_LKUP_RET_NO_NEIGH
}

/// What the routing table says about a packet with these addresses.
#[inline(always)]
pub fn find(ctx: &TcContext, headers: &Headers, source: &Ip, destination: &Ip, route: &mut Route) -> u32 {
    // SAFETY: the kernel hands a valid context; the field is readable.
    let device = unsafe { (*ctx.skb.skb).ifindex };
    look_up(ctx.skb.skb.cast(), (device, 0), headers, (source, destination), route)
}

/// The same for a packet of any kind of program, that came in by a device; with a length, where the kernel does not know it.
#[inline(always)]
pub fn look_up(
    ctx: *mut c_void,
    (device, length): (u32, u16),
    headers: &Headers,
    (source, destination): (&Ip, &Ip),
    route: &mut Route,
) -> u32 {
    // SAFETY: all zero is a valid value: integers only.
    *route = unsafe { core::mem::zeroed() };
    route.l4_protocol = headers.key.proto as u8;
    route.ifindex = device;
    route.__bindgen_anon_1.tot_len = length;
    if headers.v4 {
        route.family = AF_INET;
        route.__bindgen_anon_3.ipv4_src = source[3];
        route.__bindgen_anon_4.ipv4_dst = destination[3];
    } else {
        route.family = AF_INET6;
        route.__bindgen_anon_3.ipv6_src = *source;
        route.__bindgen_anon_4.ipv6_dst = *destination;
    }
    let (at, length) = ((&raw mut *route), size_of::<Route>() as i32);
    // SAFETY: `route` is `length` bytes that the helper reads and writes.
    let result = unsafe { bpf_fib_lookup(ctx, at.cast(), length, 0) };
    // Errors are of the arguments, which are right; whatever is no success leaves the packet to the stack.
    result as u32
}

/// Sends a packet to the next hop.
#[inline(always)]
pub fn send(ctx: &TcContext, result: u32, route: &Route) -> i32 {
    if result == BPF_FIB_LKUP_RET_NO_NEIGH {
        // SAFETY: no parameters: the helper asks the routing table itself, and then the neighbour.
        return unsafe { bpf_redirect_neigh(route.ifindex, core::ptr::null_mut(), 0, 0) } as i32;
    }
    let hardware = [route.dmac, route.smac];
    if rewrite::store(ctx, 0, &hardware).is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    // SAFETY: no addresses.
    unsafe { bpf_redirect(route.ifindex, 0) as i32 }
}
