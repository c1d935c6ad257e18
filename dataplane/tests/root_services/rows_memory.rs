//! The rows about what is remembered, through the programs: which backend a client stays with, and which flows move on when
//! theirs is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use aya::maps::{HashMap, Map, MapData};
use orlop_abi::{Affinity, AffinityKey};
use orlop_dataplane::loader::{self, Devices, Side, pins};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::model::{Node, Protocol};
use orlop_dataplane::reconcile::State;
use serde::Deserialize;

use crate::fixture::{EndpointSpec, Fixture, IngressSpec, PortSpec, lists, parse};
use crate::frame::{first, later};
use crate::frame_read::ends;
use crate::room::{Room, isolated};
use crate::rows::{Rows, rows};

const NEXT: i32 = -1;
/// A fresh choice among three is the old one in one of 10^15 runs.
const ROUNDS: usize = 32;

#[derive(Deserialize)]
struct Memory {
    affinity: Affinities,
    udp_flush: Flushes,
}

#[derive(Deserialize)]
struct Affinities {
    defaults: Defaults,
    cases: Vec<Case>,
}

#[derive(Clone, Deserialize)]
struct Defaults {
    timeout_s: i32,
    cluster_ip: IpAddr,
    port: u16,
    second_port: u16,
    node_port: u16,
    vip: IpAddr,
    endpoints: Vec<IpAddr>,
}

#[derive(Deserialize)]
struct Case {
    id: String,
    why: String,
    #[serde(default)]
    r#override: Override,
    steps: Vec<Step>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    timeout_s: Option<i32>,
    external_traffic_policy: Option<String>,
    endpoints: Option<Vec<IpAddr>>,
    protocol: Option<String>,
}

/// Source ports are not the rows': every connection here is from another.
#[derive(Deserialize)]
struct Step {
    t: u32,
    src: IpAddr,
    dst: IpAddr,
    dport: u16,
    change: Option<String>,
    expect: Expect,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expect {
    New,
    SameAs(usize),
    OneOf(BTreeSet<IpAddr>),
}

fn memory() -> Memory {
    let memory: Memory = serde_norway::with::singleton_map_recursive::deserialize(
        serde_norway::Deserializer::from_str(include_str!("../../testdata/cases.yaml")),
    )
    .unwrap();
    assert_eq!((memory.affinity.cases.len(), memory.udp_flush.entries.len()), (16, 20));
    memory
}

/// What the kernel holds, and the programs.
struct Bench {
    maps: Option<KernelMaps>,
    devices: Devices,
    node: Node,
    affinities: HashMap<MapData, AffinityKey, Affinity>,
}

impl Bench {
    fn new(room: &Room) -> Self {
        let Rows { world, .. } = rows();
        let loaded = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
        let affinities = MapData::from_pin(pins(&room.bpffs).join("AFFINITIES")).unwrap();
        Self {
            maps: Some(loaded.maps),
            devices: loaded.devices,
            node: world.node(&BTreeMap::new()),
            affinities: Map::from_map_data(affinities).unwrap().try_into().unwrap(),
        }
    }

    /// Has the maps say this and nothing else.
    fn serve<'a>(&mut self, fixtures: impl IntoIterator<Item = &'a Fixture> + Clone) {
        let mut state = State::new(self.maps.take().unwrap(), self.node.clone());
        lists(fixtures).into_iter().for_each(|update| state.ingest(update));
        state.sync();
        assert_eq!(state.status().failures, BTreeMap::new());
        self.maps = Some(state.into_maps());
    }

    /// Where a packet goes.
    fn send(&self, protocol: Protocol, frame: &[u8], id: &str) -> SocketAddr {
        let result = self.devices.test_run(Side::In, frame, 1).unwrap();
        assert_eq!(result.action, NEXT, "{id}");
        ends(protocol, &result.frame).destination
    }

    /// As if so much time had passed.
    fn age(&mut self, seconds: u32) {
        let held: Vec<_> = self.affinities.iter().map(Result::unwrap).collect();
        for (key, value) in held {
            let seen = value.seen.wrapping_sub(seconds);
            self.affinities.insert(key, Affinity { seen, ..value }, 0).unwrap();
        }
    }

    fn forget(&mut self) {
        let held: Vec<_> = self.affinities.keys().map(Result::unwrap).collect();
        held.iter().for_each(|key| self.affinities.remove(key).unwrap());
    }
}

fn protocol(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("protocol {other}"),
    }
}

/// Seconds as the programs count them, unless the machine has slept.
fn second() -> String {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    uptime.split('.').next().unwrap().to_owned()
}

#[test]
#[ignore = "root tier"]
fn clients_stay_as_the_rows_say() {
    isolated("rows_memory::clients_stay_as_the_rows_say", |room| {
        let mut bench = Bench::new(&room);
        let Affinities { defaults, cases } = memory().affinity;
        let mut ports = (20_000..60_000).cycle();
        for case in &cases {
            let mut rounds = Vec::new();
            while rounds.len() < ROUNDS {
                let began = second();
                let went = run(&mut bench, &defaults, case, &mut ports);
                // A second that passes in between makes one more of those that the row counts.
                if second() == began {
                    rounds.push(went);
                }
            }
            for (number, step) in case.steps.iter().enumerate() {
                check(case, number, &step.expect, &rounds);
            }
        }
    });
}

fn check(case: &Case, number: usize, expect: &Expect, rounds: &[Vec<IpAddr>]) {
    let Case { id, why, .. } = case;
    let said = || format!("{id} step {}: {why}", number + 1);
    match expect {
        Expect::SameAs(step) => {
            assert!(rounds.iter().all(|went| went[number] == went[step - 1]), "{}", said());
        }
        Expect::OneOf(allowed) => {
            assert!(rounds.iter().all(|went| allowed.contains(&went[number])), "{}", said());
        }
        Expect::New if number == 0 => {
            let seen: BTreeSet<_> = rounds.iter().map(|went| went[0]).collect();
            assert!(seen.len() > 1, "{}: by chance", said());
        }
        Expect::New => {
            assert!(rounds.iter().any(|went| went[number] != went[number - 1]), "{}", said());
        }
    }
}

/// Where each step's connection went.
fn run(
    bench: &mut Bench,
    defaults: &Defaults,
    case: &Case,
    ports: &mut impl Iterator<Item = u16>,
) -> Vec<IpAddr> {
    let name = case.r#override.protocol.as_deref().unwrap_or("TCP");
    let mut fixture = fixture(defaults, &case.r#override, name);
    bench.serve([&fixture]);
    bench.forget();
    let (mut went, mut clock) = (Vec::new(), 0);
    for step in &case.steps {
        bench.age(step.t - clock);
        clock = step.t;
        if let Some(what) = &step.change {
            change(&mut fixture, what, &went);
            bench.serve([&fixture]);
        }
        let from = SocketAddr::new(step.src, ports.next().unwrap());
        let to = SocketAddr::new(step.dst, step.dport);
        let frame = first(protocol(name), from, to);
        let to = bench.send(protocol(name), &frame, &case.id).ip();
        assert!(fixture.endpoints.iter().any(|at| at.ip == to.to_string()), "{}: {to}", case.id);
        went.push(to);
    }
    went
}

fn endpoint(ip: IpAddr, ports: &[(&str, u16)]) -> EndpointSpec {
    let ports = ports.iter().map(|(name, port)| ((*name).to_owned(), i32::from(*port))).collect();
    // The node under test has the first of the nodes' pod networks.
    let node = if ip.to_string().starts_with("10.42.1.") { "node-a" } else { "node-b" };
    EndpointSpec {
        ip: ip.to_string(),
        node: Some(node.to_owned()),
        ports,
        ready: None,
        serving: None,
        terminating: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
    }
}

const PORTS: [(&str, u16); 2] = [("one", 8080), ("two", 8443)];

fn fixture(defaults: &Defaults, over: &Override, protocol: &str) -> Fixture {
    let mut fixture = parse("[{service: {name: kept, type: LoadBalancer}}]").remove(0);
    let service = &mut fixture.service;
    service.cluster_ips = vec![defaults.cluster_ip.to_string()];
    service.affinity_seconds = Some(over.timeout_s.unwrap_or(defaults.timeout_s));
    service.external_traffic_policy = over.external_traffic_policy.clone();
    service.lb_ingress =
        vec![IngressSpec { ip: Some(defaults.vip.to_string()), ip_mode: None, hostname: None }];
    let numbers = [(defaults.port, Some(defaults.node_port)), (defaults.second_port, None)];
    let ports = PORTS.iter().zip(numbers).map(|((name, _), (port, node_port))| PortSpec {
        name: (*name).to_owned(),
        protocol: Some(protocol.to_owned()),
        port: port.into(),
        node_port: node_port.map(Into::into),
    });
    service.ports = ports.collect();
    let endpoints = over.endpoints.as_ref().unwrap_or(&defaults.endpoints);
    fixture.endpoints = endpoints.iter().map(|ip| endpoint(*ip, &PORTS)).collect();
    fixture
}

/// What happens to the service, in the words of the rows.
fn change(fixture: &mut Fixture, what: &str, went: &[IpAddr]) {
    let bound = went.first().map(ToString::to_string);
    let leave = |at: &mut EndpointSpec| {
        (at.ready, at.serving, at.terminating) = (Some(false), Some(true), Some(true));
    };
    let endpoints = &mut fixture.endpoints;
    match what {
        "remove the endpoint of step 1" => endpoints.retain(|at| Some(&at.ip) != bound.as_ref()),
        "endpoint of step 1 becomes serving-terminating" => {
            endpoints.iter_mut().filter(|at| Some(&at.ip) == bound.as_ref()).for_each(leave);
        }
        "every endpoint becomes serving-terminating" => endpoints.iter_mut().for_each(leave),
        "session affinity None" => fixture.service.affinity_seconds = None,
        other => {
            let ip = other.strip_prefix("add endpoint ").unwrap_or_else(|| panic!("{other}"));
            endpoints.push(endpoint(ip.parse().unwrap(), &PORTS));
        }
    }
}

#[derive(Deserialize)]
struct Flushes {
    services: Vec<Flushed>,
    entries: Vec<Entry>,
}

#[derive(Deserialize)]
struct Flushed {
    name: String,
    protocol: String,
    frontends: Vec<SocketAddr>,
    node_port: u16,
    serving: Vec<SocketAddr>,
    note: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    id: String,
    why: String,
    proto: String,
    orig_dst: SocketAddr,
    reply_src: SocketAddr,
    stale: bool,
}

/// A flow that was begun when its backend was there: does it move to another when that is gone? Upstream asks what to flush from
/// connection tracking; here there is nothing to flush.
#[test]
#[ignore = "root tier"]
fn flows_move_on_as_the_rows_say() {
    isolated("rows_memory::flows_move_on_as_the_rows_say", |room| {
        let mut bench = Bench::new(&room);
        let Flushes { services, entries } = memory().udp_flush;
        let own = bench.node.addresses.clone();
        for (entry, port) in entries.iter().zip(20_000..) {
            let Entry { id, why, proto, orig_dst, reply_src, stale } = entry;
            let of = services.iter().find(|service| {
                let node_port = own.contains(&orig_dst.ip()) && orig_dst.port() == service.node_port;
                service.protocol == *proto && (service.frontends.contains(orig_dst) || node_port)
            });
            let (name, client) = (protocol(proto), SocketAddr::new([203, 0, 113, 9].into(), port));
            if reply_src != orig_dst {
                let before = match of {
                    Some(service) => service.fixture(&[*reply_src]),
                    None => elsewhere(proto, *orig_dst, *reply_src),
                };
                bench.serve([&before]);
                let went = bench.send(name, &first(name, client, *orig_dst), id);
                assert_eq!(went, *reply_src, "{id}: the flow begins");
            }
            let after: Vec<_> = services.iter().map(|service| service.fixture(&service.serving)).collect();
            bench.serve(&after);
            let went = bench.send(name, &later(name, client, *orig_dst), id);
            let expected = match (stale, of) {
                (true, Some(service)) => service.serving.clone(),
                _ => vec![*reply_src],
            };
            assert!(expected.contains(&went), "{id}: {why}: went to {went}");
        }
    });
}

impl Flushed {
    fn fixture(&self, serving: &[SocketAddr]) -> Fixture {
        let mut fixture = parse("[{service: {name: flushed, type: NodePort}}]").remove(0);
        let note = self.note.as_deref().unwrap_or_default();
        let service = &mut fixture.service;
        service.name.clone_from(&self.name);
        service.cluster_ips = vec![self.frontends[0].ip().to_string()];
        service.external_ips = self.frontends[1..].iter().map(|at| at.ip().to_string()).collect();
        service.external_traffic_policy = note.contains("policy Local").then(|| "Local".to_owned());
        service.ports = vec![PortSpec {
            name: "one".to_owned(),
            protocol: Some(self.protocol.clone()),
            port: self.frontends[0].port().into(),
            node_port: (self.node_port != 0).then_some(self.node_port.into()),
        }];
        let terminating = note.contains("terminating but still serving");
        fixture.endpoints = serving.iter().map(|at| endpoint(at.ip(), &[("one", at.port())])).collect();
        for at in fixture.endpoints.iter_mut().filter(|_| terminating) {
            (at.ready, at.serving, at.terminating) = (Some(false), Some(true), Some(true));
        }
        fixture
    }
}

/// Something that is a service's no more.
fn elsewhere(proto: &str, at: SocketAddr, to: SocketAddr) -> Fixture {
    let mut fixture =
        parse("[{service: {name: elsewhere, type: ClusterIP, cluster_ips: ['10.43.9.9']}}]").remove(0);
    fixture.service.external_ips = vec![at.ip().to_string()];
    fixture.service.ports = vec![PortSpec {
        name: "one".to_owned(),
        protocol: Some(proto.to_owned()),
        port: at.port().into(),
        node_port: None,
    }];
    fixture.endpoints = vec![endpoint(to.ip(), &[("one", to.port())])];
    fixture
}
