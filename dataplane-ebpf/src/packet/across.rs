//! Between pods: a packet that no service is asked for goes from device to device, past routing, firewall rules and queues of the
//! node; into the receiver's namespace if that is here, out towards its node if it is not.
//!
//! Only where nothing of that has a say: both addresses are pods', and come and go where the routing table has them; the ends that are
//! here are links of the built-in network (so there is one rule about sources, which is checked here) without a limit on their rate (a
//! queue on the node); and the kernel has no IPsec policies. NetworkPolicies are asked for the ends that are here.

use aya_ebpf::{
    bindings::BPF_FIB_LKUP_RET_SUCCESS, helpers::generated::{bpf_redirect, bpf_redirect_peer}, programs::TcContext,
};
use orlop_abi::{DEVICE_POD, DEVICE_STACK, Drop, Ip};

use super::{NEXT, SHOT, deliver, guard, rewrite, work::Work};
use crate::{
    choose::{self, Source},
    count,
    maps::{DEVICES, FIRST_POD},
    policy,
};

/// Sends a packet that policies let out to the pod it is for.
#[inline(never)]
pub fn across(ctx: &TcContext, work: &mut Work) -> i32 {
    let from = guard::device(ctx);
    // SAFETY: user space writes it whole.
    let first = FIRST_POD.get(0).map_or(0, |first| *first);
    // What netfilter has translated on its way there it must see on its way back.
    if first == 0 || work.foreign != 0 {
        return NEXT;
    }
    let sent_here = from >= first && guard::is_pods(from);
    match sent_here {
        true if is_plain_pod(from) => {}
        false if is_pod(&work.headers.key.source) && needs_no_stack(from) && comes_from_a_hop(ctx, work) => {}
        _ => return NEXT,
    }
    let Work { headers, route, .. } = &mut *work;
    let result = deliver::find(ctx, headers, &headers.key.source, &headers.key.destination, route);
    let to = route.ifindex;
    if result != BPF_FIB_LKUP_RET_SUCCESS || headers.ttl <= 1 {
        return NEXT;
    }
    let stays_here = is_plain_pod(to);
    if !stays_here && (!sent_here || guard::is_pods(to) || !is_pod(&headers.key.destination)) {
        return NEXT;
    }
    let hardware = [route.dmac, route.smac];
    if !guard::honest(ctx, work) || stays_here && policy::arrive(ctx, work) == SHOT {
        return SHOT;
    }
    let headers = &work.headers;
    let key = &headers.key;
    let done = rewrite::ip(ctx, headers, &key.source, &key.destination, 0, true)
        .and_then(|()| rewrite::store(ctx, 0, &hardware));
    if done.is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    // SAFETY: no addresses.
    match stays_here {
        true => unsafe { bpf_redirect_peer(to, 0) as i32 },
        false => unsafe { bpf_redirect(to, 0) as i32 },
    }
}

/// Whether the source is another node's: packets for it go to a next hop, by the device that this one came by.
#[inline(always)]
fn comes_from_a_hop(ctx: &TcContext, work: &mut Work) -> bool {
    if !guard::at_home(ctx, work) {
        return false;
    }
    let Work { headers, route, .. } = work;
    // SAFETY: the kernel has filled in the next hop, if it named the device: IPv4 in the first word.
    let hop = unsafe { route.__bindgen_anon_4.ipv6_dst };
    match headers.v4 {
        true => hop[0] != headers.key.source[3],
        false => hop != headers.key.source,
    }
}

#[inline(always)]
fn is_pod(ip: &Ip) -> bool {
    choose::source(ip) == Source::Pod
}

#[inline(always)]
fn is_plain_pod(device: u32) -> bool {
    flags(device) & (DEVICE_POD | DEVICE_STACK) == DEVICE_POD
}

#[inline(always)]
fn needs_no_stack(device: u32) -> bool {
    flags(device) & DEVICE_STACK == 0
}

#[inline(always)]
fn flags(device: u32) -> u32 {
    // SAFETY: the value is read at once.
    unsafe { DEVICES.get(&device) }.copied().unwrap_or(0)
}
