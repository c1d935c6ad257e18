//! Routes of the main table.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use orlop_model::net::{Family, IpNet};
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
    OnLink(IpAddr, u32),
    /// To a router.
    Via(IpAddr),
    /// Nowhere, and the sender is told.
    Unreachable,
}

/// A route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// To whom.
    pub to: IpNet,
    /// How.
    pub kind: Kind,
}

/// The next step towards an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is here.
    Local,
    /// Over this link.
    Over(OnLink),
}

/// What is known of the link that a packet leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnLink {
    /// Interface index.
    pub index: u32,
    /// A router is in between.
    pub routed: bool,
}

impl Route {
    /// From the node to one of its pods.
    pub(crate) fn to_pod(address: IpAddr, link: u32) -> Self {
        Self { to: IpNet::host(address), kind: Kind::Link(link) }
    }

    /// From a pod to some network.
    pub(crate) fn on_link(to: IpNet, gateway: IpAddr, link: u32) -> Self {
        Self { to, kind: Kind::OnLink(gateway, link) }
    }
}

impl RouteSocket {
    /// All routes that are ours.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(all.into_iter().filter_map(as_route).collect())
    }

    /// Where the kernel would send a packet to this address. `None` where it would not.
    pub(crate) fn way(&mut self, to: IpAddr) -> Result<Option<Way>, Error> {
        let question = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to, Family::of(to).bits())
            .map_err(mixed)?
            .table_id(0)
            .build();
        let question = RouteNetlinkMessage::GetRoute(question);
        match self.get(question, Errno::NETUNREACH) {
            Ok(answer) => Ok(answer.and_then(as_way)),
            Err(error) if error.is(&[Errno::HOSTUNREACH, Errno::ACCESS, Errno::INVAL]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds a route; refuses when there is one to the same place, whoever made it.
    pub(crate) fn add_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = message(route)?;
        self.wait(self.handle.route().add(message).execute())
    }

    /// Changes our route to the same place, without a moment in between.
    pub(crate) fn replace_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = message(route)?;
        self.wait(self.handle.route().add(message).replace().execute())
    }

    /// Removes a route. One that is gone is fine.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), Error> {
        let message = message(route)?;
        match self.wait(self.handle.route().del(message).execute()) {
            Err(error) if error.is(&[Errno::SRCH, Errno::NODEV]) => Ok(()),
            other => other,
        }
    }
}

fn message(route: &Route) -> Result<RouteMessage, Error> {
    let message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(route.to.network(), route.to.prefix())
        .map_err(mixed)?
        .protocol(RouteProtocol::Other(PROTOCOL));
    let message = match route.kind {
        Kind::Link(index) => message.scope(RouteScope::Link).output_interface(index),
        Kind::OnLink(via, index) => message.onlink().gateway(via).map_err(mixed)?.output_interface(index),
        Kind::Via(via) => message.gateway(via).map_err(mixed)?,
        Kind::Unreachable => message.kind(RouteType::Unreachable),
    };
    Ok(message.build())
}

/// Families do not fit together.
fn mixed(error: impl std::error::Error) -> Error {
    Error::Malformed(error.to_string())
}

fn as_route(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else { return None };
    if header.protocol != RouteProtocol::Other(PROTOCOL) || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let family = match header.address_family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    let (mut to, mut via, mut link) = (IpNet::everything(family).network(), None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
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
    Some(Route { to: IpNet::new(to, header.destination_prefix_length).ok()?, kind })
}

fn as_way(message: RouteNetlinkMessage) -> Option<Way> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = message else { return None };
    let link = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let via =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    match header.kind {
        RouteType::Local => Some(Way::Local),
        RouteType::Unicast => Some(Way::Over(OnLink { index: link?, routed: attributes.iter().any(via) })),
        _ => None,
    }
}

fn ip(address: RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(address.into()),
        RouteAddress::Inet6(address) => Some(address.into()),
        _ => None,
    }
}
