//! Settings under `/proc/sys/net`, of the network namespace the calling thread is in.
//!
//! A value that already holds is not written: `/proc/sys` may be read-only where an operator set it before.

use std::{fs, io, path::PathBuf};

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("set {name} to {value}")]
pub struct SysctlError {
    name: String,
    value: &'static str,
    #[source]
    source: io::Error,
}

/// Makes `net.<name>` (slashes between the parts) equal to `value`.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), SysctlError> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    let write = || match fs::read_to_string(&path)?.trim() == value {
        true => Ok(()),
        false => fs::write(&path, value),
    };
    write().map_err(|source| SysctlError { name: format!("net/{name}"), value, source })
}

/// Like [`set`], for settings of a protocol that the kernel may lack.
pub(crate) fn set_if_present(name: &str, value: &'static str) -> Result<(), SysctlError> {
    match set(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
