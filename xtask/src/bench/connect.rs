//! connect() through a ClusterIP against connect() to the pod, with few and many services, and the same with the rules
//! that kube-proxy writes.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::priority::Preferred;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::tools::{self, Tools};

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>> {
    let bench = tools.example("orlop-dataplane", "connect_bench")?;
    let preferred = Preferred::new()?;
    let result = tools::json(&mut preferred.command(&bench));
    preferred.remove()?;
    let result = result?;
    let mut rows = Vec::new();
    for name in ["orlop", "nftables", "iptables"] {
        for measured in result[name].as_array().into_iter().flatten() {
            rows.push(row(name, measured).with_context(|| format!("what connect_bench says of {name}"))?);
        }
    }
    for measured in result["packet"].as_array().into_iter().flatten() {
        rows.extend(packets(measured).context("what connect_bench says of packets")?);
    }
    Ok(rows)
}

/// At a device: one look at the table of connections, or the whole translation.
fn packets(measured: &Value) -> Option<[Row; 2]> {
    let figure = |key: &str| measured[key].as_f64().map(Summary::single);
    let family = measured["family"].as_str()?;
    Some([
        Row::new(format!("{family} packet of no service, at a device"), "ns", figure("foreign_ns")?),
        Row::new(
            format!("{family} packet of a known connection to a service, at a device"),
            "ns",
            figure("known_ns")?,
        )
        .aim(Aim::AtMost(250.0)),
    ])
}

fn row(name: &str, measured: &Value) -> Option<Row> {
    let figure = |key: &str| measured[key].as_f64().map(Summary::single);
    let services = measured["services"].as_u64()?;
    let plural = if services == 1 { "service" } else { "services" };
    let by = match name {
        "orlop" => "connect() through a ClusterIP".to_owned(),
        other => format!("for comparison: the same by kube-proxy's {other} rules"),
    };
    let row = Row::new(format!("{by}, {services} {plural}"), "µs", figure("connect_us")?);
    let row = row.against("to the pod", figure("direct_us")?).ratio_of(measured["ratio"].as_f64()?);
    Some(if name == "orlop" { row.aim(Aim::Ratio(1.05)) } else { row })
}
