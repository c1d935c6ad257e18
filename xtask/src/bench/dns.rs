//! Questions per second and latency of the name server, against dnsmasq with as many names.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::priority::Preferred;
use super::row::Row;
use super::summary::Summary;
use super::tools::{self, Tools};

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>> {
    let bench = tools.example("orlop", "dns_bench")?;
    let preferred = Preferred::new()?;
    let result = tools::json(&mut preferred.command(&bench));
    preferred.remove()?;
    let result = result?;
    let sizes = result["sizes"].as_array().context("dns_bench measured nothing")?;
    let rows = sizes.iter().map(|size| rows(size).context("what dns_bench says"));
    Ok(rows.collect::<Result<Vec<_>>>()?.concat())
}

fn rows(size: &Value) -> Option<Vec<Row>> {
    let services = size["services"].as_u64()?;
    let row = |what: &str, unit: &'static str, figure: &str| {
        let of = |who: &str| size[who][figure].as_f64().map(Summary::single);
        let row = Row::new(format!("DNS with {services} Services: {what}"), unit, of("orlop")?);
        Some(row.against("dnsmasq", of("dnsmasq")?))
    };
    Some(vec![
        row("questions answered per second, 64 under way (more is better)", "/s", "per_second")?,
        row("one question after the other, p50", "µs", "p50_us")?,
        row("one question after the other, p99", "µs", "p99_us")?,
    ])
}
