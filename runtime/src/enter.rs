//! Going into a container's cgroups without waiting for the kernel.
//!
//! Who writes a pid to `cgroup.procs` waits until no process of the machine is amid a fork: a grace period, 4 to 12
//! milliseconds, more than the rest of a start together. Two ways need no waiting: being born in the cgroup (v2, the
//! shim does that) and moving only oneself, a single thread, through `tasks` (v1, here). libcontainer knows neither: so
//! the creator goes first, and in its own mount namespace it covers the `cgroup.procs` that libcontainer then writes to.
//! Limits stay libcontainer's. Not for: cgroup v2 alone, where libcontainer's way is taken.

use std::{fs, io, path::Path};

use rustix::mount::mount_bind;

/// Whether this process is in that directory of cgroup v2.
pub(crate) fn is_in(unified: &str) -> io::Result<bool> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    Ok(path.is_some_and(|path| path.len() > 1 && unified.ends_with(path)))
}

/// Goes into every v1 directory of a bundle's `cgroups` file. For a process of one thread with mounts of its own. Where
/// it does not work nothing is covered: libcontainer tries itself, and knows the words for what is wrong.
pub(crate) fn join_v1(cgroups: &str) {
    for line in cgroups.lines() {
        let Some((name, dir)) = line.split_once(' ') else { continue };
        if name == "unified" {
            continue;
        }
        if let Err(error) = join(name, Path::new(dir)) {
            tracing::debug!(dir, %error, "libcontainer has to join");
        }
    }
}

fn join(name: &str, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if name.split(',').any(|controller| controller == "cpuset") {
        ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|file| inherit(dir, file))?;
    }
    fs::write(dir.join("tasks"), "0")?;
    Ok(mount_bind("/dev/null", dir.join("cgroup.procs"))?)
}

/// A new cpuset is empty and takes nobody: it gets what its nearest ancestor has.
fn inherit(dir: &Path, file: &str) -> io::Result<()> {
    if !fs::read_to_string(dir.join(file))?.trim().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().ok_or(io::ErrorKind::NotFound)?;
    inherit(parent, file)?;
    fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)
}
