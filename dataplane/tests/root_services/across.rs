//! From pod to pod of a node: past the node's stack where nothing there has a say, and through it where something has.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use orlop_dataplane::loader;
use orlop_dataplane::maps::seen::drops;

use crate::room::{isolated, sh};
use crate::town::{self, ask, at, udp_client, udp_client_from, udp_server};

const POD: [&str; 2] = ["10.42.1.10:5353", "[2001:db8:42:1::10]:5353"];
const ASKED: u64 = 100;

/// How many packets the node's end of the pod's link sent in the course of so many questions and answers.
fn sent_while_asked(from: &str, to: &str) -> u64 {
    let sent = || {
        let shown: serde_json::Value = serde_json::from_str(&sh("ip -j -s link show pod0")).unwrap();
        shown[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    let socket = udp_client(from, to);
    // Neighbours have to be known.
    assert!((0..5).any(|_| ask(&socket, 1).is_ok()), "{from} does not reach {to}");
    let before = sent();
    for length in 1..=ASKED {
        let said = ask(&socket, usize::try_from(length).unwrap()).unwrap();
        assert!(said.starts_with("pod ") && said.ends_with(&format!(" {length}")), "{said}");
    }
    sent() - before
}

/// Devices are looked at as they change, not at once.
#[track_caller]
fn soon(what: impl Fn() -> bool) {
    assert!((0..50).any(|_| what() || {
        thread::sleep(Duration::from_millis(100));
        false
    }));
}

/// A neighbour may be asked about now and then.
const FEW: u64 = ASKED / 10;

#[test]
#[ignore = "root tier"]
fn pods_of_a_node_reach_each_other_past_its_stack() {
    isolated("across::pods_of_a_node_reach_each_other_past_its_stack", |room| {
        town::build();
        town::build_peer();
        sh("ip link set pod0 alias pod:a && ip link set peer0 alias pod:b");
        POD.iter().for_each(|pod| udp_server("pod", pod));
        let _agent = room.agent("[]");
        for to in POD {
            soon(|| sent_while_asked("peer", to) < FEW);
            // Only pods are at either end: the outside goes through the stack.
            assert!(sent_while_asked("client", to) >= ASKED);
        }
        // Whoever limits what a pod gets, or sends, sees all of it.
        for limit in ["pod0 root tbf rate 1gbit burst 100kb latency 10ms", "peer0 clsact"] {
            sh(&format!("tc qdisc add dev {limit}"));
            soon(|| sent_while_asked("peer", POD[0]) >= ASKED);
            sh(&format!("tc qdisc del dev {}", limit.split(" tbf").next().unwrap()));
            soon(|| sent_while_asked("peer", POD[0]) < FEW);
        }
        // A link that is no pod's any more, as far as its name says.
        sh("ip link set peer0 alias somebody");
        soon(|| sent_while_asked("peer", POD[0]) >= ASKED);
    });
}

/// Packets that the node's stack sent on in the course of so many questions and answers.
fn forwarded_while_asked(from: &str, to: &str) -> u64 {
    let count = |name: &str| {
        let said = sh("nstat -asz IpForwDatagrams Ip6OutForwDatagrams");
        let line = said.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let forwarded = || count("IpForwDatagrams") + count("Ip6OutForwDatagrams");
    let socket = udp_client_from("other", from, to);
    assert!((0..5).any(|_| ask(&socket, 1).is_ok()), "{from} does not reach {to}");
    let before = forwarded();
    (1..=ASKED).for_each(|length| drop(ask(&socket, usize::try_from(length).unwrap()).unwrap()));
    forwarded() - before
}

#[test]
#[ignore = "root tier"]
fn pods_of_two_nodes_reach_each_other_past_the_stack() {
    isolated("across::pods_of_two_nodes_reach_each_other_past_the_stack", |room| {
        town::build();
        sh("ip link set pod0 alias pod:a");
        POD.iter().for_each(|pod| udp_server("pod", pod));
        let _agent = room.agent("[]");
        let ends = [["10.42.2.10:0", "192.0.2.11:0"], ["[2001:db8:42:2::10]:0", "[2001:db8:1::11]:0"]];
        for ([pod, node], to) in ends.into_iter().zip(POD) {
            soon(|| forwarded_while_asked(pod, to) < FEW);
            assert!(forwarded_while_asked(node, to) >= 2 * ASKED, "what comes from no pod, and goes to none");
        }
        // Whoever polices what comes in from other nodes sees it.
        sh("tc qdisc add dev br0 clsact");
        soon(|| forwarded_while_asked("10.42.2.10:0", POD[0]) >= ASKED);
        sh("tc qdisc delete dev br0 clsact");
        soon(|| forwarded_while_asked("10.42.2.10:0", POD[0]) < FEW);
        // What is to be encrypted, or must have been, is looked at by the stack.
        let policy = "dir fwd src 10.42.2.0/24 dst 10.42.1.0/24";
        sh(&format!("ip xfrm policy add {policy} action allow"));
        soon(|| forwarded_while_asked("10.42.2.10:0", POD[0]) >= 2 * ASKED);
        sh(&format!("ip xfrm policy update {policy} action block"));
        assert!(ask(&udp_client_from("other", "10.42.2.10:0", POD[0]), 1).is_err());
        sh(&format!("ip xfrm policy delete {policy}"));
        soon(|| forwarded_while_asked("10.42.2.10:0", POD[0]) < FEW);
    });
}

#[test]
#[ignore = "root tier"]
fn a_hop_is_a_hop_and_a_forgery_a_forgery() {
    isolated("across::a_hop_is_a_hop_and_a_forgery_a_forgery", |room| {
        town::build();
        town::build_peer();
        sh("ip link set pod0 alias pod:a && ip link set peer0 alias pod:b
            ip -n peer address add 10.42.2.10/32 dev lo");
        POD.iter().for_each(|pod| udp_server("pod", pod));
        let _agent = room.agent("[]");
        soon(|| sent_while_asked("peer", POD[0]) < FEW);
        let listening = at("pod", || UdpSocket::bind("10.42.1.10:4444").unwrap());
        listening.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let send = |from: &'static str, ttl| {
            at("peer", move || {
                let socket = UdpSocket::bind(from).unwrap();
                socket.set_ttl(ttl).unwrap();
                socket.send_to(b"x", "10.42.1.10:4444").unwrap();
            });
        };
        send("10.42.3.10:4444", 1);
        assert!(listening.recv(&mut [0; 8]).is_err());
        send("10.42.3.10:4444", 2);
        assert!(listening.recv(&mut [0; 8]).is_ok());
        send("10.42.2.10:4444", 64);
        assert!(listening.recv(&mut [0; 8]).is_err());
        assert_eq!(drops(&loader::pins(&room.bpffs)).unwrap()["forged-source"], 1);
    });
}

#[test]
#[ignore = "root tier"]
fn streams_arrive_whole_whatever_the_devices_leave_to_each_other() {
    isolated("across::streams_arrive_whole_whatever_the_devices_leave_to_each_other", |room| {
        town::build();
        town::build_peer();
        // The receiver takes less than the sender would send.
        sh("ip link set pod0 alias pod:a && ip link set peer0 alias pod:b
            ip -n pod link set eth0 mtu 1300 && ip link set pod0 mtu 1300");
        let _agent = room.agent("[]");
        let listeners = ["10.42.1.10:8080", "[2001:db8:42:1::10]:8080"].map(|to| {
            let to: SocketAddr = to.parse().unwrap();
            (to, at("pod", move || TcpListener::bind(to).unwrap()))
        });
        for (to, listener) in listeners {
            let sent: Vec<u8> =
                (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let expected = sent.clone();
            let sending = town::spawn("peer", move || {
                let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
                stream.write_all(&sent).unwrap();
            });
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            sending.join().unwrap();
            assert!(got == expected, "{to}: {} bytes", got.len());
        }
    });
}
