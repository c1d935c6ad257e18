//! Permanent neighbour entries: nobody ever asks who has an address.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Error, RouteSocket};
use crate::names::Mac;

impl RouteSocket {
    /// Whom a link has permanent entries for with this hardware address.
    pub(crate) fn neighbours(&mut self, index: u32, mac: Mac) -> Result<Vec<IpAddr>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        let wanted = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
        let destination = |message| {
            let RouteNetlinkMessage::NewNeighbour(found) = message else { return None };
            let ours = found.header.ifindex == index
                && found.header.state == NeighbourState::Permanent
                && found.attributes.contains(&wanted);
            found.attributes.into_iter().filter(|_| ours).find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(address.into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(address.into()),
                _ => None,
            })
        };
        Ok(all.into_iter().filter_map(destination).collect())
    }

    /// Sets the entry; one that the kernel learned is overwritten.
    pub(crate) fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let entry = self.handle.neighbours().add(index, address).link_layer_address(&mac.0);
        self.wait(entry.replace().execute())
    }

    /// Removes it.
    pub(crate) fn delete_neighbour(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        let entry = self.handle.neighbours().add(index, address).message_mut().clone();
        self.wait(self.handle.neighbours().del(entry).execute())
    }
}
