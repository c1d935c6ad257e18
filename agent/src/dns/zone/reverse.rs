//! `[p]` From addresses back to names.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Which names an address has, as labels below `svc.<domain>`.
#[derive(Debug, Default)]
pub(super) struct Reverse(HashMap<IpAddr, Vec<Owner>>);

/// `[service, namespace]` or `[host, service, namespace]`, joined by dots.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    is_service: bool,
    labels: Box<str>,
}

impl Owner {
    fn new(labels: &[&str]) -> Owner {
        Owner { is_service: labels.len() == 2, labels: labels.join(".").into_boxed_str() }
    }
}

impl Reverse {
    pub(super) fn add(&mut self, address: IpAddr, labels: &[&str]) {
        self.0.entry(address).or_default().push(Owner::new(labels));
    }

    /// Removes it once: two slices may say the same.
    pub(super) fn remove(&mut self, address: IpAddr, labels: &[&str]) {
        let Some(owners) = self.0.get_mut(&address) else { return };
        let gone = Owner::new(labels);
        if let Some(at) = owners.iter().position(|owner| *owner == gone) {
            owners.swap_remove(at);
        }
        if owners.is_empty() {
            self.0.remove(&address);
        }
    }

    /// The service that has the address; without one, the host names of endpoints. Each once, in order.
    pub(super) fn names(&self, address: IpAddr) -> Vec<&str> {
        let owners = self.0.get(&address).map(Vec::as_slice).unwrap_or_default();
        let mut services = owners.iter().filter(|owner| owner.is_service).map(|owner| &*owner.labels);
        if let Some(first) = services.by_ref().min() {
            return vec![first];
        }
        let mut names: Vec<_> = owners.iter().map(|owner| &*owner.labels).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for. Labels in lower case, leaf first.
pub(super) fn address(labels: &[&str]) -> Option<IpAddr> {
    match labels {
        [octets @ .., "in-addr", "arpa"] => {
            let octets: [&str; 4] = octets.try_into().ok()?;
            let mut bytes = [0; 4];
            for (byte, text) in bytes.iter_mut().rev().zip(octets) {
                // `01` is another name.
                let plain = text == "0" || !text.starts_with(['0', '+']);
                *byte = text.parse().ok().filter(|_| plain)?;
            }
            Some(Ipv4Addr::from(bytes).into())
        }
        [nibbles @ .., "ip6", "arpa"] => {
            if nibbles.len() != 32 {
                return None;
            }
            let mut bits = 0_u128;
            for text in nibbles.iter().rev() {
                let mut digits = text.chars();
                let digit = digits.next()?.to_digit(16)?;
                if digits.next().is_some() {
                    return None;
                }
                bits = bits << 4 | u128::from(digit);
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}

#[cfg(test)]
impl Reverse {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
