//! As many pods as a dense node has: how long until all are Ready, what they take. The node joins a cluster in another
//! process, so that what is the agent's is told apart from what is the API server's and the controllers'.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::node::BenchNode;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::{cpu, memory, pods, stages};

const MANY: usize = 500;

/// Until the last event of so many starts is told: the node tells fifty a second, as the kubelet does.
const EVENTS: Duration = Duration::from_secs(75);

/// What the node is started with besides: upstream's 110 pods and 254 addresses are too few.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] = [("ORLOP_MAX_PODS", "600"), ("ORLOP_NODE_CIDR_MASK", "22")];

pub(crate) fn measure(node: &BenchNode, client: &Path, image: &str) -> Result<Vec<Row>> {
    let before = memory::sample(node)?;
    let processes = || -> Result<[f64; 2]> { Ok([memory::of(node.pid()?)?, memory::of(node.api_pid()?)?]) };
    let [agent, control] = processes()?;
    let idle = cpu::per_hour(node)?;
    let wanted = pods::Wanted { one: 0, bursts: &[MANY], keep: true, resizes: 0 };
    let seen = pods::ask(node, client, image, &wanted)?;
    let burst = &seen["bursts"][0];
    let all = stages::milliseconds(pods::whole(burst).context("no burst")?) / 1e3;
    sleep(EVENTS);
    let loaded = memory::sample(node)?;
    let with = processes()?;
    let busy = cpu::per_hour(node)?;
    let mut rows =
        vec![Row::new(format!("{MANY} pods at once, create → all Ready"), "s", Summary::single(all))];
    rows.extend(memory::per_pod(&before, &loaded, MANY));
    rows.extend(cpu::rows(idle, busy, MANY));
    #[expect(clippy::cast_precision_loss, reason = "a count of pods")]
    let row = |whose: &str, more: f64| {
        let each = Summary::single(more * 1000.0 / MANY as f64);
        Row::new(format!("more in {whose} per pod, of {MANY}, PSS"), "kB", each)
    };
    rows.push(row("the agent's process", with[0] - agent).aim(Aim::AtMost(60.0)));
    rows.push(row("API server, controllers and scheduler", with[1] - control));
    Ok(rows)
}
