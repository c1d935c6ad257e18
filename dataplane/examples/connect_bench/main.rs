//! What does a service cost per connection? `connect()` through a cluster IP against `connect()` to the pod's address,
//! with 1 and with 10,000 services, and the same with the rules that kube-proxy would have written.
//!
//! ```text
//! two clients, inside and outside the cgroup ──veth──▶ server in another namespace
//! ```
//! Prints one line of JSON. Every ratio is taken within a round, service against direct, so that a busy machine slows
//! both; the median of the rounds counts. Not for: gating tests by time.
//!
//! An argument (`orlop`, `packet`, `nftables`, `iptables`) measures only that one. Needs root, `ip`, `nft`, `iptables`, and the kernel programs: `ORLOP_EBPF_OBJECT=… cargo run --example connect_bench`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line that ends when something is missing"
)]

#[path = "../../tests/root_services/frame.rs"]
mod frame;
mod measure;
mod packet;
mod room;
mod rules;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Instant;

use orlop_dataplane::diff::{diff, diff_all};
use orlop_dataplane::loader;
use orlop_dataplane::maps::Maps as _;
use orlop_dataplane::model::Protocol;
use orlop_dataplane::tables::{Backend, BackendId, Entry, Frontend, Host, ServiceId, Set, Tables, Vip};
use serde_json::{Value, json};

use measure::{Rounds, alone, rounds};
use room::{BACKENDS, Room, SERVER_PORT};
use rules::{Rules, Service};

const COUNTS: [u32; 2] = [1, 10_000];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("server") => room::serve(),
        Some("client") => measure::answer(),
        Some("inside") => inside(),
        _ => room::outside(),
    }
}

fn inside() {
    let mut room = Room::furnish();
    let only = std::env::args().nth(2);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut result =
        json!({ "backends": BACKENDS, "direct": "connect() to the backends in turn, outside the cgroup" });
    if wanted("orlop") {
        result["orlop"] = COUNTS.map(|count| orlop(&mut room, count)).into();
    }
    if wanted("packet") {
        result["packet"] = packet::measure(&room);
    }
    for rules in [Rules::Nftables, Rules::Iptables].into_iter().filter(|rules| wanted(rules.name())) {
        result[rules.name()] = COUNTS.map(|count| kube_proxy(&mut room, rules, count)).into();
    }
    println!("{result}");
}

/// The services: the one that is dialled stands in the middle, where a list is half walked.
fn services(count: u32) -> Vec<Service> {
    let middle = count / 2;
    (0..count)
        .map(|n| {
            let [_, _, high, low] = n.to_be_bytes();
            let vip = Vip { host: Host::Ip([10, 96, high, low].into()), port: 80, protocol: Protocol::Tcp };
            let filler = SocketAddrV4::new(Ipv4Addr::new(10, 43, high, low), SERVER_PORT);
            let backends = if n == middle { BACKENDS.to_vec() } else { vec![filler] };
            Service { vip, backends }
        })
        .collect()
}

fn dialled(services: &[Service]) -> SocketAddrV4 {
    let service = &services[services.len() / 2];
    SocketAddrV4::new(service.ip(), service.vip.port)
}

fn tables(services: &[Service]) -> Tables {
    let mut backends = (1..).map(BackendId);
    let mut entry = |service: &Service| {
        let mut entry = Entry::default();
        let count = u16::try_from(service.backends.len()).unwrap();
        entry.frontends.insert(service.vip, Frontend { cluster: count, ..Frontend::default() });
        for (slot, (at, id)) in (0..).zip(service.backends.iter().zip(&mut backends)) {
            entry.slots.insert((Set::Cluster, slot), id);
            entry.backends.insert(id, Backend { at: (*at).into(), cluster: true, local: false });
        }
        entry
    };
    let entries = services.iter().map(&mut entry).collect::<Vec<_>>();
    Tables { services: (1..).map(ServiceId).zip(entries).collect() }
}

fn orlop(room: &mut Room, count: u32) -> Value {
    let services = services(count);
    let mut maps = loader::open(&room.bpffs, &room.cgroup).unwrap();
    let tables = tables(&services);
    let begun = Instant::now();
    for op in diff_all(&tables, &maps.dump().unwrap()) {
        maps.apply(&op).unwrap();
    }
    let all = begun.elapsed();

    let (id, entry) = tables.services.iter().next().unwrap();
    let begun = Instant::now();
    for op in diff(*id, entry, &Entry::default()) {
        maps.apply(&op).unwrap();
    }
    let one = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(maps.dump().unwrap().services.len(), services.len());
    let read = begun.elapsed();

    let through = dialled(&services);
    let Rounds { direct, service, ratio } = rounds(&mut room.outside, &mut room.inside, &[through]);
    let Rounds { ratio: untouched, .. } = rounds(&mut room.outside, &mut room.inside, &BACKENDS);
    orlop_dataplane::uninstall(&room.bpffs).unwrap();
    json!({
        "services": count, "direct_us": direct, "connect_us": service, "ratio": ratio,
        "ratio_of_connects_to_no_service": untouched,
        "write_all_ms": all.as_secs_f64() * 1e3, "write_one_service_us": one.as_secs_f64() * 1e6,
        "read_back_ms": read.as_secs_f64() * 1e3,
    })
}

fn kube_proxy(room: &mut Room, rules: Rules, count: u32) -> Value {
    let services = services(count);
    let begun = Instant::now();
    rules.load(&services);
    let all = begun.elapsed();
    let service = alone(&mut room.outside, &[dialled(&services)]);
    // Rules slow what goes to no service, too, through connection tracking: direct is measured without them.
    rules.clear();
    let direct = alone(&mut room.outside, &BACKENDS);
    json!({
        "services": count, "direct_us": direct, "connect_us": service, "ratio": service / direct,
        "write_all_ms": all.as_secs_f64() * 1e3,
    })
}
