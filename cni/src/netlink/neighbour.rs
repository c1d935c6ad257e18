//! Permanent neighbour entries: nobody ever asks who has an address.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{Error, RouteSocket};
use crate::names::Mac;

/// Frames to a hardware address go to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdbEntry {
    /// The address.
    pub mac: Mac,
    /// The node's address.
    pub remote: IpAddr,
}

impl RouteSocket {
    /// Whom a link has permanent entries for with this hardware address.
    pub(crate) fn neighbours(&mut self, index: u32, mac: Mac) -> Result<Vec<IpAddr>, Error> {
        let all = self.permanent_neighbours(index)?;
        Ok(all.into_iter().filter(|(_, found)| *found == mac).map(|(address, _)| address).collect())
    }

    /// All permanent entries of a link.
    pub(crate) fn permanent_neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(all.into_iter().filter_map(|message| entry(message, index)).collect())
    }

    /// Where a VXLAN device sends frames to which hardware addresses.
    pub(crate) fn forwarding(&mut self, index: u32) -> Result<Vec<FdbEntry>, Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(message))?;
        let entries = all.into_iter().filter_map(|message| entry(message, index));
        Ok(entries.map(|(remote, mac)| FdbEntry { mac, remote }).collect())
    }

    /// Sets where a VXLAN device sends frames to a hardware address.
    pub(crate) fn set_forwarding(&mut self, index: u32, entry: &FdbEntry) -> Result<(), Error> {
        let request = self.handle.neighbours().add_bridge(index, &entry.mac.0).destination(entry.remote);
        self.wait(request.flags(NeighbourFlags::Own).replace().execute())
    }

    /// Removes it.
    pub(crate) fn delete_forwarding(&mut self, index: u32, entry: &FdbEntry) -> Result<(), Error> {
        let mut request = self.handle.neighbours().add_bridge(index, &entry.mac.0).destination(entry.remote);
        request.message_mut().header.flags = NeighbourFlags::Own;
        let message = request.message_mut().clone();
        self.wait(self.handle.neighbours().del(message).execute())
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

/// A permanent entry of a link: an IP address and a hardware address.
fn entry(message: RouteNetlinkMessage, index: u32) -> Option<(IpAddr, Mac)> {
    let RouteNetlinkMessage::NewNeighbour(found) = message else { return None };
    if found.header.ifindex != index || found.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in found.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(found.into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => address = Some(found.into()),
            // Of a bridge or a VXLAN device: only its length says which family it is of.
            NeighbourAttribute::Destination(NeighbourAddress::Other(found)) => address = octets(&found),
            NeighbourAttribute::LinkLayerAddress(found) => mac = found.try_into().ok().map(Mac),
            _ => {}
        }
    }
    Some((address?, mac?))
}

fn octets(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
