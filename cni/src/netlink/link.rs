//! Links: the veth pair of a pod, and what there is.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};
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

/// A VXLAN device to be made.
#[derive(Debug)]
pub(crate) struct VxlanLink<'a> {
    /// Its name.
    pub name: &'a str,
    /// Which network of several on the same machines.
    pub vni: u32,
    /// Address of this node that packets are sent from.
    pub local: IpAddr,
    /// UDP port that they are sent to.
    pub port: u16,
    /// Hardware address.
    pub mac: Mac,
    /// MTU inside.
    pub mtu: u32,
}

impl RouteSocket {
    /// The link with this name.
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let message = LinkUnspec::new_with_name(name).build();
        let found = self.get(RouteNetlinkMessage::GetLink(message), Errno::NODEV)?;
        Ok(found.and_then(as_link))
    }

    /// The link with this index.
    pub(crate) fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let message = LinkUnspec::new_with_index(index).build();
        let found = self.get(RouteNetlinkMessage::GetLink(message), Errno::NODEV)?;
        Ok(found.and_then(as_link))
    }

    /// Sets a link's MTU.
    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.wait(self.handle.link().change(message).execute())
    }

    /// All links.
    pub(crate) fn links(&mut self) -> Result<Vec<Link>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(all.into_iter().filter_map(as_link).collect())
    }

    /// Makes a pair, both sides down.
    pub(crate) fn create_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        let peer = LinkUnspec::new_with_name(pair.peer_name)
            .address(pair.peer_mac.0.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_netns.as_raw_fd());
        // The builder of pairs gives the peer nothing but its name.
        let message = LinkVeth::new(pair.name, pair.peer_name)
            .address(pair.mac.0.to_vec())
            .mtu(pair.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        self.wait(self.handle.link().add(message.build()).execute())
    }

    /// Makes a VXLAN device, down. It learns nothing by itself.
    pub(crate) fn create_vxlan(&mut self, link: &VxlanLink<'_>) -> Result<(), Error> {
        let message = LinkVxlan::new(link.name, link.vni).port(link.port).learning(false);
        let message = match link.local {
            IpAddr::V4(local) => message.local(local),
            IpAddr::V6(local) => message.local6(local),
        };
        let message = message.address(link.mac.0.to_vec()).mtu(link.mtu);
        self.wait(self.handle.link().add(message.build()).execute())
    }

    /// Sets a link up or down, and labels it in the same step. One with a label is deaf to ARP: whoever is at its other
    /// end is known.
    pub(crate) fn set_link(&mut self, index: u32, up: bool, alias: Option<&str>) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        let message = match alias {
            Some(text) => message.alias(text).arp(false),
            None => message,
        };
        self.wait(self.handle.link().change(message.build()).execute())
    }

    /// Gives a link another name.
    pub(crate) fn rename(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).name(name.to_owned()).build();
        self.wait(self.handle.link().change(message).execute())
    }

    /// Puts a link into a group. One that is gone is fine: namespaces take theirs along when they end.
    pub(crate) fn set_group(&mut self, index: u32, group: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).link_group(group).build();
        unless_gone(self.wait(self.handle.link().change(message).execute()))
    }

    /// Removes all links of a group at once. None is fine.
    pub(crate) fn delete_group(&mut self, group: u32) -> Result<(), Error> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().link_group(group).build();
        unless_gone(self.wait(self.handle.link().del_with_message(message).execute()))
    }

    /// Removes a link, with its peer and everything configured on both. One that is gone is fine.
    pub(crate) fn delete_link(&mut self, index: u32) -> Result<(), Error> {
        unless_gone(self.wait(self.handle.link().del(index).execute()))
    }
}

fn unless_gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is(&[Errno::NODEV]) => Ok(()),
        other => other,
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
