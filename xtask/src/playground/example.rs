//! The example at work: apply it, wait until it is Ready, and ask its Service until every replica has answered.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::node::{inside, kubectl};
use super::{Layout, NodePlace, PATIENCE};
use crate::progress::step;
use crate::run::{output, root};

const REPLICAS: usize = 3;

pub(super) fn run(layout: &Layout, places: &[NodePlace]) -> Result<()> {
    let manifest = root().join("examples/hello.yaml");
    step("kubectl apply -f examples/hello.yaml", |_| {
        kubectl(layout, &["apply", "-f", &manifest.to_string_lossy()]).map(drop)
    })?;
    step("three replicas Ready", |_| {
        kubectl(layout, &["rollout", "status", "deployment/hello", "--timeout=60s"]).map(drop)
    })?;
    let service = kubectl(layout, &["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"])?;
    let url = format!("http://{}/", service.trim());
    let place = places.first().context("a playground without nodes")?;
    step(format!("curl {url} until every replica has answered"), |step| {
        let start = Instant::now();
        let mut answered = BTreeSet::new();
        while answered.len() < REPLICAS {
            if start.elapsed() > PATIENCE {
                bail!("only {answered:?} answered within {PATIENCE:?}");
            }
            let curl = output(inside(place, Path::new("curl"))?.args([
                "-sS",
                "--max-time",
                "2",
                "-H",
                "Accept: application/json",
                &url,
            ]));
            let answer: serde_json::Value = serde_json::from_str(&curl?).context("the example's answer")?;
            let pod = answer["pod"].as_str().context("the example's answer names no pod")?;
            if answered.insert(pod.to_owned()) {
                step.detail(format_args!("{} of {REPLICAS}", answered.len()));
            }
        }
        Ok(())
    })
}

/// What to type next.
pub(super) fn say_what_next(layout: &Layout, example: bool) {
    let nodes = match layout.existing_nodes().len() {
        1 => "A node runs.".to_owned(),
        count => format!("{count} nodes run."),
    };
    println!("\n{nodes} Try:\n");
    println!("  export KUBECONFIG={}", layout.kubeconfig().display());
    println!("  kubectl get nodes -o wide");
    if example {
        println!("  kubectl get pods -o wide");
        println!("  kubectl logs -f deployment/hello");
        println!("  kubectl scale deployment/hello --replicas=5");
        println!("  kubectl rollout restart deployment/hello");
    } else {
        println!("  kubectl get all -A");
    }
    let log = layout.dir.join("log");
    println!("\nThe log is {}; `{}` removes every trace.", log.display(), down_command(layout));
}

/// What takes this playground down again.
fn down_command(layout: &Layout) -> String {
    let default = root().join(super::DEFAULT_DIR);
    match default.canonicalize().is_ok_and(|default| default == layout.dir) {
        true => "cargo xtask down".to_owned(),
        false => format!("cargo xtask down --dir {}", layout.dir.display()),
    }
}
