//! The maps' contents as values: what should stand in them, or what does. Printable, comparable, grouped by service.
//!
//! Not for: the bytes in the kernel (`orlop-abi`, converted in `maps`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use orlop_abi as abi;

use crate::compile::Rules;
use crate::model::{Family, Protocol};

/// Number of a service port in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(pub u32);

/// Number of a backend in the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(pub u32);

impl ServiceId {
    /// Not a service: the node's own addresses, and the networks of pods.
    pub const NODE: Self = Self(0);
    /// Not a service: the addresses of the other nodes.
    pub const NODES: Self = Self(abi::RANGE_NODES);
}

/// An address that clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// Address.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// The host part of what clients dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address of the service's own.
    Ip(IpAddr),
    /// Every address of this node that takes node ports.
    Node(Family),
}

impl Vip {
    /// All ports and protocols of a cluster IP that its service does not have.
    #[must_use]
    pub const fn other_ports(ip: IpAddr) -> Self {
        // No port has this number, so the protocol says nothing.
        Self { host: Host::Ip(ip), port: 0, protocol: Protocol::Tcp }
    }

    /// Whether it is that.
    #[must_use]
    pub const fn is_other_ports(&self) -> bool {
        matches!(self.host, Host::Ip(_)) && self.port == 0
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Ip(IpAddr::V4(ip)) if self.is_other_ports() => write!(f, "{ip}:*"),
            Host::Ip(IpAddr::V6(ip)) if self.is_other_ports() => write!(f, "[{ip}]:*"),
            Host::Ip(ip) => write!(f, "{}/{}", SocketAddr::new(ip, self.port), self.protocol),
            Host::Node(Family::V4) => write!(f, "node:{}/{}", self.port, self.protocol),
            Host::Node(Family::V6) => write!(f, "[node]:{}/{}", self.port, self.protocol),
        }
    }
}

/// A list of slots of a service: the endpoints of one traffic policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Endpoints anywhere.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// For which sources a backend sees this node instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Masquerade {
    #[default]
    /// Only for a backend that talks to itself.
    Never,
    /// For all that are no pods.
    Outside,
    /// For all.
    Always,
}

/// What stands behind a [`Vip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Frontend {
    /// What it does with a new connection.
    pub rules: Rules,
    /// How many slots [`Set::Cluster`] has.
    pub cluster: u16,
    /// How many slots [`Set::Local`] has.
    pub local: u16,
    /// An endpoint that could be used exists somewhere: where the set is empty, drop, do not refuse.
    pub any: bool,
    /// Seconds a client stays with its endpoint; 0: it does not.
    pub affinity_seconds: u32,
}

impl Frontend {
    /// The list for those outside the cluster, and its length.
    #[must_use]
    pub fn outside(&self) -> (Set, u16) {
        if self.rules.local { (Set::Local, self.local) } else { (Set::Cluster, self.cluster) }
    }

    /// The list for pods and the node, and its length.
    #[must_use]
    pub fn inside(&self) -> (Set, u16) {
        if self.rules.shortcut { (Set::Cluster, self.cluster) } else { self.outside() }
    }
}

/// Where an endpoint is, if packets may be sent to it as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Home {
    /// It does not matter, or is not known.
    #[default]
    Unsaid,
    /// On this node.
    Here,
    /// On another.
    Away,
}

/// Where connections go, and the lists it is in: in none, it only keeps its running conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Address and port.
    pub at: SocketAddr,
    /// In [`Set::Cluster`].
    pub cluster: bool,
    /// In [`Set::Local`].
    pub local: bool,
    /// TCP connections to it are ended when it is gone.
    pub close: bool,
    /// Where it is.
    pub home: Home,
}

/// A part of a table of choices. What is beyond the table's end is 0.
pub type Places = Arc<[BackendId; abi::PLACES]>;

/// All of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Entry {
    /// Its addresses.
    pub frontends: BTreeMap<Vip, Frontend>,
    /// Its choices.
    pub slots: BTreeMap<(Set, u16), BackendId>,
    /// Where a packet's hash leads, for those services that want that: parts of a [`maglev`](crate::maglev) table.
    pub places: BTreeMap<(Set, u16), Places>,
    /// Its backends: those of the slots, and those that only keep their running conversations.
    pub backends: BTreeMap<BackendId, Backend>,
    /// Sources that are let in (services), or that are pods ([`ServiceId::NODE`]).
    pub ranges: BTreeSet<IpNet>,
    /// The node's addresses, and whether they take node ports; only of [`ServiceId::NODE`].
    pub addresses: BTreeMap<IpAddr, bool>,
    /// What holds for every service; only of [`ServiceId::NODE`].
    pub own: Option<Own>,
}

/// What holds for every service of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Cookie of the node's network namespace; 0: unknown.
    pub netns: u64,
    /// What backends see as the source of masqueraded IPv4 packets.
    pub masquerade_v4: Option<IpAddr>,
    /// The same for IPv6.
    pub masquerade_v6: Option<IpAddr>,
    /// Source ports of masqueraded packets, first and last.
    pub masquerade_ports: (u16, u16),
    /// Programs of the node reach node ports at 127.0.0.1, too.
    pub loopback_node_ports: bool,
    /// There is a way to tell pods by their address.
    pub pods_known: bool,
    /// Only sockets of the node's own network namespace are translated.
    pub host_sockets_only: bool,
    /// Some network namespaces are among those whose sockets are left alone.
    pub some_untranslated: bool,
}

impl Entry {
    /// Whether nothing is left of it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.is_empty()
            && self.slots.is_empty()
            && self.places.is_empty()
            && self.backends.is_empty()
            && self.ranges.is_empty()
            && self.addresses.is_empty()
            && self.own.is_none()
    }

    /// What a client can get from a list of this length, in slot order. A slot that points nowhere shows as `None`.
    pub fn choices(&self, (set, count): (Set, u16)) -> impl Iterator<Item = Option<SocketAddr>> {
        (0..count).map(move |slot| {
            let id = self.slots.get(&(set, slot))?;
            self.backends.get(id).map(|backend| backend.at)
        })
    }
}

/// Everything, by service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tables {
    /// Entries; an empty one is removed.
    pub services: BTreeMap<ServiceId, Entry>,
}

/// One write of one map element, and the service it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Change what holds for every service.
    PutOwn(Own),
    /// Add or change an address of the node.
    PutAddress(IpAddr, bool),
    /// Add a range.
    PutRange(ServiceId, IpNet),
    /// Add or change a backend.
    PutBackend(ServiceId, BackendId, Backend),
    /// Add or change a slot.
    PutSlot(ServiceId, (Set, u16), BackendId),
    /// Add or change a part of a table of choices.
    PutPlaces(ServiceId, (Set, u16), Places),
    /// Add or change an address.
    PutFrontend(ServiceId, Vip, Frontend),
    /// Remove an address.
    DelFrontend(ServiceId, Vip),
    /// Remove a part of a table of choices.
    DelPlaces(ServiceId, (Set, u16)),
    /// Remove a slot.
    DelSlot(ServiceId, (Set, u16)),
    /// Remove a backend.
    DelBackend(ServiceId, BackendId),
    /// Remove a range.
    DelRange(ServiceId, IpNet),
    /// Remove an address of the node.
    DelAddress(IpAddr),
}

impl MapOp {
    /// Its place in the order that is safe: what is named before what names it, and the other way round for removals.
    pub(crate) fn step(&self) -> u8 {
        match self {
            Self::PutOwn(_) => 0,
            Self::PutAddress(..) => 1,
            Self::PutRange(..) => 2,
            Self::PutBackend(..) => 3,
            Self::PutSlot(..) => 4,
            Self::PutPlaces(..) => 5,
            Self::PutFrontend(..) => 6,
            Self::DelFrontend(..) => 7,
            Self::DelPlaces(..) => 8,
            Self::DelSlot(..) => 9,
            Self::DelBackend(..) => 10,
            Self::DelRange(..) => 11,
            Self::DelAddress(_) => 12,
        }
    }

    /// Whether it removes what could be another service's by now: its key does not say whose it is.
    pub(crate) fn removes_shared(&self) -> bool {
        matches!(self, Self::DelFrontend(..) | Self::DelBackend(..))
    }

    /// The service that the write is for.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        match self {
            Self::PutBackend(service, ..)
            | Self::PutSlot(service, ..)
            | Self::PutPlaces(service, ..)
            | Self::PutFrontend(service, ..)
            | Self::DelFrontend(service, ..)
            | Self::DelPlaces(service, ..)
            | Self::DelSlot(service, ..)
            | Self::PutRange(service, ..)
            | Self::DelRange(service, ..)
            | Self::DelBackend(service, ..) => *service,
            Self::PutOwn(_) | Self::PutAddress(..) | Self::DelAddress(..) => ServiceId::NODE,
        }
    }
}

impl fmt::Display for MapOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service().0;
        match self {
            Self::PutBackend(_, id, to) => write!(f, "service {service}: put backend {} {}", id.0, to.at),
            Self::PutRange(_, net) => write!(f, "service {service}: put range {net}"),
            Self::DelRange(_, net) => write!(f, "service {service}: delete range {net}"),
            Self::PutOwn(_) => write!(f, "put settings"),
            Self::PutAddress(ip, _) => write!(f, "put address {ip}"),
            Self::DelAddress(ip) => write!(f, "delete address {ip}"),
            Self::PutSlot(_, (set, slot), id) => {
                write!(f, "service {service}: put slot {set:?} {slot} -> backend {}", id.0)
            }
            Self::PutPlaces(_, (set, part), _) => write!(f, "service {service}: put places {set:?} {part}"),
            Self::DelPlaces(_, (set, part)) => write!(f, "service {service}: delete places {set:?} {part}"),
            Self::PutFrontend(_, vip, frontend) => {
                write!(f, "service {service}: put {vip} slots={}", frontend.outside().1)
            }
            Self::DelFrontend(_, vip) => write!(f, "service {service}: delete {vip}"),
            Self::DelSlot(_, (set, slot)) => write!(f, "service {service}: delete slot {set:?} {slot}"),
            Self::DelBackend(_, id) => write!(f, "service {service}: delete backend {}", id.0),
        }
    }
}

impl Tables {
    /// What the kernel would hold after this write.
    pub fn apply(&mut self, op: &MapOp) {
        let entry = self.services.entry(op.service()).or_default();
        match *op {
            MapOp::PutOwn(own) => drop(entry.own.replace(own)),
            MapOp::PutAddress(ip, node_ports) => drop(entry.addresses.insert(ip, node_ports)),
            MapOp::PutRange(_, net) => drop(entry.ranges.insert(net)),
            MapOp::PutBackend(_, id, backend) => drop(entry.backends.insert(id, backend)),
            MapOp::PutSlot(_, slot, id) => drop(entry.slots.insert(slot, id)),
            MapOp::PutPlaces(_, part, ref places) => drop(entry.places.insert(part, Arc::clone(places))),
            MapOp::DelPlaces(_, part) => drop(entry.places.remove(&part)),
            MapOp::PutFrontend(_, vip, frontend) => drop(entry.frontends.insert(vip, frontend)),
            MapOp::DelFrontend(_, vip) => drop(entry.frontends.remove(&vip)),
            MapOp::DelSlot(_, slot) => drop(entry.slots.remove(&slot)),
            MapOp::DelBackend(_, id) => drop(entry.backends.remove(&id)),
            MapOp::DelRange(_, net) => drop(entry.ranges.remove(&net)),
            MapOp::DelAddress(ip) => drop(entry.addresses.remove(&ip)),
        }
        if entry.is_empty() {
            self.services.remove(&op.service());
        }
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.services.iter().try_for_each(|(id, entry)| match *id {
            ServiceId::NODES => entry.ranges.iter().try_for_each(|net| writeln!(f, "node {net}")),
            _ => write!(f, "{entry}"),
        })
    }
}

/// One line per address, as an operator reads it: `10.96.0.1:80/TCP slots=2 10.42.0.5:8080 10.42.0.6:8080`.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (ip, node_ports) in &self.addresses {
            writeln!(f, "address {ip}{}", if *node_ports { " takes node ports" } else { "" })?;
        }
        if self.frontends.is_empty() {
            self.ranges.iter().try_for_each(|net| writeln!(f, "pods {net}"))?;
        }
        for (vip, frontend) in &self.frontends {
            if vip.is_other_ports() {
                writeln!(f, "{vip} refused")?;
                continue;
            }
            write!(f, "{vip} slots={}", frontend.outside().1)?;
            self.write_rules(f, frontend)?;
            self.write_choices(f, frontend.outside())?;
            if frontend.inside() != frontend.outside() {
                write!(f, " inside")?;
                self.write_choices(f, frontend.inside())?;
            }
            let kept: Vec<_> = self.backends.values().filter(|to| !to.cluster && !to.local).collect();
            if !kept.is_empty() {
                write!(f, " keeps")?;
                kept.iter().try_for_each(|to| write!(f, " {}", to.at))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Entry {
    fn write_rules(&self, f: &mut fmt::Formatter<'_>, frontend: &Frontend) -> fmt::Result {
        let (_, count) = frontend.outside();
        if frontend.rules.local {
            write!(f, " local")?;
        }
        if count == 0 && frontend.any {
            write!(f, " none-local")?;
        }
        match frontend.rules.masquerade {
            Masquerade::Never => {}
            Masquerade::Outside => write!(f, " masquerade-outside")?,
            Masquerade::Always => write!(f, " masquerade")?,
        }
        if frontend.rules.direct {
            write!(f, " direct")?;
        }
        if frontend.rules.by_hash {
            write!(f, " by-hash")?;
        }
        if frontend.affinity_seconds > 0 {
            write!(f, " affinity={}s", frontend.affinity_seconds)?;
        }
        if frontend.rules.guarded {
            write!(f, " from")?;
            self.ranges.iter().try_for_each(|net| write!(f, " {net}"))?;
            write!(f, " to")?;
        }
        Ok(())
    }

    fn write_choices(&self, f: &mut fmt::Formatter<'_>, list: (Set, u16)) -> fmt::Result {
        self.choices(list).try_for_each(|choice| match choice {
            Some(at) => write!(f, " {at}"),
            None => write!(f, " MISSING"),
        })
    }
}
