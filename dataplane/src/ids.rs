//! Numbers for services and backends. What has a number keeps it, also across restarts: they are read back from the
//! maps, and remembered conversations refer to them.
//!
//! A number is given out again only after it left the maps, and as late as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::compile::Compiled;
use crate::maglev;
use crate::tables::{Backend, BackendId, Entry, Frontend, ServiceId, Set, Tables, Vip};

/// The numbers in use.
#[derive(Debug, Default)]
pub struct Ids {
    services: Pool,
    backends: Pool,
    by_vip: BTreeMap<Vip, ServiceId>,
}

#[derive(Debug, Default)]
struct Pool {
    used: BTreeSet<u32>,
    last: u32,
}

impl Pool {
    /// The next free number after the last one given out; 0 is never given.
    fn take(&mut self) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if self.used.insert(self.last) {
                return self.last;
            }
        }
    }

    fn adopt(&mut self, id: u32) {
        self.used.insert(id);
        self.last = self.last.max(id);
    }
}

impl Ids {
    /// The numbers that stand in the maps.
    #[must_use]
    pub fn adopt(tables: &Tables) -> Self {
        let mut ids = Self::default();
        for (service, entry) in tables.services.iter().filter(|(id, _)| **id != ServiceId::NODES) {
            ids.services.adopt(service.0);
            ids.by_vip.extend(entry.frontends.keys().map(|vip| (*vip, *service)));
            entry.backends.keys().for_each(|backend| ids.backends.adopt(backend.0));
        }
        ids
    }

    /// The number of a service that has one.
    #[must_use]
    pub fn service(&self, vip: &Vip) -> Option<ServiceId> {
        self.by_vip.get(vip).copied()
    }

    /// Gives a compiled service port its numbers; `actual` says which backends have theirs already.
    pub fn assign(&mut self, compiled: &Compiled, actual: &Tables) -> (ServiceId, Entry) {
        let Self { services, backends, by_vip } = self;
        let service = *by_vip.entry(compiled.primary).or_insert_with(|| ServiceId(services.take()));
        let held = actual.services.get(&service).map(|entry| &entry.backends);
        let mut numbers: BTreeMap<SocketAddr, BackendId> =
            held.into_iter().flatten().map(|(id, backend)| (backend.at, *id)).collect();
        let mut entry = Entry { ranges: compiled.ranges.clone(), ..Entry::default() };
        let mut place = |at: SocketAddr, set: Option<Set>| {
            let id = *numbers.entry(at).or_insert_with(|| BackendId(backends.take()));
            let backend = entry.backends.entry(id).or_insert(Backend {
                at,
                cluster: false,
                local: false,
                close: compiled.close,
                home: compiled.homes.get(&at).copied().unwrap_or_default(),
            });
            backend.cluster |= set == Some(Set::Cluster);
            backend.local |= set == Some(Set::Local);
            id
        };
        for (set, slots) in &compiled.sets {
            for (slot, at) in (0..=u16::MAX).zip(slots) {
                entry.slots.insert((*set, slot), place(*at, Some(*set)));
            }
        }
        if compiled.frontends.values().any(|rules| rules.by_hash) {
            for (set, slots) in &compiled.sets {
                let numbered = slots.iter().map(|at| (*at, place(*at, Some(*set)))).collect();
                entry.places.extend((0..).zip(maglev::table(&numbered)).map(|(part, to)| ((*set, part), to)));
            }
        }
        for at in &compiled.serving {
            place(*at, None);
        }
        let count =
            |set| compiled.sets.get(&set).map_or(0, |slots| u16::try_from(slots.len()).unwrap_or(u16::MAX));
        let (cluster, local) = (count(Set::Cluster), count(Set::Local));
        let frontends = compiled.frontends.iter().map(|(vip, rules)| {
            let Compiled { any, affinity_seconds, .. } = *compiled;
            (*vip, Frontend { rules: *rules, cluster, local, any, affinity_seconds })
        });
        entry.frontends = frontends.collect();
        (service, entry)
    }

    /// After many writes at once: what stands in the maps is in use, whatever was given out besides is not.
    pub fn settle(&mut self, tables: &Tables) {
        let backends = tables.services.values().flat_map(|entry| entry.backends.keys());
        self.backends.used = backends.map(|id| id.0).collect();
        self.services.used = tables.services.keys().map(|id| id.0).collect();
        // A service whose address was refused keeps its number as long as any part of it is there.
        self.by_vip.retain(|_, id| tables.services.contains_key(id));
    }

    /// Takes back numbers that were wanted or in use, and now stand nowhere.
    pub fn release(&mut self, service: ServiceId, candidates: &[&Entry], remaining: Option<&Entry>) {
        let in_use = |id: &BackendId| remaining.is_some_and(|entry| entry.backends.contains_key(id));
        for id in candidates.iter().flat_map(|entry| entry.backends.keys()).filter(|id| !in_use(id)) {
            self.backends.used.remove(&id.0);
        }
        if remaining.is_none() {
            self.services.used.remove(&service.0);
            self.by_vip.retain(|_, id| *id != service);
        }
    }
}
