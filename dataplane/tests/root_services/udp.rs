//! UDP through a cluster IP, unconnected and connected.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use orlop_dataplane::loader::pins;

use crate::net::{ask, udp_client, udp_server};
use crate::room::{isolated, sh};
use crate::script::{bpftool, dns, set, start};

const DNS: &str = "10.96.0.53:53";

#[test]
#[ignore = "root tier"]
fn answers_come_from_the_service_address() {
    isolated("udp::answers_come_from_the_service_address", |room| {
        let backends = BTreeSet::from([udp_server(5), udp_server(6)].map(|at| at.to_string()));
        let mut state = start(&room);
        set(&mut state, &dns(&[5, 6]));
        room.enter();
        let mut answers = BTreeSet::new();
        for _ in 0..50 {
            let (answer, from) = ask(&udp_client(), DNS).unwrap();
            assert_eq!(from.to_string(), DNS);
            answers.insert(answer);
        }
        assert_eq!(answers, backends);
    });
}

#[test]
#[ignore = "root tier"]
fn a_conversation_stays_with_its_backend() {
    isolated("udp::a_conversation_stays_with_its_backend", |room| {
        for last in [5, 6, 7, 8] {
            udp_server(last);
        }
        let mut state = start(&room);
        set(&mut state, &dns(&[5, 6, 7, 8]));
        room.enter();
        let client = udp_client();
        let first = ask(&client, DNS).unwrap();
        for _ in 0..50 {
            assert_eq!(ask(&client, DNS).unwrap(), first);
        }
    });
}

#[test]
#[ignore = "root tier"]
fn no_datagram_goes_to_a_backend_that_is_gone() {
    isolated("udp::no_datagram_goes_to_a_backend_that_is_gone", |room| {
        let [five, six] = [5, 6].map(udp_server);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let client = udp_client();
        assert_eq!(ask(&client, DNS).unwrap().0, five.to_string());
        set(&mut state, &dns(&[6]));
        for _ in 0..10 {
            assert_eq!(ask(&client, DNS).unwrap().0, six.to_string());
        }
        set(&mut state, &dns(&[]));
        assert_eq!(ask(&client, DNS).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
#[ignore = "root tier"]
fn a_conversation_survives_its_backend_becoming_unready_but_serving() {
    isolated("udp::a_conversation_survives_its_backend_becoming_unready_but_serving", |room| {
        let [five, six] = [5, 6].map(udp_server);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let client = udp_client();
        assert_eq!(ask(&client, DNS).unwrap().0, five.to_string());
        let draining = dns(&[5, 6]).replace(".5,", ".5, ready: false, terminating: true,");
        set(&mut state, &draining);
        assert_eq!(ask(&client, DNS).unwrap().0, five.to_string());
        for _ in 0..10 {
            assert_eq!(ask(&udp_client(), DNS).unwrap().0, six.to_string());
        }
    });
}

#[test]
#[ignore = "root tier"]
fn a_connected_socket_sees_the_service_address() {
    isolated("udp::a_connected_socket_sees_the_service_address", |room| {
        let five = udp_server(5);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let client = udp_client();
        client.connect(DNS).unwrap();
        assert_eq!(client.peer_addr().unwrap().to_string(), DNS);
        client.send(b"who?").unwrap();
        let mut buffer = [0; 64];
        let (length, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (String::from_utf8_lossy(&buffer[..length]).as_ref(), from.to_string().as_str()),
            (five.to_string().as_str(), DNS)
        );

        // The same socket, connected to the backend itself: it is told the truth.
        client.connect(five).unwrap();
        assert_eq!(client.peer_addr().unwrap().to_string(), five.to_string());
    });
}

#[test]
#[ignore = "root tier"]
fn other_destinations_are_untouched() {
    isolated("udp::other_destinations_are_untouched", |room| {
        let [five, _six] = [5, 6].map(udp_server);
        let mut state = start(&room);
        set(&mut state, &dns(&[6]));
        room.enter();
        let (answer, from) = ask(&udp_client(), &five.to_string()).unwrap();
        assert_eq!((answer, from.to_string()), (five.to_string(), five.to_string()));
    });
}

#[test]
#[ignore = "root tier"]
fn an_answer_is_known_even_if_its_direction_had_to_make_room() {
    isolated("udp::an_answer_is_known_even_if_its_direction_had_to_make_room", |room| {
        udp_server(5);
        let mut state = start(&room);
        set(&mut state, &dns(&[5]));
        room.enter();
        let client = udp_client();
        assert_eq!(ask(&client, DNS).unwrap().1.to_string(), DNS);

        let flows = format!("pinned {}", pins(&room.bpffs).join("FLOWS").display());
        let mut removed = 0;
        for flow in bpftool(&format!("map dump {flows}")).as_array().unwrap() {
            let key: Vec<_> =
                flow["key"].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap()).collect();
            if key[26] == "0x01" {
                sh(&format!("bpftool map delete {flows} key {}", key.join(" ")));
                removed += 1;
            }
        }
        assert_eq!(removed, 1);
        assert_eq!(ask(&client, DNS).unwrap().1.to_string(), DNS);
    });
}
