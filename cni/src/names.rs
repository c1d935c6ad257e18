//! Names, marks and hardware addresses: constant, or derived from the pod's uid or its address; never stored
//! or counted. Pure.
//!
//! Since both MAC addresses of a pair are known before it exists, neighbour entries need no read-back.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use orlop_model::{hash::fnv64a, names::POD_LINK_ALIAS, net::Family};

/// The interface inside every pod.
pub const POD_INTERFACE: &str = "eth0";
/// Next hop of every pod: no interface has it, the pod holds a permanent neighbour entry for it.
pub(crate) fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 1, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}
/// All host sides share one address: each is the only station on its own link.
pub(crate) const HOST_MAC: Mac = Mac([0xee; 6]);

/// The device that tunnels to other nodes begin at. Its name must not look like that of a pod's link.
pub(crate) const OVERLAY: &str = "vxlan.orlop";

/// Marks the routes that are ours (`ip route show proto 111`); no others are ever changed.
pub(crate) const PROTOCOL: u8 = 111;

/// What the names of all pods' links begin with.
pub(crate) const LINK_PREFIX: &str = "orl";
/// Not one that begins like a pod's link: rules about those are not about these.
const SHAPER_PREFIX: &str = "ors";
const HEX: usize = 10;
/// The kernel keeps 255 bytes of alias; an uid of Kubernetes has 36.
const UID_MAX: usize = 250;

/// Name of the host side of a pod's veth pair: `orl` and ten hex digits of the uid's hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

impl LinkName {
    /// The name that belongs to a pod.
    pub fn for_pod(uid: &str) -> Self {
        let hash = fnv64a(uid.as_bytes()) >> (64 - 4 * HEX);
        Self(format!("{LINK_PREFIX}{hash:0HEX$x}"))
    }

    /// The link that what the pod sends is led through, where it is limited.
    pub(crate) fn shaper(&self) -> String {
        format!("{SHAPER_PREFIX}{}", self.0.trim_start_matches(LINK_PREFIX))
    }

    /// Whose shaper has this name.
    pub(crate) fn of_shaper(name: &str) -> Option<Self> {
        Self::parse(&format!("{LINK_PREFIX}{}", name.strip_prefix(SHAPER_PREFIX)?))
    }

    /// Takes a name read from the kernel; `None` when it is not of our form.
    pub fn parse(name: &str) -> Option<Self> {
        let hex = name.strip_prefix(LINK_PREFIX)?;
        let ours = hex.len() == HEX && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ours.then(|| Self(name.to_owned()))
    }

    /// The name as the kernel has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A hardware address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The pod side's address, from its IP addresses: locally administered; with an IPv4 address unique in the
    /// cluster.
    pub fn for_addresses(addresses: &[IpAddr]) -> Self {
        Self::spelling([0x0a, 0x58], addresses)
    }

    /// The address of a node's end of tunnels, from the node's address: every node knows every other's.
    pub(crate) fn for_node(address: IpAddr) -> Self {
        Self::spelling([0x0a, 0x59], &[address])
    }

    /// What an IPv4 address spells, or else a hash of the IPv6 address.
    fn spelling([a, b]: [u8; 2], addresses: &[IpAddr]) -> Self {
        let v4 = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(address.octets()),
            IpAddr::V6(_) => None,
        });
        let hashed = || {
            let bytes: Vec<u8> =
                addresses.iter().flat_map(|address| address.to_string().into_bytes()).collect();
            u32::try_from(fnv64a(&bytes) >> 32).unwrap_or_default().to_be_bytes()
        };
        let [c, d, e, f] = v4.unwrap_or_else(hashed);
        Self([a, b, c, d, e, f])
    }

    /// Reads `0a:58:0a:f4:00:07`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| !part.starts_with('+'))?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }

    /// An interface can have it: neither a group's nor nobody's.
    pub(crate) fn is_of_one_station(&self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What the host side says in `ip link` about whom it belongs to.
pub(crate) fn alias(uid: &str) -> String {
    format!("{POD_LINK_ALIAS}{uid}")
}

/// The reverse of [`alias`].
pub(crate) fn uid_of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix(POD_LINK_ALIAS)
}

/// Whether a uid can be written into the ledger and the link's alias. A network with a name puts it, and a slash, in
/// front of its uids.
pub(crate) fn valid_uid(uid: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    !uid.is_empty() && uid.len() <= UID_MAX && uid.bytes().all(plain)
}

/// Whether a uid is one of the network with this name; of the one without a name are all without a slash.
pub(crate) fn is_of(network: Option<&str>, uid: &str) -> bool {
    match network {
        None => !uid.contains('/'),
        Some(name) => uid.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_pod_name_is_a_legal_interface_name_and_reads_back(uid in "[a-z0-9-]{1,40}") {
            let name = LinkName::for_pod(&uid);
            prop_assert!(name.as_str().len() < 16);
            prop_assert_eq!(LinkName::parse(name.as_str()), Some(name));
        }
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for name in ["eth0", "orl", "orl012345678", "orl0123456789a", "orlABCDEF0123", "veth0123456789"] {
            assert_eq!(LinkName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn hash_is_fnv1a() {
        assert_eq!(fnv64a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv64a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn hardware_addresses_read_back_and_nothing_else_is_one() {
        let mac = Mac([0x0a, 0x58, 0x0a, 0xf4, 0, 7]);
        assert_eq!(Mac::parse(&mac.to_string()), Some(mac));
        assert_eq!(Mac::parse("0A-58-0A-F4-00-07"), Some(mac));
        for wrong in ["", "0a:58:0a:f4:00", "0a:58:0a:f4:00:07:08", "0a:58:0a:f4:00:+7", "a:58:0a:f4:00:07"] {
            assert_eq!(Mac::parse(wrong), None, "{wrong}");
        }
        assert!(mac.is_of_one_station());
        assert!(!Mac([1, 0, 0, 0, 0, 0]).is_of_one_station() && !Mac([0; 6]).is_of_one_station());
    }

    #[test]
    fn pod_mac_spells_the_address() {
        let mac = |addresses: &[&str]| {
            let addresses: Vec<_> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            Mac::for_addresses(&addresses).to_string()
        };
        assert_eq!(mac(&["10.244.0.7"]), "0a:58:0a:f4:00:07");
        assert_eq!(mac(&["fd00::7", "10.244.0.7"]), "0a:58:0a:f4:00:07");
        assert_ne!(mac(&["fd00::7"]), mac(&["fd00::8"]));
    }

    #[test]
    fn uids_that_could_break_a_ledger_line_are_refused() {
        for uid in ["", "a b", "a\nb", "ü", &"x".repeat(251)] {
            assert!(!valid_uid(uid), "{uid:?}");
        }
        assert!(valid_uid("0c2d5c7e-6c2a-4a5e-9f3c-1b1c9d1f0a11"));
    }

    #[test]
    fn networks_tell_their_pods_apart() {
        assert!(is_of(None, "u1") && !is_of(Some("u1"), "u1") && !is_of(None, "a/u1"));
        assert!(is_of(Some("a"), "a/u1") && !is_of(Some("a"), "ab/u1") && !is_of(Some("ab"), "a/u1"));
    }
}
