//! Permanent IPv4 neighbour entries: nobody ever asks who has an address.

use std::net::Ipv4Addr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::RouteType,
};

use super::{Error, RouteSocket};
use crate::names::Mac;

impl RouteSocket {
    /// Whether this very entry is there.
    pub(crate) fn has_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<bool, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(message))?;
        let wanted = entry(index, address, Some(mac));
        Ok(all.iter().any(|message| match message {
            RouteNetlinkMessage::NewNeighbour(found) => {
                found.header.ifindex == index
                    && found.header.state == NeighbourState::Permanent
                    && wanted.attributes.iter().all(|a| found.attributes.contains(a))
            }
            _ => false,
        }))
    }

    /// Sets the entry; one that the kernel learned is overwritten.
    pub(crate) fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), Error> {
        let message = RouteNetlinkMessage::NewNeighbour(entry(index, address, Some(mac)));
        self.change(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Removes it.
    pub(crate) fn delete_neighbour(&mut self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::DelNeighbour(entry(index, address, None)), 0)
    }
}

fn entry(index: u32, address: Ipv4Addr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unspec;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(address)));
    message.attributes.extend(mac.map(|m| NeighbourAttribute::LinkLayerAddress(m.0.to_vec())));
    message
}
