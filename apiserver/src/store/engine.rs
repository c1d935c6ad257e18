//! The seam to the disk, and a fake beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// What goes to disk in one atomic, synced step.
#[derive(Debug, Default)]
pub struct Batch {
    /// Records to set.
    pub puts: Vec<Record>,
    /// Keys to remove.
    pub deletes: Vec<Arc<str>>,
    /// Revisions up to this one are taken; absent = unchanged.
    pub reserved: Option<u64>,
}

impl Batch {
    /// Whether committing it would change nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty() && self.reserved.is_none()
    }
}

/// One value with its revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Key.
    pub key: Arc<str>,
    /// Revision of the last write.
    pub revision: u64,
    /// Revision of creation.
    pub created: u64,
    /// Value.
    pub value: Bytes,
}

/// Everything on disk.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All records, in any order.
    pub records: Vec<Record>,
    /// The last reservation.
    pub reserved: u64,
}

/// An engine did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{step}{}", path.as_ref().map(|p| format!(" ({})", p.display())).unwrap_or_default())]
pub struct EngineError {
    /// What was being done.
    pub step: String,
    /// The file or directory concerned.
    pub path: Option<PathBuf>,
    /// Why it failed.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl EngineError {
    /// An error without a path.
    pub fn new(step: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { step: step.into(), path: None, source: source.into() }
    }

    /// Names the file or directory.
    pub fn at(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// The step and every cause, on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause: Option<&dyn std::error::Error> = Some(&*self.source);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A disk that holds records.
pub trait Engine: Send {
    /// Reads everything.
    fn load(&mut self) -> Result<Loaded, EngineError>;
    /// Makes a batch durable as a whole. After an error nothing may be assumed about it.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;
    /// Starts afresh after a failed commit; the caller then reloads and compares.
    fn reopen(&mut self) -> Result<(), EngineError>;
}

/// An engine in memory, whose disk can be made to fail.
#[derive(Clone, Debug, Default)]
pub struct MemoryEngine {
    disk: Arc<Mutex<MemoryDisk>>,
}

#[derive(Debug, Default)]
struct MemoryDisk {
    records: BTreeMap<Arc<str>, Record>,
    reserved: u64,
    commits: usize,
    failure: Option<Fault>,
}

/// How a [`MemoryEngine`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The batch does not reach the disk.
    Full,
    /// The batch reaches the disk, but that is not known.
    SyncFailed,
}

impl MemoryEngine {
    fn disk(&self) -> std::sync::MutexGuard<'_, MemoryDisk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every commit fail, or work again.
    pub fn fail(&self, failure: Option<Fault>) {
        self.disk().failure = failure;
    }

    /// A copy of the disk as it is now: what a crash leaves.
    pub fn image(&self) -> Self {
        let disk = self.disk();
        let (records, reserved) = (disk.records.clone(), disk.reserved);
        let disk = MemoryDisk { records, reserved, ..MemoryDisk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// How many commits there were.
    pub fn commits(&self) -> usize {
        self.disk().commits
    }

    /// Keys on disk.
    pub fn keys(&self) -> Vec<String> {
        self.disk().records.keys().map(|k| k.to_string()).collect()
    }
}

impl Engine for MemoryEngine {
    fn load(&mut self) -> Result<Loaded, EngineError> {
        let disk = self.disk();
        Ok(Loaded { records: disk.records.values().cloned().collect(), reserved: disk.reserved })
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut disk = self.disk();
        let failure = || EngineError::new("commit a batch", "No space left on device (os error 28)");
        if disk.failure == Some(Fault::Full) {
            return Err(failure());
        }
        disk.commits += 1;
        for record in &batch.puts {
            disk.records.insert(Arc::clone(&record.key), record.clone());
        }
        for key in &batch.deletes {
            disk.records.remove(key);
        }
        disk.reserved = batch.reserved.unwrap_or(disk.reserved);
        if disk.failure == Some(Fault::SyncFailed) { Err(failure()) } else { Ok(()) }
    }

    fn reopen(&mut self) -> Result<(), EngineError> {
        Ok(())
    }
}
