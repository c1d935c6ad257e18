//! What to do to a pod's links, as data: `(PodLink, LinkState) -> ordered LinkOps`, and the undo of any prefix.
//! Pure.
//!
//! The order is the safety: nothing refers to a link before it exists, the host side is up before the pod side
//! (so the carrier is there at once), and the node's route comes last, so a pod that is half there is not
//! reachable. Every operation is named after the state it leads to.

use std::{fmt, net::IpAddr};

use orlop_model::net::{Family, IpNet};

use crate::{
    bandwidth::{Bandwidth, bucket},
    names::{HOST_MAC, LinkName, Mac, POD_INTERFACE, PROTOCOL, gateway},
    netlink::Bucket,
};

/// What a pod's links should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The pod.
    pub uid: String,
    /// Host side's name.
    pub host: LinkName,
    /// The pod side's name.
    pub interface: String,
    /// The pod's addresses, at most one of a family, the first one its main one.
    pub addresses: Vec<IpAddr>,
    /// MTU of both sides.
    pub mtu: u32,
    /// The pod side's hardware address, where it does not follow from the address.
    pub mac: Option<Mac>,
    /// Instead of default routes, those to here.
    pub only: Vec<IpNet>,
    /// How much may go through it.
    pub bandwidth: Bandwidth,
}

impl PodLink {
    /// Everything else follows from uid and addresses.
    pub fn new(uid: &str, addresses: Vec<IpAddr>, mtu: u32) -> Self {
        Self {
            uid: uid.to_owned(),
            host: LinkName::for_pod(uid),
            interface: POD_INTERFACE.to_owned(),
            addresses,
            mtu,
            mac: None,
            only: Vec::new(),
            bandwidth: Bandwidth::default(),
        }
    }

    /// Hardware address of the pod side.
    pub fn mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| Mac::for_addresses(&self.addresses))
    }

    /// A step as the `ip` command that would do it here. (Steps do not know the interface's name: for all but some
    /// clients of the plugin it is `eth0`.)
    pub fn words(&self, op: &LinkOp) -> String {
        let named = |word| if word == POD_INTERFACE { self.interface.as_str() } else { word };
        op.to_string().split(' ').map(named).collect::<Vec<_>>().join(" ")
    }

    /// The families it has addresses of.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.addresses.iter().map(|address| Family::of(*address))
    }

    /// Where the pod sends through which gateway.
    pub fn routes(&self) -> Vec<(IpNet, IpAddr)> {
        let of = |family: Family| {
            let to = self.only.iter().copied().filter(move |net| net.family() == family);
            to.chain(self.only.is_empty().then(|| IpNet::everything(family)))
                .map(move |to| (to, gateway(family)))
        };
        self.families().flat_map(of).collect()
    }

    /// Whether it has an IPv6 address.
    pub fn v6(&self) -> bool {
        self.families().any(|family| family == Family::V6)
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
    /// The pod's addresses that there is a route to.
    pub routes: Vec<IpAddr>,
    /// Those with a permanent neighbour entry.
    pub neighbours: Vec<IpAddr>,
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
    /// All addresses, but for those that IPv6 makes up itself.
    pub addresses: Vec<IpAddr>,
    /// Those of the pod's routes that are there: where to, through which gateway.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Gateways with a permanent neighbour entry.
    pub neighbours: Vec<IpAddr>,
}

/// One step. `Display` reads like the `ip` command that would do it, `POD` being the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are the operands that the Display of the variant shows")]
pub enum LinkOp {
    /// Remove a pair that cannot be used; there is no way back from this one.
    DeletePair { host: LinkName },
    /// Both sides, the pod's directly in its namespace.
    CreatePair { host: LinkName, host_mac: Mac, pod_mac: Mac, mtu: u32 },
    /// Per-link kernel settings of the host side: strict source check; IPv6 only where the pod has it, and then
    /// without addresses and routers that come by themselves.
    TuneHost { host: LinkName, v6: bool },
    /// Host side up and labelled with the pod.
    HostUp { host: LinkName, uid: String },
    /// The host side's MTU.
    HostMtu { host: LinkName, mtu: u32 },
    /// The pod side's MTU.
    PodMtu { mtu: u32 },
    /// What the pod gets is held to a rate, in bits per second.
    LimitIngress { host: LinkName, rate: u64, mtu: u32 },
    /// What the pod sends is led through a link of its own on the node, where nobody in the pod can lift the limit.
    LimitEgress { host: LinkName, rate: u64, mtu: u32 },
    /// `lo` in the pod.
    LoopbackUp,
    /// The pod's address.
    PodAddress { address: IpAddr },
    /// `eth0` in the pod.
    PodUp,
    /// Who the pod's gateway is.
    PodNeighbour { gateway: IpAddr, mac: Mac },
    /// A route of the pod, most often its default route.
    PodRoute { to: IpNet, gateway: IpAddr },
    /// Both sides really send: after a link is up, the kernel drops what it should send until a worker of its
    /// own has seen the carrier. A lost first packet costs TCP a second.
    Carrier { host: LinkName },
    /// The pod takes packets to its IPv6 address: the kernel lets it do so in a worker of its own.
    PodAnswers { address: IpAddr },
    /// Who the pod is, for the node.
    HostNeighbour { host: LinkName, address: IpAddr, mac: Mac },
    /// Where the pod is, for the node.
    HostRoute { host: LinkName, address: IpAddr },
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
        LinkOp::DeletePair { .. }
        | LinkOp::TuneHost { .. }
        | LinkOp::HostMtu { .. }
        | LinkOp::PodMtu { .. }
        | LinkOp::LimitIngress { .. }
        | LinkOp::Carrier { .. }
        | LinkOp::PodAnswers { .. } => false,
        LinkOp::CreatePair { .. } | LinkOp::LimitEgress { .. } | LinkOp::LoopbackUp => true,
        _ => !created,
    };
    done.iter().rev().filter(own).cloned().collect()
}

/// Whether the pair can become what is wanted without being made anew.
fn usable(want: &PodLink, host: &HostSide, pod: &PodSide) -> bool {
    let foreign_address = pod.addresses.iter().any(|a| !want.addresses.contains(a));
    !host.doomed && pod.mac == Some(want.mac().0) && !foreign_address
}

fn build(want: &PodLink) -> Vec<LinkOp> {
    let create = LinkOp::CreatePair {
        host: want.host.clone(),
        host_mac: HOST_MAC,
        pod_mac: want.mac(),
        mtu: want.mtu,
    };
    let (host, pod) =
        (HostSide { mtu: want.mtu, ..HostSide::default() }, PodSide { mtu: want.mtu, ..PodSide::default() });
    [vec![create], repair(want, &host, &pod)].concat()
}

fn repair(want: &PodLink, there: &HostSide, pod: &PodSide) -> Vec<LinkOp> {
    let PodLink { uid, host, addresses, .. } = want;
    let (host, mac) = (|| host.clone(), want.mac());
    let host_up = there.up && there.uid.is_some();
    let settled = host_up && pod.up;
    let gateways = want.families().map(gateway).filter(|gateway| !pod.neighbours.contains(gateway));
    let lacking = |present: &[IpAddr]| {
        let missing = addresses.iter().copied().filter(|address| !present.contains(address));
        missing.collect::<Vec<_>>().into_iter()
    };
    let mtu = [
        (there.mtu != want.mtu).then(|| LinkOp::HostMtu { host: host(), mtu: want.mtu }),
        (pod.mtu != want.mtu).then_some(LinkOp::PodMtu { mtu: want.mtu }),
    ];
    let up = [
        (!host_up).then(|| LinkOp::TuneHost { host: host(), v6: want.v6() }),
        (!host_up).then(|| LinkOp::HostUp { host: host(), uid: uid.clone() }),
        // Set again each time: to see whether they hold costs as much.
        want.bandwidth.ingress.map(|rate| LinkOp::LimitIngress { host: host(), rate, mtu: want.mtu }),
        want.bandwidth.egress.map(|rate| LinkOp::LimitEgress { host: host(), rate, mtu: want.mtu }),
        Some(LinkOp::LoopbackUp),
    ];
    let addresses = lacking(&pod.addresses).map(|address| LinkOp::PodAddress { address });
    let neighbours = gateways.map(|gateway| LinkOp::PodNeighbour { gateway, mac: HOST_MAC });
    let routes = want.routes().into_iter().filter(|route| !pod.routes.contains(route));
    let routes = routes.map(|(to, gateway)| LinkOp::PodRoute { to, gateway });
    let to_pod =
        lacking(&there.neighbours).map(|address| LinkOp::HostNeighbour { host: host(), address, mac });
    let carrier = (!settled).then(|| LinkOp::Carrier { host: host() });
    let unsure = news(want, pod).filter(|address| address.is_ipv6());
    let answers = unsure.map(|address| LinkOp::PodAnswers { address });
    let reachable = lacking(&there.routes).map(|address| LinkOp::HostRoute { host: host(), address });
    (mtu.into_iter().chain(up).flatten())
        .chain(addresses)
        .chain((!pod.up).then_some(LinkOp::PodUp))
        .chain(neighbours)
        .chain(routes)
        .chain(to_pod)
        .chain(carrier)
        .chain(answers)
        .chain(reachable)
        .collect()
}

/// Those of the pod's addresses that it has only just got, or whose link was down.
fn news(want: &PodLink, pod: &PodSide) -> impl Iterator<Item = IpAddr> {
    want.addresses.iter().copied().filter(|address| !pod.up || !pod.addresses.contains(address))
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
            Self::TuneHost { host, v6: false } => write!(f, "sysctl {host} rp_filter=1 disable_ipv6=1"),
            Self::TuneHost { host, v6: true } => {
                write!(f, "sysctl {host} rp_filter=1 disable_ipv6=0 addr_gen_mode=1 accept_ra=0")
            }
            Self::HostUp { host, uid } => write!(f, "link set {host} up arp off alias pod:{uid}"),
            Self::HostMtu { host, mtu } => write!(f, "link set {host} mtu {mtu}"),
            Self::PodMtu { mtu } => write!(f, "POD link set {POD_INTERFACE} mtu {mtu}"),
            Self::LimitIngress { host, rate, mtu } => {
                let Bucket { burst, limit, .. } = bucket(*rate, *mtu);
                write!(f, "qdisc replace dev {host} root tbf rate {rate}bit burst {burst} limit {limit}")
            }
            Self::LimitEgress { host, rate, mtu } => {
                let (shaper, Bucket { burst, limit, .. }) = (host.shaper(), bucket(*rate, *mtu));
                write!(
                    f,
                    "qdisc replace dev {shaper} root tbf rate {rate}bit burst {burst} limit {limit}; "
                )?;
                write!(
                    f,
                    "filter add dev {host} ingress u32 match u8 0 0 action mirred egress redirect dev {shaper}"
                )
            }
            Self::LoopbackUp => write!(f, "POD link set lo up"),
            Self::PodAddress { address } => {
                let nodad = if address.is_ipv6() { " nodad" } else { "" };
                write!(f, "POD addr add {} dev {POD_INTERFACE}{nodad}", IpNet::host(*address))
            }
            Self::PodUp => write!(f, "POD link set {POD_INTERFACE} up"),
            Self::PodNeighbour { gateway, mac } => {
                write!(f, "POD neigh add {gateway} lladdr {mac} dev {POD_INTERFACE} nud permanent")
            }
            Self::PodRoute { to, gateway } => {
                let to = if to.prefix() == 0 { "default".to_owned() } else { to.to_string() };
                write!(f, "POD route add {to} via {gateway} dev {POD_INTERFACE} proto {PROTOCOL} onlink")
            }
            Self::Carrier { host } => write!(f, "link show {host} up"),
            Self::PodAnswers { address } => write!(f, "POD route get {address}"),
            Self::HostNeighbour { host, address, mac } => {
                write!(f, "neigh add {address} lladdr {mac} dev {host} nud permanent")
            }
            Self::HostRoute { host, address } => {
                write!(f, "route add {} dev {host} proto {PROTOCOL}", IpNet::host(*address))
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
