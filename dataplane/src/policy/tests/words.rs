//! Policies as people write them, in YAML; what comes out is asked by packet.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use orlop_model::event::Event;

use super::super::compile::{Compiled, compile};
use super::super::model::Direction;
use super::super::{Change, World, ingest};

const PODS: &str = r"
- {metadata: {namespace: shop, name: web, labels: {app: web}}, spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}, status: {podIPs: [{ip: 10.42.1.1}, {ip: '2001:db8::1'}]}}
- {metadata: {namespace: shop, name: api, labels: {app: api}}, spec: {nodeName: node-a, containers: [{name: c, ports: [{name: http, containerPort: 9090}]}]}, status: {podIPs: [{ip: 10.42.1.2}]}}
- {metadata: {namespace: tools, name: probe, labels: {app: probe}}, spec: {nodeName: node-b, containers: []}, status: {podIP: 10.42.2.1}}
- {metadata: {namespace: tools, name: done, labels: {app: probe}}, spec: {nodeName: node-b, containers: []}, status: {phase: Succeeded, podIP: 10.42.2.2}}
- {metadata: {namespace: shop, name: agent, labels: {app: web}}, spec: {nodeName: node-a, hostNetwork: true, containers: []}, status: {podIP: 192.0.2.10}}
";

/// A node with the pods and these policies, all in namespace `shop`.
fn node(policies: &[&str]) -> Compiled {
    let mut world = World::default();
    let pods: Vec<core::Pod> = serde_norway::from_str(PODS).unwrap();
    let pods = pods.iter().map(|pod| (ingest::key(&pod.metadata), ingest::pod(pod))).collect();
    let namespaces = ["shop", "tools"].map(|name| {
        let mut namespace = core::Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        (name.to_owned(), ingest::namespace(&namespace))
    });
    let policies = policies.iter().enumerate().map(|(number, spec)| {
        let mut policy =
            NetworkPolicy { spec: serde_norway::from_str(spec).unwrap(), ..NetworkPolicy::default() };
        policy.metadata.namespace = Some("shop".to_owned());
        policy.metadata.name = Some(format!("p{number}"));
        ingest::policy(&policy)
    });
    world.apply(Change::Policy(Event::Reset(policies.collect())));
    assert!(!world.complete());
    world.apply(Change::Namespace(Event::Reset(namespaces.to_vec())));
    world.apply(Change::Pod(Event::Reset(pods)));
    assert!(world.complete());
    compile(&world, "node-a")
}

/// Whether a TCP connection may be made to or from the pod at this address.
fn may(node: &Compiled, way: Direction, pod: &str, peer: &str, port: u16) -> bool {
    let ip: IpAddr = pod.parse().unwrap();
    let set = node.tables.subjects.get(&ip).map_or(0, |subject| subject.set(way));
    set == 0 || node.tables.allowed_by(set, peer.parse().unwrap(), 6, port).is_some()
}

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

#[test]
fn default_deny_keeps_out_and_lets_go() {
    let node = node(&["{podSelector: {}}"]);
    assert!(!may(&node, IN, "10.42.1.1", "10.42.2.1", 80));
    assert!(!may(&node, IN, "2001:db8::1", "2001:db8::9", 80));
    assert!(may(&node, OUT, "10.42.1.1", "10.42.2.1", 80));
    // On the node's own network, or ended: no address that a policy could be about.
    assert!(!node.tables.subjects.contains_key(&"192.0.2.10".parse().unwrap()));
    assert!(node.tables.identities.is_empty());
}

#[test]
fn policy_types_default_to_what_has_rules() {
    let both = node(&["{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}"]);
    assert!(!may(&both, IN, "10.42.1.1", "192.0.2.1", 80));
    assert!(may(&both, OUT, "10.42.1.1", "192.0.2.1", 80));
    assert!(!may(&both, OUT, "10.42.1.1", "192.0.3.1", 80));
    let egress = node(&["{podSelector: {}, policyTypes: [Egress]}"]);
    assert!(may(&egress, IN, "10.42.1.1", "192.0.2.1", 80));
    assert!(!may(&egress, OUT, "10.42.1.1", "192.0.2.1", 80));
}

#[test]
fn a_namespace_with_a_pod_selector_means_both() {
    let from = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tools}}, podSelector: {matchLabels: {app: probe}}}]}]}";
    let node = node(&[from]);
    assert!(may(&node, IN, "10.42.1.1", "10.42.2.1", 80));
    assert!(!may(&node, IN, "10.42.1.1", "10.42.1.2", 80));
    // Its address is free for others.
    assert!(!may(&node, IN, "10.42.1.1", "10.42.2.2", 80));
    assert!(may(&node, IN, "10.42.1.2", "192.0.2.1", 80));
}

#[test]
fn a_named_port_is_the_receivers() {
    let to = "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: http}]}], egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]}";
    let node = node(&[to]);
    assert!(
        may(&node, IN, "10.42.1.1", "192.0.2.1", 8080) && !may(&node, IN, "10.42.1.1", "192.0.2.1", 9090)
    );
    assert!(
        may(&node, IN, "10.42.1.2", "192.0.2.1", 9090) && !may(&node, IN, "10.42.1.2", "192.0.2.1", 8080)
    );
    assert!(
        may(&node, OUT, "10.42.1.1", "10.42.1.2", 9090) && !may(&node, OUT, "10.42.1.1", "10.42.1.2", 8080)
    );
}

#[test]
fn what_cannot_be_understood_allows_nothing() {
    for from in ["ipBlock: {cidr: nonsense}", "ipBlock: {cidr: 192.0.2.0/24, except: [nonsense]}", ""] {
        let node = node(&[&format!("{{podSelector: {{}}, ingress: [{{from: [{{{from}}}]}}]}}")]);
        assert!(!may(&node, IN, "10.42.1.1", "192.0.2.1", 80), "{from}");
    }
    for port in ["{port: 80, endPort: 70}", "{endPort: 70}", "{port: 80, protocol: ICMP}", "{port: 70000}"] {
        let node = node(&[&format!("{{podSelector: {{}}, ingress: [{{ports: [{port}]}}]}}")]);
        assert!(!may(&node, IN, "10.42.1.1", "192.0.2.1", 80), "{port}");
    }
    let open = node(&["{podSelector: {}, ingress: [{from: [], ports: []}]}"]);
    assert!(may(&open, IN, "10.42.1.1", "192.0.2.1", 80));
}

#[test]
fn numbers_mean_the_same_after_a_change_elsewhere() {
    let (one, two) = ("{podSelector: {matchLabels: {app: web}}}", "{podSelector: {matchLabels: {app: api}}}");
    let (before, after) = (node(&[one]), node(&[one, two]));
    for (ip, subject) in &before.tables.subjects {
        assert_eq!(after.tables.subjects.get(ip), Some(subject), "{ip}");
    }
}
