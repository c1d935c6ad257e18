//! From a Service and its slices to what its maps should say, before numbers are given out (`ids`).
//!
//! Deterministic: the same input gives the same slots in the same order. Each port of each family is a service of its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::{Family, HostPort, Node, Policy, Port, Protocol, Service, Slice};
use crate::select::{Candidate, Policies, Selection, select};
use crate::tables::{Home, Host, Masquerade, Set, Vip};

/// One service port of one family, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The address that names it: its (first) cluster IP.
    pub primary: Vip,
    /// All its addresses.
    pub frontends: BTreeMap<Vip, Rules>,
    /// The lists, by policy; only the ones in use.
    pub sets: BTreeMap<Set, Vec<SocketAddr>>,
    /// Endpoints that running conversations may keep, whatever policy and readiness say now: those of UDP while they
    /// answer, those of TCP while they exist, where their end is [watched](Self::close).
    pub serving: BTreeSet<SocketAddr>,
    /// Where endpoints are, if packets may be sent to them as they came.
    pub homes: BTreeMap<SocketAddr, Home>,
    /// TCP connections are ended when their endpoint is gone.
    pub close: bool,
    /// An endpoint that could be used exists somewhere.
    pub any: bool,
    /// Sources that its load-balancer addresses let in, if these are guarded.
    pub ranges: BTreeSet<IpNet>,
    /// Seconds a client stays with its endpoint; 0: it does not.
    pub affinity_seconds: u32,
}

/// What an address of a service does with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rules {
    /// Use the endpoints of this node only.
    pub local: bool,
    /// Except for pods and the node itself.
    pub shortcut: bool,
    /// Look at the ranges first.
    pub guarded: bool,
    /// Choose by a hash of the packet's source, where there is one ([`crate::maglev`]).
    pub by_hash: bool,
    /// For whom the source becomes this node.
    pub masquerade: Masquerade,
    /// Instead of that, packets from outside go to another node as they came.
    pub direct: bool,
}

/// Most slots of a list; a service with more endpoints uses the first so many.
const MAX_SLOTS: usize = u16::MAX as usize;

/// Every port of a service, per family in which it has a cluster IP; and after these all ports that it does not have, which
/// are refused.
pub fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &Node,
) -> Vec<Compiled> {
    let mut compiled = Vec::new();
    for port in &service.ports {
        let candidates = candidates(port, slices.clone(), node);
        for family in Family::ALL {
            let Some(ip) = service.cluster_ips.iter().find(|ip| family.has(ip)) else { continue };
            let of_family: Vec<_> = candidates.iter().copied().filter(|c| family.has(&c.at.ip())).collect();
            let primary = vip(port, Host::Ip(*ip));
            compiled.push(compile_port(service, port, primary, family, &of_family, node));
        }
    }
    if !service.ports.is_empty() {
        compiled.extend(service.cluster_ips.iter().copied().map(other_ports));
    }
    compiled
}

/// A service of its own, so that it belongs to no port. As upstream's nftables mode; its other modes let such packets go.
fn other_ports(ip: IpAddr) -> Compiled {
    let primary = Vip::other_ports(ip);
    Compiled {
        primary,
        frontends: [(primary, Rules::default())].into(),
        sets: BTreeMap::new(),
        serving: BTreeSet::new(),
        homes: BTreeMap::new(),
        close: false,
        any: false,
        ranges: BTreeSet::new(),
        affinity_seconds: 0,
    }
}

fn compile_port(
    service: &Service,
    port: &Port,
    primary: Vip,
    family: Family,
    candidates: &[Candidate<'_>],
    node: &Node,
) -> Compiled {
    let policies = Policies {
        internal: service.internal,
        external: service.external,
        externally_accessible: service.externally_accessible(port),
    };
    let Selection { cluster, local, any } = select(candidates, policies, node);
    let lists = [(Set::Cluster, cluster), (Set::Local, local)];
    let slots = |chosen: Vec<Candidate<'_>>| chosen.iter().map(|c| c.at).take(MAX_SLOTS).collect();
    let sets = lists.into_iter().filter_map(|(set, chosen)| Some((set, slots(chosen?)))).collect();
    let close = service.close_connections && port.protocol == Protocol::Tcp;
    let serving = candidates.iter().filter(|c| close || port.protocol == Protocol::Udp && c.endpoint.serving);
    let ranges = ranges(service, family, node);
    Compiled {
        primary,
        frontends: frontends(service, port, family, !ranges.is_empty(), node),
        sets,
        serving: serving.map(|candidate| candidate.at).collect(),
        homes: homes(candidates, policies, node),
        close,
        any,
        ranges,
        affinity_seconds: service.affinity_seconds.unwrap_or(0),
    }
}

/// What every node needs to know where nodes may send packets on as they came: whose endpoint it is. One that no node has is none
/// to unpack them.
fn homes(candidates: &[Candidate<'_>], policies: Policies, node: &Node) -> BTreeMap<SocketAddr, Home> {
    if !policies.externally_accessible || policies.external == Policy::Local {
        return BTreeMap::new();
    }
    let home = |candidate: &Candidate<'_>| match candidate.endpoint.node {
        None => Home::Unsaid,
        Some(_) if candidate.is_local(node) => Home::Here,
        Some(_) => Home::Away,
    };
    candidates.iter().map(|candidate| (candidate.at, home(candidate))).collect()
}

fn vip(port: &Port, host: Host) -> Vip {
    let number = if let Host::Node(_) = host { port.node_port.unwrap_or(0) } else { port.number };
    Vip { host, port: number, protocol: port.protocol }
}

/// The addresses of a port and their rules. Of two that are the same, the first counts.
fn frontends(
    service: &Service,
    port: &Port,
    family: Family,
    guarded: bool,
    node: &Node,
) -> BTreeMap<Vip, Rules> {
    let cluster_ip = Rules {
        local: service.internal == Policy::Local,
        shortcut: false,
        guarded: false,
        by_hash: service.by_hash,
        direct: false,
        masquerade: match (node.settings.masquerade_all, node.settings.pods.is_empty()) {
            (true, _) => Masquerade::Always,
            (false, false) => Masquerade::Outside,
            (false, true) => Masquerade::Never,
        },
    };
    let local = service.external == Policy::Local;
    let external = Rules {
        local,
        shortcut: local,
        guarded: false,
        by_hash: service.by_hash,
        masquerade: if local { Masquerade::Never } else { Masquerade::Always },
        // Another node knows this one by the addresses in its status.
        direct: !local
            && node.settings.load_balancing.is_direct(port.protocol)
            && node.primary.iter().any(|ip| family.has(ip)),
    };
    let of = |ips: &[IpAddr], rules: Rules| -> Vec<(Host, Rules)> {
        ips.iter().filter(|ip| family.has(ip)).map(|ip| (Host::Ip(*ip), rules)).collect()
    };
    let node_port = port.node_port.map(|_| (Host::Node(family), external));
    let all = of(&service.cluster_ips, cluster_ip)
        .into_iter()
        .chain(of(&service.external_ips, external))
        .chain(of(&service.load_balancer_ips, Rules { guarded, ..external }))
        .chain(node_port);
    let mut frontends = BTreeMap::new();
    for (host, rules) in all {
        frontends.entry(vip(port, host)).or_insert(rules);
    }
    frontends
}

/// Where the node is let in, so is the load balancer's own address: it may be bound on the node, and then is what the
/// node's programs have as source.
fn ranges(service: &Service, family: Family, node: &Node) -> BTreeSet<IpNet> {
    let mut ranges: BTreeSet<IpNet> =
        service.source_ranges.iter().copied().filter(|net| family.has(&net.addr())).collect();
    if node.addresses.iter().any(|ip| ranges.iter().any(|net| net.contains(ip))) {
        let own = service.load_balancer_ips.iter().copied().filter(|ip| family.has(ip));
        ranges.extend(own.map(IpNet::from));
    }
    ranges
}

/// The host ports of a pod: services of one endpoint, at addresses of the node. The pod sees who called it, as with the
/// `portmap` plugin that is upstream's usual way.
#[must_use]
pub fn host_ports(ports: &[HostPort]) -> Vec<Compiled> {
    let ends = ports.iter().flat_map(|port| port.to.iter().map(move |to| (port, *to)));
    let compiled = ends.filter_map(|(port, to)| {
        let family = Family::ALL.into_iter().find(|family| family.has(&to.ip()))?;
        let host = match port.host_ip {
            Some(ip) if !family.has(&ip) => return None,
            Some(ip) if !ip.is_unspecified() => Host::Ip(ip),
            _ => Host::Node(family),
        };
        let primary = Vip { host, port: port.port, protocol: port.protocol };
        Some(Compiled {
            primary,
            frontends: [(primary, Rules::default())].into(),
            sets: [(Set::Cluster, vec![to])].into(),
            serving: BTreeSet::new(),
            homes: BTreeMap::new(),
            close: false,
            any: true,
            ranges: BTreeSet::new(),
            affinity_seconds: 0,
        })
    });
    compiled.collect()
}

/// The endpoints of a service port: slices joined by port name and protocol. The same address and port counts once;
/// of two that disagree about the node, the local one counts.
#[must_use]
pub fn candidates<'a>(
    port: &Port,
    slices: impl Iterator<Item = &'a Slice>,
    node: &Node,
) -> Vec<Candidate<'a>> {
    let mut joined: BTreeMap<SocketAddr, Candidate<'a>> = BTreeMap::new();
    for slice in slices {
        let ports = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in ports.map(|p| p.number) {
            for endpoint in &slice.endpoints {
                let candidate = Candidate { at: SocketAddr::new(endpoint.ip, number), endpoint };
                let known = joined.entry(candidate.at).or_insert(candidate);
                if candidate.is_local(node) && !known.is_local(node) {
                    *known = candidate;
                }
            }
        }
    }
    joined.into_values().collect()
}
