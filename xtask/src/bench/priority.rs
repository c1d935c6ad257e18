//! A CPU share so large that other work on the machine hardly disturbs a measurement; the same for all that is measured.
//!
//! On an idle machine it changes nothing. Not for: making anything faster than it would be there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::janitor::Janitor;
use crate::playground::cgroups;

/// A cgroup for programs that are measured outside of a node.
pub(crate) struct Preferred {
    name: String,
    leaf: Option<PathBuf>,
    _janitor: Janitor,
}

/// Directories of the cgroup named `$0`, deepest first, until none is left; its processes may still be ending.
const REMOVE: &str = "for i in $(seq 900); do \
     set -- $(find /sys/fs/cgroup/\"$0\" /sys/fs/cgroup/*/\"$0\" -depth -type d 2>/dev/null); \
     [ $# = 0 ] && exit 0; rmdir \"$@\" 2>/dev/null; sleep 0.1; done; exit 1";

impl Preferred {
    pub(crate) fn new() -> Result<Self> {
        let name = format!("orlop-measure-{}", std::process::id());
        let janitor = Janitor::hire(REMOVE, &[name.as_ref()])?;
        let preferred = Self { leaf: prefer(&name).map(|dir| dir.join("self")), name, _janitor: janitor };
        if let Some(leaf) = &preferred.leaf {
            fs::create_dir_all(leaf).with_context(|| format!("create cgroup {}", leaf.display()))?;
        }
        Ok(preferred)
    }

    /// Cgroups made below this share its preference.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let Some(leaf) = &self.leaf else { return Command::new(program) };
        let mut command = Command::new("sh");
        command.args(["-ec", "echo $$ > \"$0\"/cgroup.procs; exec \"$@\""]).arg(leaf).arg(program);
        command
    }

    /// Removes it everywhere.
    pub(crate) fn remove(self) -> Result<()> {
        let left = cgroups::remove(&self.name);
        if left.is_empty() { Ok(()) } else { bail!("left behind: {}", left.join(", ")) }
    }
}

/// Gives a cgroup, which is made if need be, the largest share of the CPU controller; its directory there. `None` where
/// that controller cannot be had.
pub(crate) fn prefer(cgroup: &str) -> Option<PathBuf> {
    let mounts = cgroups::hierarchies().ok()?;
    mounts.into_iter().map(|mount| mount.join(cgroup)).find(|dir| {
        let made = fs::create_dir_all(dir).is_ok();
        let preferred = [("cpu.shares", "262144"), ("cpu.weight", "10000")]
            .into_iter()
            .any(|(file, most)| dir.join(file).exists() && fs::write(dir.join(file), most).is_ok());
        made && preferred
    })
}
