//! What is in the pinned maps, in words: for `orlop services`, `connections` and `explain`, with or without a running
//! agent.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use ipnet::IpNet;
use orlop_abi::{Connection, Counters, Hits};

use crate::explain::{Explanation, Packet, Verdict, explain};
use crate::loader::pins;
use crate::maps::{KernelMaps, MapError, Maps as _, codec::address, seen};
use crate::policy::{
    self,
    explain::{Judgement, judge},
    tables::Names,
};
use crate::sys;
use crate::tables::{ServiceId, Vip};

/// One service address and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// The address clients dial.
    pub address: Vip,
    /// The number of the service in the maps.
    pub id: u32,
    /// Where new connections from outside the cluster go, each with the same chance.
    pub backends: Vec<SocketAddr>,
    /// Where those of pods and the node go, if that differs.
    pub inside: Option<Vec<SocketAddr>>,
    /// Backends of running conversations that get no new ones.
    pub draining: Vec<SocketAddr>,
    /// Only endpoints on this node are used.
    pub local_only: bool,
    /// There are endpoints, but none on this node: packets count as dropped, not refused.
    pub none_local: bool,
    /// Sources that are let in, if not all are.
    pub ranges: Option<Vec<IpNet>>,
    /// Seconds a client stays with its backend; 0: it does not.
    pub affinity_seconds: u32,
    /// What went through all addresses of the service port.
    pub counters: Counters,
}

/// A connection whose packets are translated (those made at a socket are not seen again).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionView {
    /// Transport protocol, by number.
    pub protocol: u32,
    /// Who began it.
    pub client: SocketAddr,
    /// The service address it asked for.
    pub service: SocketAddr,
    /// The backend it got.
    pub backend: SocketAddr,
    /// What the backend sees as its peer.
    pub seen_as: SocketAddr,
    /// Seconds since the client last sent a packet.
    pub idle: u32,
    /// Seconds since it began.
    pub age: u32,
    /// The client is done.
    pub closed: bool,
}

/// Reads the pinned table of connections.
///
/// # Errors
/// When nothing is pinned there, or the map cannot be read.
pub fn connections(bpffs: &Path) -> Result<Vec<ConnectionView>, MapError> {
    let now = u32::try_from(sys::monotonic_seconds()).unwrap_or(u32::MAX);
    let end = |ip, port: u16| SocketAddr::new(address(ip), u16::from_be(port));
    let entries = seen::connections(&pins(bpffs))?;
    let there = entries.into_iter().filter(|(_, to)| to.flags & Connection::REPLY == 0);
    let mut views: Vec<_> = there
        .map(|(key, to)| ConnectionView {
            protocol: key.proto,
            client: end(key.source, key.source_port),
            service: end(key.destination, key.destination_port),
            backend: end(to.destination, to.destination_port),
            seen_as: end(to.source, to.source_port),
            idle: now.saturating_sub(to.seen),
            age: now.saturating_sub(to.made),
            closed: to.flags & Connection::CLOSED != 0,
        })
        .collect();
    views.sort();
    Ok(views)
}

/// What the maps would do with a packet: as a service, and by the policies whose `names` these are, for each place that
/// it may go to.
///
/// # Errors
/// When nothing is pinned there, or the maps cannot be read.
pub fn explain_pinned(
    bpffs: &Path,
    packet: &Packet,
    names: &Names,
) -> Result<(Explanation, Vec<Judgement>), MapError> {
    let maps = KernelMaps::open(&pins(bpffs))?;
    let (tables, policies) = (maps.dump()?, maps.dump_policies()?);
    let explanation = explain(&tables, packet);
    let places = match &explanation.verdict {
        Verdict::Pass => vec![packet.destination],
        Verdict::Forward(backends) => backends.iter().map(|(at, _)| *at).collect(),
        Verdict::Reject | Verdict::NoLocalEndpoint | Verdict::SourceRange => Vec::new(),
    };
    let own = tables.services.get(&ServiceId::NODE);
    let node = |ip: IpAddr| ip.is_loopback() || own.is_some_and(|own| own.addresses.contains_key(&ip));
    let judge = |to| judge(&policies, names, node, (packet.source, to, packet.protocol));
    Ok((explanation, places.into_iter().map(judge).collect()))
}

/// What policies there are in the kernel, and what each policy and each set of rules let through and kept out.
///
/// # Errors
/// When nothing is pinned there, or the maps cannot be read.
pub fn policies(bpffs: &Path) -> Result<(policy::tables::Tables, BTreeMap<u32, Hits>), MapError> {
    let pins = pins(bpffs);
    Ok((KernelMaps::open(&pins)?.dump_policies()?, seen::hits(&pins)?))
}

/// What the programs have counted since the maps were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What went through a service port, by the first of its addresses; none that nobody asked for.
    pub services: Vec<(Vip, Counters)>,
    /// Dropped packets, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Of policies and sets of rules, by number.
    pub hits: BTreeMap<u32, Hits>,
}

/// Reads what was counted.
///
/// # Errors
/// When nothing is pinned there, or the maps cannot be read.
pub fn counted(bpffs: &Path) -> Result<Counted, MapError> {
    let pins = pins(bpffs);
    let counters = seen::counters(&pins)?;
    let mut first = BTreeMap::new();
    for (vip, service) in KernelMaps::open(&pins)?.addresses()? {
        let held = first.entry(service).or_insert(vip);
        *held = vip.min(*held);
    }
    let services = first.into_iter().filter_map(|(id, vip)| Some((vip, *counters.get(&id)?)));
    Ok(Counted { services: services.collect(), drops: seen::drops(&pins)?, hits: seen::hits(&pins)? })
}

/// Reads the pinned maps, sorted by address.
///
/// # Errors
/// When nothing is pinned there, or the maps cannot be read.
pub fn describe(bpffs: &Path) -> Result<Vec<ServiceView>, MapError> {
    let tables = KernelMaps::open(&pins(bpffs))?.dump()?;
    let counters = seen::counters(&pins(bpffs))?;
    let mut views: Vec<_> = tables
        .services
        .iter()
        .flat_map(|(id, entry)| entry.frontends.iter().map(move |(vip, frontend)| (id, entry, vip, frontend)))
        .filter(|(_, _, vip, _)| !vip.is_other_ports())
        .map(|(id, entry, vip, frontend)| {
            let backends: Vec<_> = entry.choices(frontend.outside()).flatten().collect();
            let inside = frontend.inside() != frontend.outside();
            let draining = entry.backends.values().filter(|to| !to.cluster && !to.local);
            ServiceView {
                address: *vip,
                id: id.0,
                draining: draining.map(|to| to.at).collect(),
                inside: inside.then(|| entry.choices(frontend.inside()).flatten().collect()),
                local_only: frontend.rules.local,
                none_local: backends.is_empty() && frontend.any,
                backends,
                ranges: frontend.rules.guarded.then(|| entry.ranges.iter().copied().collect()),
                affinity_seconds: frontend.affinity_seconds,
                counters: counters.get(id).copied().unwrap_or_default(),
            }
        })
        .collect();
    views.sort_by_key(|view| view.address);
    Ok(views)
}

pub(crate) const fn protocol_name(number: u8) -> &'static str {
    match number {
        1 => "ICMP",
        6 => "TCP",
        17 => "UDP",
        58 => "ICMPv6",
        132 => "SCTP",
        _ => "?",
    }
}

impl fmt::Display for ConnectionView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = u8::try_from(self.protocol).map_or("?", protocol_name);
        write!(f, "{protocol:<5}{} asked {} got {}", self.client, self.service, self.backend)?;
        if self.seen_as != self.client {
            write!(f, " which sees {}", self.seen_as)?;
        }
        write!(f, ", {} s old, silent for {} s", self.age, self.idle)?;
        if self.closed { write!(f, ", closed") } else { Ok(()) }
    }
}

impl fmt::Display for ServiceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<24}", self.address.to_string())?;
        if self.none_local {
            write!(f, "dropped: no endpoint on this node")?;
        } else if self.backends.is_empty() {
            write!(f, "refused: no endpoint")?;
        } else {
            write!(f, "to {}", list(&self.backends))?;
        }
        if self.local_only && !self.none_local {
            write!(f, " (this node only)")?;
        }
        if let Some(inside) = &self.inside {
            write!(f, ", from inside the cluster to {}", list(inside))?;
        }
        if let Some(ranges) = &self.ranges {
            write!(f, ", only from {}", list(ranges))?;
        }
        if self.affinity_seconds > 0 {
            write!(f, ", clients stay for {} s", self.affinity_seconds)?;
        }
        let Counters { connections, rejected, .. } = self.counters;
        if connections > 0 {
            write!(f, ", {connections} connections")?;
        }
        if rejected > 0 {
            write!(f, ", {rejected} refused")?;
        }
        if !self.draining.is_empty() {
            write!(f, ", draining {}", list(&self.draining))?;
        }
        Ok(())
    }
}

fn list(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
