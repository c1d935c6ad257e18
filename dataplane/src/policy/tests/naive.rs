//! Who may talk to whom, straight from the words of the API: every policy, rule and peer looked at, for every packet.

use std::net::IpAddr;

use super::super::model::{Direction, Key, Numbers, Peer, Pod, Policy, Port, Rule};
use super::super::world::World;
use crate::model::Protocol;

/// A packet, seen from the pod that policies may select.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) way: Direction,
    pub(super) pod: &'a Key,
    pub(super) peer: IpAddr,
    pub(super) protocol: Protocol,
    /// Where the connection ends.
    pub(super) port: u16,
}

/// The policies that allow it; `None`: nobody isolates the pod in this direction.
pub(super) fn allowed_by<'a>(world: &'a World, packet: &Packet<'_>) -> Option<Vec<&'a Key>> {
    let pod = &world.pods[packet.pod];
    let selecting: Vec<&Policy> = world
        .policies
        .values()
        .filter(|policy| policy.key.namespace == packet.pod.namespace && policy.subject.matches(&pod.labels))
        .filter(|policy| policy.rules(packet.way).is_some())
        .collect();
    if selecting.is_empty() {
        return None;
    }
    let allows = |policy: &&&Policy| {
        policy
            .rules(packet.way)
            .is_some_and(|rules| rules.iter().any(|rule| lets(world, policy, rule, packet)))
    };
    Some(selecting.iter().filter(allows).map(|policy| &policy.key).collect())
}

fn lets(world: &World, policy: &Policy, rule: &Rule, packet: &Packet<'_>) -> bool {
    let peer = world.pods.iter().find(|(_, pod)| pod.ips.contains(&packet.peer));
    let (here, there) = (Some(&world.pods[packet.pod]), peer.map(|(_, pod)| pod));
    let end = if packet.way == Direction::Ingress { here } else { there };
    let is_peer = |at: &Peer| match at {
        Peer::Block(block) => {
            // Names of ports are those of pods that are selected as pods.
            let named = packet.way == Direction::Egress;
            block.has(packet.peer) && ports(rule, packet, if named { None } else { end })
        }
        Peer::Pods { namespaces, pods } => peer.is_some_and(|(key, pod)| {
            let namespace = match namespaces {
                None => key.namespace == policy.key.namespace,
                Some(selector) => selector.matches(&world.namespaces[&key.namespace]),
            };
            namespace && pods.matches(&pod.labels) && ports(rule, packet, end)
        }),
    };
    match &rule.peers {
        None => ports(rule, packet, end),
        Some(peers) => peers.iter().any(is_peer),
    }
}

fn ports(rule: &Rule, packet: &Packet<'_>, end: Option<&Pod>) -> bool {
    let is_port = |port: &Port| {
        port.protocol == packet.protocol
            && match &port.numbers {
                Numbers::All => true,
                Numbers::Range(first, last) => (*first..=*last).contains(&packet.port),
                Numbers::Named(name) => end.is_some_and(|pod| {
                    pod.ports.iter().any(|at| {
                        at.name == *name && at.protocol == packet.protocol && at.number == packet.port
                    })
                }),
            }
    };
    rule.ports.as_ref().is_none_or(|ports| ports.iter().any(is_port))
}
