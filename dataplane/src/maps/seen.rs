//! What the programs wrote down: connections, counters, drops. Read from the pins, with or without an agent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap};
use orlop_abi as abi;

use super::codec::{address, backend_of, words};
use super::{AyaError, BACKENDS, MapError, pinned, unreadable};
use crate::kube_proxy::reserve::Tracked;
use crate::model::Protocol;
use crate::sweep::plan::Connected;
use crate::sys;
use crate::tables::{BackendId, ServiceId};

const PEERS: &str = "PEERS";
const CONNECTIONS: &str = "CONNECTIONS";
const COUNTERS: &str = "COUNTERS";
const DROPS: &str = "DROPS";
const HITS: &str = "HITS";

/// Connections whose packets are translated: key and value of each direction.
///
/// # Errors
/// When the map is not there, or cannot be read.
pub fn connections(pins: &Path) -> Result<Vec<(abi::ConnectionKey, abi::Connection)>, MapError> {
    let map: HashMap<MapData, abi::ConnectionKey, abi::Connection> = pinned(pins, CONNECTIONS)?;
    // One that was forgotten while we read is none any more.
    Ok(map.iter().filter_map(Result::ok).collect())
}

/// Enters connections of netfilter's, so that their ports are not given out. What is known already stays.
///
/// # Errors
/// When the map is not there, or refuses.
pub fn reserve(pins: &Path, tracked: &[Tracked]) -> Result<(), MapError> {
    const NOEXIST: u64 = 1;
    let mut map: HashMap<MapData, abi::ConnectionKey, abi::Connection> = pinned(pins, CONNECTIONS)?;
    let now = u32::try_from(sys::monotonic_seconds()).unwrap_or_default();
    for one in tracked {
        let ((client, service), (backend, to)) = (one.asked, one.answered);
        let key = abi::ConnectionKey {
            source: words(backend.ip()),
            destination: words(to.ip()),
            source_port: backend.port().to_be(),
            destination_port: to.port().to_be(),
            proto: u32::from(one.protocol.number()),
        };
        let value = abi::Connection {
            source: words(service.ip()),
            destination: words(client.ip()),
            source_port: service.port().to_be(),
            destination_port: client.port().to_be(),
            flags: abi::Connection::REPLY | abi::Connection::FOREIGN,
            mtu: 0,
            backend: 0,
            service: 0,
            seen: now,
            made: now,
            device: 0,
            way: abi::Way::default(),
        };
        match map.insert(key, value, NOEXIST) {
            Err(AyaError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(|source| MapError::new("reserve a port of netfilter's", source))?,
        }
    }
    Ok(())
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

/// What policies and sets of rules let through or kept out, summed over CPUs.
///
/// # Errors
/// When the map is not there, or cannot be read.
pub fn hits(pins: &Path) -> Result<BTreeMap<u32, abi::Hits>, MapError> {
    let map: PerCpuHashMap<MapData, u32, abi::Hits> = pinned(pins, HITS)?;
    let add = |sum: abi::Hits, one: &abi::Hits| abi::Hits {
        allowed: sum.allowed.saturating_add(one.allowed),
        denied: sum.denied.saturating_add(one.denied),
    };
    map.iter()
        .map(|entry| {
            let (of, values) = entry.map_err(|source| unreadable(HITS, source))?;
            Ok((of, values.iter().fold(abi::Hits::default(), add)))
        })
        .collect()
}

/// Sockets that are connected to a backend.
pub struct Peers(HashMap<MapData, u64, abi::Peer>);

impl Peers {
    /// As pinned in this directory.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn open(pins: &Path) -> Result<Self, MapError> {
        pinned(pins, PEERS).map(Self)
    }

    /// All of them. One that was closed while we read is none any more.
    #[must_use]
    pub fn all(&self) -> Vec<Connected> {
        self.0.iter().filter_map(Result::ok).filter_map(|(cookie, peer)| connected(cookie, &peer)).collect()
    }

    /// Forgets what was remembered of a socket, unless it was connected anew since.
    pub fn forget(&mut self, socket: &Connected) {
        let held = self.0.get(&socket.cookie, 0);
        if held.is_ok_and(|peer| connected(socket.cookie, &peer).as_ref() == Some(socket)) {
            // It may have been closed this moment.
            let _gone = self.0.remove(&socket.cookie);
        }
    }
}

fn connected(cookie: u64, peer: &abi::Peer) -> Option<Connected> {
    let protocol = match u8::try_from(peer.proto).ok()? {
        abi::PROTO_TCP => Protocol::Tcp,
        abi::PROTO_UDP => Protocol::Udp,
        _ => return None,
    };
    let at = SocketAddr::new(address(peer.backend_ip), u16::from_be(peer.backend_port));
    Some(Connected {
        cookie,
        protocol,
        service: ServiceId(peer.service),
        backend: BackendId(peer.backend),
        at,
    })
}

/// Backends, read by whoever does not write them.
pub struct Backends(HashMap<MapData, u32, abi::Backend>);

impl Backends {
    /// As pinned in this directory.
    ///
    /// # Errors
    /// When the map is not there.
    pub fn open(pins: &Path) -> Result<Self, MapError> {
        pinned(pins, BACKENDS).map(Self)
    }

    /// Whose backend has this number, and where it is.
    #[must_use]
    pub fn get(&self, id: BackendId) -> Option<(ServiceId, SocketAddr)> {
        self.0.get(&id.0, 0).ok().map(|value| (ServiceId(value.service), backend_of(&value).at))
    }

    /// All of them.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn all(&self) -> Result<BTreeSet<(ServiceId, SocketAddr)>, MapError> {
        let entries = self.0.iter().map(|entry| entry.map_err(|source| unreadable(BACKENDS, source)));
        entries
            .map(|entry| entry.map(|(_, value)| (ServiceId(value.service), backend_of(&value).at)))
            .collect()
    }
}
