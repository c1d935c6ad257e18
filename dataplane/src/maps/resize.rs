//! Pinned maps of another size: what stands in them is carried over into new ones, numbers and all, before the programs that
//! use those take over. So no connection notices.
//!
//! Counters begin anew. What the old programs write between the reading and the taking over is lost: of connections, some
//! that began in that moment. A crash in between is a start with empty maps.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;

use aya::maps::{HashMap, IterableMap as _, MapData};
use orlop_abi as abi;

use super::{BACKENDS, FRONTENDS, MapError, PLACES, Pod, SLOTS, entries, pinned, unreadable};
use crate::sizes::Sizes;
use crate::sys::batch;

const CONNECTIONS: &str = "CONNECTIONS";
const COUNTERS: &str = "COUNTERS";

/// Elements without a map.
#[derive(Default)]
pub(crate) struct Carried {
    frontends: Vec<(abi::FrontendKey, abi::Frontend)>,
    slots: Vec<(abi::SlotKey, u32)>,
    places: Vec<(abi::SlotKey, abi::Places)>,
    backends: Vec<(u32, abi::Backend)>,
    connections: Vec<(abi::ConnectionKey, abi::Connection)>,
}

/// Takes the pins of maps away that are not of these sizes, and keeps what stood in the maps.
pub(crate) fn pick_up(pins: &Path, sizes: &Sizes) -> Result<Carried, MapError> {
    let mut carried = Carried::default();
    for (name, size) in sizes.of_maps() {
        let path = pins.join(name);
        if !path.exists() || found(&path, name)? == size {
            continue;
        }
        match name {
            FRONTENDS => carried.frontends = read(pins, name)?,
            SLOTS => carried.slots = read(pins, name)?,
            PLACES => carried.places = read(pins, name)?,
            BACKENDS => carried.backends = read(pins, name)?,
            CONNECTIONS => carried.connections = read(pins, name)?,
            _ => debug_assert_eq!(name, COUNTERS, "a map whose elements nobody carries"),
        }
        tracing::info!(map = name, size, "a map is made anew with another size");
        fs::remove_file(&path).map_err(|source| MapError::new(format!("unpin map {name}"), source))?;
    }
    Ok(carried)
}

impl Carried {
    /// Puts it into the maps that are pinned now, in the order that is safe: nothing names what is not there.
    pub(crate) fn put_down(self, pins: &Path) -> Result<(), MapError> {
        write(pins, BACKENDS, &self.backends)?;
        write(pins, SLOTS, &self.slots)?;
        write(pins, PLACES, &self.places)?;
        write(pins, FRONTENDS, &self.frontends)?;
        write(pins, CONNECTIONS, &self.connections)
    }
}

fn found(path: &Path, name: &str) -> Result<u32, MapError> {
    let info = MapData::from_pin(path).and_then(|map| map.info());
    Ok(info.map_err(|source| unreadable(name, source))?.max_entries())
}

fn read<K: Pod, V: Pod>(pins: &Path, name: &str) -> Result<Vec<(K, V)>, MapError> {
    let map: HashMap<MapData, K, V> = pinned(pins, name)?;
    entries(&map, name)
}

/// What does not fit is not carried: the service that misses it will say so.
fn write<K: Pod, V: Pod>(pins: &Path, name: &str, elements: &[(K, V)]) -> Result<(), MapError> {
    if elements.is_empty() {
        return Ok(());
    }
    let map: HashMap<MapData, K, V> = pinned(pins, name)?;
    let (written, result) = batch::update(map.map().fd().as_fd(), elements);
    if let Err(error) = result {
        tracing::warn!(map = name, left = elements.len() - written, %error, "elements do not fit into the new map");
    }
    Ok(())
}
