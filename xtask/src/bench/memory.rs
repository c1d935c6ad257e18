//! Resident memory of every process of ours, from the kernel's own account.
//!
//! RSS counts a shared page in each process that maps it, PSS divides it among them: sums are sums of PSS. Kernel
//! memory (namespaces, veth pairs, cgroups) is in neither.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::node::BenchNode;
use super::pods::BURST;
use super::row::{Aim, Row};
use super::summary::Summary;

/// After this the node has nothing left to do.
const SETTLE: Duration = Duration::from_secs(5);

/// Megabytes of each process, by the program's name.
pub(crate) type Sample = BTreeMap<String, Vec<Memory>>;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Memory {
    rss: f64,
    pss: f64,
}

/// All processes whose program lies in the node's directory of binaries, when the node is at rest.
pub(crate) fn sample(node: &BenchNode) -> Result<Sample> {
    sleep(SETTLE);
    let bin = node.bin();
    let mut found = Sample::new();
    for entry in fs::read_dir("/proc").context("list processes")?.flatten() {
        let Ok(program) = fs::read_link(entry.path().join("exe")) else { continue };
        let Some(name) = program.strip_prefix(&bin).ok().and_then(|name| name.to_str()) else { continue };
        // A process may end meanwhile.
        let Ok(text) = fs::read_to_string(entry.path().join("smaps_rollup")) else { continue };
        let memory = parse(&text).with_context(|| format!("smaps_rollup of {}", entry.path().display()))?;
        found.entry(name.to_owned()).or_default().push(memory);
    }
    Ok(found)
}

fn parse(rollup: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<f64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    Some(Memory { rss: field("Rss")?, pss: field("Pss")? })
}

pub(crate) fn rows(idle: &Sample, loaded: &Sample) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (when, sample) in [("idle".to_owned(), idle), (format!("with {BURST} pods"), loaded)] {
        for (name, processes) in sample {
            let of = |pick: fn(&Memory) -> f64| Summary::of(&processes.iter().map(pick).collect::<Vec<_>>());
            let what = format!("{name}, {when}, {} ×", processes.len());
            rows.push(Row::new(format!("RSS of {what}"), "MB", of(|m| m.rss).context("no process")?));
            rows.push(Row::new(format!("PSS of {what}"), "MB", of(|m| m.pss).context("no process")?));
        }
    }
    let rss = total(idle, |memory| memory.rss);
    rows.push(Row::new("all of ours, idle, RSS", "MB", Summary::single(rss)).aim(Aim::AtMost(50.0)));
    rows.extend(per_pod(idle, loaded, BURST));
    Ok(rows)
}

/// What each pod takes, in all of our processes together.
pub(crate) fn per_pod(before: &Sample, after: &Sample, pods: usize) -> [Row; 1] {
    let (before, after) = (total(before, |memory| memory.pss), total(after, |memory| memory.pss));
    #[expect(clippy::cast_precision_loss, reason = "a count of pods")]
    let more = Summary::single((after - before) / pods as f64);
    [Row::new(format!("more per pod of {pods}, all of ours, PSS"), "MB", more).aim(Aim::AtMost(0.2))]
}

/// Megabytes of one process, PSS.
pub(crate) fn of(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    Ok(parse(&text).with_context(|| path)?.pss)
}

fn total(sample: &Sample, pick: fn(&Memory) -> f64) -> f64 {
    sample.values().flatten().map(pick).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rollup_is_read_in_megabytes() {
        let text =
            "55e-7ff ---p 00000000 00:00 0    [rollup]\nRss:    1000 kB\nPss:     500 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(parse(text), Some(Memory { rss: 1.024, pss: 0.512 }));
        assert_eq!(parse("Rss: 1000 kB\n"), None);
    }
}
