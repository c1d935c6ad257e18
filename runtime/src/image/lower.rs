//! What the layers below have at a path, read as overlayfs would: whiteouts and opaque directories hide.
//!
//! Used only for archives that take directories or hard link targets of lower layers for granted.
//! Not for: writing into lower layers.

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::root::{DIRECTORY, OPAQUE, file_type, is_directory, is_symlink, open_child, readlink, stat};

/// Something that the merged lower layers have.
#[derive(Debug)]
pub(crate) enum Below {
    Directory(OwnedFd),
    Symlink(PathBuf),
    File(OwnedFd),
}

/// Looks a path of plain components up in layers, top first.
pub(crate) fn find(layers: &[PathBuf], path: &Path) -> rustix::io::Result<Option<Below>> {
    for layer in layers {
        match find_in(layer, path)? {
            Seen::Found(below) => return Ok(Some(below)),
            Seen::Hidden => return Ok(None),
            Seen::Absent => {}
        }
    }
    Ok(None)
}

enum Seen {
    Found(Below),
    /// This layer says that nothing is there; what is further down does not count.
    Hidden,
    Absent,
}

fn find_in(layer: &Path, path: &Path) -> rustix::io::Result<Seen> {
    let mut dir = rustix::fs::open(layer, DIRECTORY, Mode::empty())?;
    let mut hides = is_opaque(&dir);
    let mut parts = path.iter().peekable();
    while let Some(name) = parts.next() {
        let Some(found) = stat(&dir, name)? else {
            return Ok(if hides { Seen::Hidden } else { Seen::Absent });
        };
        let last = parts.peek().is_none();
        if is_directory(&found) {
            dir = open_child(&dir, name)?;
            if last {
                return Ok(Seen::Found(Below::Directory(dir)));
            }
            hides |= is_opaque(&dir);
        } else if last {
            return open_leaf(&dir, name, &found);
        } else {
            return Ok(Seen::Hidden);
        }
    }
    Ok(Seen::Found(Below::Directory(dir)))
}

fn open_leaf(dir: &OwnedFd, name: &OsStr, found: &rustix::fs::Stat) -> rustix::io::Result<Seen> {
    if is_symlink(found) {
        return Ok(Seen::Found(Below::Symlink(readlink(dir, name)?)));
    }
    if !file_type(found).is_file() {
        return Ok(Seen::Hidden);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    Ok(Seen::Found(Below::File(file)))
}

fn is_opaque(dir: &OwnedFd) -> bool {
    let mut value = [0; 1];
    rustix::fs::fgetxattr(dir, OPAQUE, &mut value).is_ok_and(|n| n == 1 && value == *b"y")
}

/// Whether nothing below this layer shows through; overlayfs does not look at the top directory's own mark.
pub(crate) fn hides_everything(layer: &Path) -> rustix::io::Result<bool> {
    Ok(is_opaque(&rustix::fs::open(layer, DIRECTORY, Mode::empty())?))
}

/// Gives a file or directory the owner, mode, times and attributes of another.
pub(crate) fn copy_metadata(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    }
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    for name in ["security.capability", "system.posix_acl_access", "system.posix_acl_default"] {
        let mut value = vec![0; 4096];
        match rustix::fs::fgetxattr(from, name, &mut value) {
            Ok(n) => rustix::fs::fsetxattr(to, name, &value[..n], XattrFlags::empty())?,
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error),
        }
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    rustix::fs::futimens(to, &Timestamps { last_access: time, last_modification: time })
}
