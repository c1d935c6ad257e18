//! From the start of the process until its API is ready and its Node too.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, runtime::wait::await_condition};
use serde_json::{Value, json};

use crate::{Flags, PATIENCE, client};

/// Between two looks at a file or a port.
const PAUSE: Duration = Duration::from_millis(1);

/// The process goes on afterwards; its pid is in the pid file.
pub(crate) async fn run(flags: &Flags, command: &[String]) -> Result<Value> {
    let (program, args) = command.split_first().context("no command after --")?;
    let log_path = flags.get("log")?;
    let log = File::options().create(true).append(true).open(log_path);
    let log = log.with_context(|| format!("open {log_path}"))?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    fs::write(flags.get("pid-file")?, format!("{}\n", child.id()))?;
    let milliseconds = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
    let client = ready(flags.get("kubeconfig")?, &mut child, began).await?;
    let api = milliseconds(began);
    let nodes: Api<Node> = Api::all(client);
    let wait = await_condition(nodes, flags.get("node")?, |node: Option<&Node>| node.is_some_and(is_ready));
    tokio::time::timeout(PATIENCE, wait).await.context("the node is not Ready")??;
    Ok(json!({ "api_ms": api, "node_ms": milliseconds(began) }))
}

/// Asks `/readyz` until it says yes.
async fn ready(kubeconfig: &str, child: &mut Child, began: Instant) -> Result<Client> {
    loop {
        if let Ok(client) = client(kubeconfig).await {
            let asked = client.request_text(http::Request::get("/readyz").body(Vec::new())?).await;
            if asked.is_ok() {
                return Ok(client);
            }
        }
        if let Some(status) = child.try_wait()? {
            bail!("the process ended with {status}; see its log");
        }
        if began.elapsed() > PATIENCE {
            bail!("no API after {PATIENCE:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
