//! Taking the place of kube-proxy in IPVS mode, with connections that last and ones that begin all the time.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use orlop_dataplane::kube_proxy::{clean_up, reserve, uninstall};
use orlop_dataplane::loader::{Loaded, load_all};
use orlop_dataplane::model::Settings;

use super::{PAUSE, sctp};
use crate::lines::{Traffic, open};
use crate::packets::{self, SERVICES};
use crate::room::{Room, isolated, sh};
use crate::script::set;
use crate::town::{self, ask, at, udp_client};

const NODE_PORT: &str = "192.0.2.10:30080";
const CLUSTER_IP: &str = "10.96.0.10:80";
/// More than is sent without hearing of what arrived.
const LATE: usize = 500_000;
/// Under qemu, with processes that take turns.
const PATIENCE: Duration = Duration::from_secs(60);

/// All that the node has of kube-proxy's.
fn rules() -> String {
    sh(
        "{ ip -o address show dev kube-ipvs0 || true; ipvsadm -L -n; ipset list -n; iptables-save; ip6tables-save; } 2> /dev/null",
    )
}

/// The town and kube-proxy's rules.
fn build(room: &Room) {
    town::build();
    sh("ip route add default via 192.0.2.7; sysctl -qw net.bridge.bridge-nf-call-iptables=0 || true
        sysctl -qw net.bridge.bridge-nf-call-ip6tables=0 || true");
    packets::serve();
    sctp::serve();
    let script = room.bpffs.with_file_name("ipvs.sh");
    std::fs::write(&script, include_str!("ipvs.sh")).unwrap();
    sh(&format!("bash {}", script.display()));
}

#[test]
#[ignore = "machine: IPVS"]
fn ipvs_goes_and_no_connection_with_it() {
    isolated("machine::ipvs::ipvs_goes_and_no_connection_with_it", |room| {
        build(&room);
        let mut traffic = Traffic::of(open, PAUSE);
        for (place, to) in [
            (Some("client"), NODE_PORT),
            (Some("client"), CLUSTER_IP),
            (Some("pod"), CLUSTER_IP),
            (Some("client"), "[2001:db8:1::10]:30080"),
            (Some("pod"), "[2001:db8:43::10]:80"),
            // A process of the node that no socket program sees.
            (None, CLUSTER_IP),
        ] {
            traffic.lasting(place, to, 2);
            traffic.beginning(place, to);
        }
        let mut associations = Traffic::of(sctp::open_in_town, PAUSE);
        for (place, to) in [("client", sctp::NODE_PORT), ("pod", sctp::CLUSTER_IP)] {
            associations.lasting(Some(place), to, 1);
        }
        let datagrams = udp_client("client", "192.0.2.10:30053");
        assert!(ask(&datagrams, 1).unwrap().starts_with("pod "));
        let (mut half, answer) = half_closed();

        // As the loop does at a first start.
        let Loaded { maps, mut devices } = load_all(&room.bpffs, &room.cgroup).unwrap();
        devices.hold(true);
        reserve(&room.bpffs).unwrap();
        town::attach(&mut devices, &["br0", "pod0"]);
        let mut state = packets::write(maps, Settings::default());
        set(&mut state, &format!("{SERVICES}{}", sctp::service(&["pod", "other"])));
        println!("{} ports of netfilter's connections", reserve(&room.bpffs).unwrap());
        devices.hold(false);
        thread::sleep(Duration::from_secs(1));
        assert!(ask(&datagrams, 2).unwrap().starts_with("pod "));

        // What has no connections goes, and an address before that; what has waits, with the rules beside it.
        let report = clean_up();
        assert_eq!(report.failures, [""; 0]);
        assert!(!report.is_clean() && report.waiting.len() >= 4, "{report:?}");
        let left = rules();
        for word in [
            "10.96.0.10/32",
            "TCP  10.96.0.10:80",
            "TCP  192.0.2.10:30080",
            "TCP  192.0.2.10:30085",
            "SCTP 10.96.0.20:2905",
            "KUBE-POSTROUTING",
        ] {
            assert!(left.contains(word), "{word} is gone:\n{left}");
        }
        for word in ["10.96.0.53/32", "UDP  "] {
            assert!(!left.contains(word), "{word} is left:\n{left}");
        }
        thread::sleep(Duration::from_secs(2));
        assert!(ask(&datagrams, 3).unwrap().starts_with("pod "));
        answer.send(()).unwrap();
        let mut late = Vec::new();
        half.read_to_end(&mut late).unwrap();
        assert_eq!(late.len(), LATE);
        traffic.finish();
        associations.finish();

        let began = Instant::now();
        while !clean_up().is_clean() {
            assert!(began.elapsed() < PATIENCE, "{:?}\n{}", clean_up(), sh("ipvsadm -L -n -c"));
            thread::sleep(Duration::from_secs(1));
        }
        let left = rules();
        let own: Vec<_> =
            left.lines().filter(|line| line.contains("KUBE-") || line.contains("ipvs0")).collect();
        assert_eq!(
            own,
            [
                "KUBE-MINE",
                ":KUBE-FIREWALL - [0:0]",
                "-A INPUT -j KUBE-FIREWALL",
                "-A INPUT -m set --match-set KUBE-MINE src -j MINE"
            ]
        );
        assert!(left.contains("TCP  192.0.2.99:443 rr"), "{left}");
        uninstall().unwrap();
    });
}

/// A connection whose client has said all that it has to say, and whose server answers when it is told to.
fn half_closed() -> (TcpStream, Sender<()>) {
    let listener = at("pod", || TcpListener::bind("10.42.1.10:8085").unwrap());
    let (tell, told) = channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        told.recv().unwrap();
        // The client may have given up; that is what the test is about.
        let _ = stream.write_all(&[b'x'; LATE]);
    });
    let stream = at("client", || TcpStream::connect("192.0.2.10:30085").unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    (stream, tell)
}
