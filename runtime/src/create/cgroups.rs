//! The container's cgroups: made, limited, and entered by this process, so that whatever it clones is born there.
//!
//! Who writes a pid to `cgroup.procs` waits until no process of the machine is amid a fork: a grace period, 4 to 12
//! milliseconds, more than all the rest of a start together. Two ways need no waiting: being born in the cgroup (v2, the
//! shim does that) and moving only oneself, a single thread, through `tasks` (v1, here).
//! Not for: which limits, and removing (`cgroup`).

use std::{
    fs::{self, File},
    io::{ErrorKind, Result, Write as _},
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use orlop_shim::process::Failure;

use super::failed;
use crate::{cgroup, devices, spec::plan::Plan, sys};

/// Where this process is.
pub(super) struct Cgroups {
    /// Text of /proc/self/cgroup, before it went anywhere.
    pub(super) own: String,
    /// The container's directory in cgroup v2.
    pub(super) unified: Option<PathBuf>,
}

/// `cgroups` are the lines of a bundle's file of that name.
pub(super) fn enter(cgroups: &str, plan: &Plan) -> std::result::Result<Cgroups, Failure> {
    let lines = cgroups.lines().filter_map(|line| line.split_once(' '));
    let dirs: Vec<(&str, &Path)> = lines.map(|(name, dir)| (name, Path::new(dir))).collect();
    let own = fs::read_to_string("/proc/self/cgroup").map_err(failed("read /proc/self/cgroup"))?;
    for (name, dir) in &dirs {
        make(name, dir).map_err(failed(format_args!("make cgroup {}", dir.display())))?;
    }
    cgroup::write_all(&plan.limits).map_err(failed("limit the container"))?;
    let hybrid = dirs.iter().any(|(name, _)| *name != "unified");
    for (name, dir) in &dirs {
        let joined = match *name {
            "unified" => join_unified(dir, &own, hybrid, plan),
            _ => fs::write(dir.join("tasks"), "0"),
        };
        joined.map_err(failed(format_args!("join cgroup {}", dir.display())))?;
    }
    let unified = dirs.iter().find(|(name, _)| *name == "unified").map(|(_, dir)| (*dir).to_owned());
    if let Some(dir) = unified.as_deref().filter(|_| plan.users.is_some() && !hybrid && !plan.usual_devices) {
        delegate(dir, plan.root()).map_err(failed(format_args!("delegate cgroup {}", dir.display())))?;
    }
    Ok(Cgroups { own, unified })
}

/// Where this process is in a hierarchy that it did not join, below the mount point.
pub(super) fn path_in<'own>(own: &'own str, name: &str) -> Option<&'own str> {
    own.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(name)?.strip_prefix(":/"))
}

/// A privileged container may write below its directory: so it is its root's, with those files that the kernel names for
/// this. The limits are none of them.
fn delegate(dir: &Path, root: u32) -> Result<()> {
    let files = fs::read_to_string("/sys/kernel/cgroup/delegate")?;
    chown(dir, Some(root), Some(root))?;
    for file in files.lines().map(|file| dir.join(file)).filter(|file| file.exists()) {
        chown(file, Some(root), Some(root))?;
    }
    Ok(())
}

fn make(name: &str, dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => fs::create_dir_all(dir)?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        other => other?,
    }
    if name.split(',').any(|controller| controller == "cpuset") {
        ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|file| inherit(dir, file))?;
    }
    Ok(())
}

/// A new cpuset is empty and takes nobody: it gets what its nearest ancestor has.
fn inherit(dir: &Path, file: &str) -> Result<()> {
    if !fs::read_to_string(dir.join(file))?.trim().is_empty() {
        return Ok(());
    }
    let parent = dir.parent().ok_or(ErrorKind::NotFound)?;
    inherit(parent, file)?;
    fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)
}

/// On a hybrid machine v1 decides over devices, and a kernel that cannot do it by program is fine.
fn join_unified(dir: &Path, own: &str, hybrid: bool, plan: &Plan) -> Result<()> {
    if plan.usual_devices {
        match sys::attach_device_program(&File::open(dir)?.into(), &devices::program(&plan.allowed)) {
            Err(error) if !hybrid => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    // The shim has started us there, unless the kernel is too old for that.
    if path_in(own, "").is_none_or(|path| path.is_empty() || !dir.ends_with(path)) {
        File::options().write(true).open(dir.join("cgroup.procs"))?.write_all(b"0")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::path_in;

    #[test]
    fn each_hierarchy_has_its_own_path() {
        let own = "10:name=systemd:/a:b\n5:cpu,cpuacct:/c\n0::/d/e\n";
        for (name, expected) in [
            ("name=systemd", Some("a:b")),
            ("cpu,cpuacct", Some("c")),
            ("", Some("d/e")),
            ("cpu", None),
            ("memory", None),
        ] {
            assert_eq!(path_in(own, name), expected, "{name}");
        }
    }
}
