//! Cutting a pod off now, and taking its links apart later.
//!
//! The kernel takes tens of milliseconds to remove a link, for it waits for all processors. None of it matters to who
//! asked: with the node's side down, nothing passes and no route leads there; with the pod's side under another name,
//! the interface's name is free; and the group says whose links are to go, whatever becomes of this process.

use std::path::Path;

use crate::{
    attach::permits,
    error::DetachError,
    names::{self, LinkName},
    netlink::{self, RouteSocket, nft},
    netns::{Netns, NetnsError},
    network::Inner,
    reap::DOOMED,
};

/// Why the interface's name is not free.
#[derive(Debug, thiserror::Error)]
pub enum Busy {
    /// No way into the namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel refused: older ones do not rename what is up.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
}

/// Cuts the pod off and frees its addresses. Says whether [`reap`] has something to do.
///
/// # Errors
/// See [`DetachError`]; nothing is lost by [`crate::attach::detach`] after it.
pub(crate) fn off(
    inner: &Inner,
    uid: &str,
    netns: Option<&Path>,
    interface: &str,
) -> Result<bool, DetachError> {
    let _turn = inner.turn(uid);
    let mut host = inner.socket().map_err(DetachError::Socket)?;
    let name = LinkName::for_pod(uid);
    let fault = |source| DetachError::Link { host: name.clone(), source };
    let link = host.link(name.as_str()).map_err(fault)?;
    let owner = |alias: &str| names::uid_of_alias(alias).map(str::to_owned);
    let ours = link.filter(|link| link.alias.as_deref().and_then(owner).is_none_or(|owner| owner == uid));
    if let Some(link) = &ours {
        if let Some(netns) = netns {
            free_name(netns, interface, &name, link.index).map_err(|source| DetachError::Name { source })?;
        }
        host.set_link(link.index, false, None).map_err(fault)?;
        host.set_group(link.index, DOOMED).map_err(fault)?;
    }
    let held = inner.ledger().allocator().addresses(uid).unwrap_or_default().to_vec();
    if !held.is_empty() {
        nft::forbid(&permits(uid, &held)).map_err(DetachError::Forbid)?;
    }
    inner.ledger().release(uid)?;
    Ok(ours.is_some())
}

/// Renames the pod's side, if it is there, to what nobody else is called.
fn free_name(netns: &Path, interface: &str, name: &LinkName, host: u32) -> Result<(), Busy> {
    if !netns.exists() {
        return Ok(());
    }
    let rename = || {
        let mut pod = RouteSocket::open()?;
        match pod.link(interface)? {
            Some(link) if link.veth && link.peer == Some(host) => pod.rename(link.index, name.as_str()),
            _ => Ok(()),
        }
    };
    Ok(Netns::open(netns)?.run(rename)??)
}

/// Takes apart all that was cut off, by whomever.
pub(crate) fn reap() -> Result<(), netlink::Error> {
    RouteSocket::open()?.delete_group(DOOMED)
}
