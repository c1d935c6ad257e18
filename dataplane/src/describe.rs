//! What is in the pinned maps, in words: for `orlop services`, with or without a running agent.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::loader::pins;
use crate::maps::{KernelMaps, MapError, Maps as _};
use crate::tables::Vip;

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
    /// Backends of running UDP conversations that get no new ones.
    pub draining: Vec<SocketAddr>,
    /// Only endpoints on this node are used.
    pub local_only: bool,
    /// There are endpoints, but none on this node: packets count as dropped, not refused.
    pub none_local: bool,
    /// Sources that are let in, if not all are.
    pub ranges: Option<Vec<IpNet>>,
    /// Seconds a client stays with its backend; 0: it does not.
    pub affinity_seconds: u32,
}

/// Reads the pinned maps, sorted by address.
///
/// # Errors
/// When nothing is pinned there, or the maps cannot be read.
pub fn describe(bpffs: &Path) -> Result<Vec<ServiceView>, MapError> {
    let tables = KernelMaps::open(&pins(bpffs))?.dump()?;
    let mut views: Vec<_> = tables
        .services
        .iter()
        .flat_map(|(id, entry)| entry.frontends.iter().map(move |(vip, frontend)| (id, entry, vip, frontend)))
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
            }
        })
        .collect();
    views.sort_by_key(|view| view.address);
    Ok(views)
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
        if !self.draining.is_empty() {
            write!(f, ", draining {}", list(&self.draining))?;
        }
        Ok(())
    }
}

fn list(things: &[impl ToString]) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
