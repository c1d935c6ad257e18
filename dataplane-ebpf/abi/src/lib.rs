//! The bytes shared with the kernel: what stands in the maps, spelled out and asserted.
//!
//! For: the kernel programs and `orlop-dataplane`, which must agree on every byte.
//! Not for: logic, or the words of Kubernetes (`orlop-dataplane::model`).
//!
//! ```text
//! FRONTENDS    address, port, protocol, scope  ─▶ service, its two sets, what its policies ask for
//! SLOTS        service, set, slot              ─▶ backend
//! PLACES       service, set, part              ─▶ backends: where the hash of a packet leads
//! BACKENDS     backend                         ─▶ address, port, the service it belongs to
//! RECEIVERS    address, service                ─▶ backend: endpoints of this node that other nodes may send packets to
//! RANGES       service, prefix                 ─▶ 1: sources that a load-balancer address lets in (service 0: pods; the last
//!                                                 number: the other nodes)
//! ADDRESSES    address                         ─▶ this node's; whether it takes node ports
//! DEVICES      device                          ─▶ whether a pod is behind it, whether its packets need the stack, whether XDP is there
//! PORTS        device                          ─▶ the bridge that it is a port of
//! FIRST_POD    0                               ─▶ the lowest number of a device with a pod behind it; 0: there is none
//! ROUTES       0                               ─▶ how often routes and neighbours have changed
//! AFFINITIES   client, service                 ─▶ the backend it stays with (least recently used)
//! FLOWS        socket, address, port           ─▶ the other side of a translation (unconnected UDP; least recently used)
//! PEERS        socket                          ─▶ what the program asked for, and what it got (connected sockets, until closed)
//! CONNECTIONS  addresses, ports, protocol      ─▶ what a packet's addresses and ports become (least recently used)
//! FRAGMENTS    addresses, id                   ─▶ the ports, which only the first fragment carries
//! COUNTERS     service                         ─▶ connections, packets, bytes (one value per CPU)
//! DROPS        reason                          ─▶ packets (one value per CPU)
//! EVENTS                                    ─▶ a ring: new connections and what was decided
//! WATCHED      0                            ─▶ until which second somebody listens to it
//! SETTINGS     0                               ─▶ what holds for every service
//! UNTRANSLATED network namespace               ─▶ 1: its sockets are left alone, its packets are translated
//! CALLERS      0                               ─▶ the cgroup whose processes' sockets are translated, wherever the programs are; 0: all
//!
//! SUBJECTS     address of a local pod          ─▶ its sets of rules
//! IDENTITIES   address of a pod                ─▶ its identity, if any rule speaks of it
//! BLOCKS       family, prefix                  ─▶ class of addresses
//! RULES        set, peer, protocol, port       ─▶ the policy that allows it (longest prefix)
//! VERDICTS     pod, peer, ports, protocol      ─▶ what was decided about a flow (least recently used)
//! HITS         policy or set                   ─▶ flows let through, packets kept out (one value per CPU)
//! POLICY       0                               ─▶ generation of the rules
//! ```
//!
//! Addresses and ports are in network byte order, as the kernel hands them over: nothing is swapped per packet.
#![no_std]

mod connection;
mod event;
mod flow;
mod policy;
mod service;
mod settings;

pub use connection::{Connection, ConnectionKey, Counters, Drop, FragmentKey, Ports, Way};
pub use event::FlowEvent;
pub use flow::{Affinity, AffinityKey, Flow, FlowKey, Peer};
pub use policy::{Block, Hits, PolicyState, RuleKey, Subject, Verdict};
pub use service::{Backend, Frontend, FrontendKey, Places, Range, ReceiverKey, SlotKey};
pub use settings::Settings;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`: four words in network byte order. One form for both families
/// makes one set of maps and one path through the programs.
pub type Ip = [u32; 4];

/// Third word of an IPv4 address in an [`Ip`].
pub const MAPPED: u32 = 0xffff_u32.to_be();

/// Version of everything in this crate. Pinned maps live in a directory of this number, because a pinned map is
/// reused without a comparison of types: any change of a key or a value needs a new number.
pub const SCHEMA: u32 = 4;

/// Most service addresses (address, port and protocol) a node can hold.
pub const MAX_FRONTENDS: u32 = 65_536;
/// Most backends, counted once per service port they belong to.
pub const MAX_BACKENDS: u32 = 262_144;
/// Most slots: every backend can stand in one of each [set](SET_CLUSTER).
pub const MAX_SLOTS: u32 = 262_144;
/// Length of every table of choices: a prime, six hundred times as many as the backends that it is good for.
pub const TABLE: usize = 65_521;
/// Backends in each part of such a table.
pub const PLACES: usize = 240;
/// Most parts of all tables together; a table has 274.
pub const MAX_PLACES: u32 = MAX_FRONTENDS / 4;
/// Most endpoints on this node that other nodes may send packets to as they came.
pub const MAX_RECEIVERS: u32 = 4_096;
/// Most source ranges of all services together.
pub const MAX_RANGES: u32 = 65_536;
/// Most addresses of this node.
pub const MAX_ADDRESSES: u32 = 4_096;
/// Most devices of this node.
pub const MAX_DEVICES: u32 = 4_096;
/// Remembered clients of services with session affinity.
pub const MAX_AFFINITIES: u32 = 16_384;
/// Remembered translations of unconnected UDP sockets, two per conversation; the least recently used make room.
pub const MAX_FLOWS: u32 = 16_384;
/// Most open sockets that are connected to a service. Beyond that a connection works, but shows its backend as peer.
pub const MAX_PEERS: u32 = 131_072;
/// Entries of connections whose packets are translated, two per connection; the least recently used make room.
pub const MAX_CONNECTIONS: u32 = 65_536;
/// Bytes of the ring of events.
pub const EVENTS_BYTES: u32 = 128 * 1024;
/// Most network namespaces whose sockets are left alone.
pub const MAX_UNTRANSLATED: u32 = 1_024;
/// Datagrams whose fragments are under way.
pub const MAX_FRAGMENTS: u32 = 4_096;

/// Most addresses of local pods that a policy selects.
pub const MAX_SUBJECTS: u32 = 4_096;
/// Most addresses of pods that rules speak of.
pub const MAX_IDENTITIES: u32 = 262_144;
/// Most networks in address blocks.
pub const MAX_BLOCKS: u32 = 65_536;
/// Most rules of all sets together.
pub const MAX_RULES: u32 = 262_144;
/// Remembered flows of pods that a policy selects; the least recently used make room.
pub const MAX_VERDICTS: u32 = 65_536;
/// Most policies and sets that are counted.
pub const MAX_HITS: u32 = 16_384;

/// Protocol number of TCP.
pub const PROTO_TCP: u8 = 6;
/// Protocol number of UDP.
pub const PROTO_UDP: u8 = 17;
/// Protocol number of SCTP.
pub const PROTO_SCTP: u8 = 132;

/// Scope of a front end: an address of its own (cluster IP, external IP, load balancer). With port 0 and protocol 0 it
/// stands for all that the cluster IP's service does not have.
pub const SCOPE_ADDRESS: u8 = 0;
/// Scope of a front end: every address of this node that takes node ports; the address of the key is all zero, with
/// [`MAPPED`] as its third word for IPv4.
pub const SCOPE_NODE: u8 = 1;

/// Set of slots that holds the endpoints of policy `Cluster`.
pub const SET_CLUSTER: u8 = 0;
/// Set of slots that holds the endpoints of policy `Local`.
pub const SET_LOCAL: u8 = 1;

/// The policy is `Local`: use that set.
pub const FRONTEND_LOCAL: u16 = 1;
/// In spite of [`FRONTEND_LOCAL`], pods and the node itself use the set of `Cluster` (external traffic policy).
pub const FRONTEND_SHORTCUT: u16 = 1 << 1;
/// An endpoint that answers exists somewhere: an empty set means drop, not refuse.
pub const FRONTEND_ANY: u16 = 1 << 2;
/// Only sources in the [ranges](Range) of the service are let in.
pub const FRONTEND_RANGES: u16 = 1 << 3;
/// The backend sees this node as the source, whoever it was.
pub const FRONTEND_MASQUERADE: u16 = 1 << 4;
/// The backend sees this node as the source, unless a pod's address is the source.
pub const FRONTEND_MASQUERADE_OUTSIDE: u16 = 1 << 5;
/// Where there is a packet, the hash of its source chooses the backend, not chance.
pub const FRONTEND_HASH: u16 = 1 << 6;
/// It is about the ports of a cluster IP that its service does not have; for programs, which set it.
pub const FRONTEND_OTHER_PORTS: u16 = 1 << 7;

/// Packets from outside go to a backend on another node as they came, in a packet of this node's.
pub const FRONTEND_DIRECT: u16 = 1 << 8;

/// The backend is in the set of policy `Cluster`.
pub const BACKEND_CLUSTER: u16 = 1;
/// The backend is in the set of policy `Local`.
pub const BACKEND_LOCAL: u16 = 1 << 1;

/// TCP connections to the backend are ended when it is gone; for user space.
pub const BACKEND_CLOSE: u16 = 1 << 2;
/// The backend is on this node, and may be sent packets as they came.
pub const BACKEND_HERE: u16 = 1 << 3;
/// The backend is on another node, and may be sent packets as they came.
pub const BACKEND_AWAY: u16 = 1 << 4;

/// The address takes node ports.
pub const ADDRESS_NODE_PORTS: u32 = 1;

/// A pod is behind the device.
pub const DEVICE_POD: u32 = 1;
/// Its packets must pass through the node's stack: there is a queue for them, or the kernel has IPsec policies.
pub const DEVICE_STACK: u32 = 1 << 1;
/// Packets can be sent to it before the stack (XDP).
pub const DEVICE_EARLY: u32 = 1 << 2;

/// The key of pods in [`Range::service`].
pub const RANGE_PODS: u32 = 0;
/// The key of the other nodes in [`Range::service`].
pub const RANGE_NODES: u32 = u32::MAX;
