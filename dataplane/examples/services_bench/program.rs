//! What a packet costs at a device, by `BPF_PROG_TEST_RUN`: one of no service, and one of an established connection.
//!
//! With `repeat` a frame is not restored between runs. So the service's backend is the service address itself: every run
//! finds the same frame, and takes the whole way through table, checksums and stores. Each takes one of its hops away, and after
//! the last one what sends the frame on is no longer in the figure. Before the stack (XDP) it is: there are as many runs as hops.

use std::net::SocketAddr;
use std::path::Path;

use orlop_dataplane::diff::diff_all;
use orlop_dataplane::loader::{self, Device, Devices, Side};
use orlop_dataplane::maps::Maps as _;
use orlop_dataplane::model::Protocol;
use orlop_dataplane::tables::{Backend, BackendId, Entry, Frontend, Home, Host, ServiceId, Set, Tables, Vip};
use serde_json::{Value, json};

use crate::frame::{first, later};
use crate::world::sh;

const RUNS: u32 = 100_000;
/// The machine is shared: the least of these is the trustworthy one.
const ROUNDS: usize = 9;

pub(crate) fn measure(bpffs: &Path, cgroup: &Path) {
    let mut loaded = loader::load_all(bpffs, cgroup).unwrap();
    let mut packets = Vec::new();
    let device = uplink(&mut loaded.devices);
    for (family, client, service, stranger) in [
        ("IPv4", "203.0.113.7:40000", "10.96.0.1:80", "198.51.100.9:80"),
        ("IPv6", "[2001:db8::7]:40000", "[fd00::1]:80", "[2001:db8:9::9]:80"),
    ] {
        let [client, service, stranger] =
            [client, service, stranger].map(|at| at.parse::<SocketAddr>().unwrap());
        for op in diff_all(&to_itself(service), &loaded.maps.dump().unwrap()) {
            loaded.maps.apply(&op).unwrap();
        }
        let foreign = first(Protocol::Tcp, client, stranger);
        let opening = first(Protocol::Tcp, client, service);
        let known = later(Protocol::Tcp, client, service);
        loaded.devices.test_run(Side::In, &opening, 1).unwrap();
        let least = |frame: &[u8]| {
            let runs = (0..ROUNDS).map(|_| loaded.devices.test_run(Side::In, frame, RUNS).unwrap());
            let took = runs.map(|run| run.duration.as_nanos()).min().unwrap();
            u64::try_from(took).unwrap()
        };
        let plain = (least(&foreign), least(&known));
        loaded.devices.test_run_at(Side::In, device, &closing(&known), 1).unwrap();
        loaded.devices.test_run_at(Side::In, device, &opening, 1).unwrap();
        let early = early(&loaded.devices, device, &known);
        packets
            .push(json!({ "family": family, "foreign_ns": plain.0, "known_ns": plain.1, "early_ns": early }));
    }
    let seen = orlop_dataplane::describe(bpffs).unwrap();
    // The last family's service: its packets were counted, so they took the way they should have taken.
    let counted = seen.iter().map(|view| view.counters.packets).sum::<u64>();
    assert!(counted > u64::from(RUNS), "only {counted} packets were translated");
    orlop_dataplane::uninstall(bpffs).unwrap();
    println!("{}", Value::from(packets));
}

/// A device with the way back to the services, and the program before the stack at it.
fn uplink(devices: &mut Devices) -> u32 {
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip link add up0 type veth peer name far0 && ip link set up0 up && ip link set far0 up
        ip address add 192.0.2.10/24 dev up0 && ip address add 2001:db8:1::10/64 dev up0 nodad
        ip neighbour add 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0
        ip neighbour add 2001:db8:1::1 lladdr 02:00:00:00:00:01 dev up0
        ip route add 10.96.0.0/16 via 192.0.2.1 && ip route add fd00::/64 via 2001:db8:1::1");
    let shown: Value = serde_json::from_str(&sh("ip -j link show up0")).unwrap();
    let index = shown[0]["ifindex"].as_u64().unwrap().try_into().unwrap();
    devices.set(&[Device {
        index,
        name: "up0".to_owned(),
        pod: false,
        stack: false,
        early: true,
        port_of: None,
    }]);
    index
}

/// The frame with FIN beside ACK: the connection is over.
fn closing(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let flags = if frame[12] == 0x08 { 14 + 20 + 13 } else { 14 + 40 + 13 };
    frame[flags] |= 1;
    frame
}

/// XDP_TX
const SENT_BACK: i32 = 3;

fn early(devices: &Devices, device: u32, frame: &[u8]) -> u64 {
    let mut frame = frame.to_vec();
    let hops = if frame[12] == 0x08 { 14 + 8 } else { 14 + 7 };
    frame[hops] = u8::MAX;
    let runs = (0..ROUNDS * 100).map(|_| {
        let run = devices.test_run_at(Side::Early, device, &frame, u32::from(u8::MAX) - 5).unwrap();
        assert_eq!((run.action, run.frame[hops]), (SENT_BACK, 5));
        run.duration.as_nanos()
    });
    u64::try_from(runs.min().unwrap()).unwrap()
}

fn to_itself(at: SocketAddr) -> Tables {
    let vip = Vip { host: Host::Ip(at.ip()), port: at.port(), protocol: Protocol::Tcp };
    let entry = Entry {
        frontends: [(vip, Frontend { cluster: 1, ..Frontend::default() })].into(),
        slots: [((Set::Cluster, 0), BackendId(1))].into(),
        backends: [(
            BackendId(1),
            Backend { at, cluster: true, local: false, close: false, home: Home::Unsaid },
        )]
        .into(),
        ..Entry::default()
    };
    Tables { services: [(ServiceId(1), entry)].into() }
}
