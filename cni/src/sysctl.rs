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

/// Whether `net.<name>` is there and has this value.
pub(crate) fn is(name: &str, value: &str) -> bool {
    let path = PathBuf::from("/proc/sys/net").join(name);
    fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
}

/// What there is below `net.<name>`.
pub(crate) fn children(name: &str) -> Vec<String> {
    let entries = fs::read_dir(PathBuf::from("/proc/sys/net").join(name)).into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
