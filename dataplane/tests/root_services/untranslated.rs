//! Pods whose sockets are left alone: the kernel itself says whom they are connected to, and the devices translate.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use orlop_dataplane::loader::Callers;
use orlop_dataplane::model::Settings;
use orlop_dataplane::{Sockets, Update, netns};

use crate::packets;
use crate::room::{isolated, sh};
use crate::town::{self, at, first_line};

const WEB: &str = "10.96.0.10:80";

/// A connection to the service that works and shows the service as its peer, and the peer that the kernel sends to.
fn connected(place: Option<&str>) -> String {
    let connect = || {
        let to: SocketAddr = WEB.parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let line = first_line(&mut stream).unwrap();
        assert!(line.starts_with("pod ") || line.starts_with("other "), "{line}");
        assert_eq!(stream.peer_addr().unwrap(), to);
        stream
    };
    let stream = place.map_or_else(connect, |place| at(place, connect));
    let port = stream.local_addr().unwrap().port();
    let enter = place.map(|place| format!("nsenter --net=/run/netns/{place}")).unwrap_or_default();
    let listed = sh(&format!("{enter} ss -Htn state established 'sport = :{port}'"));
    listed.split_whitespace().next_back().unwrap().to_owned()
}

fn is_backend(peer: &str) -> bool {
    ["10.42.1.10:8080", "10.42.2.10:8080"].contains(&peer)
}

#[test]
#[ignore = "root tier"]
fn the_devices_translate_what_a_pod_that_asks_for_it_sends() {
    isolated("untranslated::the_devices_translate_what_a_pod_that_asks_for_it_sends", |room| {
        town::build();
        let (mut state, _devices) = packets::install(&room);
        packets::serve();
        room.enter();
        assert!(is_backend(&connected(Some("pod"))));

        let pod = netns::cookie(File::open("/run/netns/pod").unwrap()).unwrap();
        state.ingest(Update::Sockets(Sockets::Leave(pod, None)));
        state.sync();
        assert_eq!(connected(Some("pod")), WEB);
        assert!(is_backend(&connected(None)), "the node is as it was");

        // A pod that was there before the agent; and one that is gone.
        state.ingest(Update::Sockets(Sockets::Only([pod].into())));
        state.sync();
        assert_eq!(connected(Some("pod")), WEB);
        state.ingest(Update::Sockets(Sockets::Forget(pod)));
        state.sync();
        assert!(is_backend(&connected(Some("pod"))));
    });
}

#[test]
#[ignore = "root tier"]
fn the_devices_translate_what_every_pod_sends() {
    isolated("untranslated::the_devices_translate_what_every_pod_sends", |room| {
        town::build();
        let (maps, _devices) = packets::load(&room);
        let _state = packets::write(maps, Settings { host_sockets_only: true, ..Settings::default() });
        packets::serve();
        room.enter();
        assert_eq!(connected(Some("pod")), WEB);
        assert!(is_backend(&connected(None)), "the node's own sockets are translated");
    });
}

#[test]
#[ignore = "root tier"]
fn the_node_is_served_in_every_cgroup_and_strangers_in_none() {
    isolated("untranslated::the_node_is_served_in_every_cgroup_and_strangers_in_none", |room| {
        town::build();
        let pods = room.cgroup.join("pods");
        let inner = pods.join("container");
        fs::create_dir_all(&inner).unwrap();
        let callers = Callers { cgroup: pods.clone(), machine: Some(room.cgroup.clone()) };
        let (maps, _devices) = packets::load_for(&room, &callers);
        let _state = packets::write(maps, Settings::default());
        packets::serve();
        room.enter();
        assert!(is_backend(&connected(None)), "the node's own, outside of its pods' cgroup");
        assert_eq!(connected(Some("pod")), WEB, "another runtime's");
        fs::write(inner.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        assert!(is_backend(&connected(Some("pod"))), "a pod");
        assert!(is_backend(&connected(None)), "a pod in the node's network");
        room.enter();
        [inner, pods].iter().for_each(|dir| fs::remove_dir(dir).unwrap());
    });
}

#[test]
#[ignore = "root tier"]
fn pods_of_another_kubelet_are_found_by_their_cgroup() {
    isolated("untranslated::pods_of_another_kubelet_are_found_by_their_cgroup", |room| {
        town::build();
        const UID: &str = "0c1d2e3f-0000-4000-8000-aabbccddeeff";
        let find = || netns::of_pod(&room.cgroup, UID).unwrap();
        assert_eq!(find(), None);
        let slice = room.cgroup.join("pods.slice/pod0c1d2e3f_0000_4000_8000_aabbccddeeff.slice");
        let inner = slice.join("container.scope");
        fs::create_dir_all(&inner).unwrap();
        let mut ours = Command::new("sleep").arg("60").spawn().unwrap();
        let mut pods = Command::new("nsenter").args(["--net=/run/netns/pod", "sleep", "60"]).spawn().unwrap();
        let join = |pid: u32| fs::write(inner.join("cgroup.procs"), pid.to_string()).unwrap();
        join(ours.id());
        assert_eq!(find(), None, "a process in our own namespace is none of the pod's network");
        join(pods.id());
        let cookie = netns::cookie(File::open("/run/netns/pod").unwrap()).unwrap();
        let mut found = None;
        for _ in 0..100 {
            found = find();
            if found.is_some() {
                break;
            }
            // It has not gone in yet.
            std::thread::sleep(Duration::from_millis(10));
        }
        for process in [&mut ours, &mut pods] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        for dir in [inner.as_path(), &slice, slice.parent().unwrap()] {
            fs::remove_dir(dir).unwrap();
        }
        assert_eq!(found, Some(cookie));
    });
}
