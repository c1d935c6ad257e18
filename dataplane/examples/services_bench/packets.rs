//! Packets per second from outside through a node port to a pod, as many as one CPU of the node forwards to the pod's
//! device, where they are counted and dropped. Another CPU sends.

use std::fs;

use serde_json::{Value, json};

use crate::connect::{medians, ratios, rounds};
use crate::services::Dialled;
use crate::town::{Town, Way};
use crate::world::sh;

const SERVICES: u32 = 1_000;
const ROUNDS: usize = 16;
const MILLISECONDS: u32 = 100;

pub(crate) fn measure(towns: &mut [Town]) -> Value {
    for town in &mut *towns {
        town.serve(SERVICES);
        counting(town, true);
    }
    let mut lost = 0.0_f64;
    let rounds = rounds(towns, ROUNDS, |town| {
        let before = arrived(town);
        let (client, to) = town.way(Way::Node, Dialled::Flood);
        let sent = client.ask(&format!("flood {MILLISECONDS} {to}"));
        let arrived = arrived(town) - before;
        lost = lost.max(1.0 - arrived / sent);
        arrived * 1e3 / f64::from(MILLISECONDS)
    });
    towns.iter().for_each(|town| counting(town, false));
    json!({
        "per_second": medians(&rounds), "to_direct": ratios(&rounds, "direct"), "to_orlop": ratios(&rounds, "orlop"),
        "most_lost": lost,
    })
}

/// Datagrams leave outside's device one by one, are taken in by the node on a CPU that does not send, and end at the pod's
/// device.
fn counting(town: &Town, on: bool) {
    let (name, port) = (town.kind.name(), Dialled::Flood.port());
    let place = town.server_place();
    let rules = match on {
        true => format!(
            "add table netdev flood; add chain netdev flood in {{ type filter hook ingress device eth0 priority 0; }}; \
             add rule netdev flood in udp dport {port} drop"
        ),
        false => "delete table netdev flood".to_owned(),
    };
    let (segments, cpus) = if on { (1, 2) } else { (65_535, 0) };
    sh(&format!(
        "nsenter --net=/run/netns/{place} nft '{rules}'
        ip -n {name}-outside link set eth0 gso_max_segs {segments}
        ip netns exec {name}-node sh -c 'echo {cpus} > /sys/class/net/up0/queues/rx-0/rps_cpus'"
    ));
}

/// Packets that came to the pod's device.
fn arrived(town: &Town) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", town.server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("eth0");
    line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number of packets")
}
