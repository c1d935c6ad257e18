//! What the agent's process uses of the processor when nothing happens.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::node::BenchNode;
use super::row::Row;
use super::summary::Summary;

/// After this the node has nothing left to do.
const SETTLE: Duration = Duration::from_secs(5);
/// Long enough for what comes every ten seconds to come three times.
const WATCHED: Duration = Duration::from_secs(30);

/// Seconds of processor time in an hour, by the kernel's account of every thread.
pub(crate) fn per_hour(node: &BenchNode) -> Result<f64> {
    sleep(SETTLE);
    let (before, began) = (spent(node)?, Instant::now());
    sleep(WATCHED);
    Ok((spent(node)? - before) / began.elapsed().as_secs_f64() * 3600.0)
}

fn spent(node: &BenchNode) -> Result<f64> {
    let tasks = format!("/proc/{}/task", node.pid()?);
    let threads = fs::read_dir(&tasks).with_context(|| format!("read {tasks}"))?.flatten();
    let nanoseconds = threads.filter_map(|thread| {
        // A thread may end meanwhile.
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<f64>().ok()
    });
    Ok(nanoseconds.sum::<f64>() / 1e9)
}

/// `more` is per pod.
#[expect(clippy::cast_precision_loss, reason = "a count of pods")]
pub(crate) fn rows(idle: f64, loaded: f64, pods: usize) -> Vec<Row> {
    let more = (loaded - idle).max(0.0) / pods as f64;
    vec![
        Row::new("the agent's process, CPU per hour, idle", "s", Summary::single(idle)),
        Row::new(format!("the same with {pods} pods at rest"), "s", Summary::single(loaded)),
        Row::new(format!("more per pod-hour, of {pods}"), "s", Summary::single(more)),
    ]
}
