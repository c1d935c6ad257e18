//! Unpacks one layer into a directory of its own, as overlayfs wants it, and proves that it was the right one.
//!
//! ```text
//! blob ─ Verifying (digest) ─ decompress ─ Metered (diffID, bounds) ─ Entries (tar) ─ apply ─▶ Root (openat2)
//! ```
//! Whiteouts become character devices 0:0 and opaque marks. Not for: where layers live (`store.rs`), fetching.

use std::{
    cell::Cell,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::{
    digest::{Digest, Verifying},
    lower::{self, Below},
    meter::{Limits, Metered, decompress},
    path::{EntryPath, Meaning, PathError, meaning, xattr_allowed},
    root::{Place, ReachError, Root, create_child, is_whiteout, make_whiteout, open_child, set_opaque, stat},
    tarball::{Entries, Entry, Kind, Sparse, TarError},
};

/// What a layer must turn out to be.
pub(crate) struct Expected<'a> {
    /// Of the uncompressed archive.
    pub(crate) diff_id: &'a Digest,
    /// Of the blob as stored, with its size, where these are known and not checked yet.
    pub(crate) blob: Option<(&'a Digest, Option<u64>)>,
}

/// Why a layer was refused. Nothing of it is left where images are used from.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The blob broke off, is not the promised one, or hit a bound.
    #[error("read the layer")]
    Read(#[source] io::Error),
    /// Not a usable tar.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// An entry with an impossible name.
    #[error("layer entry {path:?}")]
    Name {
        /// As in the archive.
        path: String,
        /// Why.
        #[source]
        source: PathError,
    },
    /// The file system refused.
    #[error("layer entry {path:?}: {step}")]
    Entry {
        /// As in the archive.
        path: String,
        /// What was being done.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A hard link to nothing.
    #[error("layer entry {path:?}: hard link to {target:?}, which the image does not have")]
    LinkTarget {
        /// As in the archive.
        path: String,
        /// As in the archive.
        target: String,
    },
    /// A file longer than a whole layer may be.
    #[error("layer entry {path:?}: {size} bytes, more than the limit of {limit}")]
    TooLong {
        /// As in the archive.
        path: String,
        /// Its length.
        size: u64,
        /// What is left of [`Limits::layer_bytes`].
        limit: u64,
    },
    /// More entries than [`Limits::layer_entries`].
    #[error("more than {0} entries in one layer")]
    TooMany(u64),
    /// The archive is not the one that the image's configuration names.
    #[error("layer unpacks to {actual} where the configuration of the image says {expected}")]
    DiffId {
        /// In the configuration.
        expected: Digest,
        /// Computed.
        actual: Digest,
    },
    /// The archive takes directories or files of lower layers for granted; they must be known first.
    #[error("the layer depends on the layers below it")]
    NeedsLowers,
}

/// Unpacks a blob into `dest`, which is empty. Without `lowers` (top first) an archive that depends on them is
/// refused with [`LayerError::NeedsLowers`].
pub(crate) fn unpack(
    blob: impl Read,
    dest: &Path,
    trash: &Path,
    lowers: Option<&[PathBuf]>,
    expected: &Expected<'_>,
    limits: Limits,
) -> Result<(), LayerError> {
    let consumed = Cell::new(0);
    let mut blob = match expected.blob {
        Some(_) => Verifying::new(blob, &consumed),
        None => Verifying::counting(blob, &consumed),
    };
    let archive = decompress(&mut blob).map_err(LayerError::Read)?;
    let root = Root::open(dest, trash, lowers).map_err(|e| LayerError::Read(e.into()))?;
    let mut entries = Entries::new(Metered::new(archive, &consumed, limits));
    let outcome = Unpacker::new(root, limits).run(&mut entries);
    let outcome = outcome.and_then(|()| entries.into_inner().finish().map_err(LayerError::Read));
    // A blob that is not the promised one explains whatever else went wrong while reading it.
    if let (Some((digest, size)), Ok(_) | Err(LayerError::Archive(_) | LayerError::Read(_))) =
        (expected.blob, &outcome)
    {
        blob.finish(digest, size).map_err(LayerError::Read)?;
    }
    let actual = outcome?;
    if actual != *expected.diff_id {
        return Err(LayerError::DiffId { expected: expected.diff_id.clone(), actual });
    }
    Ok(())
}

struct Unpacker<'a> {
    root: Root<'a>,
    limits: Limits,
    /// Holes included.
    bytes: u64,
    /// Whether owners and devices can be made at all.
    privileged: bool,
    /// Set last: making a file in a directory changes the directory's time.
    directory_times: Vec<(PathBuf, Timestamps)>,
}

impl<'a> Unpacker<'a> {
    fn new(root: Root<'a>, limits: Limits) -> Self {
        let privileged = rustix::process::geteuid().is_root();
        Self { root, limits, bytes: 0, privileged, directory_times: Vec::new() }
    }

    fn run<R: Read>(&mut self, entries: &mut Entries<R>) -> Result<(), LayerError> {
        let mut count = 0;
        while let Some(entry) = entries.next_entry()? {
            count += 1;
            if count > self.limits.layer_entries {
                return Err(LayerError::TooMany(self.limits.layer_entries));
            }
            self.apply(&entry, entries)?;
        }
        for (path, times) in self.directory_times.drain(..) {
            // Replaced by a later entry: nothing to set a time on.
            if let Ok(dir) = self.root.directory(&path) {
                rustix::fs::futimens(&dir, &times).map_err(failed(&path, "set times"))?;
            }
        }
        Ok(())
    }

    fn apply<R: Read>(&mut self, entry: &Entry, content: &mut Entries<R>) -> Result<(), LayerError> {
        let name_error = |source| LayerError::Name { path: lossy(&entry.path), source };
        match meaning(&entry.path).map_err(name_error)? {
            Meaning::Ignore => Ok(()),
            Meaning::Opaque(dir) => self.opaque(&dir),
            Meaning::Whiteout(path) => self.whiteout(&path),
            Meaning::Thing(path) => match path.split() {
                None if entry.kind == Kind::Directory => self.finish_directory(PathBuf::new(), entry),
                None => Err(LayerError::Name { path: lossy(&entry.path), source: PathError::Climbs }),
                Some((dir, name)) => self.thing(&dir, name, entry, content),
            },
        }
    }

    fn opaque(&mut self, dir: &EntryPath) -> Result<(), LayerError> {
        let path = dir.path();
        let fd = self.parent(&path, &path)?;
        set_opaque(&fd).map_err(failed(&path, "mark as opaque"))
    }

    /// Hides a path of lower layers. What this layer itself has there stays.
    fn whiteout(&mut self, path: &EntryPath) -> Result<(), LayerError> {
        let whole = path.path();
        let Some((dir, name)) = path.split() else { return Ok(()) };
        let parent = self.parent(&dir, &whole)?;
        match stat(&parent, name).map_err(failed(&whole, "look"))? {
            None => make_whiteout(&parent, name).map_err(failed(&whole, "make whiteout")),
            Some(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                let fd = open_child(&parent, name).map_err(failed(&whole, "open"))?;
                set_opaque(&fd).map_err(failed(&whole, "mark as opaque"))
            }
            Some(_) => Ok(()),
        }
    }

    fn thing<R: Read>(
        &mut self,
        dir: &Path,
        name: &OsStr,
        entry: &Entry,
        content: &mut Entries<R>,
    ) -> Result<(), LayerError> {
        let path = dir.join(name);
        self.account(&path, entry)?;
        let parent = self.parent(dir, &path)?;
        if entry.kind == Kind::Hardlink {
            return self.hardlink(&parent, name, &path, entry);
        }
        let keep = entry.kind == Kind::Directory;
        let place = self.root.clear(&parent, name, keep).map_err(failed(&path, "replace"))?;
        match entry.kind {
            Kind::File => return self.file(&parent, name, &path, entry, content),
            Kind::Directory => {
                if place != Place::Directory {
                    rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700))
                        .map_err(failed(&path, "create"))?;
                }
                if place == Place::WasWhiteout {
                    let fd = open_child(&parent, name).map_err(failed(&path, "create"))?;
                    set_opaque(&fd).map_err(failed(&path, "mark as opaque"))?;
                }
                return self.finish_directory(path, entry);
            }
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                rustix::fs::symlinkat(target, &parent, name).map_err(failed(&path, "create"))?;
            }
            Kind::Char | Kind::Block => {
                let kind = match entry.kind {
                    Kind::Char => FileType::CharacterDevice,
                    _ => FileType::BlockDevice,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                rustix::fs::mknodat(&parent, name, kind, Mode::empty(), device)
                    .map_err(failed(&path, "create"))?;
            }
            Kind::Fifo => {
                rustix::fs::mknodat(&parent, name, FileType::Fifo, Mode::empty(), 0)
                    .map_err(failed(&path, "create"))?;
            }
            Kind::Hardlink => {}
        }
        self.finish_node(&parent, name, &path, entry)
    }

    /// Refuses before anything is written what could not end well.
    fn account(&mut self, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        let size = if entry.kind == Kind::File { entry.file_size() } else { 0 };
        let limit = self.limits.layer_bytes.saturating_sub(self.bytes);
        if size > limit {
            return Err(LayerError::TooLong { path: path.display().to_string(), size, limit });
        }
        self.bytes += size;
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
        content: &mut Entries<R>,
    ) -> Result<(), LayerError> {
        let fd = create_child(parent, name).map_err(failed(path, "create"))?;
        let mut file = File::from(fd);
        match &entry.sparse {
            None => io::copy(content, &mut file).map(drop),
            Some(sparse) => write_sparse(content, &mut file, sparse),
        }
        .map_err(|source| entry_error(path, "write", source))?;
        let fd = OwnedFd::from(file);
        self.finish_fd(&fd, path, entry)?;
        rustix::fs::futimens(&fd, &times(entry)).map_err(failed(path, "set times"))
    }

    fn hardlink(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let no_target = || LayerError::LinkTarget { path: lossy(&entry.path), target: lossy(&entry.link) };
        let target = EntryPath::parse(&entry.link)
            .map_err(|source| LayerError::Name { path: lossy(&entry.link), source })?;
        let (dir, target_name) = target.split().ok_or_else(no_target)?;
        if target.path() == *path {
            return Err(no_target());
        }
        let (target_parent, target_name) = match self.find_target(&dir, target_name, path)? {
            Some(found) => found,
            None => self.copy_up(&dir, target_name, path)?.ok_or_else(no_target)?,
        };
        self.root.clear(parent, name, false).map_err(failed(path, "replace"))?;
        rustix::fs::linkat(&target_parent, &target_name, parent, name, AtFlags::empty())
            .map_err(failed(path, "link"))
    }

    /// A hard link's target in this layer.
    fn find_target(
        &self,
        dir: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<Option<(OwnedFd, OsString)>, LayerError> {
        let parent = match self.root.directory(dir) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(error) => return Err(failed(path, "find link target")(error)),
        };
        match stat(&parent, name).map_err(failed(path, "find link target"))? {
            Some(found) if !is_whiteout(&found) => Ok(Some((parent, name.to_owned()))),
            _ => Ok(None),
        }
    }

    /// Brings a hard link's target up from the layers below, so that both names are one file.
    fn copy_up(
        &mut self,
        dir: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<Option<(OwnedFd, OsString)>, LayerError> {
        let below = match self.root.below(&dir.join(name)).map_err(reach(path, "find link target"))? {
            Some(Below::File(below)) => below,
            _ => return Ok(None),
        };
        let copy = failed(path, "copy link target");
        let parent = self.parent(dir, path)?;
        let to = create_child(&parent, name).map_err(&copy)?;
        let (mut from, mut to) = (File::from(below), File::from(to));
        let size = from.metadata().map_err(|e| entry_error(path, "copy link target", e))?.len();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.layer_bytes {
            let limit = self.limits.layer_bytes;
            return Err(LayerError::TooLong { path: path.display().to_string(), size, limit });
        }
        io::copy(&mut from, &mut to).map_err(|e| entry_error(path, "copy link target", e))?;
        lower::copy_metadata(&from.into(), &to.into()).map_err(&copy)?;
        Ok(Some((parent, name.to_owned())))
    }

    fn finish_directory(&mut self, path: PathBuf, entry: &Entry) -> Result<(), LayerError> {
        let fd = self.root.directory(&path).map_err(failed(&path, "open"))?;
        self.finish_fd(&fd, &path, entry)?;
        self.directory_times.push((path, times(entry)));
        Ok(())
    }

    /// Owner first (it clears setuid and capabilities), then mode, then attributes.
    fn finish_fd(&self, fd: &OwnedFd, path: &Path, entry: &Entry) -> Result<(), LayerError> {
        if self.privileged {
            let (uid, gid) = owner(path, entry)?;
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed(path, "set owner"))?;
        }
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(failed(path, "set mode"))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| xattr_allowed(name)) {
            match rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Err(Errno::NOTSUP) => {}
                Err(Errno::PERM) if !self.privileged => {}
                other => other.map_err(failed(path, "set extended attribute"))?,
            }
        }
        Ok(())
    }

    fn finish_node(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if self.privileged {
            let (uid, gid) = owner(path, entry)?;
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), flags)
                .map_err(failed(path, "set owner"))?;
        }
        if entry.kind != Kind::Symlink {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(failed(path, "set mode"))?;
        }
        rustix::fs::utimensat(parent, name, &times(entry), flags).map_err(failed(path, "set times"))
    }

    fn parent(&mut self, dir: &Path, path: &Path) -> Result<OwnedFd, LayerError> {
        self.root.parent(dir).map_err(reach(path, "find its directory"))
    }
}

fn write_sparse(content: &mut impl Read, file: &mut File, sparse: &Sparse) -> io::Result<()> {
    for (offset, length) in &sparse.runs {
        file.seek(SeekFrom::Start(*offset))?;
        if io::copy(&mut content.take(*length), file)? != *length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    file.set_len(sparse.size)
}

fn owner(path: &Path, entry: &Entry) -> Result<(Uid, Gid), LayerError> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(entry_error(path, "set owner", io::ErrorKind::InvalidInput.into()));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

fn times(entry: &Entry) -> Timestamps {
    let (tv_sec, nanos) = entry.mtime;
    let time = Timespec { tv_sec, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn entry_error(path: &Path, step: &'static str, source: io::Error) -> LayerError {
    LayerError::Entry { path: path.display().to_string(), step, source }
}

fn failed(path: &Path, step: &'static str) -> impl Fn(Errno) -> LayerError {
    move |error| entry_error(path, step, error.into())
}

fn reach(path: &Path, step: &'static str) -> impl Fn(ReachError) -> LayerError {
    move |error| match error {
        ReachError::NeedsLowers => LayerError::NeedsLowers,
        ReachError::Io(error) => entry_error(path, step, error.into()),
    }
}
