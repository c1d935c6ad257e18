//! A network of either family.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Ipv4Net, NetError};

/// Which internet protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of an address.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A number for each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerFamily {
    /// IPv4's.
    pub v4: u8,
    /// IPv6's.
    pub v6: u8,
}

impl PerFamily {
    /// The family's number.
    #[must_use]
    pub fn of(&self, family: Family) -> u8 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Family {
    /// An address outside of every network that anybody has (RFC 5737, RFC 3849): the way there is the default route.
    #[must_use]
    pub fn outside(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A network in CIDR notation. The address is always the network's own: host bits are cut when parsing, as Go's
/// `ParseCIDR` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// The network of `prefix` bits that contains `address`.
    ///
    /// # Errors
    /// When the family has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetError> {
        let family = Family::of(address);
        if prefix > family.bits() {
            return Err(NetError::Prefix(prefix));
        }
        Ok(Self { address: from_bits(family, to_bits(address) & mask(family, prefix)), prefix })
    }

    /// Only this address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: Family::of(address).bits() }
    }

    /// All addresses of a family.
    #[must_use]
    pub fn everything(family: Family) -> Self {
        Self { address: from_bits(family, 0), prefix: 0 }
    }

    /// Parses `10.244.0.0/16` or `fd00:10::/64`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, NetError> {
        let syntax = || NetError::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(syntax());
        }
        let address = address.parse().map_err(|_| syntax())?;
        Self::new(address, prefix.parse().map_err(|_| syntax())?).map_err(|_| syntax())
    }

    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// As an IPv4 network, if it is one.
    #[must_use]
    pub fn v4(&self) -> Option<Ipv4Net> {
        match self.address {
            IpAddr::V4(address) => Ipv4Net::new(address, self.prefix).ok(),
            IpAddr::V6(_) => None,
        }
    }

    /// The network's first address.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.address
    }

    /// The network's last address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        from_bits(self.family(), to_bits(self.address) | !mask(self.family(), self.prefix))
    }

    /// Bits of the prefix.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The mask, e.g. `255.255.0.0`.
    #[must_use]
    pub fn netmask(&self) -> IpAddr {
        from_bits(self.family(), mask(self.family(), self.prefix))
    }

    /// Whether `address` belongs to it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family()
            && to_bits(address) & mask(self.family(), self.prefix) == to_bits(self.address)
    }

    /// Whether any address belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether all of `other` belongs to it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// The address `n` after the network's own.
    #[must_use]
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        let bits = to_bits(self.address).checked_add(n)?;
        let address = (bits <= to_bits(self.last())).then(|| from_bits(self.family(), bits))?;
        Some(address)
    }

    /// How far `address` is from the network's own: the reverse of [`Self::nth`].
    #[must_use]
    pub fn index_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address).then(|| to_bits(address) - to_bits(self.address))
    }

    /// The `n`th network of `prefix` bits inside this one.
    #[must_use]
    pub fn subnet(&self, prefix: u8, n: u128) -> Option<Self> {
        let bits = self.family().bits();
        let within = prefix.checked_sub(self.prefix).filter(|_| prefix <= bits)?;
        if within < 128 && n >> within != 0 {
            return None;
        }
        let offset = n.checked_shl(u32::from(bits - prefix)).unwrap_or_default();
        Self::new(from_bits(self.family(), to_bits(self.address) | offset), prefix).ok()
    }
}

/// Reads `10.244.0.0/16,fd00:10::/56`: one or two networks, of different families, whose order is the order of pods'
/// addresses.
///
/// # Errors
/// In words for an operator.
pub fn one_per_family(text: &str) -> Result<Vec<IpNet>, String> {
    let parsed = text.split(',').map(|part| IpNet::parse(part.trim()).map_err(|error| error.to_string()));
    let nets = parsed.collect::<Result<Vec<_>, _>>()?;
    match nets.as_slice() {
        [_] => Ok(nets),
        [a, b] if a.family() != b.family() => Ok(nets),
        _ => Err("must be one network, or one of IPv4 and one of IPv6".to_owned()),
    }
}

/// The low 32 bits of an IPv4 address, all of an IPv6 one.
fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => {
            Ipv4Addr::from_bits(u32::try_from(bits & u128::from(u32::MAX)).unwrap_or_default()).into()
        }
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

fn mask(family: Family, prefix: u8) -> u128 {
    let all = u128::MAX >> (128 - u32::from(family.bits()));
    let host = u32::from(family.bits().saturating_sub(prefix));
    all.checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0)
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpNet {
    type Err = NetError;
    fn from_str(text: &str) -> Result<Self, NetError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for IpNet {
    type Error = NetError;
    fn try_from(text: String) -> Result<Self, NetError> {
        Self::parse(&text)
    }
}

impl From<IpNet> for String {
    fn from(net: IpNet) -> String {
        net.to_string()
    }
}

impl From<Ipv4Net> for IpNet {
    fn from(net: Ipv4Net) -> Self {
        Self { address: net.network().into(), prefix: net.prefix() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> IpNet {
        IpNet::parse(text).unwrap()
    }

    #[test]
    fn host_bits_are_cut_in_both_families() {
        assert_eq!(net("10.244.3.7/16").to_string(), "10.244.0.0/16");
        assert_eq!(net("fd00:1:2:3::9/56").to_string(), "fd00:1:2::/56");
        assert_eq!(net("::1/0"), IpNet::everything(Family::V6));
        assert_eq!(net("fd00::1/128"), IpNet::host("fd00::1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_cidr_is_refused() {
        for bad in ["", "10.0.0.0/33", "fd00::/129", "fd00::", "fd00::/+8", "x/8"] {
            assert_eq!(IpNet::parse(bad), Err(NetError::Syntax(bad.to_owned())));
        }
    }

    #[test]
    fn subnets_are_counted_from_the_start() {
        let cluster = net("fd00:10::/56");
        assert_eq!(cluster.subnet(64, 1), Some(net("fd00:10:0:1::/64")));
        assert_eq!(cluster.subnet(64, 256), None);
        assert_eq!(cluster.subnet(48, 0), None);
        assert_eq!(net("10.244.0.0/16").subnet(24, 255), Some(net("10.244.255.0/24")));
        assert_eq!(net("10.244.0.0/16").subnet(24, 256), None);
        assert_eq!(net("10.244.0.0/16").last(), IpAddr::from([10, 244, 255, 255]));
        assert_eq!(net("fd00:10::/120").last(), "fd00:10::ff".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn families_do_not_meet() {
        assert!(!net("::/0").contains([10, 0, 0, 1].into()));
        assert!(!net("::/0").overlaps(&net("0.0.0.0/0")));
        assert!(
            net("fd00::/8").covers(&net("fd00:10::/56")) && !net("fd00:10::/56").covers(&net("fd00::/8"))
        );
    }

    #[test]
    fn lists_have_one_network_of_a_family() {
        let good = |text| one_per_family(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(good("fd00::/64"), ["fd00::/64"]);
        assert_eq!(good("10.0.0.0/8, fd00::/64"), ["10.0.0.0/8", "fd00::/64"]);
        for bad in ["10.0.0.0/8,11.0.0.0/8", "10.0.0.0/8,fd00::/64,fd01::/64"] {
            assert_eq!(
                one_per_family(bad),
                Err("must be one network, or one of IPv4 and one of IPv6".into())
            );
        }
        assert_eq!(one_per_family("10.0.0.0/8,"), Err("invalid CIDR address: ".into()));
    }

    proptest! {
        #[test]
        fn nth_and_index_of_are_inverse(bits: u128, prefix in 0u8..=128, n: u128) {
            let net = IpNet::new(Ipv6Addr::from_bits(bits).into(), prefix).unwrap();
            prop_assert_eq!(IpNet::parse(&net.to_string()), Ok(net));
            prop_assert!(net.contains(Ipv6Addr::from_bits(bits).into()));
            if let Some(address) = net.nth(n) {
                prop_assert_eq!(net.index_of(address), Some(n));
            }
        }

        #[test]
        fn of_ipv4_both_types_say_the_same(bits: u32, prefix in 0u8..=32, n: u32, other: u32, other_prefix in 0u8..=32) {
            let four = Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).unwrap();
            let four_other = Ipv4Net::new(Ipv4Addr::from_bits(other), other_prefix).unwrap();
            let (any, any_other) = (IpNet::from(four), IpNet::from(four_other));
            prop_assert_eq!(any.to_string(), four.to_string());
            prop_assert_eq!(any.v4(), Some(four));
            prop_assert_eq!(any.nth(n.into()), four.nth(n).map(IpAddr::from));
            prop_assert_eq!(any.subnet(other_prefix, n.into()).and_then(|net| net.v4()), four.subnet(other_prefix, n));
            prop_assert_eq!(any.overlaps(&any_other), four.overlaps(&four_other));
            prop_assert_eq!(any.last(), IpAddr::from(four.broadcast()));
        }
    }
}
