//! What the programs wrote down: connections, counters, drops. Read from the pins, with or without an agent.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap};
use orlop_abi as abi;

use super::{MapError, pinned, unreadable};
use crate::tables::ServiceId;

const CONNECTIONS: &str = "CONNECTIONS";
const COUNTERS: &str = "COUNTERS";
const DROPS: &str = "DROPS";

/// Connections whose packets are translated: key and value of each direction.
///
/// # Errors
/// When the map is not there, or cannot be read.
pub fn connections(pins: &Path) -> Result<Vec<(abi::ConnectionKey, abi::Connection)>, MapError> {
    let map: HashMap<MapData, abi::ConnectionKey, abi::Connection> = pinned(pins, CONNECTIONS)?;
    // One that was forgotten while we read is none any more.
    Ok(map.iter().filter_map(Result::ok).collect())
}

/// What went through each service, summed over CPUs.
///
/// # Errors
/// When the map is not there, or cannot be read.
pub fn counters(pins: &Path) -> Result<BTreeMap<ServiceId, abi::Counters>, MapError> {
    let map: PerCpuHashMap<MapData, u32, abi::Counters> = pinned(pins, COUNTERS)?;
    let add = |sum: abi::Counters, one: &abi::Counters| abi::Counters {
        connections: sum.connections.saturating_add(one.connections),
        packets: sum.packets.saturating_add(one.packets),
        bytes: sum.bytes.saturating_add(one.bytes),
        rejected: sum.rejected.saturating_add(one.rejected),
    };
    map.iter()
        .map(|entry| {
            let (id, values) = entry.map_err(|source| unreadable(COUNTERS, source))?;
            Ok((ServiceId(id), values.iter().fold(abi::Counters::default(), add)))
        })
        .collect()
}

/// Dropped packets by reason, summed over CPUs.
///
/// # Errors
/// When the map is not there, or cannot be read.
pub fn drops(pins: &Path) -> Result<BTreeMap<&'static str, u64>, MapError> {
    let map: PerCpuArray<MapData, u64> = pinned(pins, DROPS)?;
    let reasons = (0..).zip(abi::Drop::NAMES);
    let counts = reasons.map(|(index, name)| {
        let values = map.get(&index, 0).map_err(|source| unreadable(DROPS, source))?;
        Ok((name, values.iter().fold(0_u64, |sum, count| sum.saturating_add(*count))))
    });
    counts.collect()
}
