//! From pod to pod of the same node: a packet that no service is asked for goes from the sender's device straight into the
//! receiver's namespace, past routing, firewall rules and queues of the node.
//!
//! Only where nothing of that has a say: both ends are links of the built-in network (so there is one rule about sources,
//! which is checked here), neither has a limit on its rate (a queue on the node), and the routing table knows the way.
//! Policies are asked for both ends.

use aya_ebpf::{
    bindings::BPF_FIB_LKUP_RET_SUCCESS, helpers::generated::bpf_redirect_peer, programs::TcContext,
};
use orlop_abi::{DEVICE_POD, Drop};

use super::{NEXT, SHOT, deliver, guard, rewrite, work::Work};
use crate::{count, maps::{DEVICES, FIRST_POD}, policy};

/// Sends a packet that policies let out to the pod it is for, if that is on this node.
#[inline(never)]
pub fn across(ctx: &TcContext, work: &mut Work) -> i32 {
    let from = guard::device(ctx);
    if !pods_begin(from) || !is_plain_pod(from) {
        return NEXT;
    }
    let Work { headers, route, .. } = &mut *work;
    let result = deliver::find(ctx, headers, &headers.key.source, &headers.key.destination, route);
    let to = route.ifindex;
    if result != BPF_FIB_LKUP_RET_SUCCESS || headers.ttl <= 1 || !is_plain_pod(to) {
        return NEXT;
    }
    let hardware = [route.dmac, route.smac];
    if !guard::honest(ctx, work) || policy::arrive(ctx, work) == SHOT {
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
    unsafe { bpf_redirect_peer(to, 0) as i32 }
}

/// Whether a device may be a pod's, by its number.
#[inline(always)]
fn pods_begin(device: u32) -> bool {
    // SAFETY: user space writes it whole.
    FIRST_POD.get(0).is_some_and(|first| *first != 0 && device >= *first)
}

#[inline(always)]
fn is_plain_pod(device: u32) -> bool {
    // SAFETY: the value is read at once.
    unsafe { DEVICES.get(&device) }.is_some_and(|flags| *flags == DEVICE_POD)
}
