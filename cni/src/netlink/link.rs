//! Links: the veth pair of a pod, and what there is.

use std::{
    fs::File,
    os::fd::{AsRawFd, RawFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
};
use rustix::io::Errno;

use super::{Error, RouteSocket};
use crate::names::Mac;

/// A link, as far as we look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Up, with a carrier, and able to send.
    pub running: bool,
    /// MTU.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// Free text an administrator sees.
    pub alias: Option<String>,
    /// Index of the link it sits on or is paired with.
    pub peer: Option<u32>,
    /// It is one end of a veth pair.
    pub veth: bool,
    /// The group it is in; 0 unless someone put it into another.
    pub group: u32,
}

/// A pair to be made.
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    /// Name of this side.
    pub name: &'a str,
    /// Hardware address of this side.
    pub mac: Mac,
    /// Name of the other side.
    pub peer_name: &'a str,
    /// Hardware address of the other side.
    pub peer_mac: Mac,
    /// The namespace that the other side is made in.
    pub peer_netns: &'a File,
    /// MTU of both.
    pub mtu: u32,
}

impl RouteSocket {
    /// The link with this name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let found = self.get(RouteNetlinkMessage::GetLink(message), Errno::NODEV)?;
        Ok(found.and_then(as_link))
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(all.into_iter().filter_map(as_link).collect())
    }

    /// Makes a pair, both sides down.
    pub(crate) fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        let peer_netns: RawFd = pair.peer_netns.as_raw_fd();
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.peer_name.to_owned()),
            LinkAttribute::Address(pair.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(peer_netns),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(pair.name.to_owned()),
            LinkAttribute::Address(pair.mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets a link up or down, and labels it in the same step.
    pub(crate) fn set_link(&mut self, index: u32, up: bool, alias: Option<&str>) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.attributes.extend(alias.map(|text| LinkAttribute::IfAlias(text.to_owned())));
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Puts a link into a group. One that is gone is fine: namespaces take theirs along when they end.
    pub(crate) fn set_group(&mut self, index: u32, group: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Group(group));
        match self.change(RouteNetlinkMessage::SetLink(message), 0) {
            Err(error) if error.is(&[Errno::NODEV]) => Ok(()),
            other => other,
        }
    }

    /// Removes all links of a group at once. None is fine.
    pub(crate) fn delete_group(&mut self, group: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Group(group));
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.is(&[Errno::NODEV]) => Ok(()),
            other => other,
        }
    }

    /// Removes a link, with its peer and everything configured on both. One that is gone is fine.
    pub(crate) fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.change(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.is(&[Errno::NODEV]) => Ok(()),
            other => other,
        }
    }
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(LinkMessage { header, attributes, .. }) = message else { return None };
    let up = header.flags.contains(LinkFlags::Up);
    let mut link = Link { index: header.index, up, ..Link::default() };
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::OperState(state) => link.running = up && state == State::Up,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::LinkInfo(infos) => {
                link.veth = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Veth)));
            }
            _ => {}
        }
    }
    Some(link)
}
