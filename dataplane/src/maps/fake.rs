//! Maps in memory: flat like the kernel's, with a log of the writes and faults on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{MapError, Maps, Removed};
use crate::policy;
use crate::tables::{Backend, BackendId, Frontend, MapOp, Own, Places, ServiceId, Set, Tables, Vip};

/// Stands in for [`KernelMaps`](super::KernelMaps).
#[derive(Debug, Default)]
pub struct FakeMaps {
    /// As the kernel holds them: one value per key, whoever wrote it.
    pub frontends: BTreeMap<Vip, (ServiceId, Frontend)>,
    /// As above.
    pub slots: BTreeMap<(ServiceId, Set, u16), BackendId>,
    /// As above.
    pub places: BTreeMap<(ServiceId, Set, u16), Places>,
    /// As above.
    pub backends: BTreeMap<BackendId, (ServiceId, Backend)>,
    /// As above.
    pub ranges: BTreeSet<(ServiceId, IpNet)>,
    /// As above.
    pub addresses: BTreeMap<IpAddr, bool>,
    /// As above.
    pub own: Option<Own>,
    /// Backends that were removed.
    pub removed: BTreeSet<Removed>,
    /// Network namespaces whose sockets are left alone.
    pub untranslated: BTreeSet<u64>,
    /// Those of policies.
    pub policies: policy::tables::Tables,
    /// How often flows were to be judged again.
    pub published: u32,
    /// Every write that was accepted.
    pub log: Vec<MapOp>,
    /// How many backends fit.
    pub max_backends: Option<usize>,
}

impl Maps for FakeMaps {
    fn dump(&self) -> Result<Tables, MapError> {
        let mut tables = Tables::default();
        if let Some(own) = self.own {
            tables.apply(&MapOp::PutOwn(own));
        }
        for (ip, node_ports) in &self.addresses {
            tables.apply(&MapOp::PutAddress(*ip, *node_ports));
        }
        for (service, net) in &self.ranges {
            tables.apply(&MapOp::PutRange(*service, *net));
        }
        for (id, (service, backend)) in &self.backends {
            tables.apply(&MapOp::PutBackend(*service, *id, *backend));
        }
        for ((service, set, part), to) in &self.places {
            tables.apply(&MapOp::PutPlaces(*service, (*set, *part), Arc::clone(to)));
        }
        for ((service, set, slot), id) in &self.slots {
            tables.apply(&MapOp::PutSlot(*service, (*set, *slot), *id));
        }
        for (vip, (service, frontend)) in &self.frontends {
            tables.apply(&MapOp::PutFrontend(*service, *vip, *frontend));
        }
        Ok(tables)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        match *op {
            MapOp::PutOwn(own) => drop(self.own.replace(own)),
            MapOp::PutAddress(ip, node_ports) => drop(self.addresses.insert(ip, node_ports)),
            MapOp::PutRange(service, net) => drop(self.ranges.insert((service, net))),
            MapOp::PutBackend(service, id, backend) => {
                let full = self.max_backends.is_some_and(|max| self.backends.len() >= max);
                if full && !self.backends.contains_key(&id) {
                    return Err(MapError::new(op.to_string(), "No space left on device"));
                }
                self.backends.insert(id, (service, backend));
            }
            MapOp::PutSlot(service, (set, slot), id) => drop(self.slots.insert((service, set, slot), id)),
            MapOp::PutFrontend(service, vip, to) => drop(self.frontends.insert(vip, (service, to))),
            MapOp::PutPlaces(service, (set, part), ref to) => {
                self.places.insert((service, set, part), Arc::clone(to));
            }
            MapOp::DelPlaces(service, (set, part)) => drop(self.places.remove(&(service, set, part))),
            MapOp::DelFrontend(_, vip) => drop(self.frontends.remove(&vip)),
            MapOp::DelSlot(service, (set, slot)) => drop(self.slots.remove(&(service, set, slot))),
            MapOp::DelBackend(_, id) => {
                let held = self.backends.remove(&id);
                self.removed.extend(held.map(|(_, backend)| Removed { id, backend }));
            }
            MapOp::DelRange(service, net) => drop(self.ranges.remove(&(service, net))),
            MapOp::DelAddress(ip) => drop(self.addresses.remove(&ip)),
        }
        self.log.push(op.clone());
        Ok(())
    }

    fn take_removed(&mut self) -> BTreeSet<Removed> {
        std::mem::take(&mut self.removed)
    }

    fn untranslated(&self) -> Result<BTreeSet<u64>, MapError> {
        Ok(self.untranslated.clone())
    }

    fn leave_alone(&mut self, netns: u64, alone: bool) -> Result<(), MapError> {
        match alone {
            true => drop(self.untranslated.insert(netns)),
            false => drop(self.untranslated.remove(&netns)),
        }
        Ok(())
    }

    fn dump_policies(&self) -> Result<policy::tables::Tables, MapError> {
        Ok(self.policies.clone())
    }

    fn apply_policy(&mut self, op: &policy::diff::Op) -> Result<(), MapError> {
        self.policies.apply(op);
        Ok(())
    }

    fn publish_policies(&mut self, _: u32) -> Result<(), MapError> {
        self.published += 1;
        Ok(())
    }
}
