//! Requests and bytes per second from pod to pod, to a cluster IP, and from outside to a node port.

use serde_json::{Value, json};

use crate::connect::{medians, ratios, rounds};
use crate::services::Dialled;
use crate::town::{Town, Way};

/// They do not count once a connection is made.
const SERVICES: u32 = 1_000;
const ROUNDS: usize = 12;
const MILLISECONDS: u32 = 60;

pub(crate) fn measure(towns: &mut [Town]) -> Value {
    for town in &mut *towns {
        town.serve(SERVICES);
    }
    let mut result = Vec::new();
    for (order, what) in
        [("requests", Dialled::Echo), ("stream", Dialled::Sink), ("datagrams", Dialled::Datagrams)]
    {
        for (name, way) in
            [("pod", Way::Pod), ("remote", Way::Remote), ("cluster", Way::Cluster), ("node", Way::Node)]
        {
            let rounds = rounds(towns, ROUNDS, |town| {
                let (client, to) = town.way(way, what);
                client.ask(&format!("{order} {MILLISECONDS} {to}"))
            });
            result.push(json!({
                "what": order, "way": name, "median": medians(&rounds),
                "to_direct": ratios(&rounds, "direct"), "to_orlop": ratios(&rounds, "orlop"),
            }));
        }
    }
    result.into()
}
