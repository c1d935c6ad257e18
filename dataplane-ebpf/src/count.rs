//! What is counted: per service, and per reason of a drop. One value per CPU, so that nobody waits.

use orlop_abi::{Counters, Drop};

use crate::maps::{COUNTERS, DROPS};

/// One more connection of a service.
#[inline(always)]
pub fn connection(service: u32) {
    add(service, &Counters { connections: 1, packets: 0, bytes: 0, rejected: 0 });
}

/// One more translated packet.
#[inline(always)]
pub fn packet(service: u32, bytes: u32) {
    add(service, &Counters { connections: 0, packets: 1, bytes: u64::from(bytes), rejected: 0 });
}

/// One more that a service did not take.
#[inline(always)]
pub fn rejected(service: u32) {
    add(service, &Counters { connections: 0, packets: 0, bytes: 0, rejected: 1 });
}

#[inline(always)]
fn add(service: u32, more: &Counters) {
    if let Some(counters) = COUNTERS.get_ptr_mut(&service) {
        // SAFETY: the value is this CPU's own; at worst an interrupt between read and write costs one count.
        unsafe {
            (*counters).connections += more.connections;
            (*counters).packets += more.packets;
            (*counters).bytes += more.bytes;
            (*counters).rejected += more.rejected;
        }
        return;
    }
    let _ = COUNTERS.insert(&service, more, 0);
}

/// One more dropped packet.
#[inline(always)]
pub fn dropped(reason: Drop) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: as in `add`.
        unsafe { *count += 1 };
    }
}
