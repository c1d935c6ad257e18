//! `[p]` Health as kube-proxy tells it: of services that want it (`healthCheckNodePort`), for load balancers; and of the
//! proxy itself. KEP-3836.
//!
//! Not for: listening (the caller does).

use std::collections::BTreeSet;

use crate::model::{Node, Service, ServiceKey, Slice};

/// A service whose balancer asks each node whether to send it traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where it asks.
    pub port: u16,
    /// Addresses on this node with a ready endpoint.
    pub local_endpoints: usize,
}

/// An answer over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// For the header `X-Load-Balancing-Endpoint-Weight`, if it is a service's.
    pub weight: Option<usize>,
    /// JSON.
    pub body: String,
}

/// What the Node object says about traffic from balancers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Eligibility {
    /// Not heard of yet.
    #[default]
    Unknown,
    /// It may come.
    Eligible,
    /// The node is being deleted, or is going to be removed by an autoscaler.
    Leaving,
}

/// Whether a service is to be asked about, and what the answer is.
pub fn check<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a Slice>,
    node: &Node,
) -> Option<HealthCheck> {
    let port = service.health_check_node_port?;
    // Terminating ones do not count, although they still get traffic: the balancer is to go elsewhere in time.
    let here = slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node.name.as_str()));
    let addresses: BTreeSet<_> = here.map(|endpoint| endpoint.ip).collect();
    Some(HealthCheck { port, local_endpoints: addresses.len() })
}

/// The answer of a service's port, whatever the path.
#[must_use]
pub fn of_service(key: &ServiceKey, check: &HealthCheck, proxy_healthy: bool) -> Answer {
    let count = check.local_endpoints;
    let ServiceKey { namespace, name } = key;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{namespace}\",\n\t\t\"name\": \"{name}\"\n\t}},\n\t\"localEndpoints\": \
         {count},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}"
    );
    Answer { status: if count > 0 && proxy_healthy { 200 } else { 503 }, weight: Some(count), body }
}

/// The proxy's `/healthz`, or its `/livez` where `eligibility` is not asked for. Times are RFC 3339.
#[must_use]
pub fn of_proxy(healthy: bool, eligibility: Option<Eligibility>, updated: &str, now: &str) -> Answer {
    let eligible = eligibility.map(|eligibility| eligibility == Eligibility::Eligible);
    let node = eligible.map(|eligible| format!(",\"nodeEligible\": {eligible}")).unwrap_or_default();
    let body =
        format!("{{\"lastUpdated\": \"{updated}\",\"currentTime\": \"{now}\"{node},\"healthy\": {healthy}}}");
    Answer { status: if healthy && eligible != Some(false) { 200 } else { 503 }, weight: None, body }
}
