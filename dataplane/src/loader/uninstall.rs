//! Taking everything out of the kernel: every step is tried, every failure told.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{LINK, PROGRAMS, bpffs, devices};
use crate::sys;

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
#[error("uninstall the dataplane: {}", .failures.join("; "))]
pub struct UninstallError {
    /// One line per failed step.
    pub failures: Vec<String>,
}

/// Detaches and unpins everything under `bpffs`, of every version, and unmounts it if that leaves it empty.
/// Where nothing is installed there is nothing to do.
///
/// # Errors
/// With every step that failed; all of them were tried.
pub fn uninstall(bpffs: &Path) -> Result<(), UninstallError> {
    let mut failures = Vec::new();
    if bpffs.exists() && bpffs::is_bpffs(bpffs).unwrap_or(false) {
        for version in versions(bpffs) {
            failures.extend(remove(&version));
        }
        if let Err(error) = bpffs::release(bpffs) {
            failures.push(format!("release {}: {error}", bpffs.display()));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(UninstallError { failures }) }
}

/// Takes the links of other versions out of force, once this version's are in. What fails is left for `uninstall`.
pub(super) fn other_versions(bpffs: &Path, ours: &Path) {
    for version in versions(bpffs).into_iter().filter(|version| version != ours) {
        for failure in remove(&version) {
            tracing::warn!(version = %version.display(), "remove an older dataplane: {failure}");
        }
    }
}

/// Takes links of programs that this version no longer has out of force.
pub(super) fn other_links(pins: &Path) {
    let ours = PROGRAMS.map(|program| pins.join(format!("{LINK}{program}")));
    let is_ours = |pin: &PathBuf| ours.contains(pin) || devices::index(pin).is_some();
    for pin in files(pins).into_iter().filter(|pin| is_link(pin) && !is_ours(pin)) {
        if let Err(error) = link(&pin) {
            tracing::warn!(%error, "remove the old link {}", pin.display());
        }
    }
}

/// Detaches and unpins one link.
pub(super) fn link(pin: &Path) -> io::Result<()> {
    let detached = sys::obj_get(pin).and_then(|link| sys::link_detach(link.as_fd()));
    fs::remove_file(pin)?;
    detached
}

fn versions(bpffs: &Path) -> Vec<PathBuf> {
    let is_version = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    files(bpffs).into_iter().filter(is_version).collect()
}

fn remove(version: &Path) -> Vec<String> {
    // Links first: a program without its maps' pins works on, maps without programs are only memory.
    let (links, maps): (Vec<_>, Vec<_>) = files(version).into_iter().partition(|path| is_link(path));
    let steps =
        links.iter().map(|pin| (pin, link(pin))).chain(maps.iter().map(|pin| (pin, fs::remove_file(pin))));
    let failed = steps.filter_map(|(pin, result)| Some((pin.clone(), result.err()?)));
    let mut failures: Vec<_> =
        failed.map(|(pin, error)| format!("remove {}: {error}", pin.display())).collect();
    if let Err(error) = fs::remove_dir(version) {
        failures.push(format!("remove {}: {error}", version.display()));
    }
    failures
}

fn is_link(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LINK))
}

pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}
