//! A versioned key-value store: bytes, keys and revisions. It knows nothing of Kubernetes.
//!
//! ```text
//! write() ──queue──▶ writer thread ──one synced batch──▶ Engine (disk)
//!    ▲                     │ then publish
//!    └──────answer─────────┤
//!                          ▼
//!          State { objects, ring } ◀── get, list, Cursor (watches)
//! ```
//!
//! - All live objects are in memory; the disk is only read at open.
//! - The group of a commit is whatever queued during the previous sync; there is no timer.
//! - Nothing is visible or answered before its batch is on disk, except volatile writes, which are flushed
//!   lazily. Revisions of volatile writes cannot come back after a crash because a block of them is reserved
//!   on disk ahead of use.
//! - Watches pull: a cursor reads the ring when its reader is ready. Nobody waits for a slow one; the ring
//!   moves on and the cursor learns that it lost its place.

pub mod engine;
pub mod fjall;
mod ring;
mod seal;
mod state;
mod writer;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

pub use engine::{Engine, EngineError};
pub use ring::{Cursor, Event, Lost};
use state::State;

/// A stored value and when it was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: Arc<str>,
    /// Revision of the last write.
    pub revision: u64,
    /// Revision of the write that created it.
    pub created: u64,
    /// The value.
    pub value: Bytes,
}

/// What a write requires of the key it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is there.
    Absent,
    /// What is there has this revision.
    Revision(u64),
}

/// Makes the value, once its revision is known.
pub type Make = Box<dyn FnOnce(u64) -> Vec<u8> + Send>;

/// What to do with a key.
pub enum Change {
    /// Set it.
    Put(Make),
    /// Remove it; watchers are shown this last value.
    Delete(Make),
}

/// One write.
pub struct Write {
    /// Key.
    pub key: String,
    /// Required of the present value.
    pub expect: Expect,
    /// On disk before the answer, or lazily.
    pub durable: bool,
    /// The change itself.
    pub change: Change,
}

/// Why a write did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// [`Expect`] does not hold.
    #[error("the key has changed")]
    Conflict {
        /// Revision of what is there now.
        current: Option<u64>,
    },
    /// The disk did not take it; the write has no effect.
    #[error("the store cannot write: {0}")]
    Disk(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// How a store behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long volatile writes may stay off the disk.
    pub flush_after: Duration,
    /// How many events the ring holds at most.
    pub ring_events: usize,
    /// How many bytes of values the ring holds at most.
    pub ring_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { flush_after: Duration::from_secs(45), ring_events: 10_000, ring_bytes: 6 << 20 }
    }
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store {
    state: Arc<RwLock<State>>,
    queue: std::sync::mpsc::Sender<writer::Message>,
    latest: watch::Receiver<u64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl Store {
    /// Reads everything the engine holds and starts the writer.
    pub fn open(mut engine: Box<dyn Engine>, options: Options) -> Result<Self, EngineError> {
        let loaded = engine.load()?;
        let state = Arc::new(RwLock::new(State::new(loaded, &options)));
        let revision = read(&state).revision;
        let (latest_tx, latest) = watch::channel(revision);
        let (queue, messages) = std::sync::mpsc::channel();
        let writer = writer::Writer::new(engine, Arc::clone(&state), latest_tx, revision, options);
        std::thread::Builder::new()
            .name("store-writer".into())
            .stack_size(512 << 10)
            .spawn(move || writer.run(&messages))
            .map_err(|source| EngineError::new("start the writer thread", source))?;
        Ok(Self { state, queue, latest })
    }

    /// The newest revision.
    pub fn revision(&self) -> u64 {
        read(&self.state).revision
    }

    /// The object at a key.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        read(&self.state).objects.get(key).cloned()
    }

    /// All objects under a prefix in key order, and the revision of that picture.
    pub fn list(&self, prefix: &str) -> (u64, Vec<Arc<Object>>) {
        let state = read(&self.state);
        (state.revision, state.under(prefix).cloned().collect())
    }

    /// Writes one key; returns when the write is as durable as asked for and visible.
    pub async fn write(&self, write: Write) -> Result<Arc<Object>, WriteError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(writer::Message::Write(write, answer)).map_err(|_| WriteError::Closed)?;
        done.await.map_err(|_| WriteError::Closed)?
    }

    /// A place in history to read events from: those after `revision`.
    pub fn cursor(&self, revision: u64) -> Result<Cursor, Lost> {
        let cursor = Cursor::new(Arc::clone(&self.state), self.latest.clone(), revision);
        if read(&self.state).ring.holds(revision) { Ok(cursor) } else { Err(Lost { floor: self.floor() }) }
    }

    /// All objects under a prefix and the place in history right after that picture.
    pub fn list_and_cursor(&self, prefix: &str) -> (u64, Vec<Arc<Object>>, Cursor) {
        let (revision, objects) = self.list(prefix);
        (revision, objects, Cursor::new(Arc::clone(&self.state), self.latest.clone(), revision))
    }

    /// The oldest revision a cursor can start from.
    pub fn floor(&self) -> u64 {
        read(&self.state).ring.floor()
    }

    /// Waits until the store has reached a revision; `false` when it is closed before.
    pub async fn wait_for(&self, revision: u64) -> bool {
        let mut latest = self.latest.clone();
        latest.wait_for(|now| *now >= revision).await.is_ok()
    }

    /// Flushes volatile writes and refuses further ones.
    pub async fn close(&self) -> Result<(), WriteError> {
        let (answer, done) = oneshot::channel();
        self.queue.send(writer::Message::Close(answer)).map_err(|_| WriteError::Closed)?;
        done.await.map_err(|_| WriteError::Closed)?
    }
}

/// Reading never leaves the state half-changed, so a poisoned lock still holds a good one.
fn read(state: &RwLock<State>) -> std::sync::RwLockReadGuard<'_, State> {
    state.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
