//! Ways to the pods of other nodes: the full desired set, the difference to what there is, its application.
//!
//! ```text
//!  Peers ──plan [p]──▶ tunnels ──overlay──▶ device, forwarding and neighbour entries
//!                └───▶ routes ──diff [p]──▶ netlink
//! ```
//!
//! Only routes that carry our protocol number are seen or touched. Not in here: how nodes find each other.

mod diff;
pub(crate) mod overlay;
mod plan;

use std::{fmt, net::IpAddr};

use orlop_model::net::IpNet;

pub(crate) use diff::{RouteOp, diff, valid};
pub use overlay::OverlayError;
pub use plan::{Overlay, Peer};

use crate::{
    error::RouteError,
    netlink::{Error, Kind, Route, RouteSocket, Way},
    network::NetworkConfig,
};

/// The pods of another node are reached through that node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRoute {
    /// The other node's pod CIDR.
    pub pod_cidr: IpNet,
    /// How.
    pub hop: Hop,
}

/// The next step towards a node's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// The node's address.
    Via(IpAddr),
    /// The node's address inside of the overlay.
    Tunnel(IpAddr),
}

impl fmt::Display for NodeRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hop {
            Hop::Via(via) => write!(f, "route to {} via {via}", self.pod_cidr),
            Hop::Tunnel(hop) => write!(f, "route to {} via {hop} in the overlay", self.pod_cidr),
        }
    }
}

/// Makes the kernel hold ways to these nodes' pods and no others of ours; goes on after a failure and reports all.
pub(crate) fn reconcile(
    config: &NetworkConfig,
    mtu: u32,
    peers: &[Peer],
    socket: &mut RouteSocket,
) -> Vec<RouteError> {
    // A node whose way is not known is none on a link.
    let on_link = |address| matches!(socket.way(address), Ok(Some(Way::Over(link))) if !link.routed);
    let (wanted, mut failures) = plan::wanted(&config.node_ips, config.overlay, peers, on_link);
    let (desired, odd) = valid(&config.pod_cidrs, &wanted.routes);
    failures.extend(odd);
    let overlay = match overlay::prepare(config, mtu, &wanted.tunnels, socket) {
        Ok(overlay) => overlay,
        Err(source) => {
            failures.push(RouteError::Overlay(source));
            None
        }
    };
    let actual = match actual(overlay, socket) {
        Ok(actual) => actual,
        Err(source) => {
            failures.push(RouteError::List(source));
            return failures;
        }
    };
    for op in diff(&desired, &actual) {
        match apply(&op, overlay, socket) {
            Ok(()) => {}
            Err(source) => failures.push(RouteError::Change { op: op.to_string(), source }),
        }
    }
    // Last: routes that still led through it are now elsewhere.
    if wanted.tunnels.is_empty()
        && let Some(Err(source)) = overlay.map(|link| socket.delete_link(link))
    {
        failures.push(RouteError::Overlay(source.into()));
    }
    failures
}

/// Our routes to other nodes; those to pods and to nowhere are not meant.
fn actual(overlay: Option<u32>, socket: &mut RouteSocket) -> Result<Vec<NodeRoute>, Error> {
    let to_node = |route: Route| {
        let hop = match route.kind {
            Kind::Via(via) => Hop::Via(via),
            Kind::OnLink(hop, link) if Some(link) == overlay => Hop::Tunnel(hop),
            _ => return None,
        };
        Some(NodeRoute { pod_cidr: route.to, hop })
    };
    Ok(socket.routes()?.into_iter().filter_map(to_node).collect())
}

fn apply(op: &RouteOp, overlay: Option<u32>, socket: &mut RouteSocket) -> Result<(), Error> {
    let route = |NodeRoute { pod_cidr, hop }: NodeRoute| match (hop, overlay) {
        (Hop::Via(via), _) => Some(Route { to: pod_cidr, kind: Kind::Via(via) }),
        (Hop::Tunnel(hop), Some(link)) => Some(Route { to: pod_cidr, kind: Kind::OnLink(hop, link) }),
        // That there is no overlay was reported.
        (Hop::Tunnel(_), None) => None,
    };
    match *op {
        RouteOp::Add(r) => route(r).map_or(Ok(()), |route| socket.add_route(&route)),
        RouteOp::Change(r) => route(r).map_or(Ok(()), |route| socket.replace_route(&route)),
        RouteOp::Delete(r) => route(r).map_or(Ok(()), |route| socket.delete_route(&route)),
    }
}
