//! nf_tables over nfnetlink: just enough to put up one table of ours in one transaction, and to remove it.
//!
//! The words follow `nft(8)`; the numbers are `linux/netfilter/nf_tables.h`. No helper library: the ones there
//! are run `nft` or are under the GPL.

mod encode;

use std::{fmt, net::Ipv4Addr};

use netlink_sys::constants::NETLINK_NETFILTER;
use orlop_model::net::Ipv4Net;

use super::{Error, socket::Raw};

/// A table of family `ip` with one NAT chain at postrouting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Table name.
    pub name: &'static str,
    /// Chain name.
    pub chain: &'static str,
    /// The chain's rules.
    pub rules: Vec<Rule>,
}

/// A rule: all matches, then masquerade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// What `nft list ruleset` shows about it.
    pub comment: &'static str,
    /// Which packets.
    pub matches: Vec<Match>,
}

/// A condition on a packet's network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Match {
    /// Which address.
    pub field: Field,
    /// Inside or outside of `net`.
    pub inside: bool,
    /// The network.
    pub net: Ipv4Net,
}

/// An address of the IPv4 header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `ip saddr`
    Source,
    /// `ip daddr`
    Destination,
}

impl Table {
    /// Puts up exactly this table, whatever was there under its name: one transaction, no moment without it.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        transact(&encode::replace(self))
    }

    /// Removes the table; fine if there is none.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        transact(&encode::remove(self))
    }
}

/// Sends one batch. The kernel has answered everything by the time `send` returns.
fn transact(batch: &[u8]) -> Result<(), Error> {
    let mut socket = Raw::open(NETLINK_NETFILTER)?;
    socket.send(batch)?;
    let mut answered = false;
    loop {
        match socket.receive(rustix::net::RecvFlags::DONTWAIT.bits().cast_signed()) {
            Ok(frames) => {
                for outcome in frames.iter().filter_map(super::socket::Frame::outcome) {
                    outcome?;
                    answered = true;
                }
            }
            Err(Error::Talk(error)) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    match answered {
        true => Ok(()),
        false => Err(Error::Malformed("no answer from nf_tables".into())),
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Match { field, inside, net } in &self.matches {
            let field = match field {
                Field::Source => "saddr",
                Field::Destination => "daddr",
            };
            write!(f, "ip {field} {}{net} ", if *inside { "" } else { "!= " })?;
        }
        write!(f, "masquerade fully-random comment {:?}", self.comment)
    }
}

impl Match {
    fn mask(&self) -> Ipv4Addr {
        self.net.netmask()
    }
}
