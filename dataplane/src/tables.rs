//! The maps' contents as values: what should stand in them, or what does. Printable, comparable, grouped by service.
//!
//! Not for: the bytes in the kernel (`orlop-abi`, converted in `maps`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::model::Protocol;

/// Number of a service port in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Number of a backend in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

/// An address that clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// Address.
    pub ip: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.ip, self.port, self.protocol)
    }
}

/// A list of slots of a service: the endpoints of one traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Endpoints anywhere.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// What stands behind a [`Vip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The list to choose from.
    pub set: Set,
    /// How many slots it has.
    pub count: u16,
    /// Endpoints exist, but the policy allows none from here: drop, do not refuse.
    pub none_local: bool,
}

/// All of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its addresses.
    pub frontends: BTreeMap<Vip, Frontend>,
    /// Its choices.
    pub slots: BTreeMap<(Set, u16), BackendId>,
    /// Its backends: those of the slots, and those that only keep their running UDP conversations.
    pub backends: BTreeMap<BackendId, SocketAddrV4>,
}

impl Entry {
    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty() && self.slots.is_empty() && self.backends.is_empty()
    }

    /// What a client of `vip` can get, in slot order. A slot that points nowhere shows as `None`.
    pub fn choices(&self, frontend: &Frontend) -> impl Iterator<Item = Option<SocketAddrV4>> {
        let set = frontend.set;
        (0..frontend.count).map(move |slot| {
            let id = self.slots.get(&(set, slot))?;
            self.backends.get(id).copied()
        })
    }
}

/// Everything, by service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tables {
    /// Entries; an empty one is removed.
    pub services: BTreeMap<ServiceId, Entry>,
}

/// One write of one map element, and the service it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Add or change a backend.
    PutBackend(ServiceId, BackendId, SocketAddrV4),
    /// Add or change a slot.
    PutSlot(ServiceId, (Set, u16), BackendId),
    /// Add or change an address.
    PutFrontend(ServiceId, Vip, Frontend),
    /// Remove an address.
    DelFrontend(ServiceId, Vip),
    /// Remove a slot.
    DelSlot(ServiceId, (Set, u16)),
    /// Remove a backend.
    DelBackend(ServiceId, BackendId),
}

impl MapOp {
    /// The service that the write is for.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        match self {
            Self::PutBackend(service, ..)
            | Self::PutSlot(service, ..)
            | Self::PutFrontend(service, ..)
            | Self::DelFrontend(service, ..)
            | Self::DelSlot(service, ..)
            | Self::DelBackend(service, ..) => *service,
        }
    }
}

impl fmt::Display for MapOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service().0;
        match self {
            Self::PutBackend(_, id, at) => write!(f, "service {service}: put backend {} {at}", id.0),
            Self::PutSlot(_, (set, slot), id) => {
                write!(f, "service {service}: put slot {set:?} {slot} -> backend {}", id.0)
            }
            Self::PutFrontend(_, vip, frontend) => {
                write!(f, "service {service}: put {vip} {:?} slots={}", frontend.set, frontend.count)
            }
            Self::DelFrontend(_, vip) => write!(f, "service {service}: delete {vip}"),
            Self::DelSlot(_, (set, slot)) => write!(f, "service {service}: delete slot {set:?} {slot}"),
            Self::DelBackend(_, id) => write!(f, "service {service}: delete backend {}", id.0),
        }
    }
}

impl Tables {
    /// What the kernel would hold after this write.
    pub fn apply(&mut self, op: &MapOp) {
        let entry = self.services.entry(op.service()).or_default();
        match *op {
            MapOp::PutBackend(_, id, at) => drop(entry.backends.insert(id, at)),
            MapOp::PutSlot(_, slot, id) => drop(entry.slots.insert(slot, id)),
            MapOp::PutFrontend(_, vip, frontend) => drop(entry.frontends.insert(vip, frontend)),
            MapOp::DelFrontend(_, vip) => drop(entry.frontends.remove(&vip)),
            MapOp::DelSlot(_, slot) => drop(entry.slots.remove(&slot)),
            MapOp::DelBackend(_, id) => drop(entry.backends.remove(&id)),
        }
        if entry.is_empty() {
            self.services.remove(&op.service());
        }
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.services.values().try_for_each(|entry| write!(f, "{entry}"))
    }
}

/// One line per address, as an operator reads it: `10.96.0.1:80/TCP slots=2 10.42.0.5:8080 10.42.0.6:8080`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vip, frontend) in &self.frontends {
            write!(f, "{vip} slots={}", frontend.count)?;
            if frontend.set == Set::Local {
                write!(f, " local")?;
            }
            if frontend.none_local {
                write!(f, " none-local")?;
            }
            for choice in self.choices(frontend) {
                match choice {
                    Some(at) => write!(f, " {at}")?,
                    None => write!(f, " MISSING")?,
                }
            }
            let chosen: Vec<_> = self.choices(frontend).flatten().collect();
            let kept: Vec<_> = self.backends.values().filter(|at| !chosen.contains(at)).collect();
            if !kept.is_empty() {
                write!(f, " keeps")?;
                kept.iter().try_for_each(|at| write!(f, " {at}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
