//! nf_tables over nfnetlink: just enough to put up our tables in one transaction, and to remove them.
//!
//! The words follow `nft(8)`; the numbers are `linux/netfilter/nf_tables.h`. No helper library: the ones there
//! are run `nft` or are under the GPL.

mod encode;
mod guard;

use std::{borrow::Cow, fmt, io};

use netlink_packet_route::RouteNetlinkMessage;
use orlop_model::net::{Family, IpNet};
use rtnetlink::{
    packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload},
    sys::protocols::NETLINK_NETFILTER,
};
use rustix::io::Errno;

pub(crate) use guard::Permit;

use super::{Error, direct::connect};

/// A table with one NAT chain at postrouting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// `ip` or `ip6`.
    pub family: Family,
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
    pub net: IpNet,
}

/// An address of the network header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// `ip saddr`
    Source,
    /// `ip daddr`
    Destination,
}

/// Puts up exactly these tables, whatever was there under their names: one transaction, no moment without them.
pub(crate) fn apply(tables: &[Table]) -> Result<(), Error> {
    transact(&encode::replace(tables))
}

/// Removes the tables; fine if there are none.
pub(crate) fn remove(tables: &[Table]) -> Result<(), Error> {
    transact(&encode::remove(tables))
}

/// Puts up the rules that hold pods to their addresses in these families, and lets these links send under these
/// addresses; what others may do stays as it is.
pub(crate) fn guard(families: &[Family], permits: &[Permit]) -> Result<(), Error> {
    transact(&guard::put_up(families, permits))
}

/// Lets these links send under these addresses.
pub(crate) fn permit(permits: &[Permit]) -> Result<(), Error> {
    transact(&guard::permit(permits))
}

/// Lets them no longer. Fine if there are no such rules.
pub(crate) fn forbid(permits: &[Permit]) -> Result<(), Error> {
    match transact(&guard::forbid(permits)) {
        Err(error) if error.is(&[Errno::NOENT]) => Ok(()),
        other => other,
    }
}

/// Removes the rules; fine if there are none.
pub(crate) fn unguard(family: Family) -> Result<(), Error> {
    transact(&guard::remove(family))
}

/// How many rules the table has; none if it is not there.
pub(crate) fn count(table: &Table) -> Result<usize, Error> {
    count_rules(&encode::list(table.family, &table.name, table.chain))
}

/// Whether the rules that hold pods to their addresses are up.
pub(crate) fn guards(family: Family) -> bool {
    count_rules(&guard::list(family)).is_ok_and(|count| count > 0)
}

fn count_rules(request: &[u8]) -> Result<usize, Error> {
    const DONE: u16 = 3;
    let socket = connect(NETLINK_NETFILTER).map_err(Error::Open)?;
    socket.send(request, 0).map_err(Error::Talk)?;
    let mut rules = 0;
    loop {
        let (answer, _) = socket.recv_from_full().map_err(Error::Talk)?;
        let mut rest = answer.as_slice();
        while let Some((kind, length)) = header(rest) {
            match kind {
                encode::NEW_RULE => rules += 1,
                DONE => return Ok(rules),
                _ => return outcome(rest).map(|()| rules),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Kind and length of the first message.
fn header(messages: &[u8]) -> Option<(u16, usize)> {
    let length = u32::from_ne_bytes(messages.get(..4)?.try_into().ok()?);
    let kind = u16::from_ne_bytes(messages.get(4..6)?.try_into().ok()?);
    // At least itself: nobody is to go round in circles.
    Some((kind, usize::try_from(length).ok()?.max(16)))
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
            let ip = match net.family() {
                Family::V4 => "ip",
                Family::V6 => "ip6",
            };
            write!(f, "{ip} {field} {}{net} ", if *inside { "" } else { "!= " })?;
        }
        write!(f, "masquerade fully-random comment {:?}", self.comment)
    }
}
