//! A node's cgroup subtree, in every hierarchy that the machine has (v2, v1 or both).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Mount points of all cgroup hierarchies.
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(at))
        })
        .collect())
}

/// Makes `<root>/node` everywhere, the leaf that the node's own process sits in, and returns the leaves.
pub(super) fn make(root: &str) -> Result<Vec<PathBuf>> {
    hierarchies()?
        .into_iter()
        .map(|mount| {
            let leaf = mount.join(root).join("node");
            fs::create_dir_all(&leaf).with_context(|| format!("create cgroup {}", leaf.display()))?;
            inherit_cpuset(&mount, root)?;
            Ok(leaf)
        })
        .collect()
}

/// A new cpuset group of cgroup v1 has no CPUs: copy the parent's, or nothing can join it.
fn inherit_cpuset(mount: &Path, root: &str) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut dir = mount.to_owned();
        let Ok(mut value) = fs::read_to_string(dir.join(file)) else { return Ok(()) };
        for part in Path::new(root).join("node").components() {
            dir.push(part);
            let own = fs::read_to_string(dir.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                fs::write(dir.join(file), value.trim())
                    .with_context(|| format!("write {}", dir.join(file).display()))?;
            } else {
                value = own;
            }
        }
    }
    Ok(())
}

/// Removes the subtree everywhere, deepest first; a list of what could not be removed.
pub(crate) fn remove(root: &str) -> Vec<String> {
    let mounts = hierarchies().unwrap_or_default();
    mounts.iter().flat_map(|mount| remove_tree(&mount.join(root))).collect()
}

fn remove_tree(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let children = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut failures: Vec<_> = children.flat_map(|entry| remove_tree(&entry.path())).collect();
    // A process that was just killed holds its group until it is reaped.
    let removed = (0..50).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        fs::remove_dir(dir).is_ok() || !dir.exists()
    });
    if !removed {
        failures.push(format!("cgroup {} is still in use", dir.display()));
    }
    failures
}
