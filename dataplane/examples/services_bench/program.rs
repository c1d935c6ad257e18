//! What a packet costs at a device, by `BPF_PROG_TEST_RUN`: one of no service, and one of an established connection.
//!
//! With `repeat` a frame is not restored between runs. So the service's backend is the service address itself: every run
//! finds the same frame, and takes the whole way through table, checksums and stores. The route to it is the last thing
//! looked up, and fails: what sends the frame on is not in the figure.

use std::net::SocketAddr;
use std::path::Path;

use orlop_dataplane::diff::diff_all;
use orlop_dataplane::loader::{self, Side};
use orlop_dataplane::maps::Maps as _;
use orlop_dataplane::model::Protocol;
use orlop_dataplane::tables::{Backend, BackendId, Entry, Frontend, Host, ServiceId, Set, Tables, Vip};
use serde_json::{Value, json};

use crate::frame::{first, later};

const RUNS: u32 = 100_000;
/// The machine is shared: the least of these is the trustworthy one.
const ROUNDS: usize = 9;

pub(crate) fn measure(bpffs: &Path, cgroup: &Path) {
    let mut loaded = loader::load_all(bpffs, cgroup).unwrap();
    let mut packets = Vec::new();
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
        packets.push(json!({ "family": family, "foreign_ns": least(&foreign), "known_ns": least(&known) }));
    }
    let seen = orlop_dataplane::describe(bpffs).unwrap();
    // The last family's service: its packets were counted, so they took the way they should have taken.
    let counted = seen.iter().map(|view| view.counters.packets).sum::<u64>();
    assert!(counted > u64::from(RUNS), "only {counted} packets were translated");
    orlop_dataplane::uninstall(bpffs).unwrap();
    println!("{}", Value::from(packets));
}

fn to_itself(at: SocketAddr) -> Tables {
    let vip = Vip { host: Host::Ip(at.ip()), port: at.port(), protocol: Protocol::Tcp };
    let entry = Entry {
        frontends: [(vip, Frontend { cluster: 1, ..Frontend::default() })].into(),
        slots: [((Set::Cluster, 0), BackendId(1))].into(),
        backends: [(BackendId(1), Backend { at, cluster: true, local: false, close: false })].into(),
        ..Entry::default()
    };
    Tables { services: [(ServiceId(1), entry)].into() }
}
