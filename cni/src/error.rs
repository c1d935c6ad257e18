//! One error per operation of [`crate::Network`]; variants name the step and the thing.

use std::{fmt, net::IpAddr};

use orlop_model::net::IpNet;

use crate::{
    attach::LinkError, cut::Busy, ipam::IpamError, names::LinkName, netlink::Error as NetlinkError,
    netns::NetnsError, plan::PlanError, route::OverlayError, sysctl::SysctlError,
};

/// The network could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration cannot work.
    #[error("network configuration: {0}")]
    Config(String),
    /// The address ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] IpamError),
    /// What is there already could not be read or tidied up.
    #[error("find links and routes of earlier runs")]
    Adopt(#[source] NetlinkError),
    /// No packets would be forwarded.
    #[error("switch on forwarding")]
    Forward(#[source] SysctlError),
    /// The masquerade rule could not be put up.
    #[error("put up the masquerade rule")]
    Masquerade(#[source] NetlinkError),
    /// Pods would not be held to their addresses.
    #[error("put up the rules about pods' addresses")]
    Guard(#[source] NetlinkError),
    /// The route that ends what is sent to addresses without a pod.
    #[error("add the unreachable route for {pod_cidr}")]
    PodCidrRoute {
        /// The node's pod CIDR.
        pod_cidr: IpNet,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// A pod could not be attached. What was done for it is undone.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The uid or the name could not be written down.
    #[error("pod {0:?}: uid or name has forbidden characters")]
    Name(String),
    /// The pod's namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A setting inside the pod's namespace.
    #[error("prepare the pod's network namespace")]
    Prepare(#[source] SysctlError),
    /// No netlink socket in one of the namespaces.
    #[error("talk to the {0}'s network namespace")]
    Socket(&'static str, #[source] NetlinkError),
    /// No address.
    #[error(transparent)]
    Address(#[from] IpamError),
    /// The node's rules would drop what the pod sends.
    #[error("let the pod send under its addresses")]
    Permit(#[source] NetlinkError),
    /// What is there could not be read.
    #[error("read the pod's links")]
    Observe(#[source] NetlinkError),
    /// What is there belongs to someone else.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// One step failed.
    #[error("{op}{}", also(left))]
    Step {
        /// The step, as the `ip` command that would do it.
        op: String,
        /// Why.
        #[source]
        source: LinkError,
        /// What could not be undone after it, and why.
        left: Vec<String>,
    },
}

/// A pod is not attached as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The pod's namespace cannot be used, or the kernel not be asked.
    #[error(transparent)]
    Look(#[from] AttachError),
    /// The ledger knows another address, or none.
    #[error("the pod's addresses are {known:?}, not {expected:?}")]
    Address {
        /// What the caller believes.
        expected: Vec<IpAddr>,
        /// What the ledger says; none if it does not know the pod.
        known: Vec<IpAddr>,
    },
    /// Something is missing.
    #[error("missing: {}", missing.join("; "))]
    Missing {
        /// As the `ip` commands that would repair it.
        missing: Vec<String>,
    },
}

/// Pods' links do not all have the MTU they should have.
#[derive(Debug, thiserror::Error)]
pub enum MtuError {
    /// What it should be could not be found out.
    #[error("find the MTU of the way out")]
    Discover(#[source] NetlinkError),
    /// A pod's link could not be changed.
    #[error("change the MTU of {pod}")]
    Pod {
        /// `namespace/name`.
        pod: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// A pod could not be detached wholly.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// No netlink socket.
    #[error("talk to the node's network namespace")]
    Socket(#[source] NetlinkError),
    /// Its link is still there, and it keeps its address.
    #[error("delete link {host}")]
    Link {
        /// The host side.
        host: LinkName,
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Another pod with its name could send under its addresses.
    #[error("take back that the pod may send under its addresses")]
    Forbid(#[source] NetlinkError),
    /// Its interface is called what it was.
    #[error("give the pod's interface another name")]
    Name {
        /// Why not.
        #[source]
        source: Busy,
    },
    /// Its address is still taken.
    #[error(transparent)]
    Address(#[from] IpamError),
}

/// What is wrong with one route between nodes.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// It would lead this node's own pods away.
    #[error("{route} covers this node's own pods")]
    Own {
        /// The route.
        route: String,
    },
    /// The next hop is no node.
    #[error("{route}: no node can be there")]
    NextHop {
        /// The route.
        route: String,
    },
    /// Two nodes claim the same pods; the first one has them.
    #[error("{also}: there is a {route}")]
    Twice {
        /// The one that is used.
        route: String,
        /// The one that is not.
        also: String,
    },
    /// The two nodes cannot talk to each other.
    #[error("no way to {pod_cidr}: of its node's addresses {addresses:?} none can be used from here")]
    NoAddress {
        /// The other node's pods.
        pod_cidr: IpNet,
        /// The other node's addresses.
        addresses: Vec<IpAddr>,
    },
    /// Nodes that are not on a link are not reached.
    #[error("set up the overlay")]
    Overlay(#[source] OverlayError),
    /// Pods' links have another MTU than they should.
    #[error(transparent)]
    Mtu(MtuError),
    /// No netlink socket, or the routes could not be read.
    #[error("list routes")]
    List(#[source] NetlinkError),
    /// The kernel refused.
    #[error("{op}")]
    Change {
        /// What was asked.
        op: String,
        /// Why not.
        #[source]
        source: NetlinkError,
    },
}

/// Some routes between nodes are not as desired; all others are.
#[derive(Debug)]
pub struct RoutesError {
    /// All failures.
    pub failures: Vec<RouteError>,
}

/// Something is left behind.
#[derive(Debug)]
pub struct UninstallError {
    /// All failures, each with its causes.
    pub failures: Vec<String>,
}

impl fmt::Display for RoutesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failures: Vec<_> = self.failures.iter().map(|failure| chain(failure)).collect();
        f.write_str(&failures.join("; "))
    }
}

impl std::error::Error for RoutesError {}

impl fmt::Display for UninstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.failures.join("; "))
    }
}

impl std::error::Error for UninstallError {}

/// An error with its causes, where several errors have to go into one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn also(left: &[String]) -> String {
    match left {
        [] => String::new(),
        _ => format!(" (and not undone: {})", left.join("; ")),
    }
}
