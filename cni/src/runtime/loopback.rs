//! `lo` in a pod: runtimes set it up themselves, plugins expect it.

use std::path::Path;

use super::ChainError;
use crate::{attach::LinkError, netlink::RouteSocket, netns::Netns};

/// Sets it up; fine if it is.
pub(super) fn up(netns: &Path) -> Result<(), ChainError> {
    let netns = Netns::open(netns)?;
    let set = || {
        let mut socket = RouteSocket::open()?;
        let lo = socket.link("lo")?.ok_or_else(|| LinkError::Gone("lo".to_owned()))?;
        if !lo.up {
            socket.set_link(lo.index, true, None)?;
        }
        Ok(())
    };
    netns.run(set)?.map_err(ChainError::Loopback)
}
