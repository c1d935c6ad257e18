//! The pods' directory as one mount that can be taken away at once.
//!
//! Every pod adds four mounts to the mount table, which each creator copies, and libcontainer reads. So the directory is
//! bound to itself while there are pods; a creator takes a mount namespace of its own and drops that one mount with all
//! below it (`create::outside`).

use std::{fs, io, path::Path};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};

use crate::rootfs::is_mount_point;

/// Binds the directory to itself, privately: what is mounted below goes nowhere else. Only an empty one: the mounts of
/// pods that are there would be hidden.
pub(crate) fn bind(pods: &Path) -> io::Result<()> {
    if is_empty(pods) && !is_mount_point(pods) {
        mount_bind(pods, pods)?;
        mount_change(pods, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}

/// Takes the mount away when there are no pods any more. Whoever calls keeps others from making one meanwhile.
pub(crate) fn unbind(pods: &Path) -> io::Result<()> {
    if !is_empty(pods) || !is_mount_point(pods) {
        return Ok(());
    }
    // Detached: a shim that has just ended may still be leaving its directory.
    match unmount(pods, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Err(rustix::io::Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}
