//! What is in the pinned maps, in words: for `orlop services`, with or without a running agent.

use std::fmt;
use std::net::SocketAddrV4;
use std::path::Path;

use crate::loader::pins;
use crate::maps::{KernelMaps, MapError, Maps as _};
use crate::tables::{Set, Vip};

/// One service address and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// The address clients dial.
    pub address: Vip,
    /// The number of the service in the maps.
    pub id: u32,
    /// Where new connections go, each with the same chance.
    pub backends: Vec<SocketAddrV4>,
    /// Backends of running UDP conversations that get no new ones.
    pub draining: Vec<SocketAddrV4>,
    /// Only endpoints on this node are used.
    pub local_only: bool,
    /// There are endpoints, but none on this node: packets count as dropped, not refused.
    pub none_local: bool,
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
            let backends: Vec<_> = entry.choices(frontend).flatten().collect();
            ServiceView {
                address: *vip,
                id: id.0,
                draining: entry.backends.values().copied().filter(|at| !backends.contains(at)).collect(),
                backends,
                local_only: frontend.set == Set::Local,
                none_local: frontend.none_local,
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
        if !self.draining.is_empty() {
            write!(f, ", draining {}", list(&self.draining))?;
        }
        Ok(())
    }
}

fn list(backends: &[SocketAddrV4]) -> String {
    backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
