//! Services and endpoints in our words: parsed, defaulted, and free of what cannot matter to a packet.
//!
//! Not for: the API's shapes and quirks (`ingest`), or choosing among endpoints (`select`).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP: known, and left alone by the socket hooks.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Which endpoints a traffic policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Policy {
    /// Endpoints anywhere.
    #[default]
    Cluster,
    /// Endpoints on this node only.
    Local,
}

/// A Service that this proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Who it is.
    pub key: ServiceKey,
    /// Cluster IPs of both families.
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs of both families.
    pub external_ips: Vec<IpAddr>,
    /// Load-balancer addresses that are answered on the node.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `internalTrafficPolicy`.
    pub internal: Policy,
    /// `externalTrafficPolicy`.
    pub external: Policy,
    /// Seconds a client stays with its endpoint, if the service asks for that.
    pub affinity_seconds: Option<u32>,
    /// Its ports.
    pub ports: Vec<Port>,
}

impl Service {
    /// Whether something outside the cluster can reach this port.
    #[must_use]
    pub fn externally_accessible(&self, port: &Port) -> bool {
        port.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
    }

    /// Every address of its own under which this port is served.
    pub fn addresses(&self, port: &Port) -> impl Iterator<Item = SocketAddr> {
        let number = port.number;
        let ips = self.cluster_ips.iter().chain(&self.external_ips).chain(&self.load_balancer_ips);
        ips.map(move |ip| SocketAddr::new(*ip, number))
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Joins it to slice ports; empty if the service has one unnamed port.
    pub name: String,
    /// Joins it to slice ports, too.
    pub protocol: Protocol,
    /// The number clients dial.
    pub number: u16,
    /// The number on node addresses.
    pub node_port: Option<u16>,
}

/// An EndpointSlice: part of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The Service it belongs to.
    pub service: ServiceKey,
    /// Its own name, unique in the namespace.
    pub name: String,
    /// Ports that every endpoint of this slice has.
    pub ports: Vec<SlicePort>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service port.
    pub name: String,
    /// Protocol of the service port.
    pub protocol: Protocol,
    /// The number that is dialled at the endpoint.
    pub number: u16,
}

/// One endpoint, of any port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// The node it runs on.
    pub node: Option<String>,
    /// Takes new connections.
    pub ready: bool,
    /// Answers, ready or not.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// Zones that should use it; empty = no hint.
    pub for_zones: Vec<String>,
    /// Nodes that should use it; empty = no hint.
    pub for_nodes: Vec<String>,
}

/// The node this proxy runs on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// Name, as in `nodeName` of endpoints.
    pub name: String,
    /// Zone label.
    pub zone: Option<String>,
}
