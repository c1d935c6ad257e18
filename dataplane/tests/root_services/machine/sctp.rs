//! Associations of SCTP through services: the kernel's own at both ends.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use orlop_dataplane::loader::Devices;
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::reconcile::State;

use super::PAUSE;
use super::sockets::{address_of, connect, many, server};
use crate::lines::Traffic;
use crate::packets;
use crate::room::{Room, isolated, sh};
use crate::script::set;
use crate::town::{self, at, first_line};

pub(crate) const NODE_PORT: &str = "192.0.2.10:30132";
const NODE_PORT_6: &str = "[2001:db8:1::10]:30132";
pub(crate) const CLUSTER_IP: &str = "10.96.0.20:2905";
const CLUSTER_IP_6: &str = "[2001:db8:43::20]:2905";

/// The service with these endpoints, which are `pod` and `other`.
pub(crate) fn service(endpoints: &[&str]) -> String {
    let mut yaml = "- service: {name: sig, type: NodePort, cluster_ips: [10.96.0.20, '2001:db8:43::20'], ports: [{name: s, protocol: SCTP, port: 2905, node_port: 30132}]}\n  endpoints:\n".to_owned();
    for place in endpoints {
        let (node, net) = if *place == "pod" { ("node-a", 1) } else { ("node-b", 2) };
        yaml += &format!(
            "  - {{ip: 10.42.{net}.10, node: {node}, ports: {{s: 2906}}}}\n  - {{ip: '2001:db8:42:{net}::10', node: {node}, ports: {{s: 2906}}}}\n"
        );
    }
    yaml
}

fn start(room: &Room) -> (State<KernelMaps>, Devices) {
    sh("modprobe sctp");
    town::build();
    let (mut state, devices) = packets::install(room);
    set(&mut state, &service(&["pod", "other"]));
    serve();
    (state, devices)
}

/// Starts the servers of the service's endpoints.
pub(crate) fn serve() {
    for (place, net) in [("pod", 1), ("other", 2)] {
        server(place, &format!("10.42.{net}.10:2906"));
        server(place, &format!("[2001:db8:42:{net}::10]:2906"));
    }
}

/// An association from wherever the thread is, whose server has said who it is.
pub(crate) fn open_in_town(to: SocketAddr) -> io::Result<TcpStream> {
    // The address that this place has is the one that it can bind.
    let from = ["client", "pod"].map(|place| address_of(Some(place), to.is_ipv4()));
    let connected = from.into_iter().map(|from| connect(from, to));
    let mut stream = connected.reduce(Result::or).ok_or(io::ErrorKind::NotFound)??;
    first_line(&mut stream)?;
    Ok(stream)
}

fn open(place: Option<&'static str>, to: &str) -> io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let from = address_of(place, to.is_ipv4());
    match place {
        Some(place) => at(place, move || connect(from, to)),
        None => connect(from, to),
    }
}

fn dial(place: Option<&'static str>, to: &str) -> String {
    let line = open(place, to).and_then(|mut stream| first_line(&mut stream));
    line.unwrap_or_else(|error| error.to_string())
}

fn answers(place: Option<&'static str>, to: &str) -> BTreeSet<String> {
    (0..24).map(|_| dial(place, to)).collect()
}

fn said(words: [&str; 2]) -> BTreeSet<String> {
    words.map(str::to_owned).into()
}

#[test]
#[ignore = "machine: SCTP"]
fn clients_pods_and_the_node_reach_services() {
    isolated("machine::sctp::clients_pods_and_the_node_reach_services", |room| {
        let _node = start(&room);
        sh("ip route add default via 192.0.2.7; ip route add default via 2001:db8:1::7");
        let node = ["pod 192.0.2.10", "other 192.0.2.10"];
        let node6 = ["pod 2001:db8:1::10", "other 2001:db8:1::10"];
        assert_eq!(answers(Some("client"), NODE_PORT), said(node));
        assert_eq!(answers(Some("client"), NODE_PORT_6), said(node6));
        assert_eq!(answers(Some("client"), CLUSTER_IP), said(node));
        assert_eq!(answers(Some("pod"), CLUSTER_IP), said(["pod 192.0.2.10", "other 10.42.1.10"]));
        assert_eq!(
            answers(Some("pod"), CLUSTER_IP_6),
            said(["pod 2001:db8:1::10", "other 2001:db8:42:1::10"])
        );
        assert_eq!(answers(None, CLUSTER_IP), said(node));
        // The kernel asks no program about these sockets: it sends to the service.
        room.enter();
        let stream = open(Some("pod"), CLUSTER_IP).unwrap();
        assert_eq!(stream.peer_addr().unwrap().to_string(), CLUSTER_IP);
        let known = sh("ip netns exec pod cat /proc/net/sctp/assocs");
        let port = stream.local_addr().unwrap().port().to_string();
        assert!(
            known.lines().any(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.contains(&port.as_str()) && words.contains(&"2905") && line.contains("*10.96.0.20")
            }),
            "{known}"
        );
    });
}

#[test]
#[ignore = "machine: SCTP"]
fn checksums_are_right_whoever_makes_them() {
    isolated("machine::sctp::checksums_are_right_whoever_makes_them", |room| {
        let (mut state, _devices) = start(&room);
        set(&mut state, &service(&["pod"]));
        for ends in ["on", "off"] {
            for middle in ["on", "off"] {
                sh(&format!(
                    "for n in client pod; do ip netns exec $n ethtool -K eth0 tx-checksum-sctp {ends}; done
                    for d in to-client br0 pod0; do ethtool -K $d tx-checksum-sctp {middle}; done"
                ));
                for to in [NODE_PORT, NODE_PORT_6] {
                    echoes(
                        &mut open(Some("client"), to).unwrap(),
                        &format!("{to} ends {ends} middle {middle}"),
                    );
                }
            }
        }
        for place in ["client", "pod"] {
            let counted = sh(&format!("ip netns exec {place} cat /proc/net/sctp/snmp"));
            let wrong = counted.lines().find(|line| line.starts_with("SctpChecksumErrors")).unwrap();
            assert!(wrong.split_whitespace().eq(["SctpChecksumErrors", "0"]), "{place}: {wrong}");
        }
    });
}

/// Messages of many lengths come back as they went.
fn echoes(stream: &mut TcpStream, what: &str) {
    assert!(first_line(stream).unwrap().starts_with("pod "), "{what}");
    for length in [1, 2, 3, 100, 1000, 1400, 1452, 3000, 60_000] {
        let sent: Vec<u8> = (0..length).map(|at: u32| (at * 31 % 251) as u8).collect();
        stream.write_all(&sent).unwrap();
        let mut came = vec![0; sent.len()];
        stream.read_exact(&mut came).unwrap_or_else(|error| panic!("{what}: {length}: {error}"));
        assert!(came == sent, "{what}: {length}");
    }
}

#[test]
#[ignore = "machine: SCTP"]
fn a_socket_has_associations_with_many() {
    isolated("machine::sctp::a_socket_has_associations_with_many", |room| {
        let (mut state, _devices) = start(&room);
        let yaml = service(&["pod"]).replace("2906", "2907");
        set(&mut state, &yaml);
        for at in ["10.42.1.10:2907", "[2001:db8:42:1::10]:2907"] {
            let server = many("pod", at);
            server.set_read_timeout(None).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok((length, from)) = server.recv_from(&mut buffer) {
                    // The client may have gone by now; that is its business.
                    let _ = server.send_to(format!("{} {length}", from.ip()).as_bytes(), from);
                }
            });
        }
        for (from, asked, seen) in [
            ("192.0.2.7:0", [NODE_PORT, CLUSTER_IP], "192.0.2.10"),
            ("[2001:db8:1::7]:0", [NODE_PORT_6, CLUSTER_IP_6], "2001:db8:1::10"),
        ] {
            let client = many("client", from);
            for length in 1..5 {
                for to in asked {
                    client.send_to(&vec![b'x'; length], to).unwrap();
                    let mut buffer = [0; 1024];
                    let (came, by) = client.recv_from(&mut buffer).unwrap();
                    let answer = String::from_utf8_lossy(&buffer[..came]);
                    assert_eq!((&*answer, by.to_string()), (&*format!("{seen} {length}"), to.to_owned()));
                }
            }
        }
    });
}

#[test]
#[ignore = "machine: SCTP"]
fn associations_stay_while_endpoints_come_and_go() {
    isolated("machine::sctp::associations_stay_while_endpoints_come_and_go", |room| {
        let (mut state, _devices) = start(&room);
        let mut traffic = Traffic::of(open_in_town, PAUSE);
        for (place, to) in [("client", NODE_PORT), ("client", NODE_PORT_6), ("pod", CLUSTER_IP)] {
            traffic.lasting(Some(place), to, 4);
            traffic.beginning(Some(place), to);
        }
        let fixed = |to: &str| {
            let to: SocketAddr = to.parse().unwrap();
            let from = SocketAddr::new(address_of(Some("client"), to.is_ipv4()).ip(), 2905);
            let line = at("client", move || connect(from, to).and_then(|mut stream| first_line(&mut stream)));
            line.unwrap_or_else(|error| error.to_string())
        };
        for _ in 0..3 {
            for there in ["pod", "other"] {
                set(&mut state, &service(&[there]));
                for to in [NODE_PORT, NODE_PORT_6] {
                    // From the same port as before, as servers of telephone networks do.
                    let answer = fixed(to);
                    assert!(answer.starts_with(there), "{to}: {answer}");
                }
            }
            set(&mut state, &service(&["pod", "other"]));
        }
        // An acknowledgement may wait for a fifth of a second.
        thread::sleep(Duration::from_secs(8));
        traffic.finish();
    });
}
