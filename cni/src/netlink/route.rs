//! IPv4 routes of the main table.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use orlop_model::net::Ipv4Net;
use rtnetlink::RouteMessageBuilder;
use rustix::io::Errno;

use super::{Error, RouteSocket};
use crate::names::PROTOCOL;

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To what is directly on a link.
    Link(u32),
    /// To a router that is on this link even though no route says so.
    OnLink(Ipv4Addr, u32),
    /// To a router.
    Via(Ipv4Addr),
    /// Nowhere, and the sender is told.
    Unreachable,
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// To whom.
    pub to: Ipv4Net,
    /// How.
    pub kind: Kind,
}

impl Route {
    /// From the node to one of its pods.
    pub(crate) fn to_pod(address: Ipv4Addr, link: u32) -> Self {
        Self { to: net(address, 32), kind: Kind::Link(link) }
    }

    /// From a pod to some network.
    pub(crate) fn on_link(to: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Self {
        Self { to, kind: Kind::OnLink(gateway, link) }
    }

    /// From a pod to everywhere.
    pub(crate) fn default_via(gateway: Ipv4Addr, link: u32) -> Self {
        Self { to: net(Ipv4Addr::UNSPECIFIED, 0), kind: Kind::OnLink(gateway, link) }
    }
}

impl RouteSocket {
    /// All routes that are ours.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all = self.list(&RouteNetlinkMessage::GetRoute(message))?;
        Ok(all.into_iter().filter_map(as_route).collect())
    }

    /// Adds a route; refuses when there is one to the same place, whoever made it.
    pub(crate) fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        self.wait(self.handle.route().add(message(route)).execute())
    }

    /// Changes our route to the same place, without a moment in between.
    pub(crate) fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        self.wait(self.handle.route().add(message(route)).replace().execute())
    }

    /// Removes a route. One that is gone is fine.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        match self.wait(self.handle.route().del(message(route)).execute()) {
            Err(error) if error.is(&[Errno::SRCH, Errno::NODEV]) => Ok(()),
            other => other,
        }
    }
}

fn net(address: Ipv4Addr, prefix: u8) -> Ipv4Net {
    Ipv4Net::new(address, prefix).expect("0 and 32 are legal prefix lengths")
}

fn message(route: &Route) -> RouteMessage {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix())
        .protocol(RouteProtocol::Other(PROTOCOL));
    let message = match route.kind {
        Kind::Link(index) => message.scope(RouteScope::Link).output_interface(index),
        Kind::OnLink(via, index) => message.onlink().gateway(via).output_interface(index),
        Kind::Via(via) => message.gateway(via),
        Kind::Unreachable => message.kind(RouteType::Unreachable),
    };
    message.build()
}

fn as_route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else { return None };
    if header.protocol != RouteProtocol::Other(PROTOCOL) || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut to, mut via, mut link) = (Ipv4Addr::UNSPECIFIED, None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(address),
            RouteAttribute::Oif(index) => link = Some(index),
            _ => {}
        }
    }
    let kind = match (header.kind, via, link) {
        (RouteType::Unreachable, ..) => Kind::Unreachable,
        (_, Some(via), Some(link)) if header.flags.contains(RouteFlags::Onlink) => Kind::OnLink(via, link),
        (_, Some(via), _) => Kind::Via(via),
        (_, None, Some(link)) => Kind::Link(link),
        (_, None, None) => return None,
    };
    Some(Route { to: Ipv4Net::new(to, header.destination_prefix_length).ok()?, kind })
}
