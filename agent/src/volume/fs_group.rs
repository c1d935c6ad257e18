//! `fsGroup`: group, set-group-id and group permissions of what a volume holds.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

use k8s_openapi::api::core::v1::Pod;

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

/// What a pod wishes for the volumes that outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    group: i64,
    /// Nothing is done where the volume's root is right already.
    on_root_mismatch: bool,
}

impl Wish {
    /// `None`: no group.
    pub(super) fn of(pod: &Pod) -> Option<Wish> {
        let context = pod.spec.as_ref()?.security_context.as_ref()?;
        let on_root_mismatch = context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
        Some(Wish { group: context.fs_group?, on_root_mismatch })
    }
}

impl Wish {
    /// The group.
    pub(super) fn group(self) -> i64 {
        self.group
    }

    /// For a volume that was given to the group before.
    pub(super) fn again(self) -> Wish {
        Wish { on_root_mismatch: true, ..self }
    }
}

/// Gives a volume to the group as the pod wishes it.
pub(super) fn own_wished(path: &Path, wish: Wish) -> Result<(), String> {
    if wish.on_root_mismatch && is_owned(path, wish.group).unwrap_or_default() {
        return Ok(());
    }
    own(path, Some(wish.group), false)
}

/// Group and bits of a volume's root are what they become here.
fn is_owned(path: &Path, group: i64) -> io::Result<bool> {
    let root = fs::metadata(path)?;
    Ok(i64::from(root.gid()) == group && root.permissions().mode() & 0o2770 == 0o2770)
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
