//! The maps behind a seam: [`KernelMaps`] are pinned in a bpffs, [`FakeMaps`] are for tests of everything above.
//!
//! Not for: what to write (`diff`), or creating the maps (`loader`).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError as AyaError};
use orlop_abi as abi;

use crate::model::Protocol;
use crate::tables::{BackendId, Frontend, MapOp, ServiceId, Set, Tables, Vip};

mod fake;

pub use fake::FakeMaps;

/// Reads and writes what the kernel programs look up.
pub trait Maps: Send {
    /// All that stands in the maps.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn dump(&self) -> Result<Tables, MapError>;

    /// One write. Removing what is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the map is full.
    fn apply(&mut self, op: &MapOp) -> Result<(), MapError>;
}

/// A map operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct MapError {
    action: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl MapError {
    fn new(action: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { action: action.into(), source: source.into() }
    }
}

/// Names of the maps that are pinned, in the object and in the pin directory.
pub(crate) const FRONTENDS: &str = "FRONTENDS";
pub(crate) const SLOTS: &str = "SLOTS";
pub(crate) const BACKENDS: &str = "BACKENDS";

/// The pinned maps.
#[derive(Debug)]
pub struct KernelMaps {
    frontends: HashMap<MapData, abi::FrontendKey, abi::Frontend>,
    slots: HashMap<MapData, abi::SlotKey, u32>,
    backends: HashMap<MapData, u32, abi::Backend>,
}

impl KernelMaps {
    /// The maps pinned in this directory (`<bpffs>/v<schema>`).
    ///
    /// # Errors
    /// When one is not there, or is not what this version expects.
    pub fn open(pins: &Path) -> Result<Self, MapError> {
        Ok(Self {
            frontends: pinned(pins, FRONTENDS)?,
            slots: pinned(pins, SLOTS)?,
            backends: pinned(pins, BACKENDS)?,
        })
    }

    fn write(&mut self, op: &MapOp) -> Result<(), AyaError> {
        match *op {
            MapOp::PutBackend(service, id, at) => self.backends.insert(id.0, backend(service, at), 0),
            MapOp::PutSlot(service, slot, id) => self.slots.insert(slot_key(service, slot), id.0, 0),
            MapOp::PutFrontend(service, vip, to) => {
                self.frontends.insert(vip_key(vip), frontend(service, to), 0)
            }
            MapOp::DelFrontend(_, vip) => gone(self.frontends.remove(&vip_key(vip))),
            MapOp::DelSlot(service, slot) => gone(self.slots.remove(&slot_key(service, slot))),
            MapOp::DelBackend(_, id) => gone(self.backends.remove(&id.0)),
        }
    }
}

impl Maps for KernelMaps {
    fn dump(&self) -> Result<Tables, MapError> {
        let mut tables = Tables::default();
        for (id, backend) in entries(&self.backends, BACKENDS)? {
            let at = SocketAddrV4::new(ip(backend.addr), u16::from_be(backend.port));
            tables.apply(&MapOp::PutBackend(ServiceId(backend.service), BackendId(id), at));
        }
        for (key, id) in entries(&self.slots, SLOTS)? {
            if let Some(set) = set_of(key.set) {
                tables.apply(&MapOp::PutSlot(ServiceId(key.service), (set, key.slot), BackendId(id)));
            }
        }
        for (key, value) in entries(&self.frontends, FRONTENDS)? {
            if let (Some(vip), Some(set)) = (vip_of(key), set_of(value.set.into())) {
                let none_local = value.flags & abi::FRONTEND_NONE_LOCAL != 0;
                let frontend = Frontend { set, count: value.count, none_local };
                tables.apply(&MapOp::PutFrontend(ServiceId(value.service), vip, frontend));
            }
        }
        Ok(tables)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        self.write(op).map_err(|source| match &source {
            // The kernel's "Argument list too long" would lead an operator astray.
            AyaError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::ArgumentListTooLong => {
                MapError::new(op.to_string(), "the map is full")
            }
            _ => MapError::new(op.to_string(), source),
        })
    }
}

fn pinned<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<HashMap<MapData, K, V>, MapError> {
    let path = pins.join(name);
    let fail = |source| MapError::new(format!("open pinned map {}", path.display()), source);
    let data = MapData::from_pin(&path).map_err(fail)?;
    Map::from_map_data(data).and_then(HashMap::try_from).map_err(fail)
}

fn entries<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, name: &str) -> Result<Vec<(K, V)>, MapError> {
    map.iter().collect::<Result<_, _>>().map_err(|source| MapError::new(format!("read map {name}"), source))
}

/// Removing twice is fine: after a crash in between, or a repair, it is what happens.
fn gone(result: Result<(), AyaError>) -> Result<(), AyaError> {
    match result {
        Err(AyaError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(AyaError::KeyNotFound) => Ok(()),
        other => other,
    }
}

/// Network byte order, as a number of the machine: what stands in the packet stands in memory.
fn addr(ip: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(ip.octets())
}

fn ip(addr: u32) -> Ipv4Addr {
    Ipv4Addr::from(addr.to_ne_bytes())
}

fn vip_key(vip: Vip) -> abi::FrontendKey {
    let proto = match vip.protocol {
        Protocol::Tcp => abi::PROTO_TCP,
        Protocol::Udp => abi::PROTO_UDP,
        Protocol::Sctp => 132,
    };
    abi::FrontendKey { addr: addr(vip.ip), port: vip.port.to_be(), proto, scope: abi::SCOPE_ADDRESS }
}

/// `None` for what a later version wrote.
fn vip_of(key: abi::FrontendKey) -> Option<Vip> {
    let protocol = match (key.proto, key.scope) {
        (abi::PROTO_TCP, abi::SCOPE_ADDRESS) => Protocol::Tcp,
        (abi::PROTO_UDP, abi::SCOPE_ADDRESS) => Protocol::Udp,
        _ => return None,
    };
    Some(Vip { ip: ip(key.addr), port: u16::from_be(key.port), protocol })
}

fn set_number(set: Set) -> u8 {
    match set {
        Set::Cluster => abi::SET_CLUSTER,
        Set::Local => abi::SET_LOCAL,
    }
}

fn set_of(number: u16) -> Option<Set> {
    match u8::try_from(number).ok()? {
        abi::SET_CLUSTER => Some(Set::Cluster),
        abi::SET_LOCAL => Some(Set::Local),
        _ => None,
    }
}

fn slot_key(service: ServiceId, (set, slot): (Set, u16)) -> abi::SlotKey {
    abi::SlotKey { service: service.0, set: set_number(set).into(), slot }
}

fn frontend(service: ServiceId, to: Frontend) -> abi::Frontend {
    abi::Frontend {
        service: service.0,
        count: to.count,
        set: set_number(to.set),
        flags: if to.none_local { abi::FRONTEND_NONE_LOCAL } else { 0 },
        affinity_seconds: 0,
        reserved: 0,
    }
}

fn backend(service: ServiceId, at: SocketAddrV4) -> abi::Backend {
    abi::Backend { addr: addr(*at.ip()), port: at.port().to_be(), flags: 0, service: service.0, reserved: 0 }
}
