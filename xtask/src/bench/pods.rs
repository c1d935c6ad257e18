//! Pod create → Ready as a client of the API sees it, image present: one at a time, then many at once; and the way
//! there by stages.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::node::BenchNode;
use super::row::{Aim, Row};
use super::stages::{self, BESIDE, STAGES};
use super::summary::Summary;
use super::tools;

const ONE: usize = 20;
pub(crate) const BURST: usize = 50;

/// Runs pods one at a time if asked to, then a burst, which stays; what the client saw.
pub(crate) fn run(node: &BenchNode, client: &Path, image: &str, one: bool) -> Result<Value> {
    let mut command = node.beside(client)?;
    command.arg("pods").arg("--kubeconfig").arg(node.kubeconfig()).args(["--image", image]);
    command.arg("--logs").arg(node.pod_logs());
    command.arg("--one").arg(if one { ONE } else { 0 }.to_string()).arg("--burst").arg(BURST.to_string());
    tools::json(&mut command)
}

pub(crate) fn rows(node: &BenchNode, seen: &Value) -> Result<Vec<Row>> {
    let log = fs::read_to_string(node.log()).context("read the node's log")?;
    let actions = stages::actions(&log);
    let mut rows =
        vec![Row::new("pod create → Ready, one at a time", "ms", ways(&seen["one"])?).aim(Aim::AtMost(80.0))];
    rows.extend(split(&seen["one"], &actions)?);
    let burst = pods(&seen["burst"]);
    let time = |pod: &Value, key: &str| pod[key].as_u64();
    let first = burst.iter().filter_map(|pod| time(pod, "created")).min().context("no burst")?;
    let last = burst.iter().filter_map(|pod| time(pod, "ready")).max().context("no burst")?;
    let all = Summary::single(stages::milliseconds(last - first) / 1e3);
    rows.push(Row::new(format!("{BURST} pods at once, create → all Ready"), "s", all).aim(Aim::AtMost(2.5)));
    rows.push(Row::new(format!("each of the {BURST}, create → Ready"), "ms", ways(&seen["burst"])?));
    rows.extend(split(&seen["burst"], &actions)?);
    Ok(rows)
}

fn pods(list: &Value) -> Vec<&Value> {
    list.as_array().into_iter().flatten().collect()
}

/// The whole way of each pod.
fn ways(list: &Value) -> Result<Summary> {
    let way = |pod: &&Value| {
        Some(stages::milliseconds(pod["ready"].as_u64()?.saturating_sub(pod["created"].as_u64()?)))
    };
    let ways: Vec<f64> = pods(list).iter().filter_map(way).collect();
    Summary::of(&ways).context("the client saw no pod")
}

/// One row per stage.
fn split(list: &Value, actions: &BTreeMap<String, stages::Actions>) -> Result<Vec<Row>> {
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); STAGES.len() + BESIDE.len()];
    for pod in pods(list) {
        let uid = pod["uid"].as_str().unwrap_or_default();
        let parts = actions.get(uid).and_then(|actions| stages::split(pod, actions));
        let (pieces, beside) = parts.with_context(|| format!("the agent's log lacks stages of pod {uid}"))?;
        samples.iter_mut().zip(pieces.into_iter().chain(beside)).for_each(|(all, piece)| all.push(piece));
    }
    let names = STAGES.iter().chain(&BESIDE).map(|name| format!("· {name}"));
    let row = |(name, samples): (String, Vec<f64>)| Some(Row::new(name, "ms", Summary::of(&samples)?));
    Ok(names.zip(samples).filter_map(row).collect())
}
