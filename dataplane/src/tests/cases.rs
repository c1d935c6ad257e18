//! `testdata/cases.yaml`: what kube-proxy does, row by row. Rows that this version cannot have yet stand here by name,
//! so that a row is judged or listed, never passed over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use expect_test::expect;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde_norway::Value;

use super::fixture::{Fixture, lists};
use super::node;
use crate::compile::candidates;
use crate::ingest;
use crate::maps::{FakeMaps, Maps as _};
use crate::model::{Endpoint, Node, Policy, Port, Protocol};
use crate::reconcile::State;
use crate::select::{Candidate, Policies, select};
use crate::tables::Vip;

#[derive(Deserialize)]
struct Cases {
    fixtures: BTreeMap<String, Fixture>,
    packets: Vec<Packet>,
    selection: Vec<Selection>,
    affinity: Value,
    udp_flush: Value,
    health: BTreeMap<String, Vec<Value>>,
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
}

#[derive(Deserialize)]
struct RowPolicy {
    internal: String,
    external: String,
    external_access: bool,
}

#[derive(Deserialize)]
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
            ip: Ipv4Addr::LOCALHOST.into(),
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
        let node = Node { name: from.node, zone: Some(from.zone).filter(|zone| !zone.is_empty()) };
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

#[derive(Deserialize)]
struct Packet {
    id: String,
    why: String,
    fixtures: Vec<String>,
    #[serde(default)]
    config: BTreeMap<String, Value>,
    packet: Dialled,
    expect: Option<PacketExpect>,
    iptables: Option<PacketExpect>,
    nftables: Option<PacketExpect>,
}

#[derive(Deserialize)]
struct Dialled {
    src: IpAddr,
    dst: IpAddr,
    dport: u16,
    proto: String,
}

#[derive(Debug, PartialEq, Deserialize)]
struct PacketExpect {
    verdict: String,
    #[serde(default)]
    backends: BTreeSet<SocketAddr>,
}

/// Why the socket hooks of this version do not see a packet.
fn not_yet(row: &Packet, cluster_ips: &BTreeSet<Ipv4Addr>) -> Option<&'static str> {
    let packet = &row.packet;
    let IpAddr::V4(dst) = packet.dst else { return Some("IPv6") };
    let src = packet.src.to_string();
    if packet.proto == "SCTP" {
        Some("SCTP")
    } else if !cluster_ips.contains(&dst) {
        Some("front ends other than the cluster IP")
    } else if src != "192.0.2.10" && src != "127.0.0.1" && !src.starts_with("10.42.1.") {
        Some("packets that come from another machine")
    } else if row.config.get("node_hints") == Some(&Value::Bool(false)) {
        Some("switching node hints off")
    } else {
        None
    }
}

#[test]
fn packet_rows() {
    let Cases { fixtures, packets, .. } = cases();
    assert_eq!(packets.len(), 137);
    let ips = fixtures.values().flat_map(|fixture| &fixture.service.cluster_ips);
    let cluster_ips: BTreeSet<Ipv4Addr> = ips.filter_map(|ip| ip.parse().ok()).collect();
    let mut later: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut judged = 0;
    for row in packets {
        if let Some(reason) = not_yet(&row, &cluster_ips) {
            later.entry(reason).or_default().push(row.id);
            continue;
        }
        judged += 1;
        let got = verdict(&row, &fixtures);
        // Where the modes of upstream differ, either is right.
        let allowed = [&row.expect, &row.iptables, &row.nftables];
        assert!(
            allowed.into_iter().flatten().any(|expect| *expect == got),
            "{}: {}: {got:?}",
            row.id,
            row.why
        );
    }
    let mut report = format!("judged {judged}\n");
    for (reason, rows) in later {
        writeln!(report, "not yet, {reason}: {}\n  {}", rows.len(), rows.join(" ")).unwrap();
    }
    expect![[r#"
        judged 37
        not yet, IPv6: 7
          p155 p156 p157 p158 p160 p161 p162
        not yet, SCTP: 3
          p021 p026 p027
        not yet, front ends other than the cluster IP: 79
          p016 p017 p018 p025 p028 p035 p036 p037 p038 p040 p041 p042 p043 p047 p051 p061 p062 p065 p067 p068 p070 p071 p072 p073 p075 p076 p077 p078 p081 p082 p083 p085 p086 p087 p088 p090 p091 p092 p093 p095 p096 p098 p100 p101 p102 p103 p105 p106 p108 p110 p111 p112 p115 p116 p117 p118 p120 p121 p122 p125 p126 p127 p128 p130 p131 p132 p133 p140 p146 p147 p148 p150 p151 p152 p153 p166 p167 p168 p171
        not yet, packets that come from another machine: 10
          p005 p006 p007 p008 p012 p032 p056 p080 p097 p123
        not yet, switching node hints off: 1
          p145
    "#]].assert_eq(&report);
}

fn verdict(row: &Packet, fixtures: &BTreeMap<String, Fixture>) -> PacketExpect {
    let installed: Vec<&Fixture> = row.fixtures.iter().map(|name| &fixtures[name]).collect();
    let mut state = State::new(FakeMaps::default(), node());
    lists(installed).into_iter().for_each(|update| state.ingest(update));
    state.sync();
    let tables = state.maps().dump().unwrap();
    let IpAddr::V4(ip) = row.packet.dst else { panic!("not a row of IPv4") };
    let protocol = if row.packet.proto == "UDP" { Protocol::Udp } else { Protocol::Tcp };
    let vip = Vip { ip, port: row.packet.dport, protocol };
    let found = tables.services.values().find_map(|entry| Some((entry, entry.frontends.get(&vip)?)));
    let choices = found.into_iter().flat_map(|(entry, frontend)| entry.choices(frontend).flatten());
    let backends: BTreeSet<_> = choices.map(SocketAddr::V4).collect();
    let verdict = match found {
        None => "pass",
        Some((_, frontend)) if frontend.none_local => "drop",
        Some(_) if backends.is_empty() => "reject",
        Some(_) => "forward",
    };
    PacketExpect { verdict: verdict.to_owned(), backends }
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
    let addresses = service.ports.iter().flat_map(|port| service.addresses(port));
    addresses.filter(SocketAddr::is_ipv4).map(|at| at.to_string()).collect()
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

/// Groups of rows that need parts which come later. A part that arrives takes its group out of here.
#[test]
fn groups_of_rows_for_later() {
    let Cases { affinity, udp_flush, health, .. } = cases();
    let count = |value: &Value, name: &str| value.get(name).and_then(Value::as_sequence).map_or(0, Vec::len);
    let health: Vec<_> = health.iter().map(|(name, rows)| format!("{name} {}", rows.len())).collect();
    let report = format!(
        "session affinity {}\nflush of connection tracking {}\nhealth: {}\n",
        count(&affinity, "cases"),
        count(&udp_flush, "entries"),
        health.join(", ")
    );
    expect![[r#"
        session affinity 16
        flush of connection tracking 20
        health: listener 4, proxy 8, service 10
    "#]]
    .assert_eq(&report);
}
