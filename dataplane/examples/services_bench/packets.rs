//! Packets per second from outside through a node port to a pod's device, where they are counted and dropped: as many as one
//! CPU of the node forwards while another sends; and as many as one CPU sends, forwards and delivers. Of the latter what the
//! node itself takes per packet: other work on the machine disturbs it least.

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};

use crate::connect::{medians, ratios, rounds};
use crate::services::{Dialled, NODE};
use crate::statistics::turn;
use crate::town::{Town, Way};
use crate::world::sh;

const SERVICES: u32 = 1_000;
const ROUNDS: usize = 16;
const MILLISECONDS: u32 = 100;

pub(crate) fn measure(towns: &mut [Town]) -> Value {
    for town in &mut *towns {
        town.serve(SERVICES);
        sh(&begin(town));
    }
    let taken_in = |towns: &[Town], cpus: u8| towns.iter().for_each(|town| drop(sh(&take_in(town, cpus))));
    taken_in(towns, 2);
    let mut result = json!({ "node": best(towns) });
    taken_in(towns, 0);
    result["all"] = rates(&rounds(towns, ROUNDS, forwarded));
    result["own_ns"] = own(towns);
    for town in &*towns {
        sh(&end(town));
    }
    result
}

/// Of each town its best round: a kernel thread forwards, and may have to wait for its CPU for a whole one.
fn best(towns: &mut [Town]) -> Value {
    let rounds = rounds(towns, ROUNDS, forwarded).into_iter();
    let best = rounds.map(|(name, rates)| (name, vec![rates.into_iter().fold(0.0, f64::max)])).collect();
    rates(&best)
}

fn rates(rounds: &BTreeMap<&'static str, Vec<f64>>) -> Value {
    json!({
        "per_second": medians(rounds), "to_direct": ratios(rounds, "direct"), "to_orlop": ratios(rounds, "orlop"),
    })
}

/// Packets that arrive per second.
fn forwarded(town: &mut Town) -> f64 {
    let before = arrived(town);
    let (client, to) = town.way(Way::Node, Dialled::Flood);
    client.ask(&format!("flood {MILLISECONDS} {to}"));
    (arrived(town) - before) * 1e3 / f64::from(MILLISECONDS)
}

/// Nanoseconds that the node takes for a packet: what forwarding takes more than sending to a node that drops it at once.
fn own(towns: &mut [Town]) -> Value {
    const DROPPED: u16 = 9;
    let node = format!("{}-node", towns[0].kind.name());
    sh(&format!(
        "nsenter --net=/run/netns/{node} nft 'add table netdev flood; \
         add chain netdev flood in {{ type filter hook ingress device up0 priority 0; }}; \
         add rule netdev flood in udp dport {DROPPED} drop'"
    ));
    let mut own = BTreeMap::<_, Vec<f64>>::new();
    for round in 0..ROUNDS {
        let sent = towns[0].outside.ask(&format!("flood {MILLISECONDS} {NODE}:{DROPPED}"));
        let sending = f64::from(MILLISECONDS) * 1e6 / sent;
        for at in turn(round, towns.len()) {
            own.entry(towns[at].kind.name()).or_default().push(1e9 / forwarded(&mut towns[at]) - sending);
        }
    }
    sh(&format!("nsenter --net=/run/netns/{node} nft delete table netdev flood"));
    json!({ "median": medians(&own), "to_orlop": ratios(&own, "orlop") })
}

/// Datagrams leave outside's device one by one, and end at the pod's.
fn begin(town: &Town) -> String {
    let (name, port, place) = (town.kind.name(), Dialled::Flood.port(), town.server_place());
    format!(
        "nsenter --net=/run/netns/{place} nft 'add table netdev flood; \
             add chain netdev flood in {{ type filter hook ingress device eth0 priority 0; }}; \
             add rule netdev flood in udp dport {port} drop'
        ip -n {name}-outside link set eth0 gso_max_segs 1"
    )
}

/// The node takes packets in on these CPUs (a mask); 0: on the one that sends.
fn take_in(town: &Town, cpus: u8) -> String {
    let name = town.kind.name();
    format!("ip netns exec {name}-node sh -c 'echo {cpus} > /sys/class/net/up0/queues/rx-0/rps_cpus'")
}

fn end(town: &Town) -> String {
    let (name, place) = (town.kind.name(), town.server_place());
    format!(
        "nsenter --net=/run/netns/{place} nft delete table netdev flood
        ip -n {name}-outside link set eth0 gso_max_segs 65535"
    )
}

/// Packets that came to the pod's device.
fn arrived(town: &Town) -> f64 {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", town.server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).expect("eth0");
    line.split_whitespace().nth(1).and_then(|packets| packets.parse().ok()).expect("a number of packets")
}
