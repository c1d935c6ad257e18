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

/// What the client does.
pub(crate) struct Wanted {
    /// Pods one at a time.
    pub(crate) one: usize,
    /// Many at once, each burst gone before the next.
    pub(crate) bursts: &'static [usize],
    /// The last burst stays.
    pub(crate) keep: bool,
    /// Resizes of one pod in place.
    pub(crate) resizes: usize,
}

/// All that is measured here; only what stays if nothing but memory is.
pub(crate) fn wanted(all: bool) -> Wanted {
    let bursts: &[usize] = if all { &[20, 100, BURST] } else { &[BURST] };
    Wanted { one: if all { ONE } else { 0 }, bursts, keep: true, resizes: if all { ONE } else { 0 } }
}

/// Has the client do it; what it saw.
pub(crate) fn ask(node: &BenchNode, client: &Path, image: &str, wanted: &Wanted) -> Result<Value> {
    let bursts: Vec<_> = wanted.bursts.iter().map(ToString::to_string).collect();
    let mut command = node.beside(client)?;
    command.arg("pods").arg("--kubeconfig").arg(node.kubeconfig()).args(["--image", image]);
    command.arg("--logs").arg(node.pod_logs()).args(["--cgroup", node.cgroup()]);
    command.arg("--one").arg(wanted.one.to_string()).args(["--bursts", &bursts.join(",")]);
    command.args(["--keep", if wanted.keep { "yes" } else { "no" }]);
    command.arg("--resizes").arg(wanted.resizes.to_string());
    tools::json(&mut command)
}

pub(crate) fn rows(node: &BenchNode, seen: &Value) -> Result<Vec<Row>> {
    let log = fs::read_to_string(node.log()).context("read the node's log")?;
    let actions = stages::actions(&log);
    let one = &seen["one"];
    let mut rows = vec![
        Row::new("pod create → Ready, one at a time", "ms", ways(one)?).aim(Aim::AtMost(80.0)),
        Row::new("statuses written on the way, one at a time", "", writes(one)?).aim(Aim::AtMost(4.0)),
        Row::new("pod delete → gone, one at a time", "ms", gone(one)?),
    ];
    rows.extend(split(one, &actions)?);
    for burst in pods(&seen["bursts"]) {
        let (size, list) = (burst["size"].as_u64().context("a burst without size")?, &burst["pods"]);
        let all = Summary::single(stages::milliseconds(whole(burst).context("no burst")?) / 1e3);
        let all = Row::new(format!("{size} pods at once, create → all Ready"), "s", all);
        rows.push(if size == BURST as u64 { all.aim(Aim::AtMost(2.5)) } else { all });
        rows.push(Row::new(format!("each of the {size}, create → Ready"), "ms", ways(list)?));
        rows.push(Row::new(format!("statuses written on the way of each of the {size}"), "", writes(list)?));
        if let Some(gone) = burst["gone_after"].as_u64() {
            let gone = Summary::single(stages::milliseconds(gone) / 1e3);
            rows.push(Row::new(format!("{size} pods, delete → all gone"), "s", gone));
        }
        rows.extend(split(list, &actions)?);
    }
    let resized: Vec<f64> =
        pods(&seen["resized"]).iter().filter_map(|took| took.as_u64()).map(stages::milliseconds).collect();
    let resized = Summary::of(&resized).context("nothing was resized")?;
    rows.push(Row::new("resize in place → limit in the kernel", "ms", resized).aim(Aim::AtMost(20.0)));
    Ok(rows)
}

/// Microseconds from the first request of a burst until its last pod is Ready.
pub(crate) fn whole(burst: &Value) -> Option<u64> {
    let list = pods(&burst["pods"]);
    let first = list.iter().filter_map(|pod| pod["created"].as_u64()).min()?;
    Some(list.iter().filter_map(|pod| pod["ready"].as_u64()).max()? - first)
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn writes(list: &Value) -> Result<Summary> {
    let writes: Vec<f64> = pods(list).iter().filter_map(|pod| Some(pod["writes"].as_u64()? as f64)).collect();
    Summary::of(&writes).context("the client saw no pod")
}

fn gone(list: &Value) -> Result<Summary> {
    let gone = pods(list);
    let gone: Vec<f64> =
        gone.iter().filter_map(|pod| pod["gone_after"].as_u64()).map(stages::milliseconds).collect();
    Summary::of(&gone).context("the client saw no pod go")
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
