//! `fsGroup`: group, set-group-id and group permissions of what a volume holds.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, lchown},
    path::Path,
};

/// The mode of a file once it belongs to the group.
pub(super) fn file_mode(mode: u32, group: Option<i64>, read_only: bool) -> u32 {
    match group {
        Some(_) => mode | if read_only { 0o440 } else { 0o660 },
        None => mode,
    }
}

/// Gives one file or directory to the group.
pub(super) fn own_one(path: &Path, group: Option<i64>, read_only: bool) -> io::Result<()> {
    let Some(gid) = group.and_then(|gid| u32::try_from(gid).ok()) else { return Ok(()) };
    let known = fs::symlink_metadata(path)?;
    lchown(path, None, Some(gid))?;
    if known.is_symlink() {
        return Ok(());
    }
    let mode = file_mode(known.permissions().mode() & 0o7777, group, read_only);
    let mode = if known.is_dir() { mode | 0o2110 } else { mode };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives a volume and all it holds to the group.
pub(super) fn own(path: &Path, group: Option<i64>, read_only: bool) -> Result<(), String> {
    if group.is_none() {
        return Ok(());
    }
    walk(path, group, read_only).map_err(|error| format!("applyFSGroup failed: {error}"))
}

fn walk(path: &Path, group: Option<i64>, read_only: bool) -> io::Result<()> {
    own_one(path, group, read_only)?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            walk(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}
