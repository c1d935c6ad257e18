//! [pure] Endpoints in canonical form: every port with those who serve it, ports with the same servers together.
//!
//! People may write the same in many ways; slices are not to change with the way.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};

use crate::service::Port;

/// The most addresses of a subset that are mirrored.
pub(super) const MAX: usize = 1000;

/// Who serves a set of ports, by family.
#[derive(Debug, PartialEq)]
pub(super) struct Group {
    pub(super) ports: Vec<EndpointPort>,
    pub(super) ipv4: Vec<Endpoint>,
    pub(super) ipv6: Vec<Endpoint>,
}

/// What is mirrored, and how many addresses are not.
#[derive(Debug, PartialEq, Default)]
pub(super) struct Canonical {
    pub(super) groups: Vec<Group>,
    /// No addresses at all.
    pub(super) invalid: usize,
    /// All that is not mirrored, the invalid among them.
    pub(super) skipped: usize,
}

/// An address and the object behind it.
type Server<'a> = (&'a str, &'a str);

/// Brings subsets into their canonical form.
pub(super) fn canonical(subsets: &[EndpointSubset]) -> Canonical {
    let mut about: BTreeMap<Server<'_>, &EndpointAddress> = BTreeMap::new();
    // `None` is for servers without a port.
    let mut served: BTreeMap<Option<Port>, BTreeMap<Server<'_>, bool>> = BTreeMap::new();
    for subset in subsets {
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let all: Vec<_> =
            ready.chain(unready).map(|(address, ready)| (server(address), address, ready)).collect();
        for (server, address, _) in &all {
            about.entry(*server).or_insert(address);
        }
        for port in ports(subset) {
            let servers = served.entry(port).or_default();
            for (server, _, ready) in &all {
                // Of two words about the same, the one that keeps clients away counts.
                servers.entry(*server).and_modify(|known| *known &= ready).or_insert(*ready);
            }
        }
    }
    let mut together: BTreeMap<BTreeMap<Server<'_>, bool>, Vec<Port>> = BTreeMap::new();
    for (port, servers) in served {
        together.entry(servers).or_default().extend(port);
    }
    let mut canonical = Canonical::default();
    for (servers, ports) in together {
        let group = canonical.group(&servers, &ports, &about);
        canonical.groups.push(group);
    }
    canonical.groups.sort_by_key(|group| group.ports.first().map(|port| (port.name.clone(), port.port)));
    canonical
}

impl Canonical {
    fn group(
        &mut self,
        servers: &BTreeMap<Server<'_>, bool>,
        ports: &[Port],
        about: &BTreeMap<Server<'_>, &EndpointAddress>,
    ) -> Group {
        let mut group = Group { ports: ports.iter().map(api_port).collect(), ipv4: vec![], ipv6: vec![] };
        let by_readiness = |wanted: bool| servers.iter().filter(move |(_, ready)| **ready == wanted);
        let mut mirrored = 0;
        for (server, ready) in by_readiness(true).chain(by_readiness(false)) {
            let Some(address) = about.get(server).filter(|_| mirrored < MAX) else { break };
            let family = match address.ip.parse() {
                Ok(IpAddr::V4(_)) => &mut group.ipv4,
                Ok(IpAddr::V6(_)) => &mut group.ipv6,
                Err(_) => {
                    self.invalid += 1;
                    continue;
                }
            };
            family.push(endpoint(address, *ready));
            mirrored += 1;
        }
        self.skipped += servers.len() - mirrored;
        group
    }
}

fn server(address: &EndpointAddress) -> Server<'_> {
    let uid = address.target_ref.as_ref().and_then(|target| target.uid.as_deref());
    (&address.ip, uid.unwrap_or_default())
}

fn ports(subset: &EndpointSubset) -> Vec<Option<Port>> {
    let listed = subset.ports.iter().flatten().map(|port| {
        Some(Port {
            name: port.name.clone().unwrap_or_default(),
            port: port.port,
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    });
    let listed: Vec<_> = listed.collect();
    if listed.is_empty() { vec![None] } else { listed }
}

fn api_port(port: &Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    }
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    /// A group in a line: its ports, then its endpoints, `!` is unready.
    fn check(subsets: &str, expected: Expect) {
        let canonical = canonical(&yaml::<Vec<EndpointSubset>>(subsets));
        let show = |endpoint: &Endpoint| {
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap();
            format!("{}{}", endpoint.addresses[0], if ready { "" } else { "!" })
        };
        let mut lines = Vec::new();
        for group in &canonical.groups {
            let ports: Vec<_> = group
                .ports
                .iter()
                .map(|port| {
                    let (name, protocol) = (port.name.as_deref().unwrap(), port.protocol.as_deref().unwrap());
                    format!("{name}:{}/{protocol}", port.port.unwrap())
                })
                .collect();
            let endpoints: Vec<_> = group.ipv4.iter().chain(&group.ipv6).map(show).collect();
            lines.push(format!("[{}] {}", ports.join(" "), endpoints.join(" ")));
        }
        if canonical.skipped > 0 {
            lines.push(format!("skipped {}, {} of them invalid", canonical.skipped, canonical.invalid));
        }
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn the_same_said_differently_is_the_same() {
        let once = "[{addresses: [{ip: 10.0.0.2}, {ip: 10.0.0.1}], ports: [{name: b, port: 2}, {name: a, port: 1}]}]";
        let in_pieces = "[{addresses: [{ip: 10.0.0.1}], ports: [{name: a, port: 1}]},\
             {addresses: [{ip: 10.0.0.2}, {ip: 10.0.0.1}], ports: [{name: b, port: 2, protocol: TCP}]},\
             {addresses: [{ip: 10.0.0.2}], ports: [{name: a, port: 1}]}]";
        assert_eq!(canonical(&yaml::<Vec<_>>(once)), canonical(&yaml::<Vec<_>>(in_pieces)));
        check(in_pieces, expect!["[a:1/TCP b:2/TCP] 10.0.0.1 10.0.0.2"]);
    }

    #[test]
    fn ports_with_other_servers_stand_apart() {
        check(
            "[{addresses: [{ip: 10.0.0.1}], ports: [{name: a, port: 1}]},\
              {addresses: [{ip: 10.0.0.1}], notReadyAddresses: [{ip: 'fd00::1'}], ports: [{name: b, port: 2, protocol: UDP}]},\
              {addresses: [{ip: 10.0.0.9}]}]",
            expect![[r#"
                [] 10.0.0.9
                [a:1/TCP] 10.0.0.1
                [b:2/UDP] 10.0.0.1 fd00::1!"#]],
        );
    }

    #[test]
    fn what_is_unready_once_is_unready() {
        check(
            "[{addresses: [{ip: 10.0.0.1}], ports: [{port: 1}]}, {notReadyAddresses: [{ip: 10.0.0.1}], ports: [{port: 1}]}]",
            expect!["[:1/TCP] 10.0.0.1!"],
        );
    }

    #[test]
    fn a_subset_has_room_for_a_thousand_ready_ones_first() {
        let list = |prefix: &str, count: usize| {
            let all: Vec<_> =
                (0..count).map(|n| format!("{{ip: {prefix}.{}.{}}}", n / 250, n % 250)).collect();
            all.join(", ")
        };
        let subsets = format!(
            "[{{notReadyAddresses: [{}], addresses: [{{ip: nonsense}}, {}], ports: [{{port: 1}}]}}]",
            list("10.0", 2),
            list("10.1", 999)
        );
        let canonical = canonical(&yaml::<Vec<EndpointSubset>>(&subsets));
        let endpoints = &canonical.groups[0].ipv4;
        let ready = endpoints.iter().filter(|e| e.conditions.as_ref().unwrap().ready == Some(true)).count();
        assert_eq!((endpoints.len(), ready), (1000, 999));
        assert_eq!((canonical.skipped, canonical.invalid), (2, 1));
    }

    #[test]
    fn nobody_is_nothing() {
        check("[]", expect![""]);
        check("[{ports: [{port: 1}]}]", expect!["[:1/TCP] "]);
    }
}
