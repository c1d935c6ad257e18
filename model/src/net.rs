//! Networks: pod CIDRs, service CIDRs and what is in them. [`Ipv4Net`] where there is one family, [`IpNet`] where both
//! may be.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod any;

pub use any::{Family, IpNet, PerFamily, one_per_family};

/// An IPv4 network in CIDR notation. The address is always the network's own: host bits are cut when parsing,
/// as Go's `ParseCIDR` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

/// Text or numbers that make no IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not `a.b.c.d/n`.
    #[error("invalid CIDR address: {0}")]
    Syntax(String),
    /// More than 32 bits of prefix.
    #[error("invalid prefix length {0}: must be between 0 and 32")]
    Prefix(u8),
}

impl Ipv4Net {
    /// The network of `prefix` bits that contains `address`.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, NetError> {
        if prefix > 32 {
            return Err(NetError::Prefix(prefix));
        }
        Ok(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix })
    }

    /// Parses `10.244.0.0/16`.
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let syntax = || NetError::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let address = address.parse().map_err(|_| syntax())?;
        Self::new(address, prefix.parse().map_err(|_| syntax())?).map_err(|_| syntax())
    }

    /// The network's first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        self.address
    }

    /// The network's last address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask(self.prefix))
    }

    /// Bits of the prefix, 0 to 32.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The mask, e.g. `255.255.0.0`.
    #[must_use]
    pub fn netmask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// How many addresses it has, the first and the last included.
    #[must_use]
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// Whether `address` belongs to it.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether any address belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Ipv4Net) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// The address `n` after the network's own: `nth(1)` of 10.96.0.0/12 is 10.96.0.1.
    #[must_use]
    pub fn nth(&self, n: u32) -> Option<Ipv4Addr> {
        (u64::from(n) < self.size()).then(|| Ipv4Addr::from_bits(self.address.to_bits() + n))
    }

    /// How far `address` is from the network's own: the reverse of [`Self::nth`].
    #[must_use]
    pub fn index_of(&self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() - self.address.to_bits())
    }

    /// The `n`th network of `prefix` bits inside this one.
    #[must_use]
    pub fn subnet(&self, prefix: u8, n: u32) -> Option<Ipv4Net> {
        if prefix > 32 || u64::from(n) >= self.subnets(prefix) {
            return None;
        }
        let offset = u64::from(n) << (32 - u32::from(prefix));
        let address = u64::from(self.address.to_bits()) + offset;
        Ipv4Net::new(Ipv4Addr::from_bits(u32::try_from(address).ok()?), prefix).ok()
    }

    /// How many networks of `prefix` bits are inside this one; none when it is smaller than that.
    #[must_use]
    pub fn subnets(&self, prefix: u8) -> u64 {
        match prefix.checked_sub(self.prefix) {
            Some(bits) if prefix <= 32 => 1 << bits,
            _ => 0,
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = NetError;
    fn try_from(text: String) -> Result<Self, NetError> {
        Self::parse(&text)
    }
}

impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> String {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        Ipv4Net::parse(text).unwrap()
    }

    #[test]
    fn host_bits_are_cut() {
        assert_eq!(net("10.244.3.7/16").to_string(), "10.244.0.0/16");
        assert_eq!(net("1.2.3.4/0").to_string(), "0.0.0.0/0");
        assert_eq!(net("1.2.3.4/32").to_string(), "1.2.3.4/32");
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/+8", "10.0.0.0/", "fd00::/8", "a/8"]
        {
            assert_eq!(
                Ipv4Net::parse(bad).map_err(|e| e.to_string()),
                Err(format!("invalid CIDR address: {bad}"))
            );
        }
    }

    #[test]
    fn hosts_and_subnets_are_counted_from_the_start() {
        let cluster = net("10.244.0.0/16");
        assert_eq!(cluster.nth(1), Some(Ipv4Addr::new(10, 244, 0, 1)));
        assert_eq!(cluster.nth(65536), None);
        assert_eq!(cluster.subnet(24, 1), Some(net("10.244.1.0/24")));
        assert_eq!(cluster.subnet(24, 256), None);
        assert_eq!(cluster.subnet(8, 0), None);
        assert_eq!(cluster.broadcast(), Ipv4Addr::new(10, 244, 255, 255));
        assert!(cluster.overlaps(&net("10.0.0.0/8")) && !cluster.overlaps(&net("10.245.0.0/16")));
    }

    proptest! {
        #[test]
        fn nth_and_index_of_are_inverse(bits: u32, prefix in 0u8..=32, n: u32) {
            let net = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).unwrap();
            prop_assert_eq!(Ipv4Net::parse(&net.to_string()), Ok(net));
            prop_assert!(net.contains(Ipv4Addr::from_bits(bits)));
            if let Some(address) = net.nth(n) {
                prop_assert_eq!(net.index_of(address), Some(n));
            }
        }
    }
}
