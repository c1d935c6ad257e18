//! IPv4 addresses of links, always /32.

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::{Error, RouteSocket};

impl RouteSocket {
    /// All addresses of a link.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<Ipv4Addr>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
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
        self.change(RouteNetlinkMessage::NewAddress(message(index, address)), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes it away.
    pub(crate) fn delete_address(&mut self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::DelAddress(message(index, address)), 0)
    }
}

fn message(index: u32, address: Ipv4Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.index = index;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    message
}
