//! TCP through a cluster IP.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use orlop_dataplane::loader::pins;

use crate::net::{dial, tcp_server};
use crate::room::{isolated, sh};
use crate::script::{bpftool, set, start, web};

const WEB: &str = "10.96.0.10:80";

#[test]
#[ignore = "root tier"]
fn every_backend_answers_and_the_peer_is_the_service() {
    isolated("connect::every_backend_answers_and_the_peer_is_the_service", |room| {
        let backends = BTreeSet::from([tcp_server(5), tcp_server(6)].map(|at| at.to_string()));
        let mut state = start(&room);
        set(&mut state, &web(&[5, 6]));
        room.enter();
        let mut answers = BTreeSet::new();
        for _ in 0..50 {
            let (answer, peer) = dial(WEB).unwrap();
            assert_eq!(peer.to_string(), WEB);
            answers.insert(answer);
        }
        assert_eq!(answers, backends);
    });
}

#[test]
#[ignore = "root tier"]
fn nothing_is_translated_outside_the_cgroup() {
    isolated("connect::nothing_is_translated_outside_the_cgroup", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        dial(WEB).unwrap();
        let outside = room.outside("exec 3<>/dev/tcp/10.96.0.10/80");
        let said = String::from_utf8_lossy(&outside.stderr).into_owned();
        assert!(!outside.status.success() && said.contains("unreachable"), "{said}");
    });
}

#[test]
#[ignore = "root tier"]
fn no_endpoints_refuses_at_once() {
    isolated("connect::no_endpoints_refuses_at_once", |room| {
        let mut state = start(&room);
        set(&mut state, &web(&[]));
        room.enter();
        let begun = Instant::now();
        assert_eq!(dial(WEB).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
    });
}

#[test]
#[ignore = "root tier"]
fn policy_local_without_a_local_endpoint_is_not_permitted() {
    isolated("connect::policy_local_without_a_local_endpoint_is_not_permitted", |room| {
        let mut state = start(&room);
        let remote = web(&[5]).replace("node-a", "node-b");
        set(&mut state, &remote.replace("{name: web,", "{name: web, internal_traffic_policy: Local,"));
        room.enter();
        assert_eq!(dial(WEB).unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

#[test]
#[ignore = "root tier"]
fn a_removed_service_is_no_longer_translated() {
    isolated("connect::a_removed_service_is_no_longer_translated", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        dial(WEB).unwrap();
        set(&mut state, "[]");
        assert_eq!(dial(WEB).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
    });
}

#[test]
#[ignore = "root tier"]
fn nothing_is_remembered_of_closed_connections() {
    isolated("connect::nothing_is_remembered_of_closed_connections", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        let remembered = || {
            let peers = pins(&room.bpffs).join("PEERS");
            bpftool(&format!("map dump pinned {}", peers.display())).as_array().unwrap().len()
        };
        let open = std::net::TcpStream::connect(WEB).unwrap();
        assert_eq!(remembered(), 1);
        for _ in 0..100 {
            dial(WEB).unwrap();
        }
        assert_eq!(remembered(), 1);
        drop(open);
        assert_eq!(remembered(), 0);
    });
}

#[test]
#[ignore = "root tier"]
fn ports_that_the_service_does_not_have_are_refused_and_its_address_can_be_looked_at() {
    isolated(
        "connect::ports_that_the_service_does_not_have_are_refused_and_its_address_can_be_looked_at",
        |room| {
            tcp_server(5);
            let mut state = start(&room);
            set(&mut state, &web(&[5]));
            room.enter();
            dial(WEB).unwrap();
            let begun = Instant::now();
            assert_eq!(dial("10.96.0.10:81").unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(begun.elapsed() < Duration::from_millis(100), "{:?}", begun.elapsed());
            // A C library connects a datagram socket to see whether there is a way to an address.
            sh("ip route add default dev lo");
            let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
            probe.connect("10.96.0.10:65535").unwrap();
            let sends = UdpSocket::bind("0.0.0.0:0").unwrap();
            let refused = sends.send_to(b"who?", "10.96.0.10:80").unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        },
    );
}
