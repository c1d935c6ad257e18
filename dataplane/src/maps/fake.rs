//! Maps in memory: flat like the kernel's, with a log of the writes and faults on demand.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::{MapError, Maps};
use crate::tables::{BackendId, Frontend, MapOp, ServiceId, Set, Tables, Vip};

/// Stands in for [`KernelMaps`](super::KernelMaps).
#[derive(Debug, Default)]
pub struct FakeMaps {
    /// As the kernel holds them: one value per key, whoever wrote it.
    pub frontends: BTreeMap<Vip, (ServiceId, Frontend)>,
    /// As above.
    pub slots: BTreeMap<(ServiceId, Set, u16), BackendId>,
    /// As above.
    pub backends: BTreeMap<BackendId, (ServiceId, SocketAddrV4)>,
    /// Every write that was accepted.
    pub log: Vec<MapOp>,
    /// How many backends fit.
    pub max_backends: Option<usize>,
}

impl Maps for FakeMaps {
    fn dump(&self) -> Result<Tables, MapError> {
        let mut tables = Tables::default();
        for (id, (service, at)) in &self.backends {
            tables.apply(&MapOp::PutBackend(*service, *id, *at));
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
            MapOp::PutBackend(service, id, at) => {
                let full = self.max_backends.is_some_and(|max| self.backends.len() >= max);
                if full && !self.backends.contains_key(&id) {
                    return Err(MapError::new(op.to_string(), "No space left on device"));
                }
                self.backends.insert(id, (service, at));
            }
            MapOp::PutSlot(service, (set, slot), id) => drop(self.slots.insert((service, set, slot), id)),
            MapOp::PutFrontend(service, vip, to) => drop(self.frontends.insert(vip, (service, to))),
            MapOp::DelFrontend(_, vip) => drop(self.frontends.remove(&vip)),
            MapOp::DelSlot(service, (set, slot)) => drop(self.slots.remove(&(service, set, slot))),
            MapOp::DelBackend(_, id) => drop(self.backends.remove(&id)),
        }
        self.log.push(*op);
        Ok(())
    }
}
