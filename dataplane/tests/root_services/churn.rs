//! Connections that last while everything around them changes: endpoints come and go (theirs stays), the agent is killed and
//! comes back, programs are replaced by new ones. And a way on which packets have to be smaller than anybody's device says.
//!
//! ```text
//! client ── street ── node ── pod 10.42.1.10
//!              ├────── other (pods 10.42.2.10, .11 of another node)
//!              └────── router ──1400── gate ──1500── far (pod 10.42.3.10)
//! ```

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use orlop_dataplane::maps::Maps as _;
use orlop_dataplane::sweep::sweep;
use orlop_dataplane::{Update, loader};

use crate::lines::Traffic;
use crate::room::{Room, isolated, sh};
use crate::script::{set, start};
use crate::town::{self, tcp_server};

const NODE_PORT: &str = "192.0.2.10:30080";
const CLUSTER_IP: &str = "10.96.0.10:80";

/// A pod of this node's, and one of another's: endpoints that come and go.
const HERE: (&str, &str) = ("10.42.1.10", "node-a");
const THERE: (&str, &str) = ("10.42.2.11", "node-b");

/// The service with the endpoint that stays, and these.
fn web(more: &[(&str, &str)]) -> String {
    let more =
        more.iter().map(|(ip, node)| format!("\n  - {{ip: {ip}, node: {node}, ports: {{http: 8080}}}}"));
    format!(
        "- service: {{name: web, type: NodePort, cluster_ips: [10.96.0.10], ports: [{{name: http, port: 80, node_port: 30080}}]}}
  endpoints:
  - {{ip: 10.42.2.10, node: node-b, ports: {{http: 8080}}}}{}\n",
        more.collect::<String>()
    )
}

fn town_with_servers() {
    town::build();
    sh("ip -n other address add 10.42.2.11/32 dev lo");
    for (place, ip) in [("pod", "10.42.1.10"), ("other", "10.42.2.10"), ("other", "10.42.2.11")] {
        tcp_server(place, &format!("{ip}:8080"));
    }
}

/// Everything changes, again and again. Endpoints that left go on answering for who is with them.
fn changes(room: &Room) {
    // Each agent is killed without a warning; each brings its own programs, which replace the ones before.
    for more in [&[HERE][..], &[HERE, THERE], &[], &[THERE]] {
        drop(room.agent(&web(more)));
    }
    let mut state = start(room);
    // As the agents have found them.
    let addresses = ["192.0.2.10", "10.42.1.1", "2001:db8:1::10", "2001:db8:42:1::1"];
    state.ingest(Update::Addresses(addresses.map(|ip| ip.parse().unwrap()).into()));
    for round in 0..100_u8 {
        let more: &[_] = match round % 3 {
            0 => &[HERE],
            1 => &[THERE, HERE],
            _ => &[],
        };
        set(&mut state, &web(more));
        // None of these is UDP's, and nobody asked for TCP's end.
        let removed = state.maps_mut().take_removed();
        assert_eq!(sweep(&room.bpffs, &room.cgroup, &removed).unwrap(), 0);
    }
    for _ in 0..10 {
        let mut devices = loader::load_all(&room.bpffs, &room.cgroup).unwrap().devices;
        town::attach(&mut devices, &["br0", "pod0"]);
    }
}

#[test]
#[ignore = "root tier"]
fn node_port_connections_to_another_nodes_pod_outlive_every_change() {
    isolated("churn::node_port_connections_to_another_nodes_pod_outlive_every_change", |room| {
        town_with_servers();
        drop(room.agent(&web(&[])));
        let mut traffic = Traffic::default();
        for (place, to) in [("client", NODE_PORT), ("other", NODE_PORT), ("pod", CLUSTER_IP)] {
            traffic.lasting(Some(place), to, 4);
            traffic.beginning(Some(place), to);
        }
        changes(&room);
        traffic.finish();
    });
}

#[test]
#[ignore = "root tier"]
fn cluster_ip_connections_made_at_the_socket_outlive_every_change() {
    isolated("churn::cluster_ip_connections_made_at_the_socket_outlive_every_change", |room| {
        town_with_servers();
        drop(room.agent(&web(&[])));
        room.enter();
        let mut traffic = Traffic::default();
        for place in [Some("pod"), None] {
            traffic.lasting(place, CLUSTER_IP, 4);
            traffic.beginning(place, CLUSTER_IP);
        }
        changes(&room);
        traffic.finish();
    });
}

/// Sends so much, and has it sent back: whether it all came.
fn streams(place: &'static str, to: &str) {
    const LENGTH: usize = 1 << 20;
    let to: SocketAddr = to.parse().unwrap();
    town::at(place, move || {
        let begun = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(town::first_line(&mut stream).unwrap().split(' ').next(), Some("far"));
        let mut writing = stream.try_clone().unwrap();
        let writer = thread::spawn(move || writing.write_all(&vec![b'x'; LENGTH]));
        let mut back = vec![0; LENGTH];
        let read = stream.read_exact(&mut back);
        read.unwrap_or_else(|error| panic!("{place} to {to}: {error} after {:?}", begun.elapsed()));
        writer.join().unwrap().unwrap();
        assert!(back.iter().all(|byte| *byte == b'x'));
    });
}

/// What the kernel of a place has learnt of the way to an address.
fn learnt(place: &str, to: &str) -> bool {
    sh(&format!("ip -n {place} route get {to}")).contains("mtu 1400")
}

#[test]
#[ignore = "root tier"]
fn streams_find_the_size_of_a_narrow_way_behind_the_service() {
    isolated("churn::streams_find_the_size_of_a_narrow_way_behind_the_service", |room| {
        town::build();
        sh("for n in router gate far; do
                ip netns add $n && ip -n $n link set lo up
                ip netns exec $n sysctl -qw net.ipv4.ip_forward=1
            done
            ip link add to-router type veth peer name eth0 netns router && ip link set to-router master br0 up
            ip -n router link set eth0 up && ip -n router address add 192.0.2.20/24 dev eth0
            ip -n router link add eth1 mtu 1400 type veth peer name eth0 mtu 1400 netns gate
            ip -n gate link add eth1 type veth peer name eth0 netns far
            for at in 'router eth1 10.0.1.1' 'gate eth0 10.0.1.2' 'gate eth1 10.42.3.1' 'far eth0 10.42.3.10'; do
                set -- $at
                ip -n $1 link set $2 up && ip -n $1 address add $3/24 dev $2
            done
            ip -n router route add 10.42.3.0/24 via 10.0.1.2 && ip -n router route add default via 192.0.2.10
            ip -n gate route add default via 10.0.1.1 && ip -n far route add default via 10.42.3.1
            ip route add 10.42.3.0/24 via 192.0.2.20");
        tcp_server("far", "10.42.3.10:8080");
        let _agent = room.agent(&web(&[]).replace("10.42.2.10", "10.42.3.10"));
        streams("client", NODE_PORT);
        assert!(
            learnt("client", "192.0.2.10"),
            "the error did not reach the client as one about the node port"
        );
        streams("pod", CLUSTER_IP);
        assert!(learnt("pod", "10.96.0.10"), "the error did not reach the pod as one about the cluster IP");
        room.enter();
        streams("pod", CLUSTER_IP);
    });
}
