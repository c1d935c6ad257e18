//! Policies and pods in our words: parsed, defaulted, and free of what cannot matter to a packet.
//!
//! Not for: the API's shapes and quirks (`ingest`), or joining them (`compile`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use orlop_model::selectors::LabelSelector;

use crate::model::Protocol;

/// Namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Labels.
pub type Labels = BTreeMap<String, String>;

/// Which way a connection goes, seen from the pod that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// A NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who it is. It selects pods of its own namespace only.
    pub key: Key,
    /// The pods it isolates.
    pub subject: LabelSelector,
    /// What it lets in; `None`: it says nothing about that direction.
    pub ingress: Option<Vec<Rule>>,
    /// What it lets out.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction, if the policy is about it.
    #[must_use]
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One thing that a policy allows: any of these peers, at any of these ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `None`: everybody.
    pub peers: Option<Vec<Peer>>,
    /// `None`: every port of every protocol.
    pub ports: Option<Vec<Port>>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// Their namespaces; `None`: the policy's own.
        namespaces: Option<LabelSelector>,
        /// The pods in these.
        pods: LabelSelector,
    },
    /// Addresses.
    Block(Block),
}

/// Addresses of a network, without those of others inside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    /// The network.
    pub cidr: IpNet,
    /// What is left out.
    pub except: Vec<IpNet>,
}

impl Block {
    /// Whether an address is meant.
    #[must_use]
    pub fn has(&self, ip: IpAddr) -> bool {
        self.cidr.contains(&ip) && !self.except.iter().any(|net| net.contains(&ip))
    }
}

/// Ports of one protocol, where the connection ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// Its ports.
    pub numbers: Numbers,
}

/// Which ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Numbers {
    /// Every one.
    All,
    /// From the first to the last.
    Range(u16, u16),
    /// What the pod at the receiving end calls so. An address that is no pod's has none.
    Named(String),
}

/// A port that a pod has a name for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

/// A pod that has addresses of its own, or will have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses: none before it has started.
    pub ips: BTreeSet<IpAddr>,
    /// The node it runs on.
    pub node: String,
    /// The ports it has names for.
    pub ports: BTreeSet<NamedPort>,
}
