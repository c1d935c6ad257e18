//! The network namespaces of the processes whose sockets the programs translate: those below a cgroup.
//!
//! Threads count one by one, as each may have a namespace of its own. In a container this needs the host's process ids.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// An open file for each of them. Processes that end meanwhile are none.
///
/// # Errors
/// When the cgroup itself cannot be read.
pub(crate) fn below(cgroup: &Path) -> io::Result<Vec<File>> {
    let mut processes = Vec::new();
    walk(cgroup, &mut processes)?;
    Ok(of(&processes))
}

/// The same, and this process's own: where that is the machine's, processes of any cgroup are served in it.
///
/// # Errors
/// As [`below`].
pub(crate) fn below_and_own(cgroup: &Path) -> io::Result<Vec<File>> {
    let mut processes = vec![std::process::id()];
    walk(cgroup, &mut processes)?;
    Ok(of(&processes))
}

fn of(processes: &[u32]) -> Vec<File> {
    let mut found = BTreeMap::new();
    for process in processes {
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().flatten() {
            let path = task.path().join("ns/net");
            let Ok(about) = fs::metadata(&path) else { continue };
            let name = (about.dev(), about.ino());
            if let std::collections::btree_map::Entry::Vacant(place) = found.entry(name)
                && let Ok(file) = File::open(&path)
            {
                place.insert(file);
            }
        }
    }
    found.into_values().collect()
}

fn walk(cgroup: &Path, processes: &mut Vec<u32>) -> io::Result<()> {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    processes.extend(listed.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that is gone by now, or has threads only, is no reason to miss the others.
            if let Err(error) = walk(&entry.path(), processes) {
                tracing::debug!(%error, cgroup = %entry.path().display(), "list processes");
            }
        }
    }
    Ok(())
}
