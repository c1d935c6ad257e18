//! The impure side of [`Surroundings`]: the store, the clock and randomness, for hooks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jiff::Timestamp;
use orlop_model::net::{Family, IpNet};
use serde_json::Value;

use super::Api;
use crate::admission::Surroundings;

impl Surroundings for Api {
    fn get(&self, prefix: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = if namespace.is_empty() {
            format!("{prefix}/{name}")
        } else {
            format!("{prefix}/{namespace}/{name}")
        };
        serde_json::from_slice(&self.store.get(&key)?.value).ok()
    }

    fn all(&self, prefix: &str) -> Vec<Value> {
        let objects = self.store.list(&format!("{prefix}/")).1;
        objects.iter().filter_map(|object| serde_json::from_slice(&object.value).ok()).collect()
    }

    fn service_families(&self) -> Vec<Family> {
        self.service_cidrs.iter().map(IpNet::family).collect()
    }

    fn allocate_ip(&self, family: Family, wanted: Option<IpAddr>) -> Result<IpAddr, String> {
        let net = self.service_cidrs.iter().find(|net| net.family() == family);
        let net = *net.ok_or_else(|| format!("{family} is not configured on this cluster"))?;
        let taken = self.taken_addresses();
        if let Some(wanted) = wanted {
            if !net.index_of(wanted).is_some_and(|index| (1..=usable(net)).contains(&index)) {
                return Err(format!(
                    "the provided IP ({wanted}) is not in the valid range. The range of valid IPs is {net}"
                ));
            }
            return if taken.contains(&wanted) {
                Err("provided IP is already allocated".into())
            } else {
                Ok(wanted)
            };
        }
        let random = u64::from_le_bytes(random::<8>());
        free_address(net, random, |ip| taken.contains(&ip)).ok_or_else(|| "range is full".into())
    }

    fn node_ports(&self) -> BTreeSet<i64> {
        let services = self.all("services");
        let ports = services.iter().filter_map(|s| s["spec"]["ports"].as_array()).flatten();
        let checks = services.iter().filter_map(|s| s["spec"]["healthCheckNodePort"].as_i64());
        ports.filter_map(|port| port["nodePort"].as_i64()).chain(checks).collect()
    }

    fn random_suffix(&self) -> String {
        orlop_model::hash::suffix(u64::from_le_bytes(random::<8>()), 5)
    }

    fn now(&self) -> String {
        format_time(Timestamp::now())
    }
}

impl Api {
    fn taken_addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.all("services");
        let specs = services.iter().map(|service| &service["spec"]);
        // Those that were stored by an early version have only the one.
        let addresses = specs.flat_map(|spec| {
            let all = spec["clusterIPs"].as_array().into_iter().flatten();
            all.chain([&spec["clusterIP"]]).filter_map(|ip| ip.as_str()?.parse().ok())
        });
        addresses.chain([self.kubernetes_ip]).collect()
    }
}

/// Time as objects spell it.
pub(super) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Random bytes of the kernel.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Cannot fail once the kernel is up; an interrupted call is repeated.
        if let Ok(count) =
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
        {
            filled += count;
        }
    }
    bytes
}

/// A random (version 4) UUID.
pub(super) fn uuid() -> String {
    let mut bytes = random::<16>();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// An address for a Service that asks for none. The first ones are for those who do ask, as long as there are others
/// (KEP-3070): the cluster's DNS has the tenth. It starts anywhere, so that an address is not handed out again right
/// after its Service is gone.
fn free_address(net: IpNet, random: u64, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let usable = usable(net);
    let set_aside = if usable > 16 { (usable / 16).clamp(16, 256) } else { 0 };
    let others = usable - set_aside;
    let start = u128::from(random).checked_rem(others).unwrap_or_default();
    let others = (0..others).map(|i| set_aside + (start + i) % others);
    others.chain(0..set_aside).filter_map(|i| net.nth(1 + i)).find(|ip| !taken(*ip))
}

/// How many addresses after the network's own may be given out: all, but that IPv4 has one for broadcasts.
fn usable(net: IpNet) -> u128 {
    let last = net.index_of(net.last()).unwrap_or_default();
    if net.family() == Family::V4 { last.saturating_sub(1) } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_addresses_are_kept_for_those_who_ask_for_them() {
        for (net, first) in [
            ("10.0.0.0/24", 17),
            ("10.0.0.0/16", 257),
            ("10.0.0.0/12", 257),
            ("10.0.0.0/29", 1),
            ("fd00::/120", 16),
            ("fd00::/112", 257),
            ("fd00::/64", 257),
            ("fd00::/125", 1),
        ] {
            let net = IpNet::parse(net).unwrap();
            let index = |ip: IpAddr| net.index_of(ip).unwrap();
            let all = usable(net);
            let mut taken = BTreeSet::new();
            for random in (0..3000_u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).chain([u64::MAX]) {
                let Some(ip) = free_address(net, random, |ip| taken.contains(&ip)) else { break };
                let least = all > 300 || taken.len() < 238;
                assert!(!least || index(ip) >= first, "{net} {ip}");
                assert!(net.contains(ip) && ip != net.network());
                assert!(net.family() == Family::V6 || ip != net.last());
                assert!(taken.insert(ip), "{ip} twice");
            }
            let all = usize::try_from(all).unwrap_or(usize::MAX);
            assert_eq!(taken.len(), all.min(3001), "{net}: all of them, in the end");
        }
    }
}
