//! IPv4 addresses of links, always /32.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{RouteNetlinkMessage, address::AddressAttribute};
use rtnetlink::AddressMessageBuilder;

use super::{Error, RouteSocket};

impl RouteSocket {
    /// All addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<Ipv4Addr>, Error> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().build();
        let all = self.list(&RouteNetlinkMessage::GetAddress(message))?;
        let local = |message| {
            let RouteNetlinkMessage::NewAddress(found) = message else { return None };
            if found.header.index != index {
                return None;
            }
            found.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
                _ => None,
            })
        };
        Ok(all.into_iter().filter_map(local).collect())
    }

    /// Gives a link an address.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        self.wait(self.handle.address().add(index, address.into(), 32).execute())
    }

    /// Takes it away.
    pub(crate) fn delete_address(&mut self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, 32).build();
        self.wait(self.handle.address().del(message).execute())
    }
}
