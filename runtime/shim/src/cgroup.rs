//! The cgroup directories of one container: killing what is in them.
//!
//! Not for: making or removing them (the creator and the client do).

use std::{fs, path::Path};

use crate::sys;

/// Lines of a bundle's `cgroups` file: what the directory is for (`memory`, `pids`, …, `unified`), and its path.
pub(crate) type Dirs = Vec<(String, String)>;

pub(crate) fn parse(text: &str) -> Dirs {
    let line = |line: &str| line.split_once(' ').map(|(name, dir)| (name.to_owned(), dir.to_owned()));
    text.lines().filter_map(line).collect()
}

/// The directory whose memory counters count: v1's, else the unified one.
pub(crate) fn memory(dirs: &Dirs) -> Option<&str> {
    let named = |name: &str| dirs.iter().find(|(is, _)| is == name).map(|(_, dir)| dir.as_str());
    named("memory").or_else(|| named("unified"))
}

/// The directory in cgroup v2: a process can be born there.
pub(crate) fn unified(dirs: &Dirs) -> Option<&str> {
    dirs.iter().find(|(name, _)| name == "unified").map(|(_, dir)| dir.as_str())
}

/// KILL to every process in the container's cgroup. Errors cannot be helped here: the caller comes again.
pub(crate) fn kill_all(dirs: &Dirs) {
    for (_, dir) in dirs {
        let dir = Path::new(dir);
        if fs::write(dir.join("cgroup.kill"), "1").is_err() {
            kill_tree(dir);
        }
    }
}

fn kill_tree(dir: &Path) {
    let me = std::process::id();
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in procs.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != me) {
        drop(sys::kill(pid, libc::SIGKILL));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_tree(&entry.path());
        }
    }
}
