//! The directory that a layer is unpacked into: every path is resolved by the kernel, inside it.
//!
//! `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` follows symlinks as a process chrooted there would, so a
//! symlink in the layer cannot lead out. Things are then made or removed by name in the directory found, never by
//! path. Directories that an archive takes for granted are made as the layers below have them (`lower.rs`).
//! Not for: reading archives, metadata of entries.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, XattrFlags},
    io::Errno,
};

use crate::resolve;

use super::{
    lower::{self, Below},
    path::{Step, steps},
};

/// As many as the kernel follows.
const LINKS_MAX: usize = 40;
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// A directory being filled, and where to throw what a later entry replaces.
pub(crate) struct Root<'a> {
    fd: OwnedFd,
    trash: OwnedFd,
    thrown: u64,
    /// Layers below, top first; `None` while they are not known.
    lowers: Option<&'a [PathBuf]>,
}

/// Why a path inside the layer could not be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReachError {
    /// Depends on what the layers below have there.
    #[error("depends on the layers below")]
    NeedsLowers,
    #[error(transparent)]
    Io(#[from] Errno),
}

/// What stood in the place of a new thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Free,
    /// There was a whiteout of this same layer: a directory put here must hide the one below.
    WasWhiteout,
    /// A directory, kept for a directory.
    Directory,
}

impl<'a> Root<'a> {
    /// Both directories exist and lie on one file system.
    pub(crate) fn open(dir: &Path, trash: &Path, lowers: Option<&'a [PathBuf]>) -> rustix::io::Result<Self> {
        let open = |path: &Path| rustix::fs::open(path, DIRECTORY, Mode::empty());
        Ok(Self { fd: open(dir)?, trash: open(trash)?, thrown: 0, lowers })
    }

    /// An existing directory, for use as the base of `*at` calls and for its metadata.
    pub(crate) fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        resolve::open(&self.fd, path, DIRECTORY, ResolveFlags::IN_ROOT)
    }

    /// The directory for an entry; what is missing of it is made.
    pub(crate) fn parent(&mut self, path: &Path) -> Result<OwnedFd, ReachError> {
        match self.directory(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make(path),
            other => Ok(other?),
        }
    }

    /// Walks component by component, follows this layer's symlinks by hand and makes what is missing.
    fn make(&mut self, path: &Path) -> Result<OwnedFd, ReachError> {
        let mut here = PathBuf::new();
        let mut todo: VecDeque<Step> = steps(path).into();
        let mut links = 0;
        while let Some(step) = todo.pop_front() {
            let name = match step {
                Step::Root => {
                    here.clear();
                    continue;
                }
                Step::Up => {
                    here.pop();
                    continue;
                }
                Step::Into(name) => name,
            };
            let parent = self.directory(&here)?;
            let target = match stat(&parent, &name)? {
                None => self.make_one(&parent, &here, &name)?,
                Some(found) if is_directory(&found) => None,
                Some(found) if is_symlink(&found) => Some(readlink(&parent, &name)?),
                Some(found) if is_whiteout(&found) => {
                    rustix::fs::unlinkat(&parent, &name, AtFlags::empty())?;
                    rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755))?;
                    set_opaque(&open_child(&parent, &name)?)?;
                    None
                }
                Some(_) => return Err(Errno::NOTDIR.into()),
            };
            match target {
                None => here.push(name),
                Some(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    steps(&target).into_iter().rev().for_each(|step| todo.push_front(step));
                }
            }
        }
        Ok(self.directory(&here)?)
    }

    /// Makes a directory that no entry declared. The layers below decide what it is; a symlink's target is returned.
    fn make_one(&self, parent: &OwnedFd, here: &Path, name: &OsStr) -> Result<Option<PathBuf>, ReachError> {
        let lowers = self.lowers.ok_or(ReachError::NeedsLowers)?;
        match lower::find(lowers, &here.join(name))? {
            Some(Below::Symlink(target)) => {
                rustix::fs::symlinkat(&target, parent, name)?;
                Ok(Some(target))
            }
            Some(Below::Directory(below)) => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                lower::copy_metadata(&below, &open_child(parent, name)?)?;
                Ok(None)
            }
            Some(Below::File(_)) => Err(Errno::NOTDIR.into()),
            None => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
                Ok(None)
            }
        }
    }

    /// Makes room for a new thing. What stood there is unlinked; a whole directory is moved to the trash.
    pub(crate) fn clear(&mut self, parent: &OwnedFd, name: &OsStr, keep: bool) -> rustix::io::Result<Place> {
        let Some(found) = stat(parent, name)? else { return Ok(Place::Free) };
        if is_directory(&found) {
            if keep {
                return Ok(Place::Directory);
            }
            let thrown = format!("{}", self.thrown);
            self.thrown += 1;
            rustix::fs::renameat(parent, name, &self.trash, thrown)?;
            return Ok(Place::Free);
        }
        rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
        Ok(if is_whiteout(&found) { Place::WasWhiteout } else { Place::Free })
    }

    /// A file of the layers below, for a hard link whose target this layer does not hold.
    pub(crate) fn below(&self, path: &Path) -> Result<Option<Below>, ReachError> {
        Ok(lower::find(self.lowers.ok_or(ReachError::NeedsLowers)?, path)?)
    }
}

pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const CHILD: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// A directory directly inside another, never through a symlink.
pub(crate) fn open_child(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(parent, name, DIRECTORY, Mode::empty(), CHILD)
}

/// A new, empty file directly inside a directory.
pub(crate) fn create_child(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::from_raw_mode(0o600), CHILD)
}

/// What has this name, not following it.
pub(crate) fn stat(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn readlink(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(parent, name, Vec::new())?;
    Ok(PathBuf::from(OsString::from(OsStr::from_bytes(target.as_bytes()))))
}

/// Hides what layers below have in this directory.
pub(crate) fn set_opaque(dir: &OwnedFd) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
}

/// Overlay's whiteout.
pub(crate) fn make_whiteout(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(crate) fn is_directory(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

pub(crate) fn is_symlink(stat: &Stat) -> bool {
    file_type(stat) == FileType::Symlink
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}
