//! `orlop inspect` and `orlop stats`: what the runtime's records and the kernel's counters say.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use orlop::args::DirArgs;
use orlop_runtime::{
    ContainerState,
    cgroup::{Hierarchies, Pressure, node_pressure},
};

use super::{find, human_size, table};

/// Prints a pod with its containers.
///
/// # Errors
/// There is no such pod here.
pub(crate) fn inspect(pod: &str, dirs: &DirArgs) -> Result<()> {
    let pods = orlop_runtime::list(&dirs.run_dir);
    let text = serde_json::to_string_pretty(find::pod(&pods, pod)?).context("write JSON")?;
    writeln!(std::io::stdout(), "{text}").context("print")
}

/// Prints one row per running container.
///
/// # Errors
/// No cgroup hierarchy is mounted, or nothing can be printed.
pub(crate) fn stats(dirs: &DirArgs) -> Result<()> {
    let hierarchies = Hierarchies::discover().context("find the cgroup hierarchies")?;
    let mut rows = Vec::new();
    for sandbox in orlop_runtime::list(&dirs.run_dir) {
        for container in &sandbox.containers {
            if !matches!(container.state, ContainerState::Running { .. }) {
                continue;
            }
            // It may end meanwhile.
            let Ok(stats) =
                orlop_runtime::stats(&hierarchies, &dirs.run_dir, &sandbox.pod.uid, &container.id)
            else {
                continue;
            };
            rows.push(vec![
                sandbox.pod.namespace.clone(),
                sandbox.pod.name.clone(),
                container.name.clone(),
                format!("{:.2}s", std::time::Duration::from_nanos(stats.cpu_ns).as_secs_f64()),
                human_size(stats.memory_working_set),
                human_size(stats.memory_rss),
                waits(stats.pressure.cpu),
                waits(stats.pressure.memory),
                waits(stats.pressure.io),
            ]);
        }
    }
    rows.sort();
    let node = node_pressure();
    let node = format!(
        "Tasks of this node waited in the last ten seconds: cpu {}, memory {}, io {}\n",
        waits(node.cpu),
        waits(node.memory),
        waits(node.io)
    );
    let header =
        ["NAMESPACE", "POD", "CONTAINER", "CPU", "MEMORY", "RSS", "WAIT-CPU", "WAIT-MEMORY", "WAIT-IO"];
    std::io::stdout().write_all((table(&header, &rows) + &node).as_bytes()).context("print")
}

/// Part of the last ten seconds in which some task waited.
fn waits(pressure: Option<Pressure>) -> String {
    pressure.map_or_else(|| "?".to_owned(), |pressure| format!("{:.2}%", pressure.some.avg10))
}
