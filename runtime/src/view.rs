//! The pods' directory as one mount that can be taken away at once.
//!
//! libcontainer reads the mount table some thirty times per container, and every pod adds four mounts to it: with a
//! hundred pods that alone would cost twenty milliseconds. So the directory is bound to itself while there are pods;
//! a creator takes a mount namespace of its own, drops that one mount with all below it, and puts back the few that its
//! container needs.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::CWD,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind, mount_change,
        move_mount, open_tree, unmount,
    },
    thread::UnshareFlags,
};

use crate::{rootfs::is_mount_point, sys};

/// Binds the directory to itself, privately: what is mounted below goes nowhere else. Only an empty one: the mounts of
/// pods that are there would be hidden.
pub(crate) fn bind(pods: &Path) -> io::Result<()> {
    if is_empty(pods) && !is_mount_point(pods) {
        mount_bind(pods, pods)?;
        mount_change(pods, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}

/// Takes the mount away when there are no pods any more.
pub(crate) fn unbind(pods: &Path) -> io::Result<()> {
    if !is_empty(pods) || !is_mount_point(pods) {
        return Ok(());
    }
    match unmount(pods, UnmountFlags::NOFOLLOW) {
        // Somebody looks into it, or a pod came meanwhile: the next removal will do.
        Err(rustix::io::Errno::BUSY | rustix::io::Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// For the creator: a mount namespace without the mounts of other pods. `wanted` are mount points below `pods`.
pub(crate) fn narrow(pods: &Path, wanted: &[&str]) -> io::Result<()> {
    sys::unshare(UnshareFlags::NEWNS)?;
    // Mounts of the host still arrive (volumes may ask for that); ours go nowhere.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut kept: Vec<(OwnedFd, &str)> = Vec::new();
    for path in wanted {
        kept.push((open_tree(CWD, *path, flags)?, path));
    }
    match unmount(pods, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::INVAL) => return Ok(()),
        other => other?,
    }
    for (tree, path) in kept {
        move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|error| io::Error::other(format!("put back {path}: {error}")))?;
    }
    Ok(())
}
