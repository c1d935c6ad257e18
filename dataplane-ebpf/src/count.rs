//! What is counted: per service, per policy, and per reason of a drop. One value per CPU, so that nobody waits.

use orlop_abi::{Counters, Drop, Hits};

use crate::maps::{COUNTERS, DROPS, HITS};

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

/// One more flow that a policy let through.
#[inline(always)]
pub fn allowed(policy: u32) {
    hit(policy, &Hits { allowed: 1, denied: 0 });
}

/// One more packet that nothing in a set of rules lets through.
#[inline(always)]
pub fn denied(set: u32) {
    hit(set, &Hits { allowed: 0, denied: 1 });
}

#[inline(always)]
fn hit(of: u32, more: &Hits) {
    if let Some(hits) = HITS.get_ptr_mut(&of) {
        // SAFETY: as in `add`.
        unsafe {
            (*hits).allowed += more.allowed;
            (*hits).denied += more.denied;
        }
        return;
    }
    let _ = HITS.insert(&of, more, 0);
}
