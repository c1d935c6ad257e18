//! Mounts that are not attached anywhere yet, and where they may be attached: never outside of the root given.

use std::{
    ffi::OsStr,
    io::{Error, ErrorKind, Result},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path},
};

use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

use crate::{api::Propagation, resolve, spec::plan::Flag, sys};

/// As the kernel has them.
pub(super) fn attributes(flags: &[Flag]) -> MountAttrFlags {
    let bit = |flag: &Flag| match flag {
        Flag::ReadOnly | Flag::RecursiveReadOnly => MountAttrFlags::MOUNT_ATTR_RDONLY,
        Flag::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
        Flag::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
        Flag::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        Flag::StrictAtime => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    };
    flags.iter().map(bit).collect()
}

fn propagation_flags(propagation: Propagation) -> MountPropagationFlags {
    match propagation {
        Propagation::Private => MountPropagationFlags::PRIVATE,
        Propagation::HostToContainer => MountPropagationFlags::DOWNSTREAM,
        Propagation::Bidirectional => MountPropagationFlags::SHARED,
    }
}

/// A new instance of a file system, in the namespaces of this process.
pub(crate) fn new(kind: &str, parameters: &[(&str, &str)], flags: MountAttrFlags) -> Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", kind)?;
    for (name, value) in parameters {
        match *value {
            "" => fsconfig_set_flag(&context, *name)?,
            value => fsconfig_set_string(&context, *name, value)?,
        }
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

/// What is seen at a path of the host, with all that is mounted below it.
pub(super) fn copy(path: &Path) -> Result<OwnedFd> {
    Ok(open_tree(CWD, path, CLONE | OpenTreeFlags::AT_RECURSIVE)?)
}

/// The same without what is mounted below it.
pub(crate) fn copy_alone(path: &Path) -> Result<OwnedFd> {
    Ok(open_tree(CWD, path, CLONE)?)
}

/// Maps the owners of what a tree holds, which is not attached yet, as a user namespace does. What is mounted below it and
/// cannot be mapped stays as it is: its files are nobody's then.
pub(crate) fn map_owners(tree: &OwnedFd, namespace: &OwnedFd) -> Result<()> {
    sys::map_owners(tree, namespace, true).or_else(|_| sys::map_owners(tree, namespace, false)).map_err(
        |error| match error.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM | libc::ENOSYS) => {
                let kind = error.kind();
                Error::new(kind, format!("the file system or the kernel has no id-mapped mounts: {error}"))
            }
            _ => error,
        },
    )
}

/// Another mount of what a descriptor is open on.
pub(crate) fn copy_of(place: &OwnedFd, recursive: bool) -> Result<OwnedFd> {
    let depth = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    Ok(open_tree(place, "", CLONE | OpenTreeFlags::AT_EMPTY_PATH | depth)?)
}

/// Adds restrictions to the topmost mount of a tree.
pub(crate) fn restrict(tree: &OwnedFd, flags: MountAttrFlags) -> Result<()> {
    if flags.is_empty() {
        Ok(())
    } else {
        sys::mount_setattr(tree, flags, MountPropagationFlags::empty(), false)
    }
}

/// Makes all mounts of a tree read-only.
pub(super) fn make_read_only(tree: &OwnedFd) -> Result<()> {
    sys::mount_setattr(tree, MountAttrFlags::MOUNT_ATTR_RDONLY, MountPropagationFlags::empty(), true)
}

/// For a tree that is attached: what it is attached to has a say before.
pub(super) fn propagate(tree: &OwnedFd, propagation: Propagation) -> Result<()> {
    sys::mount_setattr(tree, MountAttrFlags::empty(), propagation_flags(propagation), true)
}

/// Of this one mount alone.
pub(super) fn share(mount: &OwnedFd) -> Result<()> {
    sys::mount_setattr(mount, MountAttrFlags::empty(), MountPropagationFlags::SHARED, false)
}

pub(crate) fn attach(tree: &OwnedFd, place: &OwnedFd) -> Result<()> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", place, "", both)?)
}

/// What is at a path inside a root: links lead to nowhere else, and the links of /proc lead nowhere at all.
pub(super) fn find(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd> {
    Ok(resolve::open(root, path, OFlags::PATH | flags, ResolveFlags::IN_ROOT)?)
}

/// A directory inside a root; what is missing of it is made, for `owner`.
pub(crate) fn directory(root: BorrowedFd<'_>, path: &Path, owner: u32) -> Result<OwnedFd> {
    match find(root, path, OFlags::DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    let (parent, name) = split(path)?;
    let parent = directory(root, parent, owner)?;
    match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => give(parent.as_fd(), name, owner)?,
        // A link that leads to nothing is there too: the second look says so.
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    find(root, path, OFlags::DIRECTORY)
}

/// A place for a file inside a root: whatever is there, or an empty file of `owner`.
pub(crate) fn file(root: BorrowedFd<'_>, path: &Path, owner: u32) -> Result<OwnedFd> {
    match find(root, path, OFlags::empty()) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    let (parent, name) = split(path)?;
    let parent = directory(root, parent, owner)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(&parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => give(parent.as_fd(), name, owner)?,
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    find(root, path, OFlags::empty())
}

/// Something that was just made by this process belongs to it: of root of the host nothing has to change.
pub(crate) fn give(parent: BorrowedFd<'_>, name: &OsStr, owner: u32) -> Result<()> {
    if owner == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A directory that is no link and not behind one: for what must be at exactly that place. Made for `owner`.
pub(crate) fn plain_directory(root: BorrowedFd<'_>, name: &str, owner: u32) -> Result<OwnedFd> {
    let open = || {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(root, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
    };
    let made = match open() {
        Err(Errno::NOENT) => {
            mkdirat(root, name, Mode::from_raw_mode(0o755))?;
            give(root, OsStr::new(name), owner)?;
            open()
        }
        other => other,
    };
    match made {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            Err(Error::new(ErrorKind::NotADirectory, "the image has no ordinary directory there"))
        }
        other => Ok(other?),
    }
}

/// A path's parent and last name. A path that ends in `..` names nothing that could be made.
fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    let named = matches!(path.components().next_back(), Some(Component::Normal(_)));
    let parts = path.parent().zip(path.file_name()).filter(|_| named);
    let parts = parts.map(|(parent, name)| match parent.as_os_str().is_empty() {
        true => (Path::new("."), name),
        false => (parent, name),
    });
    parts.ok_or_else(|| Error::from(ErrorKind::InvalidInput))
}
