//! What the figures were measured on.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::run::output;

/// Cores, processor, kernel, memory, load and date, as they are now.
pub(crate) fn describe() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = find("/proc/cpuinfo", "model name").unwrap_or_else(|| "?".to_owned());
    let memory = find("/proc/meminfo", "MemTotal").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cgroups = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let has = |kind: &str| cgroups.lines().any(|line| line.split(' ').nth(2) == Some(kind));
    json!({
        "date": output(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])).unwrap_or_default().trim(),
        "commit": output(&mut crate::run::cmd("git", ["rev-parse", "--short", "HEAD"])).unwrap_or_default().trim(),
        "cores": cores,
        "cpu": cpu,
        "memory_gib": kib >> 20,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "cgroups": match (has("cgroup"), has("cgroup2")) {
            (true, true) => "v1 and v2 (hybrid)",
            (true, false) => "v1",
            _ => "v2",
        },
        "load": load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}

/// The same as a line for people.
pub(crate) fn sentence(machine: &Value) -> String {
    let text = |key: &str| match &machine[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    format!(
        "{} cores ({}), {} GiB, Linux {}, cgroup {}, load before {}; {}, commit {}",
        text("cores"),
        text("cpu"),
        text("memory_gib"),
        text("kernel"),
        text("cgroups"),
        text("load"),
        text("date"),
        text("commit"),
    )
}

fn find(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
