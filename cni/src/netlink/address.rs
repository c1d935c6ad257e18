//! Addresses of links, each alone in its network (/32, /128).

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use orlop_model::net::Family;

use super::{Error, RouteSocket};

impl RouteSocket {
    /// All addresses of a link, but for those that IPv6 makes up itself.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<IpAddr>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let local = |message| {
            let RouteNetlinkMessage::NewAddress(found) = message else { return None };
            if found.header.index != index || found.header.scope == AddressScope::Link {
                return None;
            }
            let addresses = || {
                found.attributes.iter().filter_map(|attribute| match attribute {
                    AddressAttribute::Local(address) => Some((0, *address)),
                    AddressAttribute::Address(address) => Some((1, *address)),
                    _ => None,
                })
            };
            addresses().min_by_key(|(rank, _)| *rank).map(|(_, address)| address)
        };
        Ok(all.into_iter().filter_map(local).collect())
    }

    /// Gives a link an address, which can be used at once: nobody else is there whom one could ask about it.
    pub(crate) fn add_address(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        let mut request = self.handle.address().add(index, address, Family::of(address).bits());
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.wait(request.execute())
    }

    /// Takes it away.
    pub(crate) fn delete_address(&mut self, index: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = AddressMessage::default();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.prefix_len = Family::of(address).bits();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
        self.wait(self.handle.address().del(message).execute())
    }
}
