//! A machine for tests: Debian with its own kernel, systemd and cgroup v2, for qemu without any hardware's help.
//!
//! Made once per machine and recipe (a minute) and kept. Not for: running it (the harness of the e2e tier).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::image::{debian, layout};
use crate::run::output;

const SCRIPT: &str = include_str!("machine.sh");
const NAME: &str = "machine-";

/// A directory with `kernel`, `initrd` and `disk`, made below `out` unless it is there.
pub(crate) fn build(out: &Path) -> Result<PathBuf> {
    let recipe = layout::digest(SCRIPT.as_bytes());
    let path = out.join(format!("{NAME}{}", &recipe["sha256:".len()..][..12]));
    if path.exists() {
        return Ok(path);
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let parts =
        tempfile::Builder::new().prefix(".parts-").tempdir_in(out).context("create a place to build")?;
    let mut script = Command::new("unshare");
    script.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "machine.sh"]);
    output(script.arg(debian::mirror()).arg(parts.path()))?;
    debian::forget_former(out, NAME, &path)?;
    fs::rename(parts.keep(), &path).with_context(|| format!("rename to {}", path.display()))?;
    Ok(path)
}
