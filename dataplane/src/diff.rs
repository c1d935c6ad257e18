//! From what should stand in the maps and what does, to the writes in between.
//!
//! Their order carries the safety: backends before the slots that name them, slots and ranges before the address that
//! counts on them, and removal the other way round. So after any prefix no address leads to a missing backend, or lets
//! in nobody.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::tables::{BackendId, Entry, MapOp, ServiceId, Tables, Vip};

/// The writes for one service. `actual` must be what the maps hold for it.
#[must_use]
pub fn diff(service: ServiceId, desired: &Entry, actual: &Entry) -> Vec<MapOp> {
    let put_own = desired.own.filter(|own| actual.own.as_ref() != Some(own));
    let put_addresses = desired.addresses.iter().filter(|(ip, to)| actual.addresses.get(ip) != Some(to));
    let put_ranges = desired.ranges.difference(&actual.ranges);
    let put_backends = desired.backends.iter().filter(|(id, to)| actual.backends.get(id) != Some(to));
    let put_slots = desired.slots.iter().filter(|(slot, id)| actual.slots.get(slot) != Some(id));
    let put_places = desired.places.iter().filter(|(part, to)| actual.places.get(part) != Some(to));
    let put_frontends = desired.frontends.iter().filter(|(vip, to)| actual.frontends.get(vip) != Some(to));
    let del_frontends = actual.frontends.keys().filter(|vip| !desired.frontends.contains_key(vip));
    let del_places = actual.places.keys().filter(|part| !desired.places.contains_key(part));
    let del_slots = actual.slots.keys().filter(|slot| !desired.slots.contains_key(slot));
    let del_backends = actual.backends.keys().filter(|id| !desired.backends.contains_key(id));
    let del_ranges = actual.ranges.difference(&desired.ranges);
    let del_addresses = actual.addresses.keys().filter(|ip| !desired.addresses.contains_key(ip));

    let puts = put_own
        .map(MapOp::PutOwn)
        .into_iter()
        .chain(put_addresses.map(|(ip, to)| MapOp::PutAddress(*ip, *to)))
        .chain(put_ranges.map(|net| MapOp::PutRange(service, *net)))
        .chain(put_backends.map(|(id, to)| MapOp::PutBackend(service, *id, *to)))
        .chain(put_slots.map(|(slot, id)| MapOp::PutSlot(service, *slot, *id)))
        .chain(put_places.map(|(part, to)| MapOp::PutPlaces(service, *part, Arc::clone(to))))
        .chain(put_frontends.map(|(vip, to)| MapOp::PutFrontend(service, *vip, *to)));
    let dels = del_frontends
        .map(|vip| MapOp::DelFrontend(service, *vip))
        .chain(del_places.map(|part| MapOp::DelPlaces(service, *part)))
        .chain(del_slots.map(|slot| MapOp::DelSlot(service, *slot)))
        .chain(del_backends.map(|id| MapOp::DelBackend(service, *id)))
        .chain(del_ranges.map(|net| MapOp::DelRange(service, *net)))
        .chain(del_addresses.map(|ip| MapOp::DelAddress(*ip)));
    puts.chain(dels).collect()
}

/// The writes for everything: those of a kind together, so that they can be written in one go, and each service's in the order
/// of [`diff`]. What was written under a wrong service (by another hand, or another version) is
/// overwritten, and not removed afterwards.
#[must_use]
pub fn diff_all(desired: &Tables, actual: &Tables) -> Vec<MapOp> {
    let nothing = Entry::default();
    let wanted = desired.services.iter();
    let wanted =
        wanted.flat_map(|(id, wanted)| diff(*id, wanted, actual.services.get(id).unwrap_or(&nothing)));
    let stale = actual.services.iter().filter(|(id, _)| !desired.services.contains_key(id));
    let removed = stale.flat_map(|(id, present)| diff(*id, &nothing, present));
    let mut ops: Vec<_> = wanted.chain(removed).collect();
    if ops.iter().any(MapOp::removes_shared) {
        let vips: BTreeSet<Vip> =
            desired.services.values().flat_map(|entry| entry.frontends.keys().copied()).collect();
        let backends: BTreeSet<BackendId> =
            desired.services.values().flat_map(|entry| entry.backends.keys().copied()).collect();
        ops.retain(|op| match op {
            MapOp::DelFrontend(_, vip) => !vips.contains(vip),
            MapOp::DelBackend(_, id) => !backends.contains(id),
            _ => true,
        });
    }
    ops.sort_by_key(MapOp::step);
    ops
}
