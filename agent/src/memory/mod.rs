//! What this node last knew of the API, for when there is no API server in reach: pods, what was said of them, and
//! what they need.
//!
//! ```text
//!  watches ─ keep / forget ─▶ Memory ─ a second later, what changed ─▶ <state>/memory/<kind>/<name>.json (0600)
//!  no first list in time   ◀─ recall ─┘
//! ```
//!
//! Written behind everybody's back: nobody waits for the disk, and a kill loses at most the last second. What is read
//! back is never more than a stand-in until the API server answers: nothing is destroyed on the strength of it.
//! Bounded: the pods of this node with what they refer to, the cluster's Services, EndpointSlices, Nodes and
//! NetworkPolicies, and while there are any of these the labels and addresses of all pods; whatever goes from the API goes from here. Not for: decisions of ours (those are rebuilt from the machine), or
//! anything that the API server never said.

mod key;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::{sync::Notify, task::spawn_blocking};

pub use key::{Key, Kind};

/// How long changes are gathered before they are written.
const GATHER: Duration = Duration::from_secs(1);
/// So many files are synced one by one; more of them as the whole file system.
const FEW: usize = 32;

/// What is remembered. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    dirty: Mutex<HashMap<Key, Change>>,
    news: Notify,
}

/// Turns a thing into bytes when its time has come.
type Write = Box<dyn FnOnce() -> serde_json::Result<Vec<u8>> + Send>;

enum Change {
    Keep(Write),
    Forget,
}

impl Memory {
    /// Opens `dir`, making it and what is missing in it.
    ///
    /// # Errors
    /// When a directory can neither be found nor made, or not be made private.
    pub fn open(dir: PathBuf) -> io::Result<Memory> {
        for kind in Kind::ALL {
            let dir = dir.join(kind.dir());
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        Ok(Memory(Arc::new(Inner { dir, dirty: Mutex::default(), news: Notify::new() })))
    }

    /// Remembers this from now on.
    pub fn keep<T: Serialize + Send + Sync + 'static>(&self, key: Key, value: Arc<T>) {
        self.change(key, Change::Keep(Box::new(move || serde_json::to_vec(&*value))));
    }

    /// Does not remember it any more.
    pub fn forget(&self, key: Key) {
        self.change(key, Change::Forget);
    }

    /// Forgets everything of this kind that `keep` does not name.
    pub fn retain(&self, kind: Kind, keep: impl Fn(&Key) -> bool) {
        for key in self.keys(kind).into_iter().filter(|key| !keep(key)) {
            self.forget(key);
        }
    }

    /// Whether a list of this kind was ever seen.
    #[must_use]
    pub fn has_list(&self, kind: Kind) -> bool {
        self.recall::<bool>(&Key::one(Kind::Listed, kind.dir())).is_some()
    }

    /// Forgets a kind as if it had never been listed.
    pub fn forget_all(&self, kind: Kind) {
        self.forget(Key::one(Kind::Listed, kind.dir()));
        self.retain(kind, |_| false);
    }

    /// What there is of a kind.
    #[must_use]
    pub fn keys(&self, kind: Kind) -> BTreeSet<Key> {
        let files = fs::read_dir(self.0.dir.join(kind.dir())).into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let mut keys: BTreeSet<_> = names.filter_map(|name| Key::from_file_name(kind, &name)).collect();
        for (key, change) in self.dirty().iter().filter(|(key, _)| key.kind == kind) {
            match change {
                Change::Keep(_) => keys.insert(key.clone()),
                Change::Forget => keys.remove(key),
            };
        }
        keys
    }

    /// What was written of this. What cannot be read is told and is as good as forgotten.
    #[must_use]
    pub fn recall<T: DeserializeOwned>(&self, key: &Key) -> Option<T> {
        let path = self.0.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "read what was remembered");
                return None;
            }
        };
        serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "what was remembered is damaged"),
            )
            .ok()
    }

    /// Everything that was written of a kind.
    #[must_use]
    pub fn recall_all<T: DeserializeOwned>(&self, kind: Kind) -> Vec<T> {
        self.keys(kind).iter().filter_map(|key| self.recall(key)).collect()
    }

    /// Writes what changes, until the end of the process.
    pub async fn run(self) {
        loop {
            self.0.news.notified().await;
            tokio::time::sleep(GATHER).await;
            let memory = self.clone();
            if let Err(died) = spawn_blocking(move || memory.write()).await {
                tracing::error!(error = &died as &dyn std::error::Error, "write what is to be remembered");
            }
        }
    }

    /// Writes what has changed so far.
    pub fn write(&self) {
        let dirty = std::mem::take(&mut *self.dirty());
        let few = dirty.len() <= FEW;
        for (key, change) in dirty {
            let path = self.0.path(&key);
            let done = match change {
                Change::Keep(bytes) => {
                    bytes().map_err(io::Error::from).and_then(|bytes| write_file(&path, &bytes, few))
                }
                Change::Forget => match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
            };
            if let Err(error) = done {
                tracing::warn!(path = %path.display(), %error, "remember for when there is no API server");
            }
        }
        if !few && let Ok(dir) = fs::File::open(&self.0.dir) {
            // What a power cut takes now is still in the API.
            let _not_yet_on_disk = rustix::fs::syncfs(&dir);
        }
    }

    fn change(&self, key: Key, change: Change) {
        self.dirty().insert(key, change);
        self.0.news.notify_one();
    }

    fn dirty(&self) -> MutexGuard<'_, HashMap<Key, Change>> {
        self.0.dirty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn path(&self, key: &Key) -> PathBuf {
        self.dir.join(key.kind.dir()).join(key.file_name())
    }
}

/// In place whole or not at all; what is the same already is not written again.
fn write_file(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    use io::Write as _;
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    // No key ends like this.
    let tmp = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
    file.write_all(bytes)?;
    if sync {
        file.sync_data()?;
    }
    fs::rename(&tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::two(Kind::Secret, "ns", name)
    }

    fn memory() -> (tempfile::TempDir, Memory) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::open(dir.path().join("memory")).unwrap();
        (dir, memory)
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_process_and_for_nobody_else() {
        let (dir, memory) = memory();
        memory.keep(key("a"), Arc::new("one"));
        memory.keep(key("a"), Arc::new("two"));
        memory.keep(key("b"), Arc::new("three"));
        memory.write();
        memory.forget(key("b"));
        memory.write();
        let next = Memory::open(dir.path().join("memory")).unwrap();
        assert_eq!(next.recall::<String>(&key("a")).unwrap(), "two");
        assert_eq!(next.recall_all::<String>(Kind::Secret), ["two"]);
        let mode = |path: &str| {
            fs::metadata(dir.path().join("memory").join(path)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("secrets/ns_a.json"), mode("secrets"), mode("")), (0o600, 0o700, 0o700));
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (dir, memory) = memory();
        fs::write(dir.path().join("memory/secrets/ns_a.json"), "{").unwrap();
        memory.keep(key("b"), Arc::new("x"));
        memory.write();
        assert_eq!(memory.recall::<String>(&key("a")), None);
        assert_eq!(memory.recall_all::<String>(Kind::Secret), ["x"]);
    }

    #[test]
    fn what_is_not_named_goes() {
        let (_dir, memory) = memory();
        for name in ["a", "b"] {
            memory.keep(key(name), Arc::new(name));
        }
        memory.write();
        memory.keep(key("c"), Arc::new("c"));
        memory.retain(Kind::Secret, |key| key.name[1] == "b");
        assert_eq!(memory.keys(Kind::Secret), BTreeSet::from([key("b")]));
        memory.keep(Key::one(Kind::Listed, Kind::Secret.dir()), Arc::new(true));
        memory.write();
        assert_eq!(memory.recall_all::<String>(Kind::Secret), ["b"]);
        assert!(memory.has_list(Kind::Secret) && !memory.has_list(Kind::Pod));
        memory.forget_all(Kind::Secret);
        memory.write();
        assert!(!memory.has_list(Kind::Secret) && memory.keys(Kind::Secret).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_gathered_for_a_second() {
        let (_dir, memory) = memory();
        let _writing = tokio::spawn(memory.clone().run());
        memory.keep(key("a"), Arc::new("x"));
        tokio::time::sleep(GATHER / 2).await;
        assert_eq!(memory.recall::<String>(&key("a")), None);
        while memory.recall::<String>(&key("a")).is_none() {
            tokio::time::sleep(GATHER / 4).await;
        }
    }
}
