//! Services and endpoints in our words: parsed, defaulted, and free of what cannot matter to a packet.
//!
//! Not for: the API's shapes and quirks (`ingest`), or choosing among endpoints (`select`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

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
    /// SCTP: translated packet by packet only, the kernel asks no socket hook.
    Sctp,
}

impl Protocol {
    /// Its number in packets.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => orlop_abi::PROTO_TCP,
            Self::Udp => orlop_abi::PROTO_UDP,
            Self::Sctp => orlop_abi::PROTO_SCTP,
        }
    }
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

/// An address family. The two are served independently of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Whether an address is of this family.
    #[must_use]
    pub fn has(self, ip: &IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
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
    /// Sources that the load-balancer addresses let in, of each family; where a family has none, all are.
    pub source_ranges: Vec<IpNet>,
    /// `internalTrafficPolicy`.
    pub internal: Policy,
    /// `externalTrafficPolicy`.
    pub external: Policy,
    /// Seconds a client stays with its endpoint, if the service asks for that.
    pub affinity_seconds: Option<u32>,
    /// Whether a packet's addresses and ports say where it goes, and not chance: the same on every node.
    pub by_hash: bool,
    /// Whether TCP connections are ended when their endpoint is gone.
    pub close_connections: bool,
    /// Where balancers ask whether to send traffic: type `LoadBalancer` with external policy `Local` only.
    pub health_check_node_port: Option<u16>,
    /// Its ports.
    pub ports: Vec<Port>,
}

impl Service {
    /// Whether something outside the cluster can reach this port.
    #[must_use]
    pub fn externally_accessible(&self, port: &Port) -> bool {
        port.node_port.is_some() || !self.load_balancer_ips.is_empty() || !self.external_ips.is_empty()
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

/// A `hostPort` of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Only at this address of the node; else at each that takes node ports.
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where the pod listens, one of each family it has.
    pub to: Vec<SocketAddr>,
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
    /// Every address it has, without loopback.
    pub addresses: BTreeSet<IpAddr>,
    /// Those in the Node's status, in that order: the first of a family is what masqueraded packets come from.
    pub primary: Vec<IpAddr>,
    /// Cookie of its network namespace; 0: unknown.
    pub netns: u64,
    /// Some pods' sockets are left alone.
    pub some_untranslated: bool,
    /// How it is set up.
    pub settings: Settings,
}

/// What kube-proxy's configuration says, as far as it matters to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Networks of pods (`clusterCIDR`, or the node's own): how to tell that a source is a pod. Empty: no way to tell.
    pub pods: Vec<IpNet>,
    /// `masqueradeAll`.
    pub masquerade_all: bool,
    /// `nodePortAddresses`.
    pub node_port_addresses: NodePortAddresses,
    /// How packets from outside reach endpoints on other nodes.
    pub load_balancing: LoadBalancing,
    /// `localhostNodePorts`: IPv4 only, as upstream.
    pub loopback_node_ports: bool,
    /// Sockets of pods are left alone, and their packets translated.
    pub host_sockets_only: bool,
    /// Whether hints that name nodes count (KEP-3015).
    pub node_hints: bool,
    /// Source ports of masqueraded packets, first and last: none that the node's own sockets use.
    pub masquerade_ports: (u16, u16),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pods: Vec::new(),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::All,
            load_balancing: LoadBalancing::Snat,
            loopback_node_ports: true,
            host_sockets_only: false,
            node_hints: true,
            // Above the kernel's default of `ip_local_port_range` (32768 to 60999).
            masquerade_ports: (61_000, 65_535),
        }
    }
}

/// How packets from outside reach an endpoint on another node, where the external policy is `Cluster`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LoadBalancing {
    /// They come from this node, and answers come back to it.
    #[default]
    Snat,
    /// The same; but packets that other nodes send on as they came are taken, while a cluster changes to that.
    Accept,
    /// They are sent on as they came, in a packet of this node's; answers go straight to the client.
    Dsr,
    /// TCP is sent on as it came, all else comes from this node.
    Hybrid,
}

impl LoadBalancing {
    /// Whether packets of a protocol are sent on as they came.
    #[must_use]
    pub fn is_direct(self, protocol: Protocol) -> bool {
        match self {
            Self::Snat | Self::Accept => false,
            Self::Dsr => true,
            Self::Hybrid => protocol == Protocol::Tcp,
        }
    }
}

/// Which of the node's addresses take node ports.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// All of them.
    #[default]
    All,
    /// Those in the Node's status.
    Primary,
    /// Those in these networks; a family without a network takes them at every address.
    In(Vec<IpNet>),
}

impl Node {
    /// Whether node ports are taken at this address of the node.
    #[must_use]
    pub fn takes_node_ports(&self, ip: &IpAddr) -> bool {
        match &self.settings.node_port_addresses {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => self.primary.contains(ip),
            NodePortAddresses::In(nets) => {
                let mut of_family = nets.iter().filter(|net| net.addr().is_ipv4() == ip.is_ipv4()).peekable();
                of_family.peek().is_none() || of_family.any(|net| net.contains(ip))
            }
        }
    }

    /// What masqueraded packets of a family come from.
    #[must_use]
    pub fn masquerade(&self, family: Family) -> Option<IpAddr> {
        self.primary.iter().chain(&self.addresses).copied().find(|ip| family.has(ip))
    }
}
