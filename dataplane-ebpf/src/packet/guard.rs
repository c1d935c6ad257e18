//! Forged sources. What pods send is held to their addresses by nf_tables, which packets pass that are translated here and go
//! straight on. So where a pod's packet is to be translated, the way back to its source must be the device that it came by.
//!
//! The answer is remembered with the connection: asked is once per direction, and again when packets come by another device.

use aya_ebpf::{
    bindings::BPF_FIB_LKUP_RET_FRAG_NEEDED,
    programs::TcContext,
};
use orlop_abi::{DEVICE_POD, Drop};

use super::{deliver, work::Work};
use crate::{
    count,
    maps::{CONNECTIONS, DEVICES},
};

/// The device that a packet came in by.
#[inline(always)]
pub fn device(ctx: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context; the field is readable.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether a pod is behind a device.
#[inline(always)]
pub fn is_pods(device: u32) -> bool {
    // SAFETY: the value is read at once.
    unsafe { DEVICES.get(&device) }.is_some_and(|flags| *flags & DEVICE_POD != 0)
}

/// Whether the source may have sent the packet by this device. One that may not is counted.
#[inline(never)]
pub fn honest(ctx: &TcContext, work: &mut Work) -> bool {
    let honest = !is_pods(device(ctx)) || at_home(ctx, work);
    if !honest {
        count::dropped(Drop::Source);
    }
    honest
}

/// Whether a packet came in where packets for its source go out.
#[inline(never)]
pub fn at_home(ctx: &TcContext, work: &mut Work) -> bool {
    let Work { headers, route, here, .. } = work;
    let result = deliver::find(ctx, headers, &headers.key.destination, &headers.key.source, route);
    (deliver::is_way(result) || result == BPF_FIB_LKUP_RET_FRAG_NEEDED) && route.ifindex == *here
}

/// The same for a packet of a known connection, `work.to`.
#[inline(always)]
pub fn still_honest(ctx: &TcContext, work: &mut Work) -> bool {
    let device = device(ctx);
    if work.to.device == device {
        return true;
    }
    if !honest(ctx, work) {
        return false;
    }
    if let Some(entry) = CONNECTIONS.get_ptr_mut(&work.headers.key) {
        // SAFETY: as in `connection::known`.
        unsafe { (*entry).device = device };
    }
    true
}
