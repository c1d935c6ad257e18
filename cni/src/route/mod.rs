//! Routes to the pods of other nodes: the full desired set, the difference to what there is, its application.
//!
//! Only routes that carry our protocol number are seen or touched. Not in here: how nodes find each other.

mod diff;

use std::net::IpAddr;

use orlop_model::net::IpNet;

pub(crate) use diff::{RouteOp, diff, valid};

use crate::{
    error::RouteError,
    netlink::{Error, Kind, Route, RouteSocket},
};

/// The pods of another node are reached through that node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRoute {
    /// The other node's pod CIDR.
    pub pod_cidr: IpNet,
    /// The other node's address, on a link of this one.
    pub via: IpAddr,
}

/// Makes the kernel hold these routes and no others of ours; goes on after a failure and reports all.
pub(crate) fn reconcile(own: &[IpNet], desired: &[NodeRoute], socket: &mut RouteSocket) -> Vec<RouteError> {
    let (desired, mut failures) = valid(own, desired);
    let actual = match actual(socket) {
        Ok(actual) => actual,
        Err(source) => return vec![RouteError::List(source)],
    };
    for op in diff(&desired, &actual) {
        if let Err(source) = apply(&op, socket) {
            failures.push(RouteError::Change { op: op.to_string(), source });
        }
    }
    failures
}

/// Our routes to other nodes; those to pods and to nowhere are not meant.
fn actual(socket: &mut RouteSocket) -> Result<Vec<NodeRoute>, Error> {
    let to_node = |route: Route| match route.kind {
        Kind::Via(via) => Some(NodeRoute { pod_cidr: route.to, via }),
        _ => None,
    };
    Ok(socket.routes()?.into_iter().filter_map(to_node).collect())
}

fn apply(op: &RouteOp, socket: &mut RouteSocket) -> Result<(), Error> {
    let route = |NodeRoute { pod_cidr, via }: NodeRoute| Route { to: pod_cidr, kind: Kind::Via(via) };
    match *op {
        RouteOp::Add(r) => socket.add_route(&route(r)),
        RouteOp::Change(r) => socket.replace_route(&route(r)),
        RouteOp::Delete(r) => socket.delete_route(&route(r)),
    }
}
