//! Process start → API ready → Node Ready, each time with nothing on disk.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::node::BenchNode;
use super::row::{Aim, Row};
use super::summary::Summary;
use super::tools;

const RUNS: usize = 7;

pub(crate) fn measure(node: &BenchNode, client: &Path) -> Result<Vec<Row>> {
    let (mut api, mut ready) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        node.wipe()?;
        let command = node.command()?;
        let mut start = node.beside(client)?;
        let (variable, value) = BenchNode::environment();
        start.arg("start").env(variable, value).arg("--kubeconfig").arg(node.kubeconfig());
        start.arg("--node").arg(node.name());
        start.arg("--pid-file").arg(node.pid_file()).arg("--log").arg(node.log()).arg("--");
        start.arg(command.get_program()).args(command.get_args());
        let took = tools::json(&mut start)?;
        let figure = |key: &str| took[key].as_f64().with_context(|| format!("the client gives no {key}"));
        api.push(figure("api_ms")?);
        ready.push(figure("node_ms")?);
    }
    let row = |what: &str, samples: &[f64], aim: f64| -> Result<Row> {
        Ok(Row::new(what, "ms", Summary::of(samples).context("no runs")?).aim(Aim::AtMost(aim)))
    };
    Ok(vec![
        row("process start → API ready, empty state", &api, 300.0)?,
        row("process start → Node Ready, empty state", &ready, 1000.0)?,
    ])
}
