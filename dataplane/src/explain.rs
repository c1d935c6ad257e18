//! What the maps would do with the first packet of a connection, step by step: the programs' decision in words.
//!
//! For: `orlop explain`, and tests that hold these rules against the programs'. Pure.
//! Not for: connections that exist; they stay where they are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::model::{Family, Protocol};
use crate::tables::{Backend, Entry, Frontend, Home, Host, Masquerade, ServiceId, Set, Tables, Vip};

/// A packet that begins a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// To where.
    pub destination: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No service: the packet goes its way.
    Pass,
    /// To one of these, each with the same chance; `true` where the backend sees this node as the source.
    Forward(Vec<(SocketAddr, bool)>),
    /// Refused at once: no endpoint anywhere.
    Reject,
    /// Dropped: endpoints exist, but the policy allows none here.
    NoLocalEndpoint,
    /// Dropped: the source is in no range of the load balancer.
    SourceRange,
}

/// The verdict and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One line per look at a map.
    pub steps: Vec<String>,
    /// The end of it.
    pub verdict: Verdict,
}

/// Who a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Pod,
    Node,
    Outside,
}

/// Decides as the programs do.
#[must_use]
pub fn explain(tables: &Tables, packet: &Packet) -> Explanation {
    let nothing = Entry::default();
    let node = tables.services.get(&ServiceId::NODE).unwrap_or(&nothing);
    let mut steps = Vec::new();
    let verdict = decide(tables, node, packet, &mut steps);
    Explanation { steps, verdict }
}

fn decide(tables: &Tables, node: &Entry, packet: &Packet, steps: &mut Vec<String>) -> Verdict {
    let Some((id, vip, entry, frontend)) = lookup(tables, node, packet, steps) else { return Verdict::Pass };
    steps.push(format!("{vip} is service {}", id.0));
    if frontend.rules.guarded {
        let range = entry.ranges.iter().find(|net| net.contains(&packet.source));
        match range {
            Some(net) => steps.push(format!("{} is let in: range {net}", packet.source)),
            None => {
                steps.push(format!("{} is in none of the service's source ranges", packet.source));
                return Verdict::SourceRange;
            }
        }
    }
    let source = source(node, &packet.source);
    let inside = source != Source::Outside;
    steps.push(match source {
        Source::Pod => format!("{} is a pod", packet.source),
        Source::Node => format!("{} is this node", packet.source),
        Source::Outside => format!("{} is outside the cluster, as far as this node can tell", packet.source),
    });
    let list = if inside { frontend.inside() } else { frontend.outside() };
    let (set, count) = list;
    steps.push(match set {
        Set::Cluster => format!("policy Cluster: {count} endpoints"),
        Set::Local => format!("policy Local: {count} endpoints on this node"),
    });
    if count == 0 {
        return if frontend.any { Verdict::NoLocalEndpoint } else { Verdict::Reject };
    }
    if frontend.affinity_seconds > 0 {
        steps.push(format!("a client that was here in the last {} s stays", frontend.affinity_seconds));
    }
    let masquerade = match frontend.rules.masquerade {
        Masquerade::Always => true,
        Masquerade::Outside => source != Source::Pod,
        Masquerade::Never => frontend.rules.shortcut && source == Source::Node,
    };
    if frontend.rules.by_hash {
        steps.push("a packet's source address and port say to which, on every node the same".to_owned());
    }
    let direct = |at: &SocketAddr| {
        let away = |to: &Backend| to.at == *at && to.home == Home::Away;
        frontend.rules.direct && source == Source::Outside && entry.backends.values().any(away)
    };
    if frontend.rules.direct {
        steps.push(
            "endpoints on other nodes get the packet as it came, and answer the client themselves".to_owned(),
        );
    }
    let choices = entry.choices(list).flatten();
    let seen = |at: SocketAddr| (at, at.ip() == packet.source || masquerade && !direct(&at));
    Verdict::Forward(choices.map(seen).collect())
}

fn lookup<'a>(
    tables: &'a Tables,
    node: &Entry,
    packet: &Packet,
    steps: &mut Vec<String>,
) -> Option<(ServiceId, Vip, &'a Entry, &'a Frontend)> {
    let find = |vip: Vip| {
        let mut services = tables.services.iter();
        services.find_map(|(id, entry)| Some((*id, vip, entry, entry.frontends.get(&vip)?)))
    };
    let (ip, port, protocol) = (packet.destination.ip(), packet.destination.port(), packet.protocol);
    if let Some(found) = find(Vip { host: Host::Ip(ip), port, protocol }) {
        return Some(found);
    }
    let takes = node.addresses.get(&ip).copied().unwrap_or(false);
    let loopback = node.own.is_some_and(|own| own.loopback_node_ports)
        && matches!(ip, IpAddr::V4(ip) if ip.is_loopback());
    if !takes && !loopback {
        let others = find(Vip::other_ports(ip));
        steps.push(match others {
            Some(_) => format!("{port}/{protocol} is no port of the service with the cluster IP {ip}"),
            None => format!("{} is no address of a service, nor takes node ports", packet.destination),
        });
        return others;
    }
    let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
    let found = find(Vip { host: Host::Node(family), port, protocol });
    if found.is_none() {
        steps.push(format!("{ip} takes node ports, and {port}/{protocol} is none"));
    }
    found
}

fn source(node: &Entry, ip: &IpAddr) -> Source {
    if node.addresses.contains_key(ip) || matches!(ip, IpAddr::V4(ip) if ip.is_loopback()) {
        Source::Node
    } else if node.ranges.iter().any(|net| net.contains(ip)) {
        Source::Pod
    } else {
        Source::Outside
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        match &self.verdict {
            Verdict::Pass => writeln!(f, "=> passes: not translated"),
            Verdict::Reject => writeln!(f, "=> refused: no endpoint"),
            Verdict::NoLocalEndpoint => writeln!(f, "=> dropped: no endpoint on this node"),
            Verdict::SourceRange => writeln!(f, "=> dropped: not in the source ranges"),
            Verdict::Forward(backends) => backends.iter().try_for_each(|(at, masqueraded)| {
                let source = if *masqueraded { ", which sees this node as the source" } else { "" };
                writeln!(f, "=> to {at}{source}")
            }),
        }
    }
}
