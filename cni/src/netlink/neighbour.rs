//! Permanent IPv4 neighbour entries: nobody ever asks who has an address.

use std::net::Ipv4Addr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Error, RouteSocket};
use crate::names::Mac;

impl RouteSocket {
    /// Whether this very entry is there.
    pub(crate) fn has_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<bool, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(message))?;
        let wanted = [
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)),
            NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        ];
        Ok(all.iter().any(|message| match message {
            RouteNetlinkMessage::NewNeighbour(found) => {
                found.header.ifindex == index
                    && found.header.state == NeighbourState::Permanent
                    && wanted.iter().all(|attribute| found.attributes.contains(attribute))
            }
            _ => false,
        }))
    }

    /// Sets the entry; one that the kernel learned is overwritten.
    pub(crate) fn set_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), Error> {
        let entry = self.handle.neighbours().add(index, address.into()).link_layer_address(&mac.0);
        self.wait(entry.replace().execute())
    }

    /// Removes it.
    pub(crate) fn delete_neighbour(&mut self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        let entry = self.handle.neighbours().add(index, address.into()).message_mut().clone();
        self.wait(self.handle.neighbours().del(entry).execute())
    }
}
