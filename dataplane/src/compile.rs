//! From a Service and its slices to what its maps should say, before numbers are given out (`ids`).
//!
//! Deterministic: the same input gives the same slots in the same order. Today: IPv4 cluster IPs of TCP and UDP.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use crate::model::{Node, Policy, Port, Protocol, Service, Slice};
use crate::select::{Candidate, Policies, Selection, select};
use crate::tables::{Set, Vip};

/// One service port, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The address that names it.
    pub vip: Vip,
    /// The list its address uses.
    pub set: Set,
    /// The lists, by policy; only the ones in use.
    pub sets: BTreeMap<Set, Vec<SocketAddrV4>>,
    /// Endpoints that running UDP conversations may keep, whatever policy and readiness say now.
    pub serving: BTreeSet<SocketAddrV4>,
    /// Endpoints exist, but none that the policy allows.
    pub none_local: bool,
}

/// Most slots of a list; a service with more endpoints uses the first so many.
const MAX_SLOTS: usize = u16::MAX as usize;

/// Every service port that the socket hooks can serve.
pub fn compile<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice> + Clone,
    node: &Node,
) -> Vec<Compiled> {
    let vips = service.cluster_ips.iter().filter_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });
    let vips: Vec<_> = vips.collect();
    let ports = service.ports.iter().filter(|port| port.protocol != Protocol::Sctp);
    ports
        .flat_map(|port| {
            let candidates = candidates(port, slices.clone(), node);
            let vips = vips.iter().map(|ip| Vip { ip: *ip, port: port.number, protocol: port.protocol });
            vips.map(|vip| compile_port(service, port, vip, &candidates, node)).collect::<Vec<_>>()
        })
        .collect()
}

fn compile_port(
    service: &Service,
    port: &Port,
    vip: Vip,
    candidates: &[Candidate<'_>],
    node: &Node,
) -> Compiled {
    let policies = Policies {
        internal: service.internal,
        external: service.external,
        externally_accessible: service.externally_accessible(port),
    };
    let Selection { cluster, local, any } = select(candidates, policies, node);
    let (set, chosen) = match service.internal {
        Policy::Cluster => (Set::Cluster, cluster),
        Policy::Local => (Set::Local, local),
    };
    let slots: Vec<_> = addresses(chosen.iter().flatten()).take(MAX_SLOTS).collect();
    let serving = candidates.iter().filter(|c| vip.protocol == Protocol::Udp && c.endpoint.serving);
    Compiled {
        vip,
        set,
        none_local: set == Set::Local && slots.is_empty() && any,
        serving: addresses(serving).collect(),
        sets: BTreeMap::from([(set, slots)]),
    }
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

fn addresses<'a>(candidates: impl Iterator<Item = &'a Candidate<'a>>) -> impl Iterator<Item = SocketAddrV4> {
    candidates.filter_map(|candidate| match candidate.at {
        SocketAddr::V4(at) => Some(at),
        SocketAddr::V6(_) => None,
    })
}
