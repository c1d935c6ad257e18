//! Where a layout's files come from: a directory, or a tar of it read in place.
//!
//! Not for: what the files mean (`layout.rs`).

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, ResolveFlags};

use crate::resolve;

use super::{
    digest::Digest,
    meter::{Limits, Metered, decompress},
    path::{EntryPath, Step, steps},
    tarball::{Entries, Kind, TarError},
};

/// An archive of more files is not an image's.
const FILES_MAX: usize = 100_000;
/// Links of old `docker save` archives point once.
const HOPS_MAX: usize = 8;

/// Files by name.
pub(crate) enum Source {
    Directory(PathBuf),
    Archive { path: PathBuf, files: BTreeMap<PathBuf, Place> },
}

/// Where an archive has a file.
pub(crate) enum Place {
    At { offset: u64, size: u64 },
    Link(PathBuf),
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refused, or decompression broke.
    #[error("read the archive")]
    Read(#[from] io::Error),
    /// Not a tar.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// Far too many files.
    #[error("more than {FILES_MAX} files in the archive")]
    TooMany,
}

impl Source {
    /// A directory or an archive; a compressed archive is decompressed into `scratch` first.
    pub(crate) fn open(path: &Path, scratch: &Path, limits: Limits) -> Result<Self, SourceError> {
        if std::fs::metadata(path)?.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let path = plain_archive(path, scratch, limits)?;
        let files = index(&path)?;
        Ok(Self::Archive { path, files })
    }

    /// Opens a file; `NotFound` where there is none.
    pub(crate) fn file(&self, name: &Path) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::Directory(dir) => {
                let dir = File::open(dir)?;
                let flags = OFlags::RDONLY | OFlags::NONBLOCK;
                let file = File::from(resolve::open(dir, name, flags, ResolveFlags::BENEATH)?);
                if !file.metadata()?.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                Ok(Box::new(file))
            }
            Self::Archive { path, files } => {
                let (offset, size) = find(files, name)?;
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file.take(size)))
            }
        }
    }

    /// A small file, whole.
    pub(crate) fn read(&self, name: &Path, max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file(name)?.take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Length of a file.
    pub(crate) fn size(&self, name: &Path) -> io::Result<u64> {
        match self {
            Self::Directory(dir) => Ok(std::fs::metadata(dir.join(name))?.len()),
            Self::Archive { files, .. } => Ok(find(files, name)?.1),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.file(Path::new(name)).is_ok()
    }
}

/// Where an OCI layout keeps a blob.
pub(crate) fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

fn plain_archive(path: &Path, scratch: &Path, limits: Limits) -> Result<PathBuf, SourceError> {
    let mut head = [0; 4];
    let n = File::open(path)?.take(4).read(&mut head)?;
    if !head[..n].starts_with(&[0x1f, 0x8b]) && !head[..n].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok(path.to_owned());
    }
    let consumed = Cell::new(u64::MAX);
    let mut from = Metered::new(decompress(File::open(path)?)?, &consumed, limits);
    let plain = scratch.join("archive.tar");
    let mut to = File::create(&plain)?;
    io::copy(&mut from, &mut to)?;
    to.flush()?;
    Ok(plain)
}

/// Reads through the archive once and notes where its files lie.
fn index(path: &Path) -> Result<BTreeMap<PathBuf, Place>, SourceError> {
    let position = Cell::new(0);
    let reader =
        Counting { inner: BufReader::with_capacity(256 << 10, File::open(path)?), position: &position };
    let mut entries = Entries::new(reader);
    let mut files = BTreeMap::new();
    while let Some(entry) = entries.next_entry()? {
        let Ok(name) = EntryPath::parse(&entry.path) else { continue };
        let name = name.path();
        let place = match entry.kind {
            Kind::File if entry.sparse.is_none() => Place::At { offset: position.get(), size: entry.size },
            Kind::Symlink => {
                let target = std::ffi::OsStr::from_bytes(&entry.link);
                Place::Link(join(name.parent().unwrap_or(Path::new("")), Path::new(target)))
            }
            Kind::Hardlink => {
                let target = std::ffi::OsStr::from_bytes(&entry.link);
                Place::Link(join(Path::new(""), Path::new(target)))
            }
            _ => continue,
        };
        files.insert(name, place);
        if files.len() > FILES_MAX {
            return Err(SourceError::TooMany);
        }
    }
    Ok(files)
}

/// Names inside the archive only: nothing on disk is looked at.
fn join(dir: &Path, target: &Path) -> PathBuf {
    let mut path = dir.to_owned();
    for step in steps(target) {
        match step {
            Step::Root => path = PathBuf::new(),
            Step::Up => drop(path.pop()),
            Step::Into(name) => path.push(name),
        }
    }
    path
}

fn find(files: &BTreeMap<PathBuf, Place>, name: &Path) -> io::Result<(u64, u64)> {
    let mut name = join(Path::new(""), name);
    for _ in 0..HOPS_MAX {
        match files.get(&name) {
            Some(Place::At { offset, size }) => return Ok((*offset, *size)),
            Some(Place::Link(target)) => name.clone_from(target),
            None => break,
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "not in the archive"))
}

struct Counting<'a, R> {
    inner: R,
    position: &'a Cell<u64>,
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.position.set(self.position.get() + n as u64);
        Ok(n)
    }
}
