//! The impure side of [`Surroundings`]: the store, the clock and randomness, for hooks.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use orlop_model::net::Ipv4Net;
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

    fn allocate_ip(&self, wanted: Option<Ipv4Addr>) -> Result<Ipv4Addr, String> {
        let taken = self.taken_addresses();
        let net = self.service_cidr;
        if let Some(wanted) = wanted {
            if !net.contains(wanted) || wanted == net.network() || wanted == net.broadcast() {
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
        let random = u32::from_le_bytes(random::<4>());
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
    fn taken_addresses(&self) -> BTreeSet<Ipv4Addr> {
        let mut taken = BTreeSet::from([self.kubernetes_ip]);
        for service in self.all("services") {
            taken.extend(super::object::text(&service, &["spec", "clusterIP"]).parse::<Ipv4Addr>());
        }
        taken
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
fn free_address(net: Ipv4Net, random: u32, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let usable = u32::try_from(net.size().saturating_sub(2)).unwrap_or(u32::MAX);
    let set_aside = if usable > 16 { (usable / 16).clamp(16, 256) } else { 0 };
    let others = usable - set_aside;
    let others = (0..others).map(|i| set_aside + (random % others + i) % others);
    others.chain(0..set_aside).filter_map(|i| net.nth(1 + i)).find(|ip| !taken(*ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_addresses_are_kept_for_those_who_ask_for_them() {
        for (net, first) in
            [("10.0.0.0/24", 17), ("10.0.0.0/16", 257), ("10.0.0.0/12", 257), ("10.0.0.0/29", 1)]
        {
            let net = Ipv4Net::parse(net).unwrap();
            let index = |ip: Ipv4Addr| net.index_of(ip).unwrap();
            let mut taken = BTreeSet::new();
            for random in (0..3000_u32).map(|n| n.wrapping_mul(0x9e37_79b9)).chain([u32::MAX]) {
                let Some(ip) = free_address(net, random, |ip| taken.contains(&ip)) else { break };
                let least = net.size() > 300 || taken.len() < 238;
                assert!(!least || index(ip) >= first, "{net} {ip}");
                assert!(net.contains(ip) && ip != net.network() && ip != net.broadcast());
                assert!(taken.insert(ip), "{ip} twice");
            }
            let all = usize::try_from(net.size() - 2).unwrap();
            assert_eq!(taken.len(), all.min(3001), "{net}: all of them, in the end");
        }
    }
}
