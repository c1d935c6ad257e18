//! `orlop services`: what the kernel's maps hold, in words.

use std::io::Write as _;

use anyhow::{Context as _, Result};

use orlop::args::DirArgs;

/// Prints the services of the node in `dirs`.
///
/// # Errors
/// When no dataplane has pinned its maps there.
pub(crate) fn services(dirs: &DirArgs) -> Result<()> {
    let bpffs = dirs.run_dir.join("bpf");
    let views = orlop_dataplane::describe(&bpffs)
        .with_context(|| format!("read the maps pinned in {}", bpffs.display()))?;
    let mut out = std::io::stdout().lock();
    for view in views {
        writeln!(out, "{view}").context("print")?;
    }
    Ok(())
}
