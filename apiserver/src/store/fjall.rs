//! The engine on `fjall`: the only place that knows it.
//!
//! Nothing is read from disk after the first load, so its caches and tables are kept as small as it lets them.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use bytes::Bytes;

use super::engine::{Batch, Engine, EngineError, Loaded, Record};
use super::seal::Seal;

const FORMAT: &[u8] = b"orlop-store-1";
const CACHE_BYTES: u64 = 256 << 10;
const MEMTABLE_BYTES: u64 = 2 << 20;
const JOURNAL_BYTES: u64 = 64 << 20;

/// Records in a directory.
pub struct FjallEngine {
    path: PathBuf,
    open: Option<Open>,
    seal: Seal,
}

struct Open {
    database: Database,
    objects: Keyspace,
    meta: Keyspace,
}

impl FjallEngine {
    /// Opens or creates the store in a directory.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let open = guarded(path, || open(path))?;
        Ok(Self { path: path.to_owned(), open: Some(open), seal: Seal::default() })
    }

    fn read(&self) -> Result<Loaded, EngineError> {
        let Open { objects, meta, .. } = self.opened()?;
        let mut loaded = Loaded::default();
        for item in objects.iter() {
            let (key, value) = item.into_inner().map_err(|e| self.error("read an object", e))?;
            let record = decode(&key, &value)
                .ok_or_else(|| self.error("read an object", format!("broken record {key:?}")))?;
            loaded.records.push(record);
        }
        if let Some(bytes) = meta.get("reserved").map_err(|e| self.error("read the revision", e))? {
            let bytes: [u8; 8] =
                (*bytes).try_into().map_err(|_| self.error("read the revision", "not eight bytes"))?;
            loaded.reserved = u64::from_le_bytes(bytes);
        }
        let seal = Seal::of(&loaded);
        let found = meta.get("seal").map_err(|e| self.error("read the seal", e))?;
        let whole = match &found {
            Some(found) => **found == seal.bytes(),
            None => loaded.records.is_empty(),
        };
        if !whole {
            return Err(self.error("check that the store is whole", "records are missing or out of order"));
        }
        Ok(loaded)
    }

    fn opened(&self) -> Result<&Open, EngineError> {
        self.open.as_ref().ok_or_else(|| self.error("use the store", "it is not open"))
    }

    fn error(&self, step: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
        EngineError::new(step, source).at(&self.path)
    }
}

/// Damaged files trip assertions of the engine in places: an error here, where panics unwind.
fn guarded<T>(path: &Path, f: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map_or("the engine gave up", String::as_str).to_owned();
        Err(EngineError::new("make sense of the store's files", text).at(path))
    })
}

fn open(path: &Path) -> Result<Open, EngineError> {
    let fail =
        |step: &'static str| move |source: ::fjall::Error| EngineError::new(step, cause(source)).at(path);
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .max_journaling_size(JOURNAL_BYTES)
        .max_cached_files(Some(32))
        .worker_threads(1)
        .manual_journal_persist(true)
        .open()
        .map_err(|source| match source {
            ::fjall::Error::JournalRecovery(_)
            | ::fjall::Error::InvalidTrailer
            | ::fjall::Error::InvalidTag(_) => {
                EngineError::new("read the store's journal", source).at(newest_journal(path))
            }
            other => fail("open the store")(other),
        })?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
    let objects = database.keyspace("objects", options).map_err(fail("open the store's objects"))?;
    let meta = database.keyspace("meta", options).map_err(fail("open the store's meta data"))?;
    match meta.get("format").map_err(fail("read the store's format"))? {
        Some(format) if *format == *FORMAT => {}
        Some(other) => {
            let text = format!("found {:?}", String::from_utf8_lossy(&other));
            return Err(EngineError::new("recognise the store's format", text).at(path));
        }
        None => {
            meta.insert("format", FORMAT).map_err(fail("write the store's format"))?;
            database.persist(PersistMode::SyncAll).map_err(fail("write the store's format"))?;
        }
    }
    Ok(Open { database, objects, meta })
}

/// An I/O error speaks for itself; the rest are fjall's own.
fn cause(error: ::fjall::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        ::fjall::Error::Io(source) => source.into(),
        other => other.into(),
    }
}

/// The journal being written, or the directory when there is none.
fn newest_journal(path: &Path) -> PathBuf {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let journals = entries.filter(|path| path.extension().is_some_and(|e| e == "jnl"));
    journals.max_by_key(|path| path.metadata().and_then(|m| m.modified()).ok()).unwrap_or(path.to_owned())
}

impl Engine for FjallEngine {
    fn load(&mut self) -> Result<Loaded, EngineError> {
        let loaded = guarded(&self.path, || self.read())?;
        self.seal = Seal::of(&loaded);
        Ok(loaded)
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        // A failed batch is followed by `reopen` and `load`, which count anew.
        self.seal.apply(batch);
        let seal = &self.seal;
        let Open { database, objects, meta } = self.opened()?;
        let mut writes = database.batch().durability(Some(PersistMode::SyncData));
        for record in &batch.puts {
            writes.insert(objects, record.key.as_bytes(), encode(record));
        }
        for key in &batch.deletes {
            writes.remove(objects, key.as_bytes());
        }
        if let Some(reserved) = batch.reserved {
            writes.insert(meta, "reserved", reserved.to_le_bytes());
        }
        writes.insert(meta, "seal", seal.bytes());
        writes.commit().map_err(|e| self.error("commit to the store", cause(e)))
    }

    fn reopen(&mut self) -> Result<(), EngineError> {
        self.open = None;
        self.open = Some(guarded(&self.path, || open(&self.path))?);
        Ok(())
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + record.value.len());
    bytes.extend_from_slice(&record.revision.to_le_bytes());
    bytes.extend_from_slice(&record.created.to_le_bytes());
    bytes.extend_from_slice(&record.value);
    bytes
}

fn decode(key: &[u8], bytes: &[u8]) -> Option<Record> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (created, value) = rest.split_first_chunk::<8>()?;
    Some(Record {
        key: std::str::from_utf8(key).ok()?.into(),
        revision: u64::from_le_bytes(*revision),
        created: u64::from_le_bytes(*created),
        value: Bytes::copy_from_slice(value),
    })
}
