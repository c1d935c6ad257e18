//! How much fits into the maps.

use orlop_abi::{MAX_BACKENDS, MAX_CONNECTIONS, MAX_FRONTENDS};

/// What an operator may change about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Addresses of services: each port of a service counts once for each of its addresses, the node port for one.
    pub services: u32,
    /// Endpoints: each counts once for each port of each service that it is behind.
    pub endpoints: u32,
    /// Connections that are translated at network devices; the ones that were silent longest make room.
    pub connections: u32,
}

/// A connection is an entry for the way there, and one for the way back.
const ENTRIES: u32 = 2;

impl Default for Sizes {
    fn default() -> Self {
        Self { services: MAX_FRONTENDS, endpoints: MAX_BACKENDS, connections: MAX_CONNECTIONS / ENTRIES }
    }
}

impl Sizes {
    /// Of each map that depends on it.
    #[must_use]
    pub fn of_maps(&self) -> [(&'static str, u32); 6] {
        let Self { services, endpoints, connections } = *self;
        [
            ("FRONTENDS", services),
            ("COUNTERS", services),
            ("PLACES", services / 4),
            ("BACKENDS", endpoints),
            ("SLOTS", endpoints),
            ("CONNECTIONS", connections.saturating_mul(ENTRIES)),
        ]
    }
}
