//! What services cost: connections, requests, packets, and changes, ours against no service at all and against the rules
//! that kube-proxy writes.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::priority::Preferred;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::tools::{self, Tools};

/// The parts, by the name of the measurement and what the program calls them.
pub(crate) const PARTS: [(&str, &str); 4] = [
    ("services-connect", "connect"),
    ("services-traffic", "traffic"),
    ("services-packets", "packets"),
    ("services-sync", "changes cold"),
];
const OTHERS: [&str; 2] = ["nftables", "iptables"];
/// Of what goes past all services.
const NO_DEARER: Aim = Aim::Ratio(1.03);

/// The rows of one part.
pub(crate) fn measure(tools: &Tools, part: &str) -> Result<Vec<Row>> {
    let bench = tools.example("orlop-dataplane", "services_bench")?;
    let preferred = Preferred::new()?;
    let mut command = preferred.command(&bench);
    command.args(["--cgroup", preferred.name()]).args(part.split(' '));
    let result = tools::json(&mut command);
    preferred.remove()?;
    rows(&result?).context("services_bench says less than it should")
}

fn rows(result: &Value) -> Option<Vec<Row>> {
    let of = |part: &str| result[part].as_array().into_iter().flatten();
    let mut rows = Vec::new();
    for measured in of("connect") {
        rows.extend(connect(measured)?);
    }
    for measured in of("traffic") {
        rows.extend(traffic(measured)?);
    }
    if let Some(measured) = result.get("packets") {
        rows.extend(packets(measured)?);
    }
    for measured in of("program") {
        rows.extend(program(measured)?);
    }
    for measured in of("changes") {
        rows.extend(changes(measured)?);
    }
    if let Some(measured) = result.get("cold") {
        rows.extend(cold(measured)?);
    }
    Some(rows)
}

fn figure(value: &Value) -> Option<Summary> {
    value.as_f64().map(Summary::single)
}

/// To the pod itself, and by the rules of others.
fn connect(measured: &Value) -> Option<Vec<Row>> {
    let services = measured["services"].as_u64()?;
    let what = format!("connect() and first byte through a ClusterIP, {services} services");
    let (us, to_direct, to_orlop) = (&measured["us"], &measured["to_direct"], &measured["to_orlop"]);
    let ours = || Some(Row::new(what.as_str(), "µs", figure(&us["orlop"])?));
    let mut rows = vec![
        ours()?
            .against("to the pod", figure(&us["direct"])?)
            .ratio_of(to_direct["orlop"].as_f64()?)
            .aim(NO_DEARER),
    ];
    for other in OTHERS {
        let row = ours()?.against(other, figure(&us[other])?).ratio_of(1.0 / to_orlop[other].as_f64()?);
        rows.push(if other == "iptables" { row.aim(Aim::Ratio(1.0)) } else { row });
    }
    rows.push(Row::new("· to no service, programs against none", "×", figure(&measured["past_services"])?));
    Some(rows)
}

fn traffic(measured: &Value) -> Option<Vec<Row>> {
    let (what, unit) = match measured["what"].as_str()? {
        "requests" => ("TCP requests on one connection", "/s"),
        "stream" => ("one TCP stream", "Mbit/s"),
        _ => ("UDP requests on one socket", "/s"),
    };
    let way = match measured["way"].as_str()? {
        "pod" => "pod → pod",
        "remote" => "another node's pod → pod",
        "cluster" => "pod → ClusterIP",
        _ => "outside → NodePort",
    };
    let mut rows = Vec::new();
    for other in ["direct", "nftables", "iptables"] {
        let ours = Row::new(format!("{what}, {way}"), unit, figure(&measured["median"]["orlop"])?);
        let theirs = figure(&measured["median"][other])?;
        rows.push(ours.against(other, theirs).ratio_of(1.0 / measured["to_orlop"][other].as_f64()?));
    }
    Some(rows)
}

fn packets(measured: &Value) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    for (cpus, what) in [("node", "one CPU of the node"), ("all", "one CPU that also sends")] {
        let measured = &measured[cpus];
        let rate = |name: &str| figure(&measured["per_second"][name]);
        for other in ["direct", "nftables", "iptables"] {
            let row =
                Row::new(format!("packets per second, outside → NodePort, {what}"), "/s", rate("orlop")?);
            let row = row.against(other, rate(other)?).ratio_of(1.0 / measured["to_orlop"][other].as_f64()?);
            let aim = cpus == "node" && other == "nftables";
            rows.push(if aim { row.aim(Aim::RatioAtLeast(2.0)) } else { row });
        }
    }
    let own = &measured["own_ns"];
    for other in ["direct", "nftables", "iptables"] {
        let ours =
            Row::new("· the node's own time for such a packet", "ns", figure(&own["median"]["orlop"])?);
        let ratio = 1.0 / own["to_orlop"][other].as_f64()?;
        let row = ours.against(other, figure(&own["median"][other])?).ratio_of(ratio);
        // Twice the packets in the same time.
        rows.push(if other == "nftables" { row.aim(Aim::Ratio(0.5)) } else { row });
    }
    Some(rows)
}

/// At a device: one look at the table of connections, or the whole translation; and that before the stack.
fn program(measured: &Value) -> Option<[Row; 3]> {
    let family = measured["family"].as_str()?;
    Some([
        Row::new(
            format!("{family} packet of no service, at a device"),
            "ns",
            figure(&measured["foreign_ns"])?,
        ),
        Row::new(
            format!("{family} packet of a known connection to a service, at a device"),
            "ns",
            figure(&measured["known_ns"])?,
        )
        .aim(Aim::AtMost(250.0)),
        Row::new(
            format!("{family} packet of a known connection to a service, before the stack (XDP)"),
            "ns",
            figure(&measured["early_ns"])?,
        )
        .aim(Aim::AtMost(150.0)),
    ])
}

fn changes(measured: &Value) -> Option<Vec<Row>> {
    let services = measured["services"].as_u64()?;
    let took = Summary::of(&tools::numbers(&measured["ms"]))?;
    let burst = measured["burst"].as_u64()?;
    Some(vec![
        Row::new(format!("endpoint changes → map says so, {services} services"), "ms", took)
            .aim(Aim::P99AtMost(10.0)),
        Row::new(format!("· {burst} changes at once, until the last"), "ms", figure(&measured["burst_ms"])?),
        Row::new(
            format!("· lists of {services} services → maps say so"),
            "ms",
            figure(&measured["list_ms"])?,
        ),
    ])
}

fn cold(measured: &Value) -> Option<Vec<Row>> {
    let (services, endpoints) = (measured["services"].as_u64()?, measured["endpoints"].as_u64()?);
    let seconds = Summary::single(measured["ms"].as_f64()? / 1e3);
    let after = &measured["after"];
    let grown = after["rss"].as_f64()? - measured["before"]["rss"].as_f64()?;
    Some(vec![
        Row::new(format!("cold sync of {services} services with {endpoints} endpoints"), "s", seconds)
            .aim(Aim::AtMost(2.0)),
        Row::new("· RSS of the process then", "MB", figure(&after["rss"])?),
        Row::new("· PSS", "MB", figure(&after["pss"])?),
        Row::new("· RSS more than before", "MB", Summary::single(grown)),
        Row::new("· highest RSS, with the lists as objects", "MB", figure(&after["peak"])?),
        Row::new("· maps in the kernel", "MB", figure(&measured["maps_mb"])?),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_size_is_held_against_the_pod_and_against_both_rule_sets() {
        let names =
            |a: f64| json!({ "direct": a, "orlop": a * 1.02, "nftables": a * 1.2, "iptables": a * 0.99 });
        let result = json!({ "connect": [{
            "services": 10, "us": names(20.0), "to_direct": names(1.0), "to_orlop": names(1.0), "past_services": 1.0,
        }] });
        let verdicts: Vec<_> = rows(&result).unwrap().iter().map(Row::verdict).collect();
        assert_eq!(verdicts, ["met", "", "missed by 0.01 × (1 %)", ""]);
        assert_eq!(rows(&json!({ "connect": [{}] })), None);
    }
}
