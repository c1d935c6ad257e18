//! From API objects to our words. What cannot be understood allows nothing: a policy is there to keep out.
//!
//! Not for: joining policies and pods (`compile`).

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use orlop_model::selectors::LabelSelector;

use super::model::{Block, Direction, Key, Labels, NamedPort, Numbers, Peer, Pod, Policy, Port, Rule};
use crate::ingest::{number, protocol};

/// The key of any object.
#[must_use]
pub fn key(meta: &ObjectMeta) -> Key {
    Key { namespace: meta.namespace.clone().unwrap_or_default(), name: meta.name.clone().unwrap_or_default() }
}

/// The policy.
#[must_use]
pub fn policy(object: &networking::NetworkPolicy) -> Policy {
    let spec = object.spec.clone().unwrap_or_default();
    let ingress = spec.ingress.iter().flatten().map(|at| rule(at.from.as_deref(), at.ports.as_deref()));
    let egress = spec.egress.iter().flatten().map(|at| rule(at.to.as_deref(), at.ports.as_deref()));
    let about = |direction| is_about(&spec, direction);
    Policy {
        key: key(&object.metadata),
        subject: spec.pod_selector.as_ref().map_or_else(LabelSelector::everything, selector),
        ingress: about(Direction::Ingress).then(|| ingress.collect()),
        egress: about(Direction::Egress).then(|| egress.collect()),
    }
}

/// Without `policyTypes`: ingress always, egress if there are rules for it.
fn is_about(spec: &networking::NetworkPolicySpec, direction: Direction) -> bool {
    let types = spec.policy_types.as_deref().filter(|types| !types.is_empty());
    match (types, direction) {
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (Some(types), Direction::Ingress) => types.iter().any(|name| name == "Ingress"),
        (Some(types), Direction::Egress) => types.iter().any(|name| name == "Egress"),
    }
}

/// An empty list of peers or ports is the same as none: no restriction. A list of which nothing is understood is not.
fn rule(
    peers: Option<&[networking::NetworkPolicyPeer]>,
    ports: Option<&[networking::NetworkPolicyPort]>,
) -> Rule {
    Rule {
        peers: peers.filter(|all| !all.is_empty()).map(|all| all.iter().filter_map(peer).collect()),
        ports: ports.filter(|all| !all.is_empty()).map(|all| all.iter().filter_map(port).collect()),
    }
}

fn peer(peer: &networking::NetworkPolicyPeer) -> Option<Peer> {
    if let Some(block) = &peer.ip_block {
        let except = block.except.iter().flatten().map(|text| net(text));
        return Some(Peer::Block(Block { cidr: net(&block.cidr)?, except: except.collect::<Option<_>>()? }));
    }
    if peer.pod_selector.is_none() && peer.namespace_selector.is_none() {
        return None;
    }
    Some(Peer::Pods {
        namespaces: peer.namespace_selector.as_ref().map(selector),
        pods: peer.pod_selector.as_ref().map_or_else(LabelSelector::everything, selector),
    })
}

fn port(port: &networking::NetworkPolicyPort) -> Option<Port> {
    let numbers = match (&port.port, port.end_port) {
        (None, None) => Numbers::All,
        (None, Some(_)) | (Some(IntOrString::String(_)), Some(_)) => return None,
        (Some(IntOrString::String(name)), None) => Numbers::Named(name.clone()),
        (Some(IntOrString::Int(first)), last) => {
            let (first, last) = (number(*first)?, number(last.unwrap_or(*first))?);
            if last < first {
                return None;
            }
            Numbers::Range(first, last)
        }
    };
    Some(Port { protocol: protocol(port.protocol.as_deref())?, numbers })
}

/// The labels of a namespace, with the one that the API server sees to.
#[must_use]
pub fn namespace(object: &core::Namespace) -> Labels {
    let mut labels = object.metadata.labels.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    labels
}

/// The pod, or `None` if it has no address of its own: on the node's network, or ended.
#[must_use]
pub fn pod(object: &core::Pod) -> Option<Pod> {
    let spec = object.spec.as_ref()?;
    let status = object.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    if spec.host_network == Some(true) || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let listed = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
    let first = status.and_then(|status| status.pod_ip.as_ref());
    let ips = listed.map(|at| &at.ip).chain(first);
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    Some(Pod {
        labels: object.metadata.labels.clone().unwrap_or_default(),
        ips: ips.filter_map(|ip| ip.parse().ok()).collect(),
        node: spec.node_name.clone().unwrap_or_default(),
        ports: containers.flat_map(named_ports).collect(),
    })
}

fn named_ports(container: &core::Container) -> BTreeSet<NamedPort> {
    let ports = container.ports.iter().flatten();
    let named = ports.filter_map(|port| {
        Some(NamedPort {
            name: port.name.clone()?,
            protocol: protocol(port.protocol.as_deref())?,
            number: number(port.container_port)?,
        })
    });
    named.collect()
}

fn selector(selector: &ApiSelector) -> LabelSelector {
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default();
        (expression.key.as_str(), expression.operator.as_str(), values)
    });
    let parsed = LabelSelector::from_match(selector.match_labels.iter().flatten(), expressions);
    parsed.unwrap_or_else(|_| LabelSelector::nothing())
}

fn net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}
