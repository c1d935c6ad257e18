//! Files of the store: whole or not at all, listed without the temporary ones, errors with step and path.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use super::store::StoreError;

/// Adds step and path to an error of the file system.
pub(crate) fn io<E: Into<io::Error>>(step: &'static str, path: &Path) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Io { step, path: path.to_owned(), source: source.into() }
}

pub(crate) fn open_lock(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

pub(crate) fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    rustix::io::retry_on_intr(&mut call).map_err(Into::into)
}

/// Names in a directory, sorted, without the temporary files of writers.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(io("read", dir))? {
        let name = entry.map_err(io("read", dir))?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Writers hold the lock, as the caller does: a temporary file has no writer any more.
pub(crate) fn remove_temporary(dir: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(io("read", dir))? {
        let entry = entry.map_err(io("read", dir))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// A record may vanish between listing and reading; that is not an error.
pub(crate) fn read_all<T: DeserializeOwned>(dir: &Path) -> Result<Vec<T>, StoreError> {
    names(dir)?.iter().filter_map(|name| read_json(&dir.join(name)).transpose()).collect()
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Record { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
    }
}

/// Whether a file must survive a crash of the machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    Yes,
    No,
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T, flush: Flush) -> Result<(), StoreError> {
    let bytes =
        serde_json::to_vec(value).map_err(|source| StoreError::Record { path: path.to_owned(), source })?;
    write_file(path, &bytes, flush)
}

/// Whole or not at all: temporary file, fsync, rename, fsync of the directory. Callers hold the lock.
pub(crate) fn write_file(path: &Path, bytes: &[u8], flush: Flush) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let temporary = dir.join(format!(".{}", path.file_name().unwrap_or_default().to_string_lossy()));
    let write = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if flush == Flush::Yes { file.sync_all() } else { Ok(()) }
    };
    write().map_err(io("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io("write", path))?;
    if flush == Flush::Yes { sync_dir(dir) } else { Ok(()) }
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("sync", dir))
}

pub(crate) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}
