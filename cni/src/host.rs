//! Addresses of the node itself: which it has, and one that it lends itself for as long as no network gives it any.
//!
//! Not for: pods' addresses, or which of several is the node's (its agent chooses).

use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use crate::{
    names::OVERLAY,
    netlink::{Error, RouteSocket},
};

const LOOPBACK: &str = "lo";
/// What a lent address is known by; `ip address` shows it.
const LABEL: &str = "lo:orlop";

/// Addresses under which others can know this node: those of the oldest device first, those of the loopback device (an
/// anycast address, say) last. Blocks for some microseconds.
///
/// Without those of the network between nodes, a lent one, and link-local, temporary, deprecated and not yet usable ones.
///
/// # Errors
/// When netlink does not answer.
pub fn addresses() -> Result<Vec<IpAddr>, Error> {
    let mut socket = RouteSocket::open()?;
    let links = socket.links()?;
    let rank = |index| {
        let link = links.iter().find(|link| link.index == index && link.up && link.name != OVERLAY)?;
        Some((link.name == LOOPBACK, index))
    };
    let found = socket.lasting_addresses(LABEL)?.into_iter();
    let mut found: Vec<_> = found.filter_map(|(index, address)| Some((rank(index)?, address))).collect();
    // Stable: of one device they stay in the kernel's order.
    found.sort_by_key(|(rank, _)| *rank);
    Ok(found.into_iter().map(|(_, address)| address).collect())
}

/// Gives the loopback device an address, so that pods reach the node under it; takes back one lent before.
///
/// # Errors
/// When netlink does not answer, or refuses.
pub fn lend(address: Ipv4Addr) -> Result<(), Error> {
    take_back()?;
    let mut socket = RouteSocket::open()?;
    let Some(loopback) = socket.link(LOOPBACK)? else { return Ok(()) };
    match socket.add_labelled(loopback.index, address, LABEL) {
        // The operator has put it there, and it stays the operator's.
        Err(error) if error.is(&[Errno::EXIST]) => Ok(()),
        result => result,
    }
}

/// Takes away what was lent, if anything was.
///
/// # Errors
/// When netlink does not answer, or refuses.
pub fn take_back() -> Result<(), Error> {
    let mut socket = RouteSocket::open()?;
    for (index, address) in socket.labelled(LABEL)? {
        match socket.delete_address(index, address) {
            Err(error) if error.is(&[Errno::ADDRNOTAVAIL]) => {}
            result => result?,
        }
    }
    Ok(())
}
