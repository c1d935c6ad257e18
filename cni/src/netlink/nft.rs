//! nf_tables over nfnetlink: just enough to put up one table of ours in one transaction, and to remove it.
//!
//! The words follow `nft(8)`; the numbers are `linux/netfilter/nf_tables.h`. No helper library: the ones there
//! are run `nft` or are under the GPL.

mod encode;

use std::{borrow::Cow, fmt, io, net::Ipv4Addr};

use netlink_packet_route::RouteNetlinkMessage;
use orlop_model::net::Ipv4Net;
use rtnetlink::{
    packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload},
    sys::protocols::NETLINK_NETFILTER,
};

use super::{Error, direct::connect};

/// A table of family `ip` with one NAT chain at postrouting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// Table name.
    pub name: Cow<'static, str>,
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
    let socket = connect(NETLINK_NETFILTER).map_err(Error::Open)?;
    socket.send(batch, 0).map_err(Error::Talk)?;
    let mut answered = false;
    loop {
        match socket.recv_from_full() {
            Ok((answer, _)) => outcome(&answer)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(Error::Talk(error)),
        }
        answered = true;
    }
    match answered {
        true => Ok(()),
        false => Err(Error::Malformed("no answer from nf_tables".into())),
    }
}

/// What became of one request of the batch: each is answered by a datagram of its own, whose form all families of
/// netlink share.
fn outcome(answer: &[u8]) -> Result<(), Error> {
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer).map(|answer| answer.payload) {
        Ok(NetlinkPayload::Error(ErrorMessage { code: None, .. })) => Ok(()),
        Ok(NetlinkPayload::Error(refusal)) => Err(refusal.into()),
        Ok(other) => Err(Error::Malformed(format!("{other:?}"))),
        Err(error) => Err(Error::Malformed(error.to_string())),
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
