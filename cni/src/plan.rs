//! What to do to a pod's links, as data: `(PodLink, LinkState) -> ordered LinkOps`, and the undo of any prefix.
//! Pure.
//!
//! The order is the safety: nothing refers to a link before it exists, the host side is up before the pod side
//! (so the carrier is there at once), and the node's route comes last, so a pod that is half there is not
//! reachable. Every operation is named after the state it leads to.

use std::{fmt, net::Ipv4Addr};

use orlop_model::net::Ipv4Net;

use crate::names::{GATEWAY, HOST_MAC, LinkName, Mac, POD_INTERFACE, PROTOCOL};

/// What a pod's links should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod.
    pub uid: String,
    /// Host side's name.
    pub host: LinkName,
    /// The pod side's name.
    pub interface: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// MTU of both sides.
    pub mtu: u32,
    /// The pod side's hardware address, where it does not follow from the address.
    pub mac: Option<Mac>,
    /// Instead of a default route, one to here.
    pub only: Option<Ipv4Net>,
}

impl PodLink {
    /// Everything else follows from uid and address.
    pub fn new(uid: &str, address: Ipv4Addr, mtu: u32) -> Self {
        let interface = POD_INTERFACE.to_owned();
        Self {
            uid: uid.to_owned(),
            host: LinkName::for_pod(uid),
            interface,
            address,
            mtu,
            mac: None,
            only: None,
        }
    }

    /// Hardware address of the pod side.
    pub fn mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| Mac::for_address(self.address))
    }

    /// A step as the `ip` command that would do it here. (Steps do not know the interface's name: for all but some
    /// clients of the plugin it is `eth0`.)
    pub fn words(&self, op: &LinkOp) -> String {
        let named = |word| if word == POD_INTERFACE { self.interface.as_str() } else { word };
        op.to_string().split(' ').map(named).collect::<Vec<_>>().join(" ")
    }
}

/// What there is, as far as it matters to one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The link that has the pod's host name.
    pub host: Option<HostSide>,
    /// The pod side, found by its name.
    pub pod: Option<PodSide>,
    /// `lo` in the pod is up.
    pub loopback_up: bool,
}

/// The host side as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSide {
    /// Interface index.
    pub index: u32,
    /// Up, and labelled with the pod (both are set at once).
    pub up: bool,
    /// The pod's uid on its label, if it has one.
    pub uid: Option<String>,
    /// MTU.
    pub mtu: u32,
    /// Its removal was begun.
    pub doomed: bool,
    /// The /32 route to the pod is there.
    pub route: bool,
    /// The permanent neighbour entry for the pod is there.
    pub neighbour: bool,
}

/// The pod side as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSide {
    /// Interface index of the other end.
    pub peer: Option<u32>,
    /// Up.
    pub up: bool,
    /// MTU.
    pub mtu: u32,
    /// Hardware address.
    pub mac: Option<[u8; 6]>,
    /// All IPv4 addresses.
    pub addresses: Vec<Ipv4Addr>,
    /// The route through the gateway is there.
    pub route: bool,
    /// The permanent neighbour entry for the gateway is there.
    pub neighbour: bool,
}

/// One step. `Display` reads like the `ip` command that would do it, `POD` being the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are the operands that the Display of the variant shows")]
pub enum LinkOp {
    /// Remove a pair that cannot be used; there is no way back from this one.
    DeletePair { host: LinkName },
    /// Both sides, the pod's directly in its namespace.
    CreatePair { host: LinkName, host_mac: Mac, pod_mac: Mac, mtu: u32 },
    /// Per-link kernel settings of the host side: strict source check, no IPv6.
    TuneHost { host: LinkName },
    /// Host side up and labelled with the pod.
    HostUp { host: LinkName, uid: String },
    /// `lo` in the pod.
    LoopbackUp,
    /// The pod's address.
    PodAddress { address: Ipv4Addr },
    /// `eth0` in the pod.
    PodUp,
    /// Who the pod's gateway is.
    PodNeighbour { gateway: Ipv4Addr, mac: Mac },
    /// The pod's default route.
    PodRoute { gateway: Ipv4Addr },
    /// The pod's route through an interface that is not its first.
    PodRouteTo { to: Ipv4Net, gateway: Ipv4Addr },
    /// Both sides really send: after a link is up, the kernel drops what it should send until a worker of its
    /// own has seen the carrier. A lost first packet costs TCP a second.
    Carrier { host: LinkName },
    /// Who the pod is, for the node.
    HostNeighbour { host: LinkName, address: Ipv4Addr, mac: Mac },
    /// Where the pod is, for the node.
    HostRoute { host: LinkName, address: Ipv4Addr },
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The pod's namespace has an `eth0` that is not the other end of ours.
    #[error("the pod already has an interface {0} that is not from here")]
    Occupied(String),
    /// The host side's name belongs to another pod.
    #[error("interface {host} belongs to pod {uid}")]
    NameTaken {
        /// The name.
        host: LinkName,
        /// Its owner.
        uid: String,
    },
}

/// The steps from what there is to what should be; none if all is well.
///
/// # Errors
/// When what there is belongs to someone else.
pub fn plan(want: &PodLink, state: &LinkState) -> Result<Vec<LinkOp>, PlanError> {
    let host = want.host.clone();
    if let Some(HostSide { uid: Some(uid), .. }) = &state.host
        && *uid != want.uid
    {
        return Err(PlanError::NameTaken { host, uid: uid.clone() });
    }
    let ops = match (&state.host, &state.pod) {
        (Some(there), Some(pod)) if pod.peer == Some(there.index) => match usable(want, there, pod) {
            true => repair(want, there, pod),
            false => [vec![LinkOp::DeletePair { host }], build(want)].concat(),
        },
        (_, Some(_)) => return Err(PlanError::Occupied(want.interface.clone())),
        (Some(_), None) => [vec![LinkOp::DeletePair { host }], build(want)].concat(),
        (None, None) => build(want),
    };
    Ok(ops.into_iter().filter(|op| *op != LinkOp::LoopbackUp || !state.loopback_up).collect())
}

/// Which of the done steps to revert, in order. A pair made here takes all that was put on it along.
pub fn undo(done: &[LinkOp]) -> Vec<LinkOp> {
    let created = done.iter().any(|op| matches!(op, LinkOp::CreatePair { .. }));
    let own = |op: &&LinkOp| match op {
        LinkOp::DeletePair { .. } | LinkOp::TuneHost { .. } | LinkOp::Carrier { .. } => false,
        LinkOp::CreatePair { .. } | LinkOp::LoopbackUp => true,
        _ => !created,
    };
    done.iter().rev().filter(own).cloned().collect()
}

/// Whether the pair can become what is wanted without being made anew.
fn usable(want: &PodLink, host: &HostSide, pod: &PodSide) -> bool {
    let foreign_address = pod.addresses.iter().any(|a| *a != want.address);
    !host.doomed
        && pod.mac == Some(want.mac().0)
        && host.mtu == want.mtu
        && pod.mtu == want.mtu
        && !foreign_address
}

fn build(want: &PodLink) -> Vec<LinkOp> {
    let create = LinkOp::CreatePair {
        host: want.host.clone(),
        host_mac: HOST_MAC,
        pod_mac: want.mac(),
        mtu: want.mtu,
    };
    [vec![create], repair(want, &HostSide::default(), &PodSide::default())].concat()
}

fn repair(want: &PodLink, there: &HostSide, pod: &PodSide) -> Vec<LinkOp> {
    let PodLink { uid, host, address, only, .. } = want.clone();
    let mac = want.mac();
    let host_up = there.up && there.uid.is_some();
    let has_address = pod.addresses.contains(&address);
    [
        (!host_up).then(|| LinkOp::TuneHost { host: host.clone() }),
        (!host_up).then(|| LinkOp::HostUp { host: host.clone(), uid }),
        Some(LinkOp::LoopbackUp),
        (!has_address).then_some(LinkOp::PodAddress { address }),
        (!pod.up).then_some(LinkOp::PodUp),
        (!pod.neighbour).then_some(LinkOp::PodNeighbour { gateway: GATEWAY, mac: HOST_MAC }),
        (!pod.route).then_some(match only {
            None => LinkOp::PodRoute { gateway: GATEWAY },
            Some(to) => LinkOp::PodRouteTo { to, gateway: GATEWAY },
        }),
        (!there.neighbour).then(|| LinkOp::HostNeighbour { host: host.clone(), address, mac }),
        (!host_up || !pod.up).then(|| LinkOp::Carrier { host: host.clone() }),
        (!there.route).then_some(LinkOp::HostRoute { host, address }),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl fmt::Display for LinkOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeletePair { host } => write!(f, "link del {host}"),
            Self::CreatePair { host, host_mac, pod_mac, mtu } => write!(
                f,
                "link add {host} address {host_mac} mtu {mtu} type veth \
                 peer name {POD_INTERFACE} address {pod_mac} mtu {mtu} netns POD"
            ),
            Self::TuneHost { host } => write!(f, "sysctl {host} rp_filter=1 disable_ipv6=1"),
            Self::HostUp { host, uid } => write!(f, "link set {host} up alias pod:{uid}"),
            Self::LoopbackUp => write!(f, "POD link set lo up"),
            Self::PodAddress { address } => write!(f, "POD addr add {address}/32 dev {POD_INTERFACE}"),
            Self::PodUp => write!(f, "POD link set {POD_INTERFACE} up"),
            Self::PodNeighbour { gateway, mac } => {
                write!(f, "POD neigh add {gateway} lladdr {mac} dev {POD_INTERFACE} nud permanent")
            }
            Self::PodRoute { gateway } => {
                write!(f, "POD route add default via {gateway} dev {POD_INTERFACE} proto {PROTOCOL} onlink")
            }
            Self::PodRouteTo { to, gateway } => {
                write!(f, "POD route add {to} via {gateway} dev {POD_INTERFACE} proto {PROTOCOL} onlink")
            }
            Self::Carrier { host } => write!(f, "link show {host} up"),
            Self::HostNeighbour { host, address, mac } => {
                write!(f, "neigh add {address} lladdr {mac} dev {host} nud permanent")
            }
            Self::HostRoute { host, address } => {
                write!(f, "route add {address}/32 dev {host} proto {PROTOCOL}")
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
