//! Machines for tests: Debian with its own kernel, systemd and cgroup v2, for qemu without any hardware's help.
//!
//! Each made once per machine and recipe (a minute) and kept. Not for: running them (the harness of the e2e tier).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::image::{debian, layout};
use crate::run::output;

const SCRIPT: &str = include_str!("machine.sh");

/// What there is to make.
#[derive(Clone, Copy)]
pub(crate) struct Recipe {
    name: &'static str,
    suite: &'static str,
    packages: &'static str,
}

/// For a node.
pub(crate) const NODE: Recipe = Recipe { name: "machine-", suite: "bookworm", packages: "apparmor" };

/// For services, with a kernel that has all that they can meet (TCX, SCTP, IPVS), and the programs of those who make rules.
pub(crate) const SERVICES: Recipe = Recipe {
    name: "services-machine-",
    suite: "trixie",
    packages: "iptables,nftables,ipset,ipvsadm,ethtool",
};

/// A directory with `kernel`, `initrd` and `disk`, made below `out` unless it is there.
pub(crate) fn build(out: &Path, recipe: Recipe) -> Result<PathBuf> {
    let Recipe { name, suite, packages } = recipe;
    let digest = layout::digest(format!("{SCRIPT}{suite}{packages}").as_bytes());
    let path = out.join(format!("{name}{}", &digest["sha256:".len()..][..12]));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let parts =
        tempfile::Builder::new().prefix(".parts-").tempdir_in(out).context("create a place to build")?;
    let mut script = Command::new("unshare");
    script.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "machine.sh"]);
    output(script.arg(debian::mirror()).arg(parts.path()).args([suite, packages]))?;
    debian::forget_former(out, name, &path)?;
    fs::rename(parts.keep(), &path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(path)
}
