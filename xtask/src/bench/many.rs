//! As many pods as a dense node has: how long until all are Ready, what they take, how long until they are gone.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::node::BenchNode;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::{cpu, memory, pods, stages};

const MANY: usize = 500;

/// What the node is started with besides: upstream's 110 pods and 254 addresses are too few.
pub(crate) const ENVIRONMENT: [(&str, &str); 2] = [("ORLOP_MAX_PODS", "600"), ("ORLOP_NODE_CIDR_MASK", "22")];

pub(crate) fn measure(node: &BenchNode, client: &Path, image: &str) -> Result<Vec<Row>> {
    let before = memory::sample(node)?;
    let idle = cpu::per_hour(node)?;
    let wanted = pods::Wanted { one: 0, bursts: &[MANY], keep: true, resizes: 0 };
    let seen = pods::ask(node, client, image, &wanted)?;
    let burst = &seen["bursts"][0];
    let all = stages::milliseconds(pods::whole(burst).context("no burst")?) / 1e3;
    let loaded = memory::sample(node)?;
    let busy = cpu::per_hour(node)?;
    let mut rows =
        vec![Row::new(format!("{MANY} pods at once, create → all Ready"), "s", Summary::single(all))];
    rows.extend(memory::per_pod(&before, &loaded, MANY));
    rows.extend(cpu::rows(idle, busy, MANY));
    let agent = memory::of(&loaded, "orlop") - memory::of(&before, "orlop");
    #[expect(clippy::cast_precision_loss, reason = "a count of pods")]
    let each = agent * 1000.0 / MANY as f64;
    rows.push(
        Row::new(
            format!("more in agent and API server per pod, of {MANY}, PSS"),
            "kB",
            Summary::single(each),
        )
        .aim(Aim::AtMost(60.0)),
    );
    Ok(rows)
}
