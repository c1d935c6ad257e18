//! From API objects to our words. Every quirk of the API lives here: what is skipped, defaulted or tolerated.
//!
//! Not for: joining slices (`index`) or choosing endpoints (`select`).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{Endpoint, Policy, Port, Protocol, Service, ServiceKey, Slice, SlicePort};

/// A Service or slice with this label is another proxy's, whatever the value.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// A Service or slice with this label is for DNS only, whatever the value.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// How an endpoint is chosen for packets: `maglev`, else by chance.
const LOAD_BALANCING: &str = "orlop.dev/load-balancing";
/// TCP connections of a Service with this annotation (`"true"`) are ended when their endpoint is gone.
const CLOSE_CONNECTIONS: &str = "orlop.dev/close-connections";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// The key of any Service object, also of one that is skipped.
#[must_use]
pub fn service_key(meta: &ObjectMeta) -> ServiceKey {
    ServiceKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The Service, or `None` if it is not ours to serve: headless, `ExternalName`, or left to another proxy.
#[must_use]
pub fn service(object: &core::Service) -> Option<Service> {
    let spec = object.spec.as_ref()?;
    if foreign(&object.metadata) || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty() {
        return None;
    }
    Some(Service {
        key: service_key(&object.metadata),
        cluster_ips,
        external_ips: spec.external_ips.iter().flatten().filter_map(|ip| address(ip)).collect(),
        load_balancer_ips: load_balancer_ips(object),
        source_ranges: source_ranges(spec),
        internal: policy(spec.internal_traffic_policy.as_deref()),
        external: policy(spec.external_traffic_policy.as_deref()),
        affinity_seconds: affinity(spec),
        by_hash: annotation(&object.metadata, LOAD_BALANCING) == Some("maglev"),
        close_connections: annotation(&object.metadata, CLOSE_CONNECTIONS) == Some("true"),
        health_check_node_port: health_check_node_port(spec),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
    })
}

fn health_check_node_port(spec: &core::ServiceSpec) -> Option<u16> {
    let balanced = spec.type_.as_deref() == Some("LoadBalancer");
    let local = policy(spec.external_traffic_policy.as_deref()) == Policy::Local;
    spec.health_check_node_port.filter(|_| balanced && local).and_then(number)
}

/// The key under which a slice is kept: its namespace and its own name.
#[must_use]
pub fn slice_key(object: &discovery::EndpointSlice) -> (String, String) {
    let ServiceKey { namespace, name } = service_key(&object.metadata);
    (namespace, name)
}

/// The slice, or `None` if it can hold no endpoint of ours: no service, host names, or left to another proxy.
#[must_use]
pub fn slice(object: &discovery::EndpointSlice) -> Option<Slice> {
    let family_is_v4 = match object.address_type.as_str() {
        "IPv4" => true,
        "IPv6" => false,
        _ => return None,
    };
    if foreign(&object.metadata) {
        return None;
    }
    let ServiceKey { namespace, name } = service_key(&object.metadata);
    let service = object.metadata.labels.as_ref()?.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some(Slice {
        service: ServiceKey { namespace, name: service.clone() },
        name,
        ports: object.ports.iter().flatten().filter_map(slice_port).collect(),
        endpoints: object
            .endpoints
            .iter()
            .filter_map(endpoint)
            .filter(|endpoint| endpoint.ip.is_ipv4() == family_is_v4)
            .collect(),
    })
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn foreign(meta: &ObjectMeta) -> bool {
    meta.labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(OTHER_PROXY) || labels.contains_key(HEADLESS))
}

/// `clusterIPs`, or the older `clusterIP` where a client or server left the list out.
fn cluster_ips(spec: &core::ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
    let single = spec.cluster_ip.as_slice();
    listed.unwrap_or(single).iter().filter_map(|ip| address(ip)).collect()
}

fn load_balancer_ips(object: &core::Service) -> Vec<IpAddr> {
    let status = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|balancer| balancer.ingress.as_ref());
    entries
        .into_iter()
        .flatten()
        .filter(|entry| entry.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|entry| address(entry.ip.as_deref()?))
        .collect()
}

/// A range that holds everything, anywhere in the list, turns the filter of its family off.
fn source_ranges(spec: &core::ServiceSpec) -> Vec<IpNet> {
    let texts = spec.load_balancer_source_ranges.iter().flatten();
    let nets: Vec<IpNet> = texts.filter_map(|text| range(text.trim())).collect();
    let open = |v4| nets.iter().any(|net| net.addr().is_ipv4() == v4 && net.prefix_len() == 0);
    let (v4, v6) = (open(true), open(false));
    nets.into_iter().filter(|net| if net.addr().is_ipv4() { !v4 } else { !v6 }).collect()
}

fn range(text: &str) -> Option<IpNet> {
    let (ip, prefix) = text.split_once('/')?;
    Some(IpNet::new(address(ip)?, prefix.parse().ok()?).ok()?.trunc())
}

fn affinity(spec: &core::ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds =
        config.and_then(|config| config.timeout_seconds).and_then(|seconds| u32::try_from(seconds).ok());
    Some(seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS))
}

fn port(port: &core::ServicePort) -> Option<Port> {
    Some(Port {
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.protocol.as_deref())?,
        number: number(port.port)?,
        node_port: port.node_port.and_then(number),
    })
}

/// A port without a name pointer, a number, or with number 0 names nothing that could be dialled.
fn slice_port(port: &discovery::EndpointPort) -> Option<SlicePort> {
    Some(SlicePort {
        name: port.name.clone()?,
        protocol: protocol(port.protocol.as_deref())?,
        number: number(port.port?)?,
    })
}

fn endpoint(endpoint: &discovery::Endpoint) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    Some(Endpoint {
        ip: address(endpoint.addresses.first()?).filter(reachable)?,
        node: endpoint.node_name.clone(),
        ready: conditions.and_then(|c| c.ready).unwrap_or(true),
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        for_zones: zones.into_iter().flatten().map(|zone| zone.name.clone()).collect(),
        for_nodes: nodes.into_iter().flatten().map(|node| node.name.clone()).collect(),
    })
}

/// No endpoint can live there: upstream's API refuses these, and a hostile object must not turn a service against its
/// node (`validateNonSpecialIP`).
fn reachable(ip: &IpAddr) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !special && !link_local
}

fn policy(value: Option<&str>) -> Policy {
    if value == Some("Local") { Policy::Local } else { Policy::Cluster }
}

/// TCP where nothing is said; nothing for what we do not know.
pub(crate) fn protocol(value: Option<&str>) -> Option<Protocol> {
    match value {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

/// A port that can be dialled.
pub(crate) fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// An address as the API allows it: IPv4 octets may have leading zeros, which stand in old objects and are decimal.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let octets: Vec<&str> = text.split('.').collect();
    let octets: [&str; 4] = octets.try_into().ok()?;
    let mut bytes = [0; 4];
    for (byte, text) in bytes.iter_mut().zip(octets) {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        *byte = text.parse().ok().filter(|_| digits)?;
    }
    Some(IpAddr::V4(Ipv4Addr::from(bytes)))
}
