//! `testdata/cases.yaml`: what kube-proxy does, row by row, held against what the maps say. The root tier holds the
//! programs against the same rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde_norway::Value;

use super::fixture::{Fixture, lists};
use super::node;
use super::rows::{Dialled, Packet, PacketExpect, Rows, World, rows};
use crate::compile::{candidates, compile};
use crate::explain::{self, Explanation, Verdict, explain};
use crate::health::{self, Eligibility};
use crate::ingest;
use crate::maps::{FakeMaps, Maps as _};
use crate::model::{Endpoint, Node, Policy, Port, Protocol, Settings, Slice};
use crate::reconcile::State;
use crate::select::{Candidate, Policies, select};
use crate::tables::Host;

#[derive(Deserialize)]
struct Cases {
    selection: Vec<Selection>,
    health: Health,
    ingest: Vec<Ingest>,
}

fn cases() -> Cases {
    serde_norway::from_str(include_str!("../../testdata/cases.yaml")).unwrap()
}

#[derive(Deserialize)]
struct Selection {
    id: String,
    why: String,
    from: From,
    policy: RowPolicy,
    endpoints: Vec<RowEndpoint>,
    expect: SelectionExpect,
}

#[derive(Deserialize)]
struct From {
    node: String,
    zone: String,
    node_hints: bool,
}

#[derive(Deserialize)]
struct RowPolicy {
    internal: String,
    external: String,
    external_access: bool,
}

#[derive(Default, Deserialize)]
struct RowEndpoint {
    id: String,
    node: String,
    state: String,
    #[serde(default)]
    for_zones: Vec<String>,
    #[serde(default)]
    for_nodes: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct SelectionExpect {
    cluster: Option<BTreeSet<String>>,
    local: Option<BTreeSet<String>>,
    reachable: BTreeSet<String>,
    any: bool,
}

impl RowEndpoint {
    fn endpoint(&self) -> Endpoint {
        let (ready, serving, terminating) = match self.state.as_str() {
            "ready" => (true, true, false),
            "serving-terminating" => (false, true, true),
            "terminating" => (false, false, true),
            "not-ready" => (false, false, false),
            other => panic!("state {other}"),
        };
        Endpoint {
            ip: IpAddr::from([10, 0, 0, 1]),
            node: Some(self.node.clone()),
            ready,
            serving,
            terminating,
            for_zones: self.for_zones.clone(),
            for_nodes: self.for_nodes.clone(),
        }
    }
}

fn policy(text: &str) -> Policy {
    if text == "Local" { Policy::Local } else { Policy::Cluster }
}

#[test]
fn selection_rows() {
    let rows = cases().selection;
    assert_eq!(rows.len(), 33);
    for Selection {
        id,
        why,
        from,
        policy: RowPolicy { internal, external, external_access },
        endpoints,
        expect,
    } in rows
    {
        let parsed: Vec<_> = endpoints.iter().map(RowEndpoint::endpoint).collect();
        let candidates: Vec<_> = (1..)
            .zip(&parsed)
            .map(|(port, endpoint)| Candidate { at: SocketAddr::new(endpoint.ip, port), endpoint })
            .collect();
        let policies = Policies {
            internal: policy(&internal),
            external: policy(&external),
            externally_accessible: external_access,
        };
        let node = Node {
            name: from.node,
            zone: Some(from.zone).filter(|zone| !zone.is_empty()),
            settings: Settings { node_hints: from.node_hints, ..Settings::default() },
            ..Node::default()
        };
        let got = select(&candidates, policies, &node);
        let names = |set: &Option<Vec<Candidate<'_>>>| {
            set.as_ref()
                .map(|set| set.iter().map(|c| endpoints[usize::from(c.at.port()) - 1].id.clone()).collect())
        };
        let (cluster, local): (Option<BTreeSet<_>>, Option<BTreeSet<_>>) =
            (names(&got.cluster), names(&got.local));
        let reachable = cluster.iter().chain(&local).flatten().cloned().collect();
        assert_eq!(SelectionExpect { cluster, local, reachable, any: got.any }, expect, "{id}: {why}");
    }
}

/// Where upstream's modes differ, ours is nftables'.
#[test]
fn what_a_service_does_not_have_its_cluster_ip_refuses() {
    let Rows { world, fixtures, packets } = rows();
    let ours = packets.iter().filter(|row| ["p013", "p015"].contains(&row.id.as_str()));
    let verdicts: Vec<_> = ours.map(|row| verdict(row, &world, &fixtures)).collect();
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|got| got.verdict == "reject"), "{verdicts:?}");
}

#[test]
fn packet_rows() {
    let Rows { world, fixtures, packets } = rows();
    for row in packets {
        let got = verdict(&row, &world, &fixtures);
        assert!(row.allowed().contains(&got), "{}: {}: {got:?}", row.id, row.why);
    }
}

fn verdict(row: &Packet, world: &World, fixtures: &BTreeMap<String, Fixture>) -> PacketExpect {
    let installed: Vec<&Fixture> = row.fixtures.iter().map(|name| &fixtures[name]).collect();
    let mut state = State::new(FakeMaps::default(), world.node(&row.config));
    lists(installed).into_iter().for_each(|update| state.ingest(update));
    state.sync();
    let Dialled { src, dst, dport, .. } = &row.packet;
    let packet = explain::Packet {
        source: *src,
        destination: SocketAddr::new(*dst, *dport),
        protocol: row.protocol(),
    };
    let Explanation { verdict, .. } = explain(&state.maps().dump().unwrap(), &packet);
    let plain = |verdict: &str| PacketExpect { verdict: verdict.to_owned(), ..PacketExpect::default() };
    match verdict {
        Verdict::Pass => plain("pass"),
        Verdict::Reject => plain("reject"),
        Verdict::NoLocalEndpoint | Verdict::SourceRange => plain("drop"),
        Verdict::Forward(backends) => {
            let hairpin = backends.iter().any(|(at, _)| at.ip() == *src);
            let masquerade = match backends.iter().filter(|(_, masqueraded)| *masqueraded).count() {
                0 => "never",
                count if count == backends.len() => "always",
                1 if hairpin => "hairpin",
                count => panic!("{}: masquerades for {count} of {}", row.id, backends.len()),
            };
            PacketExpect {
                verdict: "forward".to_owned(),
                backends: backends.into_iter().map(|(at, _)| at).collect(),
                masquerade: Some(masquerade.to_owned()),
            }
        }
    }
}

#[derive(Deserialize)]
struct Ingest {
    id: String,
    why: String,
    input: Value,
    expect: IngestExpect,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct IngestExpect {
    #[serde(default)]
    endpoints: BTreeSet<IngestEndpoint>,
    #[serde(default)]
    frontends: BTreeSet<String>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct IngestEndpoint {
    addr: String,
    ready: bool,
    serving: bool,
    terminating: bool,
}

#[test]
fn ingest_rows() {
    let rows = cases().ingest;
    assert_eq!(rows.len(), 19);
    for Ingest { id, why, input, expect } in rows {
        let mut got = IngestExpect::default();
        if let Some(service) = input.get("service") {
            got.frontends = frontends(service);
        } else {
            let one = input.get("slice").cloned().into_iter();
            let many = input.get("slices").and_then(Value::as_sequence).cloned().unwrap_or_default();
            got.endpoints = endpoints(one.chain(many));
        }
        assert_eq!(got, expect, "{id}: {why}");
    }
}

/// The row leaves out what a real object has: type, metadata around the labels, the status around the ingress.
fn frontends(row: &Value) -> BTreeSet<String> {
    let mut object = core::Service::default();
    object.metadata.labels =
        row.get("labels").map(|labels| serde_norway::from_value(labels.clone()).unwrap());
    object.spec = Some(serde_norway::from_value(row.clone()).unwrap());
    if let Some(ingress) = row.get("ingress") {
        let ingress = serde_norway::from_value(ingress.clone()).unwrap();
        let balancer = core::LoadBalancerStatus { ingress: Some(ingress) };
        object.status = Some(core::ServiceStatus { load_balancer: Some(balancer), ..Default::default() });
    }
    let Some(service) = ingest::service(&object) else { return BTreeSet::new() };
    let compiled = compile(&service, std::iter::empty(), &node());
    let hosts = compiled.iter().flat_map(|port| port.frontends.keys());
    let hosts = hosts.filter(|vip| !vip.is_other_ports()).filter_map(|vip| match vip.host {
        Host::Ip(ip) => Some(SocketAddr::new(ip, vip.port)),
        Host::Node(_) => None,
    });
    hosts.filter(SocketAddr::is_ipv4).map(|at| at.to_string()).collect()
}

fn endpoints(rows: impl Iterator<Item = Value>) -> BTreeSet<IngestEndpoint> {
    let slices: Vec<_> = rows
        .enumerate()
        .filter_map(|(number, row)| {
            let mut object: discovery::EndpointSlice = serde_norway::from_value(row).unwrap();
            object.metadata.name = Some(format!("web-{number}"));
            let label = ("kubernetes.io/service-name".to_owned(), "web".to_owned());
            object.metadata.labels = Some(BTreeMap::from([label]));
            ingest::slice(&object)
        })
        .collect();
    let port = Port { name: "http".to_owned(), protocol: Protocol::Tcp, number: 80, node_port: None };
    candidates(&port, slices.iter(), &node())
        .iter()
        .filter(|candidate| candidate.at.is_ipv4())
        .map(|candidate| IngestEndpoint {
            addr: candidate.at.to_string(),
            ready: candidate.endpoint.ready,
            serving: candidate.endpoint.serving,
            terminating: candidate.endpoint.terminating,
        })
        .collect()
}

#[derive(Deserialize)]
struct Health {
    service: Vec<ServiceHealth>,
    listener: Vec<Listener>,
    proxy: Vec<ProxyHealth>,
}

#[derive(Deserialize)]
struct ServiceHealth {
    id: String,
    why: String,
    endpoints: Vec<HealthEndpoint>,
    proxy_healthy: bool,
    expect: HealthExpect,
}

#[derive(Deserialize)]
struct HealthEndpoint {
    addr: SocketAddr,
    node: String,
    state: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct HealthExpect {
    local_endpoints: usize,
    status: u16,
    header_weight: String,
    service_proxy_healthy: bool,
}

#[derive(Deserialize)]
struct Listener {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    external_traffic_policy: String,
    health_check_node_port: i32,
    listens: bool,
}

#[derive(Deserialize)]
struct ProxyHealth {
    id: String,
    late: Vec<String>,
    node: String,
    healthz: u16,
    livez: u16,
}

fn balanced(kind: &str, policy: &str, port: i32) -> crate::model::Service {
    let object = serde_json::json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {
            "type": kind, "clusterIP": "10.43.0.1", "externalTrafficPolicy": policy, "healthCheckNodePort": port,
            "ports": [{"port": 80}],
        },
    });
    ingest::service(&serde_json::from_value(object).unwrap()).unwrap()
}

#[test]
fn health_rows_of_services() {
    let service = balanced("LoadBalancer", "Local", 32150);
    for ServiceHealth { id, why, endpoints, proxy_healthy, expect } in cases().health.service {
        let slices = endpoints.iter().map(|row| {
            let endpoint =
                RowEndpoint { node: row.node.clone(), state: row.state.clone(), ..RowEndpoint::default() };
            let endpoint = Endpoint { ip: row.addr.ip(), ..endpoint.endpoint() };
            Slice {
                service: service.key.clone(),
                name: row.addr.to_string(),
                ports: Vec::new(),
                endpoints: vec![endpoint],
            }
        });
        let slices: Vec<_> = slices.collect();
        let check = health::check(&service, slices.iter(), &node()).unwrap();
        assert_eq!(check.port, 32150);
        let health::Answer { status, weight, body } = health::of_service(&service.key, &check, proxy_healthy);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["service"], serde_json::json!({"namespace": "ns", "name": "web"}));
        let got = HealthExpect {
            local_endpoints: body["localEndpoints"].as_u64().unwrap().try_into().unwrap(),
            status,
            header_weight: weight.unwrap().to_string(),
            service_proxy_healthy: body["serviceProxyHealthy"].as_bool().unwrap(),
        };
        assert_eq!(got, expect, "{id}: {why}");
    }
}

#[test]
fn health_rows_of_listeners() {
    for row in cases().health.listener {
        let service = balanced(&row.kind, &row.external_traffic_policy, row.health_check_node_port);
        assert_eq!(service.health_check_node_port.is_some(), row.listens, "{}", row.id);
    }
}

#[test]
fn health_rows_of_the_proxy() {
    for ProxyHealth { id, late, node, healthz, livez } in cases().health.proxy {
        let eligibility = match node.as_str() {
            "normal" => Eligibility::Eligible,
            "missing" => Eligibility::Unknown,
            _ => Eligibility::Leaving,
        };
        let answer = |eligibility| health::of_proxy(late.is_empty(), eligibility, "", "").status;
        assert_eq!((answer(Some(eligibility)), answer(None)), (healthz, livez), "{id}");
    }
}
