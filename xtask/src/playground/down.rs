//! Removing every trace of a playground. Runs every step and reports every failure.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Layout, NodePlace, cgroups, lan, node};
use crate::progress::step;
use crate::run::output;

/// `cargo xtask down`.
pub(crate) fn down(dir: &Path) -> Result<()> {
    let Ok(layout) = Layout::open(dir) else {
        eprintln!("no playground in {}: nothing to do", dir.display());
        return Ok(());
    };
    let mut failures = Vec::new();
    for place in layout.existing_nodes() {
        let stopped = step(format!("stop {}", place.name), |_| stop(&layout, &place));
        failures.extend(stopped.err().map(|error| format!("{error:#}")));
        failures.extend(cgroups::remove(&place.cgroup));
    }
    if !layout.host {
        failures.extend(lan::down(&layout));
    }
    if failures.is_empty() {
        std::fs::remove_dir_all(&layout.dir)?;
        return Ok(());
    }
    bail!("left behind:\n  {}", failures.join("\n  "))
}

/// Stops the agent, then removes what a stopped agent leaves running on purpose: pods, mounts, programs.
pub(crate) fn stop(layout: &Layout, place: &NodePlace) -> Result<()> {
    if let Some(pid) = node::running_pid(place).and_then(Pid::from_raw) {
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while node::running_pid(place).is_some() {
            if start.elapsed() > Duration::from_secs(15) {
                kill_process(pid, Signal::KILL)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let mut reset = match &place.netns {
        Some(netns) if Path::new("/run/netns").join(netns).exists() => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{netns}")).arg("--").arg(layout.bin().join("orlop"));
            command
        }
        _ => Command::new(layout.bin().join("orlop")),
    };
    reset.args(["reset", "--yes"]);
    reset.arg(format!("--state-dir={}", place.state.display()));
    reset.arg(format!("--run-dir={}", place.run.display()));
    reset.arg(format!("--cgroup-root={}", place.cgroup));
    output(&mut reset).map(drop)
}
