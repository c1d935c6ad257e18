//! Which endpoints of a service port may be used from this node, and for which traffic.
//!
//! The rules are upstream's (KEP-1669 terminating endpoints, KEP-2086 internal policy, KEP-2433, KEP-4444 and KEP-3015
//! topology hints). Not for: joining slices, or what becomes of the sets (`compile`).

use std::net::SocketAddr;

use crate::model::{Endpoint, Node, Policy};

/// An endpoint at the port in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Where it listens.
    pub at: SocketAddr,
    /// What is known about it.
    pub endpoint: &'a Endpoint,
}

impl Candidate<'_> {
    /// Whether it runs on this node.
    #[must_use]
    pub fn is_local(&self, node: &Node) -> bool {
        self.endpoint.node.as_deref() == Some(node.name.as_str())
    }

    /// Used when nothing is ready: on its way out, but still answering.
    fn is_fallback(&self) -> bool {
        self.endpoint.serving && self.endpoint.terminating && !self.endpoint.ready
    }

    fn is_hinted_here(&self, node: &Node) -> bool {
        self.endpoint.for_nodes.contains(&node.name)
    }

    fn is_hinted_to_zone(&self, zone: &String) -> bool {
        self.endpoint.for_zones.contains(zone)
    }
}

/// The policies that decide which sets exist.
#[derive(Clone, Copy, Debug)]
pub struct Policies {
    /// For traffic to the cluster IP.
    pub internal: Policy,
    /// For traffic from outside.
    pub external: Policy,
    /// Whether there is a way in from outside.
    pub externally_accessible: bool,
}

/// The sets; `None` where the service never uses one.
#[derive(Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    /// For policy `Cluster`.
    pub cluster: Option<Vec<Candidate<'a>>>,
    /// For policy `Local`.
    pub local: Option<Vec<Candidate<'a>>>,
    /// Whether a usable endpoint exists anywhere.
    pub any: bool,
}

/// Judges the endpoints of one service port.
#[must_use]
pub fn select<'a>(candidates: &[Candidate<'a>], policies: Policies, node: &Node) -> Selection<'a> {
    let Policies { internal, external, externally_accessible } = policies;
    let wants_cluster = internal == Policy::Cluster || externally_accessible;
    let wants_local = internal == Policy::Local || (external == Policy::Local && externally_accessible);
    let local: Vec<_> = candidates.iter().copied().filter(|c| c.is_local(node)).collect();
    Selection {
        cluster: wants_cluster.then(|| ready_or_fallback(candidates, |ready| nearby(ready, node))),
        local: wants_local.then(|| ready_or_fallback(&local, |ready| ready)),
        any: candidates.iter().any(|c| c.endpoint.ready || c.is_fallback()),
    }
}

/// The ready ones, narrowed; if there are none, every one that still answers.
fn ready_or_fallback<'a>(
    candidates: &[Candidate<'a>],
    narrow: impl FnOnce(Vec<Candidate<'a>>) -> Vec<Candidate<'a>>,
) -> Vec<Candidate<'a>> {
    let ready: Vec<_> = candidates.iter().copied().filter(|c| c.endpoint.ready).collect();
    if ready.is_empty() {
        return candidates.iter().copied().filter(Candidate::is_fallback).collect();
    }
    narrow(ready)
}

/// Hints count only if every ready endpoint has one and at least one is for us: for this node, else for its zone.
fn nearby<'a>(ready: Vec<Candidate<'a>>, node: &Node) -> Vec<Candidate<'a>> {
    let all_name_nodes = node.settings.node_hints && ready.iter().all(|c| !c.endpoint.for_nodes.is_empty());
    if all_name_nodes && ready.iter().any(|c| c.is_hinted_here(node)) {
        return ready.into_iter().filter(|c| c.is_hinted_here(node)).collect();
    }
    let all_name_zones = ready.iter().all(|c| !c.endpoint.for_zones.is_empty());
    match &node.zone {
        Some(zone) if all_name_zones && ready.iter().any(|c| c.is_hinted_to_zone(zone)) => {
            ready.into_iter().filter(|c| c.is_hinted_to_zone(zone)).collect()
        }
        _ => ready,
    }
}
