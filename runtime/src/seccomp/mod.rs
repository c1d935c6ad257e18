//! System call filters: profiles, compiled once and kept as files.
//!
//! Compiling needs no C library and takes well under a millisecond; the file saves the creator even that. Not for:
//! loading a filter, which is one of the last steps before exec (`orlop_shim::process`).

mod bpf;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

pub use self::{
    bpf::TooLong,
    profile::{Action, Condition, Op, Profile, ProfileError, Rule},
    syscalls::Arch,
};
use crate::{api::Seccomp, spec::capabilities::Capabilities};

/// No filter could be made.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The operator's file.
    #[error("cannot load seccomp profile {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Too many rules.
    #[error(transparent)]
    Compile(#[from] TooLong),
    /// The compiled file.
    #[error("keep the compiled filter in {}", path.display())]
    Keep {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file with the compiled filter; `None` for no filter.
pub(crate) fn prepare(
    cache: &Path,
    seccomp: &Seccomp,
    capabilities: Capabilities,
) -> Result<Option<PathBuf>, SeccompError> {
    let profile = match seccomp {
        Seccomp::Unconfined => return Ok(None),
        Seccomp::RuntimeDefault => {
            // The profile comes with the program: a hash of our text and the set names the result.
            let name = Sha256::digest(format!("{}{capabilities}", include_str!("default.profile")));
            let path = cache.join(format!("{}.bpf", hex::encode(name)));
            if path.exists() {
                return Ok(Some(path));
            }
            Profile::runtime_default(capabilities)?
        }
        Seccomp::Localhost(path) => {
            let read = |source| SeccompError::Read { path: path.clone(), source };
            Profile::from_json(&fs::read_to_string(path).map_err(read)?, capabilities)?
        }
    };
    let bytes = bpf::compile(&profile, Arch::NATIVE)?;
    let name = match seccomp {
        Seccomp::RuntimeDefault => {
            Sha256::digest(format!("{}{capabilities}", include_str!("default.profile")))
        }
        _ => Sha256::digest(&bytes),
    };
    let path = cache.join(format!("{}.bpf", hex::encode(name)));
    keep(&path, &bytes).map_err(|source| SeccompError::Keep { path: path.clone(), source })?;
    Ok(Some(path))
}

/// Several containers may do this at once: whole files only.
fn keep(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if path.exists() {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let tmp = path.with_extension(format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::write(&tmp, bytes)?;
    fs::rename(&tmp, path)
}
