//! Services in short: YAML as in `testdata/cases.yaml`, turned into the API objects a watch would deliver.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use orlop_dataplane::Update;
use orlop_model::event::Event;
use serde::Deserialize;

/// A Service and its endpoints.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fixture {
    pub(crate) service: ServiceSpec,
    #[serde(default)]
    pub(crate) endpoints: Vec<EndpointSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    pub(crate) name: String,
    #[serde(rename = "type", default = "cluster_ip")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) cluster_ips: Vec<String>,
    #[serde(default)]
    pub(crate) ports: Vec<PortSpec>,
    pub(crate) external_traffic_policy: Option<String>,
    pub(crate) internal_traffic_policy: Option<String>,
    #[serde(default)]
    pub(crate) external_ips: Vec<String>,
    #[serde(default)]
    pub(crate) lb_ingress: Vec<IngressSpec>,
    #[serde(default)]
    pub(crate) source_ranges: Vec<String>,
    pub(crate) health_check_node_port: Option<i32>,
    pub(crate) external_name: Option<String>,
    /// `ClientIP` for so many seconds.
    pub(crate) affinity_seconds: Option<i32>,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PortSpec {
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) protocol: Option<String>,
    pub(crate) port: i32,
    pub(crate) node_port: Option<i32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IngressSpec {
    pub(crate) ip: Option<String>,
    pub(crate) ip_mode: Option<String>,
    pub(crate) hostname: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndpointSpec {
    pub(crate) ip: String,
    pub(crate) node: Option<String>,
    pub(crate) ports: BTreeMap<String, i32>,
    pub(crate) ready: Option<bool>,
    pub(crate) serving: Option<bool>,
    pub(crate) terminating: Option<bool>,
    #[serde(default)]
    pub(crate) for_zones: Vec<String>,
    #[serde(default)]
    pub(crate) for_nodes: Vec<String>,
}

fn cluster_ip() -> String {
    "ClusterIP".to_owned()
}

impl Fixture {
    /// The Service as the API would show it.
    pub(crate) fn service(&self) -> core::Service {
        let spec = self.service.clone();
        let ports = spec.ports.iter().map(|port| core::ServicePort {
            name: Some(port.name.clone()),
            protocol: port.protocol.clone(),
            port: port.port,
            node_port: port.node_port,
            ..Default::default()
        });
        let ingress = spec.lb_ingress.iter().map(|entry| core::LoadBalancerIngress {
            ip: entry.ip.clone(),
            ip_mode: entry.ip_mode.clone(),
            hostname: entry.hostname.clone(),
            ..Default::default()
        });
        let affinity = spec.affinity_seconds.map(|timeout_seconds| core::SessionAffinityConfig {
            client_ip: Some(core::ClientIPConfig { timeout_seconds: Some(timeout_seconds) }),
        });
        let balancer = core::LoadBalancerStatus { ingress: Some(ingress.collect()) };
        core::Service {
            metadata: ObjectMeta { annotations: Some(spec.annotations), ..meta(&spec.name, spec.labels) },
            spec: Some(core::ServiceSpec {
                type_: Some(spec.kind),
                cluster_ip: spec.cluster_ips.first().cloned(),
                cluster_ips: Some(spec.cluster_ips),
                ports: Some(ports.collect()),
                external_traffic_policy: spec.external_traffic_policy,
                internal_traffic_policy: spec.internal_traffic_policy,
                external_ips: Some(spec.external_ips),
                load_balancer_source_ranges: Some(spec.source_ranges),
                health_check_node_port: spec.health_check_node_port,
                external_name: spec.external_name,
                session_affinity: affinity.as_ref().map(|_| "ClientIP".to_owned()),
                session_affinity_config: affinity,
                ..Default::default()
            }),
            status: Some(core::ServiceStatus { load_balancer: Some(balancer), ..Default::default() }),
        }
    }

    /// One slice per family and set of ports, as the controller would write them.
    pub(crate) fn slices(&self) -> Vec<discovery::EndpointSlice> {
        let protocols: BTreeMap<_, _> =
            self.service.ports.iter().map(|port| (port.name.clone(), port.protocol.clone())).collect();
        let mut slices: BTreeMap<_, discovery::EndpointSlice> = BTreeMap::new();
        for spec in &self.endpoints {
            let family = if spec.ip.contains(':') { "IPv6" } else { "IPv4" };
            let count = slices.len();
            let slice = slices.entry((family, spec.ports.clone())).or_insert_with(|| {
                let labels = [("kubernetes.io/service-name".to_owned(), self.service.name.clone())];
                let ports = spec.ports.iter().map(|(name, number)| discovery::EndpointPort {
                    name: Some(name.clone()),
                    port: Some(*number),
                    protocol: protocols.get(name).cloned().flatten(),
                    ..Default::default()
                });
                discovery::EndpointSlice {
                    metadata: meta(&format!("{}-{count}", self.service.name), BTreeMap::from(labels)),
                    address_type: family.to_owned(),
                    ports: Some(ports.collect()),
                    endpoints: Vec::new(),
                }
            });
            slice.endpoints.push(spec.endpoint());
        }
        slices.into_values().collect()
    }
}

impl EndpointSpec {
    fn endpoint(&self) -> discovery::Endpoint {
        let zones = self.for_zones.iter().map(|name| discovery::ForZone { name: name.clone() }).collect();
        let nodes = self.for_nodes.iter().map(|name| discovery::ForNode { name: name.clone() }).collect();
        discovery::Endpoint {
            addresses: vec![self.ip.clone()],
            node_name: self.node.clone(),
            conditions: Some(discovery::EndpointConditions {
                ready: self.ready,
                serving: self.serving,
                terminating: self.terminating,
            }),
            hints: Some(discovery::EndpointHints { for_zones: Some(zones), for_nodes: Some(nodes) }),
            ..Default::default()
        }
    }
}

/// The first lists of a cluster that has these services.
pub(crate) fn lists<'a>(fixtures: impl IntoIterator<Item = &'a Fixture> + Clone) -> [Update; 2] {
    let services = fixtures.clone().into_iter().map(Fixture::service).collect();
    let slices = fixtures.into_iter().flat_map(Fixture::slices).collect();
    [Update::Service(Event::Reset(services)), Update::EndpointSlice(Event::Reset(slices))]
}

/// Fixtures from YAML: a list.
pub(crate) fn parse(yaml: &str) -> Vec<Fixture> {
    serde_norway::from_str(yaml).unwrap_or_else(|error| panic!("fixture: {error}\n{yaml}"))
}

fn meta(name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some(labels),
        ..Default::default()
    }
}
