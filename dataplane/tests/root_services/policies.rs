//! NetworkPolicies with packets: local pods, pods of other nodes, clients outside, and the node itself.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use k8s_openapi::api::networking::v1::NetworkPolicy;
use orlop_dataplane::Update;
use orlop_dataplane::loader::{self, Devices, pins};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::model::{Node, Settings};
use orlop_dataplane::policy::model::{Key, NamedPort, Pod};
use orlop_dataplane::policy::{Change, ingest};
use orlop_dataplane::reconcile::State;
use orlop_model::event::Event;

use crate::room::{Room, isolated, sh};
use crate::script::{bpftool, set};
use crate::town::{self, ask, at, dial, tcp_server, udp_client, udp_server};

const SERVICES: &str = "
- service: {name: web, type: NodePort, cluster_ips: [10.96.0.10, '2001:db8:43::10'], ports: [{name: http, port: 80, node_port: 30080}]}
  endpoints:
  - {ip: 10.42.1.10, node: node-a, ports: {http: 8080}}
  - {ip: '2001:db8:42:1::10', node: node-a, ports: {http: 8080}}
- service: {name: far, cluster_ips: [10.96.0.11], ports: [{name: http, port: 80}]}
  endpoints: [{ip: 10.42.2.10, node: node-b, ports: {http: 8080}}]
- service: {name: dns, type: NodePort, cluster_ips: [10.96.0.53], ports: [{name: dns, protocol: UDP, port: 53, node_port: 30053}]}
  endpoints: [{ip: 10.42.1.10, node: node-a, ports: {dns: 5353}}]
";

/// How long to wait for what is not to come. What does come takes less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(300);

/// A node with pods `web` (`pod`, 10.42.1.10) and `peer` (10.42.3.10); `far` (`other`, 10.42.2.10) is another node's.
struct Place {
    state: State<KernelMaps>,
    devices: Devices,
}

impl Place {
    fn new(room: &Room) -> Self {
        town::build();
        town::build_peer();
        let loader::Loaded { maps, mut devices } = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
        town::attach(&mut devices, &["br0", "pod0", "peer0"]);
        let pods = ["10.42.0.0/16", "2001:db8:42::/56"].map(|net| net.parse().unwrap()).to_vec();
        let node = Node {
            name: "node-a".to_owned(),
            primary: vec!["192.0.2.10".parse().unwrap(), "2001:db8:1::10".parse().unwrap()],
            settings: Settings { pods, ..Settings::default() },
            ..Node::default()
        };
        let mut state = State::new(maps, node);
        let addresses: BTreeSet<IpAddr> =
            ["192.0.2.10", "10.42.1.1", "10.42.5.1", "2001:db8:1::10", "2001:db8:42:1::1"]
                .map(|ip| ip.parse().unwrap())
                .into();
        state.ingest(Update::Addresses(addresses));
        set(&mut state, SERVICES);
        let namespaces = ["shop", "tools"].map(|name| {
            let labels = [("kubernetes.io/metadata.name".to_owned(), name.to_owned())];
            (name.to_owned(), labels.into())
        });
        state.ingest(Update::Policy(Change::Namespace(Event::Reset(namespaces.to_vec()))));
        let pods = [
            pod("shop", "web", "node-a", ["10.42.1.10", "2001:db8:42:1::10"]),
            pod("shop", "peer", "node-a", ["10.42.3.10", "2001:db8:42:3::10"]),
            pod("tools", "far", "node-b", ["10.42.2.10", "2001:db8:42:2::10"]),
        ];
        state.ingest(Update::Policy(Change::Pod(Event::Reset(pods.to_vec()))));
        for (place, ip) in
            [("pod", "10.42.1.10"), ("other", "10.42.2.10"), ("peer", "10.42.3.10"), ("client", "192.0.2.7")]
        {
            tcp_server(place, &format!("{ip}:8080"));
            udp_server(place, &format!("{ip}:5353"));
        }
        tcp_server("pod", "[2001:db8:42:1::10]:8080");
        tcp_server("pod", "10.42.1.10:9090");
        Self { state, devices }
    }

    /// Makes these all policies there are, in namespace `shop`.
    fn policies(&mut self, specs: &[&str]) {
        let policies = specs.iter().enumerate().map(|(number, spec)| {
            let spec = serde_norway::from_str(spec).unwrap();
            let mut policy = NetworkPolicy { spec, ..NetworkPolicy::default() };
            policy.metadata.namespace = Some("shop".to_owned());
            policy.metadata.name = Some(format!("p{number}"));
            ingest::policy(&policy)
        });
        self.state.ingest(Update::Policy(Change::Policy(Event::Reset(policies.collect()))));
        self.state.sync();
        assert_eq!(self.state.status().policy_failure, None);
    }
}

fn pod(namespace: &str, app: &str, node: &str, ips: [&str; 2]) -> (Key, Option<Pod>) {
    let port =
        NamedPort { name: "http".to_owned(), protocol: orlop_dataplane::model::Protocol::Tcp, number: 8080 };
    let pod = Pod {
        labels: [("app".to_owned(), app.to_owned())].into(),
        ips: ips.map(|ip| ip.parse().unwrap()).into(),
        node: node.to_owned(),
        ports: [port].into(),
    };
    (Key { namespace: namespace.to_owned(), name: app.to_owned() }, Some(pod))
}

const DENY: &str = "{podSelector: {matchLabels: {app: web}}}";
const FROM_PEER: &str = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: peer}}}]}]}";
const WEB: &str = "10.42.1.10:8080";
const WEB_V6: &str = "[2001:db8:42:1::10]:8080";

/// Nothing comes back.
#[track_caller]
fn shut(place: &str, to: &str) {
    let address: SocketAddr = to.parse().unwrap();
    let said = at(place, move || TcpStream::connect_timeout(&address, PATIENCE).map(drop));
    let error = said.map_err(|error| error.kind());
    assert_eq!(error, Err(io::ErrorKind::TimedOut), "{place} to {to}");
}

#[track_caller]
fn open(place: &str, to: &str) {
    let said = dial(place, to);
    assert!(said.is_ok(), "{place} to {to}: {said:?}");
}

/// From a process of the node.
#[track_caller]
fn open_from_node(to: &str) {
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), Duration::from_secs(2));
    assert!(stream.is_ok(), "node to {to}: {stream:?}");
}

#[test]
#[ignore = "root tier"]
fn default_deny_lets_in_nobody_but_the_node() {
    isolated("policies::default_deny_lets_in_nobody_but_the_node", |room| {
        let mut place = Place::new(&room);
        for from in ["client", "peer"] {
            [WEB, WEB_V6, "10.96.0.10:80", "[2001:db8:43::10]:80"].into_iter().for_each(|to| open(from, to));
        }
        place.policies(&[DENY]);
        for from in ["client", "peer"] {
            [WEB, WEB_V6, "10.96.0.10:80", "[2001:db8:43::10]:80", "192.0.2.10:30080"]
                .into_iter()
                .for_each(|to| shut(from, to));
        }
        [WEB, WEB_V6].into_iter().for_each(open_from_node);
        // Others are not concerned, and the pod may go where it likes; answers come back.
        open("client", "10.42.3.10:8080");
        ["10.42.3.10:8080", "10.42.2.10:8080", "10.96.0.11:80", "192.0.2.7:8080"]
            .into_iter()
            .for_each(|to| open("pod", to));
        // To itself, too, by way of its service.
        open("pod", "10.96.0.10:80");
        place.policies(&[]);
        open("client", WEB);
        open("client", WEB_V6);
    });
}

#[test]
#[ignore = "root tier"]
fn peers_are_let_in_by_label_address_and_named_port() {
    isolated("policies::peers_are_let_in_by_label_address_and_named_port", |room| {
        let mut place = Place::new(&room);
        place.policies(&[DENY, FROM_PEER]);
        [WEB, WEB_V6, "10.96.0.10:80", "10.42.1.10:9090", "192.0.2.10:30080"]
            .into_iter()
            .for_each(|to| open("peer", to));
        [WEB, WEB_V6].into_iter().for_each(|to| shut("client", to));
        // Who it really is counts, behind the node's masquerade, too.
        place.policies(&["{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.11/32]}}], ports: [{port: http}]}]}"]);
        ["192.0.2.10:30080", WEB].into_iter().for_each(|to| open("client", to));
        ["192.0.2.10:30080", WEB].into_iter().for_each(|to| shut("other", to));
        shut("client", "10.42.1.10:9090");
        shut("client", WEB_V6);
        shut("peer", WEB);
    });
}

#[test]
#[ignore = "root tier"]
fn a_pod_is_kept_in_by_what_stands_behind_a_service() {
    isolated("policies::a_pod_is_kept_in_by_what_stands_behind_a_service", |room| {
        let mut place = Place::new(&room);
        place.policies(&["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: tools}}}], ports: [{port: 8000, endPort: 8100}]}]}"]);
        ["10.42.2.10:8080", "10.96.0.11:80"].into_iter().for_each(|to| open("pod", to));
        ["10.42.3.10:8080", "192.0.2.7:8080"].into_iter().for_each(|to| shut("pod", to));
        // Whoever comes in is answered, and so is the node.
        open("client", WEB);
        open("client", "192.0.2.10:30080");
        open_from_node(WEB);
        // The node is always open to its pods; nobody listens there.
        let refused = dial("pod", "192.0.2.10:8080").unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        place.policies(&["{podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}"]);
        ["10.42.2.10:8080", "10.96.0.11:80"].into_iter().for_each(|to| shut("pod", to));
    });
}

#[test]
#[ignore = "root tier"]
fn established_connections_are_judged_again() {
    isolated("policies::established_connections_are_judged_again", |room| {
        let mut place = Place::new(&room);
        // One from before the first policy, one from after it, one that the pod has made.
        let mut before = echo("peer", WEB);
        let mut own = echo("pod", "192.0.2.7:8080");
        place.policies(&[FROM_PEER]);
        let mut after = echo("peer", WEB);
        [&mut before, &mut after, &mut own]
            .into_iter()
            .for_each(|stream| assert!(echoes(stream), "{stream:?}"));
        place.policies(&[DENY]);
        [&mut before, &mut after].into_iter().for_each(|stream| assert!(!echoes(stream), "{stream:?}"));
        assert!(echoes(&mut own));
        place.policies(&[FROM_PEER]);
        // TCP tries again by itself.
        let end = Instant::now() + Duration::from_secs(8);
        while !echoes(&mut after) {
            assert!(Instant::now() < end, "it did not come back to life");
        }
        assert!(echoes(&mut own));
    });
}

#[test]
#[ignore = "root tier"]
fn pods_behind_a_bridge_are_kept_from_each_other() {
    isolated("policies::pods_behind_a_bridge_are_kept_from_each_other", |room| {
        let mut place = Place::new(&room);
        town::build_bridge();
        let (left, right) = ("10.42.5.11", "10.42.5.12:8080");
        tcp_server("left", &format!("{left}:8080"));
        tcp_server("right", right);
        for (app, ip) in [("left", left), ("right", "10.42.5.12")] {
            let (key, pod) = pod("shop", app, "node-a", ["2001:db8::1", ip]);
            let pod = pod.map(|pod| Pod { ips: [ip.parse().unwrap()].into(), ..pod });
            place.state.ingest(Update::Policy(Change::Pod(Event::Apply((key, pod)))));
        }
        let devices = ["br0", "pod0", "peer0", "cni0"];
        town::attach_all(&mut place.devices, &devices, &["left0", "right0"]);
        let mut lasting = echo("left", right);
        assert!(echoes(&mut lasting));

        place.policies(&["{podSelector: {matchLabels: {app: right}}}"]);
        assert!(!echoes(&mut lasting));
        ["left", "client", "peer"].iter().for_each(|place| shut(place, right));
        open_from_node(right);
        open("right", "10.42.5.11:8080");

        let of = |app: &str| format!("[{{podSelector: {{matchLabels: {{app: {app}}}}}}}]");
        let from_left =
            format!("{{podSelector: {{matchLabels: {{app: right}}}}, ingress: [{{from: {}}}]}}", of("left"));
        place.policies(&[&from_left]);
        open("left", right);
        shut("peer", right);

        // What a pod may send: to a neighbour, and to a service, which is judged by the pod behind it.
        let to = |app| {
            format!(
                "{{podSelector: {{matchLabels: {{app: left}}}}, policyTypes: [Egress], egress: [{{to: {}}}]}}",
                of(app)
            )
        };
        place.policies(&[&to("web")]);
        shut("left", right);
        open("left", WEB);
        open("left", "10.96.0.10:80");
        place.policies(&[&to("right")]);
        open("left", right);
        shut("left", WEB);
        shut("left", "10.96.0.10:80");

        // Taken from the bridge, the link stands by itself.
        sh("ip link set left0 nomaster && ip address add 10.42.5.1/32 dev left0 && ip route add 10.42.5.11 dev left0
            sysctl -qw net.ipv4.conf.left0.proxy_arp=1");
        town::attach_all(&mut place.devices, &[&devices[..], &["left0"]].concat(), &["right0"]);
        shut("left", WEB);
        place.policies(&[&to("web")]);
        open("left", WEB);
    });
}

/// A connection to a server that says back what it is told.
fn echo(place: &str, to: &str) -> TcpStream {
    let address: SocketAddr = to.parse().unwrap();
    let mut stream = at(place, move || TcpStream::connect_timeout(&address, Duration::from_secs(2))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    town::first_line(&mut stream).unwrap();
    stream
}

fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").unwrap();
    matches!(stream.read(&mut [0; 64]), Ok(length) if length > 0)
}

#[test]
#[ignore = "root tier"]
fn datagrams_in_fragments_and_their_errors_pass_with_their_flow() {
    isolated("policies::datagrams_in_fragments_and_their_errors_pass_with_their_flow", |room| {
        let mut place = Place::new(&room);
        let udp = "{podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}], ports: [{protocol: UDP, port: 5353}, {protocol: UDP, port: 5354}]}]}";
        place.policies(&[udp]);
        for to in ["10.42.1.10:5353", "10.96.0.53:53"] {
            let socket = udp_client("peer", to);
            for length in [1, 1472, 4000, 20_000] {
                assert!(ask(&socket, length).unwrap().ends_with(&format!(" {length}")), "{to}");
            }
        }
        // Nobody there: said so by a pod that may say nothing of its own accord.
        let closed = udp_client("peer", "10.42.1.10:5354");
        assert_eq!(ask(&closed, 1).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        for (from, to) in [("client", "10.42.1.10:5353"), ("pod", "10.42.3.10:5353")] {
            let socket = udp_client(from, to);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for length in [1, 4000] {
                assert!(ask(&socket, length).is_err(), "{from} to {to}: {length}");
            }
        }
        assert!(!pings("client") && !pings("peer"));
        place.policies(&["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}"]);
        assert!(!pings("client") && pings("peer"));
    });
}

fn pings(place: &str) -> bool {
    let ping = format!(
        "nsenter --net=/run/netns/{place} ping -c 1 -W 0.3 10.42.1.10 > /dev/null && echo yes || true"
    );
    sh(&ping).contains("yes")
}

/// An answer needs a question, and only the pod can have asked.
#[test]
#[ignore = "root tier"]
fn nobody_lets_himself_in_under_the_pods_name() {
    isolated("policies::nobody_lets_himself_in_under_the_pods_name", |room| {
        let mut place = Place::new(&room);
        place.policies(&[DENY]);
        sh("ip -n other address add 10.42.1.10/32 dev lo && ip -n other route add 192.0.2.7 via 192.0.2.10
            sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.br0.rp_filter=0");
        let bound = |place: &str, address: &'static str| at(place, move || UdpSocket::bind(address).unwrap());
        let client = bound("client", "192.0.2.7:4444");
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect("10.42.1.10:5353").unwrap();
        let forger = bound("other", "10.42.1.10:5353");
        forger.send_to(b"x", "192.0.2.7:4444").unwrap();
        let _forged = ask(&client, 1);
        let said = ask(&client, 1);
        assert!(said.is_err(), "{said:?}");
        // The pod itself may ask.
        let pod = bound("pod", "10.42.1.10:4445");
        pod.send_to(b"x", "192.0.2.7:5353").unwrap();
        pod.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(pod.recv(&mut [0; 64]).is_ok());
    });
}

#[test]
#[ignore = "root tier"]
fn drops_and_hits_are_counted_and_a_restart_changes_nothing() {
    isolated("policies::drops_and_hits_are_counted_and_a_restart_changes_nothing", |room| {
        let mut place = Place::new(&room);
        place.policies(&[FROM_PEER]);
        open("peer", WEB);
        shut("client", WEB);
        let hits = bpftool(&format!("map dump pinned {}", pins(&room.bpffs).join("HITS").display()));
        let sum = |field: &str| -> u64 {
            let entries = hits.as_array().unwrap().iter();
            let values = entries.flat_map(|entry| entry["formatted"]["values"].as_array().unwrap().clone());
            values.map(|value| value["value"][field].as_u64().unwrap()).sum()
        };
        assert_eq!((sum("allowed"), sum("denied") > 0), (1, true), "{hits}");
        let names = place.state.policy_names();
        assert_eq!(names.policies.values().map(ToString::to_string).collect::<Vec<_>>(), ["shop/p0"]);
        // What is pinned holds while nobody is there, and until another agent knows better.
        let Place { state, devices } = place;
        drop((state, devices));
        open("peer", WEB);
        shut("client", WEB);
        let again = loader::open(&room.bpffs, &room.cgroup).unwrap();
        let mut state = State::new(again, Node { name: "node-a".to_owned(), ..Node::default() });
        state.ingest(Update::Policy(Change::Policy(Event::Reset(Vec::new()))));
        state.sync();
        open("client", WEB);
    });
}
