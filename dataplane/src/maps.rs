//! The maps behind a seam: [`KernelMaps`] are pinned in a bpffs, [`FakeMaps`] are for tests of everything above.
//!
//! Not for: what to write (`diff`), or creating the maps (`loader`).

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::mem::discriminant;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;

pub(crate) use aya::Pod;
use aya::maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, MapError as AyaError};
use orlop_abi as abi;

use crate::policy;
use crate::sys::batch;
use crate::tables::{Backend, BackendId, Home, MapOp, ServiceId, Set, Tables, Vip};

pub(crate) mod codec;
mod fake;
mod policy_maps;
pub(crate) mod resize;
pub(crate) mod ring;
pub mod seen;

use codec::{
    address, backend, backend_of, frontend, frontend_of, own_of, places, places_of, range_key, range_of,
    receiver_key, set_of, settings, slot_key, vip_key, vip_of, words,
};
pub use fake::FakeMaps;
pub(crate) use policy_maps::NAMES as POLICY_MAPS;
use policy_maps::PolicyMaps;

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

    /// Many writes, none of which counts on another. All are tried; what was refused, by service.
    fn apply_all(&mut self, ops: &[MapOp]) -> Vec<(ServiceId, MapError)> {
        one_by_one(self, ops)
    }

    /// The backends that were removed since this was asked last: somebody may still be connected to them.
    fn take_removed(&mut self) -> BTreeSet<Removed>;

    /// The network namespaces, by their cookies, whose sockets are left alone.
    ///
    /// # Errors
    /// When the map cannot be read.
    fn untranslated(&self) -> Result<BTreeSet<u64>, MapError>;

    /// Puts a network namespace among them, or takes it out.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the map is full.
    fn leave_alone(&mut self, netns: u64, alone: bool) -> Result<(), MapError>;

    /// All that stands in the maps of policies.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn dump_policies(&self) -> Result<policy::tables::Tables, MapError>;

    /// One write. Removing what is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the map is full.
    fn apply_policy(&mut self, op: &policy::diff::Op) -> Result<(), MapError>;

    /// After writes: has every flow judged again, by the rules of so many subjects.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn publish_policies(&mut self, subjects: u32) -> Result<(), MapError>;
}

/// A backend that no longer stands in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removed {
    /// The number it had.
    pub id: BackendId,
    /// What it was.
    pub backend: Backend,
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
pub(crate) const PLACES: &str = "PLACES";
pub(crate) const BACKENDS: &str = "BACKENDS";
pub(crate) const RECEIVERS: &str = "RECEIVERS";
pub(crate) const RANGES: &str = "RANGES";
pub(crate) const ADDRESSES: &str = "ADDRESSES";
pub(crate) const SETTINGS: &str = "SETTINGS";
pub(crate) const DEVICES: &str = "DEVICES";
pub(crate) const PORTS: &str = "PORTS";
pub(crate) const FIRST_POD: &str = "FIRST_POD";
pub(crate) const ROUTES: &str = "ROUTES";
pub(crate) const UNTRANSLATED: &str = "UNTRANSLATED";
pub(crate) const CALLERS: &str = "CALLERS";
pub(crate) const EVENTS: &str = "EVENTS";
pub(crate) const WATCHED: &str = "WATCHED";

/// The pinned maps.
pub struct KernelMaps {
    frontends: HashMap<MapData, abi::FrontendKey, abi::Frontend>,
    slots: HashMap<MapData, abi::SlotKey, u32>,
    places: HashMap<MapData, abi::SlotKey, abi::Places>,
    backends: HashMap<MapData, u32, abi::Backend>,
    /// Those on this node, by address.
    receivers: HashMap<MapData, abi::ReceiverKey, u32>,
    ranges: LpmTrie<MapData, abi::Range, u32>,
    addresses: HashMap<MapData, abi::Ip, u32>,
    settings: Array<MapData, abi::Settings>,
    untranslated: HashMap<MapData, u64, u32>,
    policies: PolicyMaps,
    /// Backends that were removed, and not yet asked about.
    removed: BTreeSet<Removed>,
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
            places: pinned(pins, PLACES)?,
            backends: pinned(pins, BACKENDS)?,
            receivers: pinned(pins, RECEIVERS)?,
            ranges: pinned(pins, RANGES)?,
            addresses: pinned(pins, ADDRESSES)?,
            settings: pinned(pins, SETTINGS)?,
            untranslated: pinned(pins, UNTRANSLATED)?,
            policies: PolicyMaps::open(pins)?,
            removed: BTreeSet::new(),
        })
    }

    /// Where an address leads at this moment, past all that is known: the choices of its list for the whole cluster.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn look_up(&self, vip: Vip) -> Result<Vec<SocketAddr>, MapError> {
        let Some(frontend) = found(self.frontends.get(&vip_key(vip), 0), FRONTENDS)? else {
            return Ok(Vec::new());
        };
        let mut choices = Vec::new();
        for slot in 0..frontend.cluster {
            let key = slot_key(ServiceId(frontend.service), (Set::Cluster, slot));
            let Some(id) = found(self.slots.get(&key, 0), SLOTS)? else { continue };
            let backend = found(self.backends.get(&id, 0), BACKENDS)?;
            choices.extend(backend.map(|value| backend_of(&value).at));
        }
        Ok(choices)
    }

    /// Every service address, and whose it is.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn addresses(&self) -> Result<Vec<(Vip, ServiceId)>, MapError> {
        let all = entries(&self.frontends, FRONTENDS)?;
        Ok(all
            .into_iter()
            .filter_map(|(key, value)| Some((vip_of(key)?, ServiceId(value.service))))
            .collect())
    }

    /// How many of these were written in one go: up to the first that the kernel refused. None, where there is no such way.
    fn write_alike(&mut self, ops: &[MapOp]) -> usize {
        match ops.first() {
            Some(MapOp::PutBackend(..)) => {
                let written = write_batch(&self.backends, ops, |op| match *op {
                    MapOp::PutBackend(service, id, to) => Some((id.0, backend(service, to))),
                    _ => None,
                });
                let refused = ops[..written].iter().position(|op| match *op {
                    MapOp::PutBackend(service, id, to) => self.receive(id, &backend(service, to)).is_err(),
                    _ => false,
                });
                refused.unwrap_or(written)
            }
            Some(MapOp::PutSlot(..)) => write_batch(&self.slots, ops, |op| match *op {
                MapOp::PutSlot(service, slot, id) => Some((slot_key(service, slot), id.0)),
                _ => None,
            }),
            Some(MapOp::PutPlaces(..)) => write_batch(&self.places, ops, |op| match op {
                MapOp::PutPlaces(service, part, to) => Some((slot_key(*service, *part), places(to))),
                _ => None,
            }),
            Some(MapOp::PutFrontend(..)) => write_batch(&self.frontends, ops, |op| match *op {
                MapOp::PutFrontend(service, vip, to) => Some((vip_key(vip), frontend(service, to))),
                _ => None,
            }),
            _ => 0,
        }
    }

    /// A backend on this node is found by its address, too. (Of two ports of a pod behind one service, the last.)
    fn receive(&mut self, id: BackendId, to: &abi::Backend) -> Result<(), AyaError> {
        receiver_key(to).map_or(Ok(()), |key| self.receivers.insert(key, id.0, 0))
    }

    fn remove_backend(&mut self, id: BackendId) -> Result<(), AyaError> {
        let held = self.backends.get(&id.0, 0);
        if let Some(key) = held.as_ref().ok().and_then(receiver_key)
            && self.receivers.get(&key, 0).is_ok_and(|receiver| receiver == id.0)
        {
            gone(self.receivers.remove(&key))?;
        }
        gone(self.backends.remove(&id.0))?;
        self.removed.extend(held.ok().map(|held| Removed { id, backend: backend_of(&held) }));
        Ok(())
    }

    fn write(&mut self, op: &MapOp) -> Result<(), AyaError> {
        match *op {
            MapOp::PutOwn(own) => self.settings.set(0, settings(own), 0),
            MapOp::PutAddress(ip, node_ports) => {
                self.addresses.insert(words(ip), if node_ports { abi::ADDRESS_NODE_PORTS } else { 0 }, 0)
            }
            MapOp::PutRange(service, net) => self.ranges.insert(&range_key(service, net), 1, 0),
            MapOp::PutBackend(service, id, to) => {
                let to = backend(service, to);
                self.backends.insert(id.0, to, 0)?;
                self.receive(id, &to)
            }
            MapOp::PutSlot(service, slot, id) => self.slots.insert(slot_key(service, slot), id.0, 0),
            MapOp::PutPlaces(service, part, ref to) => {
                self.places.insert(slot_key(service, part), places(to), 0)
            }
            MapOp::DelPlaces(service, part) => gone(self.places.remove(&slot_key(service, part))),
            MapOp::PutFrontend(service, vip, to) => {
                self.frontends.insert(vip_key(vip), frontend(service, to), 0)
            }
            MapOp::DelFrontend(_, vip) => gone(self.frontends.remove(&vip_key(vip))),
            MapOp::DelSlot(service, slot) => gone(self.slots.remove(&slot_key(service, slot))),
            MapOp::DelBackend(_, id) => self.remove_backend(id),
            MapOp::DelRange(service, net) => gone(self.ranges.remove(&range_key(service, net))),
            MapOp::DelAddress(ip) => gone(self.addresses.remove(&words(ip))),
        }
    }
}

impl Maps for KernelMaps {
    fn dump(&self) -> Result<Tables, MapError> {
        let mut tables = Tables::default();
        let own = self.settings.get(&0, 0).map_err(|source| unreadable(SETTINGS, source))?;
        if own != abi::Settings::default() {
            tables.apply(&MapOp::PutOwn(own_of(&own)));
        }
        for entry in self.addresses.iter() {
            let (ip, flags) = entry.map_err(|source| unreadable(ADDRESSES, source))?;
            tables.apply(&MapOp::PutAddress(address(ip), flags & abi::ADDRESS_NODE_PORTS != 0));
        }
        for entry in self.ranges.iter() {
            let (key, _) = entry.map_err(|source| unreadable(RANGES, source))?;
            if let Some((service, net)) = range_of(&key) {
                tables.apply(&MapOp::PutRange(service, net));
            }
        }
        let receivers: BTreeSet<_> =
            entries(&self.receivers, RECEIVERS)?.into_iter().map(|(key, _)| key).collect();
        for (id, value) in entries(&self.backends, BACKENDS)? {
            let mut to = backend_of(&value);
            // One that is not found by its address is to be written once more.
            if receiver_key(&value).is_some_and(|key| !receivers.contains(&key)) {
                to.home = Home::Unsaid;
            }
            tables.apply(&MapOp::PutBackend(ServiceId(value.service), BackendId(id), to));
        }
        for (key, id) in entries(&self.slots, SLOTS)? {
            if let Some(set) = set_of(key.set) {
                tables.apply(&MapOp::PutSlot(ServiceId(key.service), (set, key.slot), BackendId(id)));
            }
        }
        for (key, value) in entries(&self.places, PLACES)? {
            if let Some(set) = set_of(key.set) {
                let part = (set, key.slot);
                tables.apply(&MapOp::PutPlaces(ServiceId(key.service), part, places_of(&value)));
            }
        }
        for (key, value) in entries(&self.frontends, FRONTENDS)? {
            if let Some(vip) = vip_of(key) {
                tables.apply(&MapOp::PutFrontend(ServiceId(value.service), vip, frontend_of(&value)));
            }
        }
        Ok(tables)
    }

    fn take_removed(&mut self) -> BTreeSet<Removed> {
        std::mem::take(&mut self.removed)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), MapError> {
        self.write(op).map_err(|source| refused(op.to_string(), source))
    }

    fn apply_all(&mut self, mut ops: &[MapOp]) -> Vec<(ServiceId, MapError)> {
        let mut failures = Vec::new();
        while let Some(first) = ops.first() {
            let alike = ops.iter().take_while(|op| discriminant(*op) == discriminant(first)).count();
            let written = self.write_alike(&ops[..alike]);
            // What a batch stopped at is tried by itself: it says why.
            let rest = &ops[written..alike];
            let alone = if written == 0 { rest.len() } else { rest.len().min(1) };
            failures.extend(one_by_one(self, &rest[..alone]));
            ops = &ops[written + alone..];
        }
        failures
    }

    fn untranslated(&self) -> Result<BTreeSet<u64>, MapError> {
        Ok(entries(&self.untranslated, UNTRANSLATED)?.into_iter().map(|(netns, _)| netns).collect())
    }

    fn leave_alone(&mut self, netns: u64, alone: bool) -> Result<(), MapError> {
        let written = match alone {
            true => self.untranslated.insert(netns, 1, 0),
            false => gone(self.untranslated.remove(&netns)),
        };
        written.map_err(|source| refused(format!("network namespace {netns}: sockets"), source))
    }

    fn dump_policies(&self) -> Result<policy::tables::Tables, MapError> {
        self.policies.dump()
    }

    fn apply_policy(&mut self, op: &policy::diff::Op) -> Result<(), MapError> {
        self.policies.apply(op)
    }

    fn publish_policies(&mut self, subjects: u32) -> Result<(), MapError> {
        self.policies.publish(subjects)
    }
}

impl fmt::Debug for KernelMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelMaps").finish_non_exhaustive()
    }
}

/// What the programs know about a device of the node (`DEVICE_…` bits), or that there is no such device.
pub(crate) fn tell_device(pins: &Path, index: u32, flags: Option<u32>) -> Result<(), MapError> {
    tell(pins, DEVICES, index, flags)
}

/// Which bridge a device is a port of; `None` if of none.
pub(crate) fn tell_port(pins: &Path, index: u32, bridge: Option<u32>) -> Result<(), MapError> {
    tell(pins, PORTS, index, bridge)
}

fn tell(pins: &Path, map: &str, index: u32, value: Option<u32>) -> Result<(), MapError> {
    let mut map: HashMap<MapData, u32, u32> = pinned(pins, map)?;
    let done = match value {
        Some(value) => map.insert(index, value, 0),
        None => gone(map.remove(&index)),
    };
    done.map_err(|source| refused(format!("tell the programs about device {index}"), source))
}

/// How often routes have changed: at every other count the programs ask the routing table again.
pub(crate) struct Routes(Array<MapData, u32>);

impl Routes {
    /// As pinned in this directory.
    pub(crate) fn open(pins: &Path) -> Result<Self, MapError> {
        pinned(pins, ROUTES).map(Self)
    }

    /// One more.
    pub(crate) fn changed(&mut self) -> Result<(), MapError> {
        let count = self.0.get(&0, 0).map_err(|source| unreadable(ROUTES, source))?;
        self.0
            .set(0, count.wrapping_add(1), 0)
            .map_err(|source| refused("tell the programs that routes changed".to_owned(), source))
    }
}

/// The lowest number of a device with a pod behind it; 0: there is none.
pub(crate) fn tell_first_pod(pins: &Path, index: u32) -> Result<(), MapError> {
    let mut map: Array<MapData, u32> = pinned(pins, FIRST_POD)?;
    map.set(0, index, 0).map_err(|source| refused("tell the programs where pods begin".to_owned(), source))
}

/// The cgroup whose processes' sockets are translated, by its id; 0: all that programs see.
pub(crate) fn tell_callers(pins: &Path, cgroup: u64) -> Result<(), MapError> {
    let mut map: Array<MapData, u64> = pinned(pins, CALLERS)?;
    map.set(0, cgroup, 0).map_err(|source| refused("tell the programs whom they serve".to_owned(), source))
}

/// The devices that they know about, ports of bridges among them.
pub(crate) fn told_devices(pins: &Path) -> Result<BTreeSet<u32>, MapError> {
    let mut told = BTreeSet::new();
    for name in [DEVICES, PORTS] {
        let map: HashMap<MapData, u32, u32> = pinned(pins, name)?;
        told.extend(entries(&map, name)?.into_iter().map(|(index, _)| index));
    }
    Ok(told)
}

fn pinned<M: TryFrom<Map, Error = AyaError>>(pins: &Path, name: &str) -> Result<M, MapError> {
    let path = pins.join(name);
    let fail = |source| MapError::new(format!("open pinned map {}", path.display()), source);
    let data = MapData::from_pin(&path).map_err(fail)?;
    Map::from_map_data(data).and_then(M::try_from).map_err(fail)
}

fn write_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    ops: &[MapOp],
    element: impl Fn(&MapOp) -> Option<(K, V)>,
) -> usize {
    let elements: Vec<_> = ops.iter().map_while(element).collect();
    let (written, _) = batch::update(IterableMap::map(map).fd().as_fd(), &elements);
    written
}

fn entries<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>, name: &str) -> Result<Vec<(K, V)>, MapError> {
    let elements = batch::elements(IterableMap::map(map).fd().as_fd());
    elements.map_err(|source| MapError::new(format!("read map {name}"), source))
}

fn refused(action: String, source: AyaError) -> MapError {
    match &source {
        // The kernel's "Argument list too long" would lead an operator astray; tries say it in another way.
        AyaError::SyscallError(error)
            if matches!(
                error.io_error.kind(),
                io::ErrorKind::ArgumentListTooLong | io::ErrorKind::StorageFull
            ) =>
        {
            MapError::new(action, "the map is full")
        }
        _ => MapError::new(action, source),
    }
}

fn one_by_one(maps: &mut (impl Maps + ?Sized), ops: &[MapOp]) -> Vec<(ServiceId, MapError)> {
    ops.iter().filter_map(|op| Some((op.service(), maps.apply(op).err()?))).collect()
}

fn found<T>(read: Result<T, AyaError>, name: &str) -> Result<Option<T>, MapError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(AyaError::KeyNotFound) => Ok(None),
        Err(source) => Err(unreadable(name, source)),
    }
}

fn unreadable(name: &str, source: AyaError) -> MapError {
    MapError::new(format!("read map {name}"), source)
}

/// Removing twice is fine: after a crash in between, or a repair, it is what happens.
fn gone(result: Result<(), AyaError>) -> Result<(), AyaError> {
    match result {
        Err(AyaError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(AyaError::KeyNotFound) => Ok(()),
        other => other,
    }
}
