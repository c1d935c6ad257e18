//! Brings the default profile into a kernel that confines, and takes it away again.
//!
//! As containerd does, by `apparmor_parser(8)`, which compiles it: where that is not installed there is no default. A profile
//! of that name that somebody else has loaded stays theirs.

use std::{
    ffi::OsStr,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{DEFAULT, is_loaded};
use crate::host;

const TEXT: &str = include_str!("orlop-default");
const PARSER: &str = "apparmor_parser";
/// Where it lies, also for who has no such directories in `PATH`.
const PARSERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Why the profile could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The parser could not be run.
    #[error("run {PARSER}")]
    Run(#[source] io::Error),
    /// The parser, or the kernel, did not want it.
    #[error("{PARSER}: {0}")]
    Refused(String),
    /// What was loaded is written down.
    #[error("write {path}")]
    Stamp {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// What is written down about the profile that we have loaded: its text. Like the profile it is gone after a boot.
fn stamp(run_dir: &Path) -> PathBuf {
    run_dir.join("apparmor-profile")
}

/// Loads the profile, unless it is there. Blocks for some tenths of a second, once per boot and version.
pub(crate) fn bring(run_dir: &Path) -> Result<(), ProfileError> {
    let Some(loaded) = host::apparmor() else { return Ok(()) };
    let stamp = stamp(run_dir);
    let ours = fs::read_to_string(&stamp).ok();
    match (is_loaded(Some(&loaded), DEFAULT), ours) {
        (true, None) => return Ok(()),
        (true, Some(text)) if text == TEXT => return Ok(()),
        _ => {}
    }
    let Some(parser) = parser() else {
        tracing::warn!(
            "this kernel has AppArmor, but there is no {PARSER}: containers are not confined by it"
        );
        return Ok(());
    };
    run(&parser, "--replace")?;
    tracing::info!(profile = DEFAULT, "AppArmor profile loaded");
    fs::write(&stamp, TEXT).map_err(|source| ProfileError::Stamp { path: stamp, source })
}

/// Takes it away if we brought it.
pub(crate) fn take_away(run_dir: &Path) -> Result<(), ProfileError> {
    let stamp = stamp(run_dir);
    let loaded = host::apparmor();
    if !stamp.exists() || !is_loaded(loaded.as_deref(), DEFAULT) {
        return Ok(());
    }
    if let Some(parser) = parser() {
        run(&parser, "--remove")?;
    }
    fs::remove_file(&stamp).map_err(|source| ProfileError::Stamp { path: stamp, source })
}

fn parser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(PARSERS.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(PARSER)).find(|path| path.is_file())
}

/// The text on its standard input.
fn run(parser: &Path, what: &str) -> Result<(), ProfileError> {
    let mut command = Command::new(parser);
    command.args([OsStr::new(what), OsStr::new("--skip-cache")]).stdin(Stdio::piped());
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(ProfileError::Run)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(TEXT.as_bytes()).map_err(ProfileError::Run)?;
    }
    let output = child.wait_with_output().map_err(ProfileError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(ProfileError::Refused(said.trim().chars().take(500).collect()))
}
