//! Addresses of links; those that we give are each alone in their network (/32, /128).

use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use orlop_model::net::Family;

use super::{Error, RouteSocket};

impl RouteSocket {
    /// All addresses of a link, but for those that IPv6 makes up itself.
    pub(crate) fn addresses(&mut self, index: u32) -> Result<Vec<IpAddr>, Error> {
        let all = self.all_addresses()?.into_iter();
        Ok(all.filter(|found| found.header.index == index).filter_map(|found| global(&found)).collect())
    }

    /// Of all links, with their indexes: those that are there to stay and do not have this label.
    pub(crate) fn lasting_addresses(&mut self, but_for: &str) -> Result<Vec<(u32, IpAddr)>, Error> {
        let passing = AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated;
        // Of IPv6 a second one is one for privacy, made anew every day; of IPv4 just a second one.
        let lasts = |found: &AddressMessage| {
            let private = found.header.family == AddressFamily::Inet6
                && found.header.flags.contains(AddressHeaderFlags::Secondary);
            !private && !found.header.flags.intersects(passing) && !has_label(found, but_for)
        };
        let all = self.all_addresses()?.into_iter();
        let all = all.filter(lasts).filter_map(|found| Some((found.header.index, global(&found)?)));
        Ok(all.filter(|(_, address)| !is_link_local(address)).collect())
    }

    /// Those with this label, with the indexes of their links.
    pub(crate) fn labelled(&mut self, label: &str) -> Result<Vec<(u32, IpAddr)>, Error> {
        let all = self.all_addresses()?.into_iter().filter(|found| has_label(found, label));
        Ok(all.filter_map(|found| Some((found.header.index, local(&found)?))).collect())
    }

    fn all_addresses(&mut self) -> Result<Vec<AddressMessage>, Error> {
        let all = self.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let found = |message| match message {
            RouteNetlinkMessage::NewAddress(found) => Some(found),
            _ => None,
        };
        Ok(all.into_iter().filter_map(found).collect())
    }

    /// Gives a link an address that can be told from others by its label, `<link>:<word>`.
    pub(crate) fn add_labelled(&mut self, index: u32, address: Ipv4Addr, label: &str) -> Result<(), Error> {
        let mut request = self.handle.address().add(index, address.into(), Family::V4.bits());
        request.message_mut().attributes.push(AddressAttribute::Label(label.to_owned()));
        self.wait(request.execute())
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

/// Its own end of the address; nothing of those that count on their link only.
fn global(found: &AddressMessage) -> Option<IpAddr> {
    (found.header.scope != AddressScope::Link).then(|| local(found)).flatten()
}

fn has_label(found: &AddressMessage, label: &str) -> bool {
    let mut attributes = found.attributes.iter();
    attributes.any(|attribute| matches!(attribute, AddressAttribute::Label(text) if text == label))
}

fn local(found: &AddressMessage) -> Option<IpAddr> {
    let addresses = found.attributes.iter().filter_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some((0, *address)),
        AddressAttribute::Address(address) => Some((1, *address)),
        _ => None,
    });
    addresses.min_by_key(|(rank, _)| *rank).map(|(_, address)| address)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_loopback(),
    }
}
