//! Packets that pass no socket of the node's cgroup: from outside, and from pods and processes that are not in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use orlop_dataplane::Update;
use orlop_dataplane::loader::{self, Devices};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::maps::seen::{connections, drops};
use orlop_dataplane::model::{Node, Settings};
use orlop_dataplane::netns;
use orlop_dataplane::reconcile::State;

use crate::lines::Traffic;
use crate::room::{Room, isolated, sh};
use crate::script::{bpftool, set};
use crate::town::{self, ask, dial, tcp_server, udp_client, udp_server};

pub(crate) const SERVICES: &str = "
- service: {name: web, type: LoadBalancer, cluster_ips: [10.96.0.10, '2001:db8:43::10'], ports: [{name: http, port: 80, node_port: 30080}], external_ips: [198.51.100.10], lb_ingress: [{ip: 198.51.100.11}], source_ranges: [192.0.2.7/32]}
  endpoints:
  - {ip: 10.42.1.10, node: node-a, ports: {http: 8080}}
  - {ip: 10.42.2.10, node: node-b, ports: {http: 8080}}
  - {ip: '2001:db8:42:1::10', node: node-a, ports: {http: 8080}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {http: 8080}}
- service: {name: local, type: NodePort, cluster_ips: [10.96.0.11], ports: [{name: http, port: 80, node_port: 30081}], external_traffic_policy: Local}
  endpoints:
  - {ip: 10.42.1.10, node: node-a, ports: {http: 8080}}
  - {ip: 10.42.2.10, node: node-b, ports: {http: 8080}}
- service: {name: empty, type: NodePort, cluster_ips: [10.96.0.12, '2001:db8:43::12'], ports: [{name: http, port: 80, node_port: 30082}]}
- service: {name: dns, type: NodePort, cluster_ips: [10.96.0.53, '2001:db8:43::53'], ports: [{name: dns, protocol: UDP, port: 53, node_port: 30053}]}
  endpoints:
  - {ip: 10.42.1.10, node: node-a, ports: {dns: 5353}}
  - {ip: '2001:db8:42:1::10', node: node-a, ports: {dns: 5353}}
- service: {name: away, type: NodePort, cluster_ips: [10.96.0.13], ports: [{name: http, port: 80, node_port: 30083}], external_traffic_policy: Local}
  endpoints: [{ip: 10.42.2.10, node: node-b, ports: {http: 8080}}]
";

/// A node with the services, and programs at its devices.
fn start(room: &Room) -> (State<KernelMaps>, Devices) {
    town::build();
    let node = install(room);
    serve();
    node
}

/// Puts the dataplane into the town's node.
pub(crate) fn install(room: &Room) -> (State<KernelMaps>, Devices) {
    let (maps, devices) = load(room);
    (write(maps, Settings::default()), devices)
}

/// Programs and maps, with nothing in them.
pub(crate) fn load(room: &Room) -> (KernelMaps, Devices) {
    load_for(room, &loader::Callers::below(&room.cgroup))
}

/// The same for these callers.
pub(crate) fn load_for(room: &Room, callers: &loader::Callers) -> (KernelMaps, Devices) {
    let loaded = loader::load_sized(&room.bpffs, callers, &Default::default()).unwrap();
    let loader::Loaded { maps, mut devices } = loaded;
    town::attach(&mut devices, &["br0", "pod0"]);
    (maps, devices)
}

/// The services.
pub(crate) fn write(maps: KernelMaps, settings: Settings) -> State<KernelMaps> {
    let pods = ["10.42.0.0/16", "2001:db8:42::/56"].map(|net| net.parse().unwrap()).to_vec();
    let addresses: BTreeSet<IpAddr> =
        ["192.0.2.10", "10.42.1.1", "2001:db8:1::10"].map(|ip| ip.parse().unwrap()).into();
    let node = Node {
        name: "node-a".to_owned(),
        primary: vec!["192.0.2.10".parse().unwrap(), "2001:db8:1::10".parse().unwrap()],
        settings: Settings { pods, ..settings },
        netns: netns::cookie(File::open("/proc/self/ns/net").unwrap()).unwrap(),
        ..Node::default()
    };
    let mut state = State::new(maps, node);
    state.ingest(Update::Addresses(addresses));
    set(&mut state, SERVICES);
    state
}

/// Starts the servers of the services' endpoints.
pub(crate) fn serve() {
    for (place, ip) in [("pod", "10.42.1.10"), ("other", "10.42.2.10")] {
        tcp_server(place, &format!("{ip}:8080"));
        udp_server(place, &format!("{ip}:5353"));
    }
    for (place, ip) in [("pod", "2001:db8:42:1::10"), ("other", "2001:db8:42:2::10")] {
        tcp_server(place, &format!("[{ip}]:8080"));
        udp_server(place, &format!("[{ip}]:5353"));
    }
}

/// What servers say over many connections.
fn answers(place: &str, to: &str) -> BTreeSet<String> {
    (0..24).map(|_| dial(place, to).unwrap_or_else(|error| format!("{error}"))).collect()
}

fn said(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
#[ignore = "root tier"]
fn a_connection_keeps_its_port_while_its_endpoint_leaves_and_is_back() {
    isolated("packets::a_connection_keeps_its_port_while_its_endpoint_leaves_and_is_back", |room| {
        town::build();
        serve();
        let (maps, _devices) = load(&room);
        let mut state = write(maps, Settings { masquerade_ports: (61_000, 61_001), ..Settings::default() });
        let web = |endpoints: &str| {
            format!(
                "- service: {{name: web, type: NodePort, cluster_ips: [10.96.0.10], ports: [{{name: http, port: 80, node_port: 30080}}]}}
  endpoints: [{endpoints}]"
            )
        };
        let there = web("{ip: 10.42.1.10, node: node-a, ports: {http: 8080}}");
        set(&mut state, &there);
        let mut traffic = Traffic::default();
        traffic.lasting(Some("client"), "192.0.2.10:30080", 1);
        // It is another one, as far as numbers tell: others get theirs meanwhile.
        set(&mut state, &web("{ip: 10.42.2.10, node: node-b, ports: {http: 8080}}"));
        set(&mut state, &there);
        for _ in 0..20 {
            assert_eq!(dial("client", "192.0.2.10:30080").unwrap(), "pod 192.0.2.10");
        }
        std::thread::sleep(Duration::from_millis(200));
        traffic.finish();
    });
}

#[test]
#[ignore = "root tier"]
fn clients_outside_reach_node_ports() {
    isolated("packets::clients_outside_reach_node_ports", |room| {
        let _node = start(&room);
        assert_eq!(answers("client", "192.0.2.10:30080"), said(&["pod 192.0.2.10", "other 192.0.2.10"]));
        let six = answers("client", "[2001:db8:1::10]:30080");
        assert_eq!(six, said(&["pod 2001:db8:1::10", "other 2001:db8:1::10"]));
    });
}

#[test]
#[ignore = "root tier"]
fn every_front_end_is_answered_on_the_node() {
    isolated("packets::every_front_end_is_answered_on_the_node", |room| {
        let _node = start(&room);
        let both = said(&["pod 192.0.2.10", "other 192.0.2.10"]);
        for front_end in ["198.51.100.10:80", "198.51.100.11:80", "10.96.0.10:80"] {
            assert_eq!(answers("client", front_end), both, "{front_end}");
        }
        // Only the client is in the load balancer's ranges.
        assert!(dial("other", "198.51.100.11:80").is_err());
        assert_eq!(answers("other", "198.51.100.10:80"), both);
        // A pod keeps its address towards cluster IPs, except towards itself.
        assert_eq!(answers("pod", "10.96.0.10:80"), said(&["pod 192.0.2.10", "other 10.42.1.10"]));
        assert_eq!(
            answers("pod", "[2001:db8:43::10]:80"),
            said(&["pod 2001:db8:1::10", "other 2001:db8:42:1::10"])
        );
        assert_eq!(answers("pod", "192.0.2.10:30080"), both);
    });
}

#[test]
#[ignore = "root tier"]
fn external_policy_local_keeps_the_client_and_the_node() {
    isolated("packets::external_policy_local_keeps_the_client_and_the_node", |room| {
        let _node = start(&room);
        assert_eq!(answers("client", "192.0.2.10:30081"), said(&["pod 192.0.2.7"]));
        // A pod is inside: it may go anywhere, as itself.
        assert_eq!(answers("pod", "192.0.2.10:30081"), said(&["pod 192.0.2.10", "other 10.42.1.10"]));
        // None here: dropped, so that a balancer tries elsewhere.
        let error = dial("client", "192.0.2.10:30083").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    });
}

#[test]
#[ignore = "root tier"]
fn a_service_without_endpoints_refuses_at_once() {
    isolated("packets::a_service_without_endpoints_refuses_at_once", |room| {
        let _node = start(&room);
        let refused = [
            ("client", "192.0.2.10:30082"),
            ("client", "10.96.0.12:80"),
            ("client", "[2001:db8:1::10]:30082"),
            ("pod", "10.96.0.12:80"),
            ("pod", "[2001:db8:43::12]:80"),
        ];
        for (place, front_end) in refused {
            let error = dial(place, front_end).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{place} {front_end}: {error}");
        }
    });
}

#[test]
#[ignore = "root tier"]
fn a_cluster_ip_refuses_ports_that_its_service_does_not_have() {
    isolated("packets::a_cluster_ip_refuses_ports_that_its_service_does_not_have", |room| {
        let (mut state, _devices) = start(&room);
        let refused = |place: &'static str, to: &'static str| {
            let tcp = dial(place, to).unwrap_err();
            // The other protocol: an error of a datagram before is what a connected socket hears of next.
            let udp = udp_client(place, to);
            let udp = udp.send(b"who?").and_then(|_| udp.recv(&mut [0; 8])).unwrap_err();
            (tcp.kind(), udp.kind()) == (ErrorKind::ConnectionRefused, ErrorKind::ConnectionRefused)
        };
        for (place, to) in
            [("client", "10.96.0.10:81"), ("pod", "10.96.0.10:81"), ("pod", "[2001:db8:43::10]:81")]
        {
            assert!(refused(place, to), "{place} {to}");
        }
        // Its other addresses, and pings, are none of it.
        assert!(!refused("client", "198.51.100.10:81"));
        let sent = || {
            let counted = sh("nft -j list counter inet seen pings");
            let counted: serde_json::Value = serde_json::from_str(&counted).unwrap();
            counted["nftables"][1]["counter"]["packets"].as_u64().unwrap()
        };
        sh("nft 'add table inet seen; add counter inet seen pings; add chain inet seen pre { type filter hook prerouting priority 0; }
            add rule inet seen pre ip daddr 10.96.0.10 icmp type echo-request counter name pings'");
        sh("ip netns exec client ping -c1 -W1 10.96.0.10 || true");
        assert_eq!(sent(), 1, "the stack gets it, as before");

        // Without the service the address is nobody's.
        set(&mut state, "[]");
        assert!(!refused("client", "10.96.0.10:81"));
    });
}

#[test]
#[ignore = "root tier"]
fn datagrams_of_any_size_go_there_and_back() {
    isolated("packets::datagrams_of_any_size_go_there_and_back", |room| {
        let _node = start(&room);
        for (front_end, node) in
            [("192.0.2.10:30053", "192.0.2.10"), ("[2001:db8:1::10]:30053", "2001:db8:1::10")]
        {
            let socket = udp_client("client", front_end);
            for length in [1, 100, 1472, 4000, 20_000] {
                assert_eq!(ask(&socket, length).unwrap(), format!("pod {node} {length}"), "{front_end}");
            }
        }
    });
}

#[test]
#[ignore = "root tier"]
fn datagrams_move_on_when_their_backend_goes() {
    isolated("packets::datagrams_move_on_when_their_backend_goes", |room| {
        let (mut state, _devices) = start(&room);
        let socket = udp_client("client", "192.0.2.10:30053");
        assert_eq!(ask(&socket, 1).unwrap(), "pod 192.0.2.10 1");
        set(
            &mut state,
            &SERVICES
                .replace("10.42.1.10, node: node-a, ports: {dns", "10.42.2.10, node: node-b, ports: {dns"),
        );
        assert_eq!(ask(&socket, 1).unwrap(), "other 192.0.2.10 1");
    });
}

/// Who answers a client of each of these source ports.
fn by_port(front_end: &str) -> BTreeMap<u16, String> {
    let to: SocketAddr = front_end.parse().unwrap();
    let ask = move |port| {
        let socket = UdpSocket::bind((if to.is_ipv4() { "0.0.0.0" } else { "::" }, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.connect(to).unwrap();
        (port, ask(&socket, 1).unwrap())
    };
    town::at("client", move || (40_000..40_032).map(ask).collect())
}

#[test]
#[ignore = "root tier"]
fn by_hash_the_same_client_goes_to_the_same_endpoint_whatever_the_node_remembers() {
    isolated(
        "packets::by_hash_the_same_client_goes_to_the_same_endpoint_whatever_the_node_remembers",
        |room| {
            let service = |annotated: &str| {
                format!(
                    "- service: {{name: dns, type: NodePort, {annotated} cluster_ips: [10.96.0.53, '2001:db8:43::53'], ports: [{{name: dns, protocol: UDP, port: 53, node_port: 30053}}]}}
  endpoints:
  - {{ip: 10.42.1.10, node: node-a, ports: {{dns: 5353}}}}
  - {{ip: 10.42.2.10, node: node-b, ports: {{dns: 5353}}}}
  - {{ip: '2001:db8:42:1::10', node: node-a, ports: {{dns: 5353}}}}
  - {{ip: '2001:db8:42:2::10', node: node-b, ports: {{dns: 5353}}}}
"
                )
            };
            let annotated = service("annotations: {orlop.dev/load-balancing: maglev},");
            let (mut state, _devices) = start(&room);
            let connections = room.bpffs.join(format!("v{}/CONNECTIONS", orlop_abi::SCHEMA));
            let asked = || {
                // As on a node that has never seen the client.
                sh(&format!(
                    "bpftool -j map dump pinned {0} | jq -r '.[].key | join(\" \")' |
                     while read -r key; do bpftool map delete pinned {0} key hex $(echo $key | sed s/0x//g) || :; done",
                    connections.display()
                ));
                [by_port("192.0.2.10:30053"), by_port("[2001:db8:1::10]:30053")]
            };
            set(&mut state, &annotated);
            let first = asked();
            for answers in &first {
                let who: BTreeSet<_> = answers.values().map(|said| said.split(' ').next().unwrap()).collect();
                assert_eq!(who, ["other", "pod"].into(), "{answers:?}");
            }
            assert_eq!(asked(), first);
            // Other numbers for all, and in another order: the table does not know them.
            set(&mut state, "[]");
            set(&mut state, &annotated);
            assert_eq!(asked(), first);
            // Without the annotation it is chance: 64 clients would all have to be lucky.
            set(&mut state, &service(""));
            assert_ne!(asked(), first);
            assert_eq!(state.status().failures, BTreeMap::default());
            assert_eq!(
                bpftool(&format!("map dump pinned {}", connections.with_file_name("PLACES").display())),
                serde_json::json!([])
            );
        },
    );
}

/// Whoever translates a pod's packet sends it past the rules that hold pods to their addresses.
#[test]
#[ignore = "root tier"]
fn a_pod_reaches_nobody_under_anothers_address() {
    isolated("packets::a_pod_reaches_nobody_under_anothers_address", |room| {
        let (mut state, _devices) = start(&room);
        let dropped = || drops(&loader::pins(&room.bpffs)).unwrap()["forged-source"];
        set(
            &mut state,
            &SERVICES
                .replace("10.42.1.10, node: node-a, ports: {dns", "10.42.2.10, node: node-b, ports: {dns")
                .replace("42:1::10', node: node-a, ports: {dns", "42:2::10', node: node-b, ports: {dns"),
        );
        sh(
            "ip -n pod address add 192.0.2.7/32 dev lo && ip -n pod address add 2001:db8:1::7/128 dev lo nodad",
        );
        let send = |from: &str, to: &str| {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            town::at("pod", move || UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap());
        };
        let heard = |place: &str, at: &str| {
            let at: SocketAddr = at.parse().unwrap();
            let socket = town::at(place, move || UdpSocket::bind(at).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            move || socket.recv(&mut [0; 16]).is_ok()
        };
        // Devices and neighbours of IPv6 take a moment.
        let warm = udp_client("pod", "[2001:db8:43::53]:53");
        assert!((0..5).any(|_| ask(&warm, 1).is_ok_and(|said| said == "other 2001:db8:42:1::10 1")));
        // The client did not ask: it would get the answers.
        let (four, six) = (heard("client", "192.0.2.7:4444"), heard("client", "[2001:db8:1::7]:4444"));
        send("192.0.2.7:4444", "10.96.0.53:53");
        send("192.0.2.7:4444", "192.0.2.10:30053");
        send("[2001:db8:1::7]:4444", "[2001:db8:43::53]:53");
        assert!(!four() && !six());
        assert_eq!(dropped(), 3);
        // Nor an answer for another pod, in the middle of its conversation.
        let client = udp_client("client", "192.0.2.10:30053");
        assert_eq!(ask(&client, 1).unwrap(), "other 192.0.2.10 1");
        let connections = connections(&loader::pins(&room.bpffs)).unwrap();
        let (answer, _) = connections
            .iter()
            .find(|(_, to)| {
                let to_client = to.destination[3] == u32::from_ne_bytes([192, 0, 2, 7]);
                to_client && to.flags & orlop_abi::Connection::REPLY != 0
            })
            .expect("a way back");
        let port = u16::from_be(answer.destination_port);
        sh("ip -n pod address add 10.42.2.10/32 dev lo");
        send("10.42.2.10:5353", &format!("192.0.2.10:{port}"));
        client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(client.recv(&mut [0; 16]).is_err());
        assert_eq!(dropped(), 4);
        // Under its own it reaches everybody, and the conversation goes on.
        assert_eq!(ask(&udp_client("pod", "10.96.0.53:53"), 1).unwrap(), "other 10.42.1.10 1");
        assert_eq!(ask(&client, 2).unwrap(), "other 192.0.2.10 2");
        assert_eq!(dropped(), 4);
    });
}

#[test]
#[ignore = "root tier"]
fn processes_of_the_node_that_no_socket_hook_sees_reach_services() {
    isolated("packets::processes_of_the_node_that_no_socket_hook_sees_reach_services", |room| {
        let _node = start(&room);
        // The way to cluster IPs is the default route's.
        sh("ip route add default via 192.0.2.7");
        let seen: BTreeSet<_> = (0..24).map(|_| plain("10.96.0.10:80")).collect();
        assert_eq!(seen, said(&["pod 192.0.2.10", "other 192.0.2.10"]));
        assert_eq!(plain("10.96.0.12:80"), "Connection refused (os error 111)");
    });
}

/// Dials from the node itself.
fn plain(to: &str) -> String {
    let to = to.parse().unwrap();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2));
    let line = stream.and_then(|mut stream| town::first_line(&mut stream));
    line.unwrap_or_else(|error| error.to_string())
}
