//! [pure] The Endpoints object of a Service: addresses grouped by ports and readiness.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::labels;
use crate::service::{Backend, Port, inherited_labels};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// The most addresses that one object lists.
const MAX: usize = 1000;

/// Whether this controller made it.
pub(super) fn is_ours(endpoints: &Endpoints) -> bool {
    labels(&endpoints.metadata).get(MANAGED_BY).is_some_and(|by| by == MANAGER)
}

/// The object to write; nothing when the known one is right already.
pub(super) fn plan(service: &Service, backends: &[Backend], known: Option<&Endpoints>) -> Option<Endpoints> {
    let subsets = subsets(backends);
    let mut wanted_labels = inherited_labels(service);
    wanted_labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let Some(known) = known else {
        return Some(Endpoints {
            metadata: ObjectMeta {
                name: service.metadata.name.clone(),
                namespace: service.metadata.namespace.clone(),
                labels: Some(wanted_labels),
                ..ObjectMeta::default()
            },
            subsets: Some(subsets).filter(|subsets| !subsets.is_empty()),
        });
    };
    if known.subsets.as_deref().unwrap_or_default() == subsets && *labels(&known.metadata) == wanted_labels {
        return None;
    }
    let mut updated = known.clone();
    updated.metadata.labels = Some(wanted_labels);
    updated.subsets = Some(subsets).filter(|subsets| !subsets.is_empty());
    Some(updated)
}

fn subsets(backends: &[Backend]) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<&[Port], Vec<&Backend>> = BTreeMap::new();
    // Pods on their way out have no place here, whatever they still answer.
    for backend in backends.iter().filter(|backend| backend.ready || !backend.terminating).take(MAX) {
        groups.entry(&backend.ports).or_default().push(backend);
    }
    groups.into_iter().map(|(ports, backends)| subset(ports, backends)).collect()
}

fn subset(ports: &[Port], mut backends: Vec<&Backend>) -> EndpointSubset {
    backends.sort_by(|a, b| a.address.cmp(&b.address));
    let list = |ready: bool| {
        let addresses: Vec<_> = backends.iter().filter(|b| b.ready == ready).map(|b| address(b)).collect();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    EndpointSubset { addresses: list(true), not_ready_addresses: list(false), ports: api_ports(ports) }
}

fn address(backend: &Backend) -> EndpointAddress {
    EndpointAddress {
        ip: backend.address.clone(),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.target.clone()),
    }
}

fn api_ports(ports: &[Port]) -> Option<Vec<EndpointPort>> {
    let convert = |port: &Port| EndpointPort {
        name: Some(port.name.clone()).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    Some(ports.iter().map(convert).collect()).filter(|ports: &Vec<_>| !ports.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn backend(address: &str, port: i32, ready: bool, terminating: bool) -> Backend {
        let port = Port { name: "http".to_owned(), port, protocol: "TCP".to_owned(), app_protocol: None };
        Backend {
            address: address.to_owned(),
            ports: vec![port],
            ready,
            serving: ready,
            terminating,
            hostname: None,
            node: None,
            target: Default::default(),
        }
    }

    #[test]
    fn addresses_are_grouped_by_ports_and_readiness() {
        let service: Service =
            yaml("{metadata: {name: web, namespace: d, labels: {app: web}}, spec: {selector: {a: b}}}");
        let backends = [
            backend("10.0.0.3", 80, true, false),
            backend("10.0.0.1", 80, true, false),
            backend("10.0.0.2", 80, false, false),
            backend("10.0.0.4", 81, true, false),
            backend("10.0.0.5", 80, false, true),
        ];
        let made = plan(&service, &backends, None).unwrap();
        let show = |list: &Option<Vec<EndpointAddress>>| {
            list.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>().join(",")
        };
        let subsets: Vec<_> = made
            .subsets
            .iter()
            .flatten()
            .map(|s| {
                format!(
                    "{} not {} on {}",
                    show(&s.addresses),
                    show(&s.not_ready_addresses),
                    s.ports.as_ref().unwrap()[0].port
                )
            })
            .collect();
        assert_eq!(subsets, ["10.0.0.1,10.0.0.3 not 10.0.0.2 on 80", "10.0.0.4 not  on 81"]);
        assert!(plan(&service, &backends, Some(&made)).is_none());
        assert!(plan(&service, &backends[1..], Some(&made)).is_some());
    }
}
