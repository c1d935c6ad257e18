//! Direct server return: two nodes with programs, and a client whose packets come in at one and are answered by the other.
//!
//! ```text
//! client 192.0.2.7 ────┐
//! stranger 192.0.2.12 ─┼─ street ─ up0 192.0.2.10, node-a (the room)
//!                      └───────── up0 192.0.2.11, node-b (`b`) ─ pod0 ─ pod 10.42.2.10
//! ```
//! The same in IPv6: `2001:db8:1::/64` and `2001:db8:42:2::10`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use orlop_abi::Connection;
use orlop_dataplane::Update;
use orlop_dataplane::loader::{self, Device, Devices, Loaded, Side};
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::maps::seen::{connections, drops};
use orlop_dataplane::model::{LoadBalancing, Node, Protocol, Settings};
use orlop_dataplane::policy::model::{Key, Pod};
use orlop_dataplane::policy::{Change, ingest};
use orlop_dataplane::reconcile::State;
use orlop_model::event::Event;
use rustix::net::{self, AddressFamily, SendFlags, SocketType, ipproto};

use crate::frame::{first, later, pseudo_of, sum, wrap};
use crate::frame_read::{ends, unwrap};
use crate::room::{Room, isolated, sh};
use crate::script::set;
use crate::town::{ask, at, dial, first_line, spawn, tcp_server, udp_client, udp_server};

const SERVICES: &str = "
- service: {name: web, type: LoadBalancer, cluster_ips: [10.96.0.10, '2001:db8:43::10'], ports: [{name: http, port: 80, node_port: 30080}], external_ips: [198.51.100.10, '2001:db8:44::10'], lb_ingress: [{ip: 198.51.100.11}], source_ranges: [192.0.2.7/32]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {http: 8080}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {http: 8080}}
- service: {name: dns, type: NodePort, cluster_ips: [10.96.0.53, '2001:db8:43::53'], ports: [{name: dns, protocol: UDP, port: 53, node_port: 30053}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {dns: 5353}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {dns: 5353}}
- service: {name: shut, type: NodePort, cluster_ips: [10.96.0.54, '2001:db8:43::54'], ports: [{name: shut, protocol: UDP, port: 53, node_port: 30054}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {shut: 5354}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {shut: 5354}}
- service: {name: host, type: NodePort, cluster_ips: [10.96.0.16], ports: [{name: http, port: 80, node_port: 30086}]}
  endpoints:
  - {ip: 192.0.2.11, node: node-b, ports: {http: 8080}}
- service: {name: nobodys, type: NodePort, cluster_ips: [10.96.0.14], ports: [{name: http, port: 80, node_port: 30084}]}
  endpoints:
  - {ip: 10.42.2.10, ports: {http: 8080}}
";

/// What each family calls the first node, from the client's side.
const NODE_A: [&str; 2] = ["192.0.2.10", "[2001:db8:1::10]"];
/// What the backend sees of the client, and of the first node.
const CLIENT: [&str; 2] = ["192.0.2.7", "2001:db8:1::7"];
const MASK: [&str; 2] = ["192.0.2.10", "2001:db8:1::10"];
const POD: [&str; 2] = ["10.42.2.10", "2001:db8:42:2::10"];

/// What a program made of a frame.
const NEXT: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// Of XDP.
const PASS: i32 = 2;

/// A node, and where its pins and its cgroup are.
struct Orlop {
    state: State<KernelMaps>,
    devices: Devices,
    bpffs: PathBuf,
}

struct Street {
    a: Orlop,
    b: Orlop,
    cgroup: Cgroup,
}

struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

fn device(name: &str) -> Device {
    let shown: serde_json::Value = serde_json::from_str(&sh(&format!("ip -j link show {name}"))).unwrap();
    let index = shown[0]["ifindex"].as_u64().unwrap().try_into().unwrap();
    Device { index, name: name.to_owned(), pod: name == "pod0", stack: false, early: false, port_of: None }
}

/// In the network namespace of the calling thread.
fn load(bpffs: &Path, cgroup: &Path, names: &[&str]) -> (KernelMaps, Devices) {
    let Loaded { maps, mut devices } = loader::load_all(bpffs, cgroup).unwrap();
    devices.set(&names.iter().map(|name| device(name)).collect::<Vec<_>>());
    assert_eq!(devices.refused(), [""; 0]);
    (maps, devices)
}

fn ips(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// A node with these addresses, which knows another by its own.
fn node(
    maps: KernelMaps,
    name: &str,
    own: &[&str],
    other: &[&str],
    mode: LoadBalancing,
) -> State<KernelMaps> {
    let pods = ["10.42.0.0/16", "2001:db8:42::/56"].map(|net| net.parse().unwrap()).to_vec();
    let settings = Settings { pods, load_balancing: mode, ..Settings::default() };
    let primary = own.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut state = State::new(maps, Node { name: name.to_owned(), primary, settings, ..Node::default() });
    state.ingest(Update::Addresses(ips(own)));
    state.ingest(Update::Nodes(ips(other)));
    set(&mut state, SERVICES);
    state
}

fn build(room: &Room, mode: LoadBalancing) -> Street {
    sh("mkdir -p /run/netns && mount -t tmpfs orlop-test /run/netns
        sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
        ip netns add street
        ip -n street link add br0 type bridge forward_delay 0 && ip -n street link set br0 up
        ip link add up0 type veth peer name to-a netns street
        ip -n street link set to-a master br0 up && ip link set up0 up
        ip address add 192.0.2.10/24 dev up0 && ip address add 2001:db8:1::10/64 dev up0 nodad
        machine() { # name, device, last number
            ip netns add $1 && ip -n $1 link set lo up
            ip -n $1 link add $2 type veth peer name to-$1 netns street
            ip -n street link set to-$1 master br0 up && ip -n $1 link set $2 up
            ip -n $1 address add 192.0.2.$3/24 dev $2 && ip -n $1 address add 2001:db8:1::$3/64 dev $2 nodad
            ip -n $1 route add default via 192.0.2.10 && ip -n $1 route add default via 2001:db8:1::10
        }
        machine client eth0 7 && machine stranger eth0 12 && machine b up0 11
        nsenter --net=/run/netns/b sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip netns add pod && ip -n pod link set lo up
        ip link add pod0 netns b type veth peer name eth0 netns pod
        ip -n b link set pod0 up && ip -n pod link set eth0 up
        ip -n b address add 10.42.2.1/24 dev pod0 && ip -n b address add 2001:db8:42:2::1/64 dev pod0 nodad
        ip -n pod address add 10.42.2.10/24 dev eth0
        ip -n pod address add 2001:db8:42:2::10/64 dev eth0 nodad
        ip -n pod route add default via 10.42.2.1 && ip -n pod route add default via 2001:db8:42:2::1
        ip route add 10.42.2.0/24 via 192.0.2.11 && ip route add 2001:db8:42:2::/64 via 2001:db8:1::11");
    for ip in POD {
        let ip: IpAddr = ip.parse().unwrap();
        tcp_server("pod", &SocketAddr::new(ip, 8080).to_string());
        udp_server("pod", &SocketAddr::new(ip, 5353).to_string());
    }
    let (bpffs, cgroup) = (room.bpffs.with_file_name("b"), Cgroup(room.cgroup.join("b")));
    fs::create_dir(&cgroup.0).unwrap();
    let (maps, devices) = load(&room.bpffs, &room.cgroup, &["up0"]);
    let (a, b) = (["192.0.2.10", "2001:db8:1::10"], ["192.0.2.11", "2001:db8:1::11"]);
    let a = Orlop { state: node(maps, "node-a", &a, &b, mode), devices, bpffs: room.bpffs.clone() };
    let place = (bpffs.clone(), cgroup.0.clone());
    let (maps, devices) = at("b", move || load(&place.0, &place.1, &["up0", "pod0"]));
    let (own, other) = (["192.0.2.11", "2001:db8:1::11"], MASK);
    let b = Orlop { state: node(maps, "node-b", &own, &other, mode), devices, bpffs };
    // Neighbours of IPv6 take a moment.
    for to in NODE_A {
        assert!((0..5).any(|_| dial("client", &format!("{to}:30080")).is_ok()), "{to}");
    }
    Street { a, b, cgroup }
}

/// Bytes that came in at the first node.
fn came_in() -> u64 {
    let shown: serde_json::Value = serde_json::from_str(&sh("ip -j -s link show up0")).unwrap();
    shown[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
}

/// Bytes that are not all alike.
fn noise() -> Vec<u8> {
    (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Sends many bytes each way, one after the other, over one connection from the client. They arrive whole.
fn stream(to: &str, pod: &str) {
    let (to, listen): (SocketAddr, IpAddr) = (to.parse().unwrap(), pod.parse().unwrap());
    let listener = at("pod", move || TcpListener::bind(SocketAddr::new(listen, 8081)).unwrap());
    let client = spawn("client", move || {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&noise()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == noise(), "{} bytes came back", got.len());
    });
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut got = Vec::new();
    stream.read_to_end(&mut got).unwrap();
    assert!(got == noise(), "{} bytes arrived", got.len());
    let before = came_in();
    stream.write_all(&noise()).unwrap();
    drop(stream);
    client.join().unwrap();
    // The client's acknowledgements pass the first node, the answers do not.
    let passed = came_in() - before;
    assert!(
        passed < 1_500_000,
        "{passed} bytes of 8,000,000 and what acknowledges them came by the first node"
    );
}

#[test]
#[ignore = "root tier"]
fn the_backend_sees_the_client_and_answers_it_itself() {
    isolated("direct::the_backend_sees_the_client_and_answers_it_itself", |room| {
        let street = build(&room, LoadBalancing::Dsr);
        let seen = |place: &str, to: &str| dial(place, to).unwrap_or_else(|error| error.to_string());
        for (node, client) in NODE_A.into_iter().zip(CLIENT) {
            assert_eq!(seen("client", &format!("{node}:30080")), format!("pod {client}"));
            let socket = udp_client("client", &format!("{node}:30053"));
            for length in [1, 100, 1000] {
                assert_eq!(ask(&socket, length).unwrap(), format!("pod {client} {length}"));
            }
            // An error of the pod's comes from whom was asked, too.
            let refused = ask(&udp_client("client", &format!("{node}:30054")), 1).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        }
        for front_end in ["198.51.100.10:80", "198.51.100.11:80"] {
            assert_eq!(seen("client", front_end), "pod 192.0.2.7", "{front_end}");
        }
        assert_eq!(seen("client", "[2001:db8:44::10]:80"), "pod 2001:db8:1::7");
        // Its ranges are the service's, wherever it is asked.
        assert!(dial("stranger", "198.51.100.11:80").is_err());
        assert_eq!(seen("stranger", "198.51.100.10:80"), "pod 192.0.2.12");
        // A cluster IP is no address for the outside: as ever. So is an endpoint that no node has.
        assert_eq!(seen("client", "10.96.0.10:80"), "pod 192.0.2.10");
        assert_eq!(seen("client", "192.0.2.10:30084"), "pod 192.0.2.10");
        // A pod with its node's network.
        tcp_server("b", "192.0.2.11:8080");
        assert_eq!(seen("client", "192.0.2.10:30086"), "b 192.0.2.7");
        // A node is outside, too, also the backend's; a pod is not.
        assert_eq!(seen("b", "192.0.2.10:30080"), "pod 192.0.2.11");
        assert_eq!(seen("pod", "192.0.2.10:30080"), "pod 192.0.2.10");
        // The first node knows one way; the second knows both.
        let of_client = |bpffs: &Path| {
            let all = connections(&loader::pins(bpffs)).unwrap();
            let client = u32::from_ne_bytes([192, 0, 2, 7]);
            let udp = all.into_iter().filter(|(key, _)| key.proto == 17);
            let flags = udp.filter(|(key, to)| key.source[3] == client || to.destination[3] == client);
            flags.map(|(_, to)| to.flags).collect::<BTreeSet<_>>()
        };
        assert_eq!(of_client(&street.a.bpffs), [Connection::DIRECT].into());
        assert_eq!(of_client(&street.b.bpffs), [0, Connection::REPLY].into());
    });
}

#[test]
#[ignore = "root tier"]
fn hybrid_is_direct_for_tcp_only() {
    isolated("direct::hybrid_is_direct_for_tcp_only", |room| {
        let _street = build(&room, LoadBalancing::Hybrid);
        for ((node, client), mask) in NODE_A.into_iter().zip(CLIENT).zip(MASK) {
            assert_eq!(dial("client", &format!("{node}:30080")).unwrap(), format!("pod {client}"));
            let socket = udp_client("client", &format!("{node}:30053"));
            for length in [1, 1472, 4000] {
                assert_eq!(ask(&socket, length).unwrap(), format!("pod {mask} {length}"));
            }
        }
    });
}

/// The test's own service for streams.
const STREAMS: &str = "
- service: {name: stream, type: NodePort, cluster_ips: [10.96.0.15, '2001:db8:43::15'], ports: [{name: s, port: 80, node_port: 30085}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {s: 8081}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {s: 8081}}
";

#[test]
#[ignore = "root tier"]
fn streams_arrive_whole_whatever_the_devices_leave_to_each_other() {
    isolated("direct::streams_arrive_whole_whatever_the_devices_leave_to_each_other", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        let services = format!("{SERVICES}{}", STREAMS.trim_start());
        set(&mut street.a.state, &services);
        set(&mut street.b.state, &services);
        let streams = || NODE_A.iter().zip(POD).for_each(|(node, pod)| stream(&format!("{node}:30085"), pod));
        // Segments are cut by nobody; by the pod's device; by the client, whose first full ones are too long for the way.
        streams();
        sh("nsenter --net=/run/netns/b ethtool -K pod0 tso off gso off tx off >/dev/null");
        streams();
        sh("nsenter --net=/run/netns/client ethtool -K eth0 tso off gso off tx off >/dev/null");
        streams();
        let learnt = sh("ip -n client route get 192.0.2.10; ip -n client -6 route get 2001:db8:1::10");
        assert!(learnt.contains("mtu 1480") && learnt.contains("mtu 1460"), "{learnt}");
        // What is cut before it comes in is put together again.
        sh("nsenter --net=/run/netns/street ethtool -K to-a tso off gso off >/dev/null
            ethtool -K up0 gro on >/dev/null");
        streams();
    });
}

#[test]
#[ignore = "root tier"]
fn datagrams_of_any_size_go_there_and_back() {
    isolated("direct::datagrams_of_any_size_go_there_and_back", |room| {
        let _street = build(&room, LoadBalancing::Dsr);
        for (node, client) in NODE_A.into_iter().zip(CLIENT) {
            let socket = udp_client("client", &format!("{node}:30053"));
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for length in [1, 1400, 1472, 4000, 20_000] {
                // The first that is too long is how the client learns what fits.
                let answer = (0..3).find_map(|_| ask(&socket, length).ok());
                assert_eq!(answer, Some(format!("pod {client} {length}")), "{node} {length}");
            }
        }
    });
}

/// Puts a tunnel between the nodes, with the routes to the pod.
fn tunnel() {
    sh("tunnel() { # number of this end, of the other, route to
            ip link add vx0 type vxlan id 42 local 192.0.2.1$1 remote 192.0.2.1$2 dstport 4789 dev up0
            ip link set vx0 up mtu 1450
            ip address add 10.99.0.1$1/24 dev vx0 && ip address add 2001:db8:99::1$1/64 dev vx0 nodad
        }
        export -f tunnel
        tunnel 0 1 && nsenter --net=/run/netns/b bash -c 'tunnel 1 0'
        ip -n b link set pod0 mtu 1450 && ip -n pod link set eth0 mtu 1450
        ip route replace 10.42.2.0/24 via 10.99.0.11 && ip route replace 2001:db8:42:2::/64 via 2001:db8:99::11");
}

#[test]
#[ignore = "root tier"]
fn tunnels_between_nodes_carry_it() {
    isolated("direct::tunnels_between_nodes_carry_it", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        tunnel();
        street.a.devices.set(&["up0", "vx0"].map(device));
        let mut devices = street.b.devices;
        street.b.devices = at("b", move || {
            devices.set(&["up0", "pod0", "vx0"].map(device));
            devices
        });
        let services = format!("{SERVICES}{}", STREAMS.trim_start());
        set(&mut street.a.state, &services);
        set(&mut street.b.state, &services);
        thread::sleep(Duration::from_millis(1100));
        for (node, client) in NODE_A.into_iter().zip(CLIENT) {
            let socket = udp_client("client", &format!("{node}:30053"));
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for length in [1, 1400, 4000] {
                let answer = (0..5).find_map(|_| ask(&socket, length).ok());
                assert_eq!(answer, Some(format!("pod {client} {length}")), "{node} {length}");
            }
        }
        let sent: serde_json::Value = serde_json::from_str(&sh("ip -j -s link show vx0")).unwrap();
        assert!(sent[0]["stats64"]["tx"]["packets"].as_u64().unwrap() >= 6);
        NODE_A.iter().zip(POD).for_each(|(node, pod)| stream(&format!("{node}:30085"), pod));
    });
}

#[test]
#[ignore = "root tier"]
fn what_is_too_long_for_the_pods_link_the_client_hears_from_its_node() {
    isolated("direct::what_is_too_long_for_the_pods_link_the_client_hears_from_its_node", |room| {
        let _street = build(&room, LoadBalancing::Dsr);
        sh("ip -n b link set pod0 mtu 1300 && ip -n pod link set eth0 mtu 1300");
        for (node, client) in NODE_A.into_iter().zip(CLIENT) {
            let socket = udp_client("client", &format!("{node}:30053"));
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            for length in [1, 1400] {
                let answer = (0..3).find_map(|_| ask(&socket, length).ok());
                assert_eq!(answer, Some(format!("pod {client} {length}")), "{node} {length}");
            }
        }
        let learnt = sh("ip -n client route get 192.0.2.10; ip -n client -6 route get 2001:db8:1::10");
        assert_eq!(learnt.matches("mtu 1300").count(), 2, "{learnt}");
    });
}

/// A packet inside another, from and to these addresses.
fn packed(outer: (&str, &str), inner: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (outer.0.parse().unwrap(), outer.1.parse().unwrap());
    wrap(if from.is_ipv4() { 4 } else { 41 }, from, to, &inner[14..])
}

#[test]
#[ignore = "root tier"]
fn only_nodes_may_send_what_is_unpacked() {
    isolated("direct::only_nodes_may_send_what_is_unpacked", |room| {
        let street = build(&room, LoadBalancing::Dsr);
        let [up, pod] = ["up0", "pod0"].map(|name| at("b", move || device(name).index));
        let run = |device, frame: &[u8]| street.b.devices.test_run_at(Side::In, device, frame, 1).unwrap();
        let dropped = || drops(&loader::pins(&street.b.bpffs)).unwrap();
        let cases = [
            (["192.0.2.7:4000", "192.0.2.10:30080"], "192.0.2.10", "192.0.2.12", "10.42.2.10", "10.42.2.99"),
            (
                ["[2001:db8:1::7]:4000", "[2001:db8:1::10]:30080"],
                "2001:db8:1::10",
                "2001:db8:1::12",
                "2001:db8:42:2::10",
                "2001:db8:42:2::99",
            ),
        ];
        // A program is run in the network namespace of who asks for it.
        let namespace = fs::File::open("/run/netns/b").unwrap();
        let own = fs::File::open("/proc/self/ns/net").unwrap();
        let enter = |to: &fs::File| {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(to), kind).unwrap();
        };
        enter(&namespace);
        for (ends_of, node, stranger, endpoint, nobody) in cases {
            let [client, asked] = ends_of.map(|end| end.parse::<SocketAddr>().unwrap());
            let inner = first(Protocol::Tcp, client, asked);
            let from_node = packed((node, endpoint), &inner);
            let before = dropped()["forged-tunnel"];
            // From somebody who is no node; from a pod, whatever address it uses.
            for (device, outer) in
                [(up, (stranger, endpoint)), (pod, (node, endpoint)), (pod, (endpoint, endpoint))]
            {
                let result = run(device, &packed(outer, &inner));
                assert_eq!(result.action, SHOT, "{outer:?}");
            }
            assert_eq!(dropped()["forged-tunnel"], before + 3);
            // Tunnels of others: to whom the service does not lead, about another port, about nobody's service, a part of it.
            let other_port = first(Protocol::Tcp, client, SocketAddr::new(asked.ip(), 30_099));
            let other_protocol = first(Protocol::Udp, client, asked);
            let mut cut = from_node.clone();
            cut.truncate(from_node.len() - 4);
            let left = [
                packed((node, nobody), &inner),
                packed((node, endpoint), &other_port),
                packed((node, endpoint), &other_protocol),
                packed((stranger, endpoint), &other_port),
                cut,
            ];
            for frame in left {
                let result = run(up, &frame);
                assert_eq!((result.action, result.frame), (NEXT, frame));
            }
            // From a node: unpacked, and for the pod. It need not be the first packet that is seen.
            for inner in [&inner, &later(Protocol::Tcp, SocketAddr::new(client.ip(), 4001), asked)] {
                let result = run(up, &packed((node, endpoint), inner));
                assert_eq!(result.action, REDIRECT);
                let there = ends(Protocol::Tcp, &result.frame);
                assert_eq!(there.source.ip(), client.ip());
                assert_eq!(there.destination, SocketAddr::new(endpoint.parse().unwrap(), 8080));
                let (_, _, next, payload) = unwrap(&result.frame);
                assert_eq!((next, payload.len()), (6, 20));
            }
        }
        // Whom a service does not let in another node does not let in, either.
        let guarded = ["192.0.2.12:4000", "198.51.100.11:80"].map(|end| end.parse::<SocketAddr>().unwrap());
        let frame = packed(("192.0.2.10", "10.42.2.10"), &first(Protocol::Tcp, guarded[0], guarded[1]));
        let before = dropped()["source-range"];
        assert_eq!(run(up, &frame).action, SHOT);
        assert_eq!(dropped()["source-range"], before + 1);
        enter(&own);
    });
}

/// Sends a packet inside one of a place's own.
fn send_packed(place: &str, outer: [IpAddr; 2], inner: Vec<u8>) {
    let [from, to] = outer.map(|ip| SocketAddr::new(ip, 0));
    let send = move || {
        let (family, protocol) = match from {
            SocketAddr::V4(_) => (AddressFamily::INET, ipproto::IPIP),
            SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::IPV6),
        };
        let socket = net::socket(family, SocketType::RAW, Some(protocol)).unwrap();
        net::bind(&socket, &from).unwrap();
        net::sendto(&socket, &inner[14..], SendFlags::empty(), &to).unwrap();
    };
    if place == "node-a" { send() } else { at(place, send) }
}

#[test]
#[ignore = "root tier"]
fn a_forgery_does_not_arrive() {
    isolated("direct::a_forgery_does_not_arrive", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        // Another pod of the second node; it and the stranger say that they are the first node.
        sh("ip netns add evil && ip -n evil link set lo up
            ip link add pod1 netns b type veth peer name eth0 netns evil
            ip -n b link set pod1 up && ip -n evil link set eth0 up
            ip -n b address add 10.42.3.1/24 dev pod1 && ip -n b address add 2001:db8:42:3::1/64 dev pod1 nodad
            ip -n evil address add 10.42.3.10/24 dev eth0 && ip -n evil address add 2001:db8:42:3::10/64 dev eth0 nodad
            ip -n evil route add default via 10.42.3.1 && ip -n evil route add default via 2001:db8:42:3::1
            ip -n evil address add 192.0.2.10/32 dev lo && ip -n evil address add 2001:db8:1::10/128 dev lo nodad
            ip -n stranger route add 10.42.2.0/24 via 192.0.2.11 && ip -n stranger route add 2001:db8:42:2::/64 via 2001:db8:1::11");
        let mut devices = street.b.devices;
        street.b.devices = at("b", move || {
            devices.set(&[device("up0"), device("pod0"), Device { pod: true, ..device("pod1") }]);
            devices
        });
        let dropped = || drops(&loader::pins(&street.b.bpffs)).unwrap()["forged-tunnel"];
        for (number, client) in CLIENT.into_iter().enumerate() {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let (node, pod) = (ip(MASK[number]), ip(POD[number]));
            let client = SocketAddr::new(ip(client), 4444);
            let socket = at("client", move || UdpSocket::bind(client).unwrap());
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let inner = first(Protocol::Udp, client, SocketAddr::new(node, 30_053));
            let answered = |place: &str, from: IpAddr| {
                send_packed(place, [from, pod], inner.clone());
                socket.recv(&mut [0; 64]).is_ok()
            };
            let (stranger, evil) = (["192.0.2.12", "2001:db8:1::12"], ["10.42.3.10", "2001:db8:42:3::10"]);
            let before = dropped();
            assert!(!answered("stranger", ip(stranger[number])));
            assert!(!answered("evil", ip(evil[number])));
            assert!(!answered("evil", node));
            assert_eq!(dropped(), before + 3);
            // The node itself would have been heard.
            assert!(answered("node-a", node));
        }
    });
}

const TWO: &str = "
- service: {name: two, type: NodePort, cluster_ips: [10.96.0.17, '2001:db8:43::17'], ports: [{name: http, port: 80, node_port: 30087}]}
  endpoints:
  - {ip: 10.42.2.10, node: node-b, ports: {http: 8080}}
  - {ip: 10.42.2.11, node: node-b, ports: {http: 8080}}
  - {ip: '2001:db8:42:2::10', node: node-b, ports: {http: 8080}}
  - {ip: '2001:db8:42:2::11', node: node-b, ports: {http: 8080}}
";

/// A router's word to the first node that a packet from there to the client was too big.
fn too_big(router: &str, node: SocketAddr, client: SocketAddr) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (router.parse().unwrap(), node.ip());
    let quoted = &first(Protocol::Tcp, node, client)[14..][..if from.is_ipv4() { 28 } else { 48 }];
    let (next, kind) = if from.is_ipv4() { (1, [3, 4]) } else { (58, [2, 0]) };
    let mut icmp = [&kind[..], &[0, 0, 0, 0, 5, 0x78], quoted].concat();
    let pseudo = if from.is_ipv4() { Vec::new() } else { pseudo_of(next, from, to, icmp.len()) };
    let checksum = (!sum(&[&pseudo[..], &icmp].concat())).to_be_bytes();
    icmp[2..4].copy_from_slice(&checksum);
    wrap(next, from, to, &icmp)
}

#[test]
#[ignore = "root tier"]
fn the_first_node_knows_one_side_of_a_connection() {
    isolated("direct::the_first_node_knows_one_side_of_a_connection", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        let up = device("up0").index;
        street.a.devices.set(&[]);
        street.a.devices.set(&[Device { early: true, ..device("up0") }]);
        let cases = [
            (["192.0.2.7", "192.0.2.10"], "192.0.2.99", ["10.42.2.10", "10.42.2.11"]),
            (
                ["2001:db8:1::7", "2001:db8:1::10"],
                "2001:db8:1::99",
                ["2001:db8:42:2::10", "2001:db8:42:2::11"],
            ),
        ];
        for (both, router, endpoints) in cases {
            set(&mut street.a.state, TWO);
            let [client, node] = both.map(|ip| ip.parse::<IpAddr>().unwrap());
            let endpoints = ips(&endpoints);
            let asked = SocketAddr::new(node, 30_087);
            let run = |side, frame: &[u8]| street.a.devices.test_run_at(side, up, frame, 1).unwrap();
            // Where a packet goes, which is itself but for a hop.
            let goes = |frame: &[u8]| {
                let result = run(Side::In, frame);
                assert_eq!(result.action, REDIRECT);
                let (from, to, next, inner) = unwrap(&result.frame);
                assert_eq!((from, next), (node, if node.is_ipv4() { 4 } else { 41 }));
                let mut unpacked = [&frame[..14], inner].concat();
                assert_eq!(ends(Protocol::Tcp, &unpacked), ends(Protocol::Tcp, frame));
                let hops = if node.is_ipv4() { 14 + 8 } else { 14 + 7 };
                assert_eq!(unpacked[hops], frame[hops] - 1);
                if node.is_ipv4() {
                    unwrap(&unpacked);
                    unpacked[14 + 10..14 + 12].copy_from_slice(&frame[14 + 10..14 + 12]);
                }
                unpacked[hops] += 1;
                assert_eq!(unpacked, frame);
                to
            };
            let from = |port| SocketAddr::new(client, port);
            let opening = first(Protocol::Tcp, from(5000), asked);
            let chosen = goes(&opening);
            assert!(endpoints.contains(&chosen));
            // It may have to be said again.
            assert!((0..20).all(|_| goes(&opening) == chosen));
            let known = later(Protocol::Tcp, from(5000), asked);
            assert_eq!(goes(&known), chosen);
            // Before the stack, it is none of ours.
            let early = run(Side::Early, &known);
            assert_eq!((early.action, early.frame), (PASS, known.clone()));
            // What a router says about an answer, which it saw go by, the pod hears about its own.
            let result = run(Side::In, &too_big(router, asked, from(5000)));
            assert_eq!(result.action, REDIRECT);
            let (source, to, _, icmp) = unwrap(&result.frame);
            assert_eq!((source, to), (router.parse().unwrap(), chosen));
            let quoted = first(Protocol::Tcp, SocketAddr::new(chosen, 8080), from(5000));
            let header = if node.is_ipv4() { 20 } else { 40 };
            // Addresses and ports; the checksum of the header inside is put right.
            assert_eq!(icmp[8 + header..][..4], quoted[14 + header..][..4]);
            let addresses = if node.is_ipv4() { 12..20 } else { 8..40 };
            assert_eq!(icmp[8..][addresses.clone()], quoted[14..][addresses]);
            let pseudo = if node.is_ipv4() { Vec::new() } else { pseudo_of(58, source, to, icmp.len()) };
            assert_eq!(sum(&[&pseudo[..], icmp].concat()), 0xffff);
            // Once the client has closed, its port may mean another connection.
            let mut closing = known.clone();
            let flags = 14 + header + 13;
            closing[flags] |= 1;
            let anew: BTreeSet<_> = (0..40)
                .map(|_| {
                    run(Side::In, &closing);
                    goes(&opening)
                })
                .collect();
            assert_eq!(anew, endpoints);
            // An endpoint that gets no new connections keeps those it has.
            let chosen = goes(&opening);
            let gone = TWO.lines().filter(|line| !line.contains(&chosen.to_string())).collect::<Vec<_>>();
            set(&mut street.a.state, &gone.join("\n"));
            let run = |side, frame: &[u8]| street.a.devices.test_run_at(side, up, frame, 1).unwrap();
            let to = |frame: &[u8]| unwrap(&run(Side::In, frame).frame).1;
            assert_eq!(to(&known), chosen);
            assert_ne!(to(&opening), chosen);
        }
    });
}

#[test]
#[ignore = "root tier"]
fn policies_are_about_the_client() {
    isolated("direct::policies_are_about_the_client", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        let namespaces = [("shop".to_owned(), [].into())];
        let pod = Pod {
            labels: [("app".to_owned(), "web".to_owned())].into(),
            ips: POD.map(|ip| ip.parse().unwrap()).into(),
            node: "node-b".to_owned(),
            ports: [].into(),
        };
        let key = Key { namespace: "shop".to_owned(), name: "web".to_owned() };
        let mut policy = NetworkPolicy {
            spec: serde_norway::from_str(
                "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.7/32}}, {ipBlock: {cidr: '2001:db8:1::7/128'}}]}]}",
            )
            .unwrap(),
            ..NetworkPolicy::default()
        };
        policy.metadata.namespace = Some("shop".to_owned());
        policy.metadata.name = Some("p".to_owned());
        let b = &mut street.b.state;
        for change in [
            Change::Namespace(Event::Reset(namespaces.to_vec())),
            Change::Pod(Event::Reset(vec![(key, Some(pod))])),
            Change::Policy(Event::Reset(vec![ingest::policy(&policy)])),
        ] {
            b.ingest(Update::Policy(change));
        }
        b.sync();
        assert_eq!(b.status().policy_failure, None);
        for (node, client) in NODE_A.into_iter().zip(CLIENT) {
            assert_eq!(dial("client", &format!("{node}:30080")).unwrap(), format!("pod {client}"));
            assert!(dial("stranger", &format!("{node}:30080")).is_err());
        }
        assert!(drops(&loader::pins(&street.b.bpffs)).unwrap()["policy-ingress"] > 0);
    });
}

#[test]
#[ignore = "root tier"]
fn connections_outlast_agents_and_changes_of_the_mode() {
    isolated("direct::connections_outlast_agents_and_changes_of_the_mode", |room| {
        let mut street = build(&room, LoadBalancing::Dsr);
        let mut streams = NODE_A.map(|node| {
            let to: SocketAddr = format!("{node}:30080").parse().unwrap();
            at("client", move || {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                first_line(&mut stream).unwrap();
                stream
            })
        });
        let mut echo = |text: &str| {
            for stream in &mut streams {
                stream.write_all(format!("{text}\n").as_bytes()).unwrap();
                assert_eq!(first_line(stream).unwrap(), text);
            }
        };
        echo("first");
        // Nothing is to be repaired; and what another hand takes away comes back.
        for state in [&mut street.a.state, &mut street.b.state] {
            state.repair();
            assert_eq!(state.status().repaired, 0);
        }
        for map in ["RECEIVERS", "RANGES"] {
            let map = loader::pins(&street.b.bpffs).join(map);
            sh(&format!(
                "bpftool -j map dump pinned {0} | jq -r '.[].key | join(\" \")' |
                 while read -r key; do bpftool map delete pinned {0} key hex $(echo $key | sed s/0x//g); done",
                map.display()
            ));
        }
        street.b.state.repair();
        assert!(street.b.state.status().repaired > 0);
        assert_eq!(dial("client", "192.0.2.10:30080").unwrap(), "pod 192.0.2.7");
        // Another agent, which has not heard of the other nodes yet, nor sends on anything as it came: what was known goes on.
        let (bpffs, cgroup) = (street.b.bpffs.clone(), street.cgroup.0.clone());
        let (maps, devices) = at("b", move || load(&bpffs, &cgroup, &["up0", "pod0"]));
        let settings = Settings { load_balancing: LoadBalancing::Accept, ..Settings::default() };
        let own = ["192.0.2.11", "2001:db8:1::11"].map(|ip| ip.parse().unwrap());
        let node_b = Node { name: "node-b".to_owned(), primary: own.to_vec(), settings, ..Node::default() };
        let mut state = State::new(maps, node_b);
        state.ingest(Update::Addresses(own.into()));
        set(&mut state, SERVICES);
        (street.b.state, street.b.devices) = (state, devices);
        echo("second");
        assert_eq!(dial("client", "192.0.2.10:30080").unwrap(), "pod 192.0.2.7");
        // Back to masquerading: old connections stay as they are.
        let (maps, devices) = load(&room.bpffs, &room.cgroup, &["up0"]);
        street.a.devices = devices;
        street.a.state = node(maps, "node-a", &MASK, &["192.0.2.11"], LoadBalancing::Snat);
        echo("third");
        assert_eq!(dial("client", "192.0.2.10:30080").unwrap(), "pod 192.0.2.10");
        // A connection's end is seen on one side only; its ports serve the next one all the same.
        drop(streams);
        thread::sleep(Duration::from_millis(100));
        let closed = |bpffs: &Path| {
            let all = connections(&loader::pins(bpffs)).unwrap();
            all.iter().filter(|(_, to)| to.flags & Connection::CLOSED != 0).count()
        };
        assert!(closed(&room.bpffs) > 0 && closed(&street.b.bpffs) > 0);
    });
}
