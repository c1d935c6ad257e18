//! The image store on disk: files, renames and locks; nothing is kept in memory that another process could change.
//!
//! ```text
//! blobs/sha256/<hex>    configurations and manifests, as received
//! layers/<hex>          unpacked layers by diffID; layers/chain-<hex> where a layer depends on those below it
//! images/<hex>.json     one record per image ID          refs/<hex>.json   one per reference, named by its hash
//! holds/<name>.json     layers that a container uses     lock              held for moments, while these change
//! access/<hex>.json     who pulled an image with what    pins/<name>.json  images that a file or a user keeps here
//! used/<hex>            when an image was last needed (its mtime)          needed.json  who needs which image
//! work/<name>/          a load or pull in progress; its `lease` file is locked for as long as the process lives
//! ```
//! A crash leaves at most a directory under `work/`, which the next user of the store removes.
//! Not for: images' meaning, networks.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{
    access,
    digest::Digest,
    disk::{
        Flush, io, names, open_lock, read_all, read_json, remove_file, remove_temporary, retry, sync_dir,
        write_file, write_json,
    },
    reference::ReferenceError,
    remove::remove_tree,
};

/// Why the store could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record that cannot be read; written by something else, or a broken disk.
    #[error("parse {path}")]
    Record {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// What was asked for is not a reference.
    #[error("couldn't parse image name {text:?}")]
    Reference {
        /// As asked.
        text: String,
        /// Why.
        #[source]
        source: ReferenceError,
    },
    /// A configuration in the store that no longer parses.
    #[error("configuration of image {id}")]
    Config {
        /// Image ID.
        id: String,
        /// Why.
        #[source]
        source: super::manifest::ManifestError,
    },
    /// Not in the store.
    #[error("no image {0}")]
    Missing(String),
}

/// What is known of an image, apart from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    pub(crate) size: u64,
    /// Base first.
    pub(crate) diff_ids: Vec<Digest>,
    /// Names under `layers/`, base first.
    pub(crate) layers: Vec<String>,
    /// Kept with the image.
    pub(crate) blobs: Vec<Digest>,
}

/// A name of an image: `registry/repository:tag` or `registry/repository@digest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RefRecord {
    pub(crate) reference: String,
    pub(crate) image: Digest,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct HoldRecord {
    pub(super) layers: Vec<String>,
    /// The user's own image.
    #[serde(default)]
    pub(super) image: Option<Digest>,
    /// Images it reads.
    #[serde(default)]
    pub(super) others: Vec<Digest>,
    #[serde(default)]
    pub(super) user: String,
}

/// What the store consists of.
const DIRECTORIES: [&str; 9] =
    ["blobs/sha256", "layers", "images", "refs", "holds", "access", "pins", "used", "work"];

/// The directory.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    pub(super) root: PathBuf,
}

/// The store's lock; gone when dropped, or with the process.
pub(crate) struct Lock {
    _file: File,
}

/// Keeps others from changing the store, not from reading it.
pub(crate) struct SharedLock {
    _file: File,
}

impl Store {
    /// Makes what is missing and removes what crashed processes left.
    pub(crate) fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        for dir in DIRECTORIES {
            let path = store.root.join(dir);
            // Not for others: layers hold setuid programs and device nodes.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(io("create", &path))?;
        }
        store.sweep(store.lock()?)?;
        Ok(store)
    }

    /// Waits for other processes; never hold it while reading from a network or unpacking.
    pub(crate) fn lock(&self) -> Result<Lock, StoreError> {
        self.flock(FlockOperation::LockExclusive).map(|file| Lock { _file: file })
    }

    /// For reading several files that belong together.
    pub(crate) fn lock_shared(&self) -> Result<SharedLock, StoreError> {
        self.flock(FlockOperation::LockShared).map(|file| SharedLock { _file: file })
    }

    fn flock(&self, operation: FlockOperation) -> Result<File, StoreError> {
        let path = self.root.join("lock");
        let file = open_lock(&path).map_err(io("open", &path))?;
        retry(|| rustix::fs::flock(&file, operation)).map_err(io("lock", &path))?;
        Ok(file)
    }

    pub(crate) fn layer(&self, name: &str) -> PathBuf {
        self.root.join("layers").join(name)
    }

    pub(crate) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        read_all(&self.root.join("images"))
    }

    pub(crate) fn image(&self, id: &Digest) -> Result<Option<ImageRecord>, StoreError> {
        read_json(&self.image_path(id))
    }

    pub(crate) fn refs(&self) -> Result<Vec<RefRecord>, StoreError> {
        read_all(&self.root.join("refs"))
    }

    pub(crate) fn reference(&self, reference: &str) -> Result<Option<RefRecord>, StoreError> {
        read_json(&self.ref_path(reference))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        fs::read(&path).map_err(io("read", &path))
    }

    /// Points a reference to an image, away from whatever it pointed to.
    pub(crate) fn put_ref(&self, _lock: &Lock, reference: &str, image: &Digest) -> Result<(), StoreError> {
        let record = RefRecord { reference: reference.to_owned(), image: image.clone() };
        write_json(&self.ref_path(reference), &record, Flush::Yes)
    }

    pub(crate) fn remove_ref(&self, _lock: &Lock, reference: &str) -> Result<(), StoreError> {
        remove_file(&self.ref_path(reference))
    }

    /// Forgets the image and what was remembered of it.
    pub(crate) fn remove_image(&self, _lock: &Lock, id: &Digest) -> Result<(), StoreError> {
        remove_file(&self.image_path(id))?;
        // After the image: without this record it would be for all.
        remove_file(&self.access_path(id))?;
        remove_file(&self.used_path(id))
    }

    pub(crate) fn access(&self, id: &Digest) -> Result<Option<access::Record>, StoreError> {
        read_json(&self.access_path(id))
    }

    pub(super) fn holds(&self) -> Result<Vec<HoldRecord>, StoreError> {
        let dir = self.root.join("holds");
        names(&dir)?.into_iter().filter_map(|name| read_hold(&dir.join(name)).transpose()).collect()
    }

    /// Keeps the layers of images under this name, whatever happens to the images.
    ///
    /// Not flushed to the disk: this is on the way of every container's start, and no container outlives a crash of
    /// the machine.
    pub(crate) fn hold(&self, name: &str, ids: &[Digest]) -> Result<(), StoreError> {
        let _lock = self.lock()?;
        let mut layers = Vec::new();
        for id in ids {
            layers.extend(self.image(id)?.ok_or_else(|| StoreError::Missing(id.to_string()))?.layers);
        }
        let (image, others) =
            ids.split_first().map_or((None, &[][..]), |(first, rest)| (Some(first.clone()), rest));
        let hold = HoldRecord { layers, image, others: others.to_vec(), user: name.to_owned() };
        write_json(&self.hold_path(name), &hold, Flush::No)
    }

    pub(crate) fn release(&self, name: &str) -> Result<(), StoreError> {
        let lock = self.lock()?;
        let path = self.hold_path(name);
        let Some(HoldRecord { layers, .. }) = read_hold(&path)? else { return Ok(()) };
        remove_file(&path)?;
        let images = self.images()?;
        let in_image = |layer: &String| images.iter().any(|image| image.layers.contains(layer));
        if layers.iter().all(in_image) { Ok(()) } else { self.sweep(lock) }
    }

    /// Removes blobs and layers that neither an image nor a container nor work in progress uses, and what crashed
    /// processes left.
    pub(crate) fn sweep(&self, lock: Lock) -> Result<(), StoreError> {
        self.remove_dead_work(&lock)?;
        for dir in ["blobs/sha256", "images", "refs", "holds", "access", "pins"] {
            remove_temporary(&self.root.join(dir))?;
        }
        let images = self.images()?;
        let mut layers: BTreeSet<String> = images.iter().flat_map(|image| image.layers.clone()).collect();
        layers.extend(self.holds()?.into_iter().flat_map(|hold| hold.layers));
        for (work, _) in self.works()? {
            layers.extend(
                read_json::<HoldRecord>(&work.join("claims.json"))?.into_iter().flat_map(|h| h.layers),
            );
        }
        let blobs: BTreeSet<&str> = images.iter().flat_map(|image| &image.blobs).map(Digest::hex).collect();
        let blob_dir = self.root.join("blobs/sha256");
        for name in names(&blob_dir)?.iter().filter(|name| !blobs.contains(name.as_str())) {
            remove_file(&blob_dir.join(name))?;
        }
        let dropped: Vec<String> =
            names(&self.root.join("layers"))?.into_iter().filter(|name| !layers.contains(name)).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        // Out of sight under the lock, which is short; off the disk after it, which may take long.
        let work = self.begin_locked(&lock)?;
        for name in dropped {
            let (from, to) = (self.layer(&name), work.path().join(&name));
            fs::rename(&from, &to).map_err(io("move away", &from))?;
        }
        drop(lock);
        drop(work);
        Ok(())
    }

    /// A directory of one's own inside the store.
    pub(crate) fn begin(&self) -> Result<Work, StoreError> {
        let lock = self.lock()?;
        self.begin_locked(&lock)
    }

    fn begin_locked(&self, _lock: &Lock) -> Result<Work, StoreError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = loop {
            // The same process id may be at work in another pid namespace, or may have crashed.
            let name = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
            let path = self.root.join("work").join(name);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => break path,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io("create", &path)(error)),
            }
        };
        let lease_path = path.join("lease");
        let lease = open_lock(&lease_path).map_err(io("open", &lease_path))?;
        retry(|| rustix::fs::flock(&lease, FlockOperation::NonBlockingLockExclusive))
            .map_err(io("lock", &lease_path))?;
        Ok(Work { store: self.clone(), path, _lease: lease })
    }

    /// Work directories and whether their process is alive.
    fn works(&self) -> Result<Vec<(PathBuf, bool)>, StoreError> {
        let dir = self.root.join("work");
        names(&dir)?
            .into_iter()
            .map(|name| {
                let path = dir.join(name);
                let lease = path.join("lease");
                let alive = match File::open(&lease) {
                    Ok(file) => rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err(),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                    Err(error) => return Err(io("open", &lease)(error)),
                };
                Ok((path, alive))
            })
            .collect()
    }

    fn remove_dead_work(&self, _lock: &Lock) -> Result<(), StoreError> {
        for (path, alive) in self.works()? {
            if !alive {
                remove_tree(&path).map_err(io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn access_path(&self, id: &Digest) -> PathBuf {
        self.root.join("access").join(format!("{}.json", id.hex()))
    }

    pub(super) fn used_path(&self, id: &Digest) -> PathBuf {
        self.root.join("used").join(id.hex())
    }

    pub(super) fn image_path(&self, id: &Digest) -> PathBuf {
        self.root.join("images").join(format!("{}.json", id.hex()))
    }

    fn ref_path(&self, reference: &str) -> PathBuf {
        self.root.join("refs").join(format!("{}.json", Digest::of(reference.as_bytes()).hex()))
    }

    fn hold_path(&self, name: &str) -> PathBuf {
        self.root.join("holds").join(format!("{}.json", Digest::of(name.as_bytes()).hex()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }
}

/// A load or pull in progress. Dropped before [`Work::commit`], it leaves nothing.
pub(crate) struct Work {
    store: Store,
    path: PathBuf,
    _lease: File,
}

/// Everything that makes an image appear.
pub(crate) struct Commit {
    pub(crate) record: ImageRecord,
    /// Layer names with the directories under [`Work::path`] that become them.
    pub(crate) unpacked: Vec<(String, PathBuf)>,
    pub(crate) blobs: Vec<(Digest, Vec<u8>)>,
    pub(crate) references: Vec<String>,
    pub(crate) origin: access::Origin,
}

impl Work {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A fresh directory inside.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).map_err(io("create", &path))?;
        Ok(path)
    }

    /// Layers that this work counts on: they stay, and those that are there already are returned.
    pub(crate) fn claim(&self, layers: &[String]) -> Result<BTreeSet<String>, StoreError> {
        let _lock = self.store.lock()?;
        let claims = HoldRecord { layers: layers.to_vec(), ..HoldRecord::default() };
        write_json(&self.path.join("claims.json"), &claims, Flush::No)?;
        Ok(layers.iter().filter(|name| self.store.layer(name).is_dir()).cloned().collect())
    }

    /// Makes the image visible: first all bytes on the disk, then layers, then the record, then its names.
    pub(crate) fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let dir = File::open(&self.path).map_err(io("open", &self.path))?;
        if !commit.unpacked.is_empty() {
            rustix::fs::syncfs(&dir).map_err(io("sync", &self.path))?;
        }
        let lock = self.store.lock()?;
        for (name, from) in &commit.unpacked {
            let to = self.store.layer(name);
            // Another process may have been faster with the same layer; ours then goes with the work directory.
            if !to.is_dir() {
                fs::rename(from, &to).map_err(io("move into place", &to))?;
            }
        }
        sync_dir(&self.store.root.join("layers"))?;
        for (digest, bytes) in &commit.blobs {
            write_file(&self.store.blob_path(digest), bytes, Flush::Yes)?;
        }
        // Before the image: it must never be there without the record of who may use it.
        let id = &commit.record.id;
        let (known, was_here) = (self.store.access(id)?, self.store.image(id)?.is_some());
        if let Some(record) = access::after(known, was_here, &commit.origin) {
            write_json(&self.store.access_path(id), &record, Flush::Yes)?;
        }
        write_json(&self.store.image_path(id), &commit.record, Flush::Yes)?;
        for reference in &commit.references {
            self.store.put_ref(&lock, reference, &commit.record.id)?;
        }
        Ok(())
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "left behind; removed when the store is next used");
        }
    }
}

/// A hold that a crash of the machine left empty or half written holds nothing: its container is dead.
fn read_hold(path: &Path) -> Result<Option<HoldRecord>, StoreError> {
    match read_json(path) {
        Err(StoreError::Record { path, source }) => {
            tracing::warn!(path = %path.display(), error = %source, "broken hold ignored");
            Ok(None)
        }
        other => other,
    }
}
