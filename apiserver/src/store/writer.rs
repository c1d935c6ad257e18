//! The only one who writes: checks, numbers, commits and publishes, a group of writes at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use super::engine::{Batch, Engine, Record};
use super::ring::Event;
use super::state::State;
use super::{Change, Expect, Object, Options, Write, WriteError, read};

/// How many revisions are reserved on disk at once.
const BLOCK: u64 = 10_000;
/// A group is cut here so that the first of it need not wait for ever.
const MAX_GROUP: usize = 1_000;
/// How long after a failure the disk is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) type Answer = oneshot::Sender<Result<Arc<Object>, WriteError>>;

pub(super) enum Message {
    Write(Write, Answer),
    Close(oneshot::Sender<Result<(), WriteError>>),
}

pub(super) struct Writer {
    engine: Box<dyn Engine>,
    state: Arc<RwLock<State>>,
    latest: watch::Sender<u64>,
    options: Options,
    revision: u64,
    reserved: u64,
    /// Keys whose newest volatile write is not on disk, and since when there are any.
    dirty: BTreeSet<Arc<str>>,
    dirty_since: Option<Instant>,
    /// Set after a failed commit: disk and memory must be compared before the next one.
    failed: Option<(String, Instant)>,
}

/// A write that passed its check and has its revision, but is not committed.
struct Staged {
    event: Event,
    durable: bool,
    answer: Answer,
}

impl Writer {
    pub(super) fn new(
        engine: Box<dyn Engine>,
        state: Arc<RwLock<State>>,
        latest: watch::Sender<u64>,
        revision: u64,
        options: Options,
    ) -> Self {
        // Nothing is reserved beyond what was used: the first write reserves.
        let (dirty, dirty_since, failed) = (BTreeSet::new(), None, None);
        Self { engine, state, latest, options, revision, reserved: revision, dirty, dirty_since, failed }
    }

    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let first = match self.dirty_since {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => {
                    messages.recv_timeout(self.options.flush_after.saturating_sub(since.elapsed()))
                }
            };
            let mut group = Vec::new();
            let mut close = None;
            match first {
                Ok(Message::Write(write, answer)) => group.push((write, answer)),
                Ok(Message::Close(answer)) => close = Some(answer),
                Err(RecvTimeoutError::Timeout) => {
                    if let Err(error) = self.flush(false) {
                        tracing::warn!(%error, "volatile objects were not written to disk");
                    }
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    drop(self.flush(true));
                    return;
                }
            }
            while close.is_none() && group.len() < MAX_GROUP {
                match messages.try_recv() {
                    Ok(Message::Write(write, answer)) => group.push((write, answer)),
                    Ok(Message::Close(answer)) => close = Some(answer),
                    Err(_) => break,
                }
            }
            self.write_group(group);
            if let Some(answer) = close {
                // Whoever asked may be gone; the store closes all the same.
                drop(answer.send(self.flush(true)));
                return;
            }
        }
    }

    fn write_group(&mut self, group: Vec<(Write, Answer)>) {
        let staged = self.stage(group);
        if staged.is_empty() {
            return;
        }
        // Within a group the last write of a key is the one that counts.
        let durable = staged.iter().filter(|s| s.durable).map(|s| (&s.event.object.key, &s.event));
        let mut batch = Batch::default();
        for event in durable.collect::<BTreeMap<_, _>>().into_values() {
            add(&mut batch, &event.object, event.deleted);
        }
        match self.commit(batch) {
            Ok(()) => self.publish(staged),
            Err(error) => self.publish_volatile(staged, &error),
        }
    }

    /// Checks each write against the state and the writes before it in the group.
    fn stage(&mut self, group: Vec<(Write, Answer)>) -> Vec<Staged> {
        let state = Arc::clone(&self.state);
        let state = read(&state);
        let mut pending: BTreeMap<Arc<str>, Option<Arc<Object>>> = BTreeMap::new();
        let mut staged: Vec<Staged> = Vec::with_capacity(group.len());
        for (Write { key, expect, durable, change }, answer) in group {
            let old = match pending.get(key.as_str()) {
                Some(pending) => pending.clone(),
                None => state.objects.get(key.as_str()).cloned(),
            };
            let current = old.as_ref().map(|old| old.revision);
            let holds = match expect {
                Expect::Absent => current.is_none(),
                Expect::Revision(revision) => current == Some(revision),
            };
            if !holds {
                drop(answer.send(Err(WriteError::Conflict { current })));
                continue;
            }
            self.revision += 1;
            let revision = self.revision;
            let key: Arc<str> = old.as_ref().map_or_else(|| key.into(), |old| Arc::clone(&old.key));
            let created = old.as_ref().map_or(revision, |old| old.created);
            let (make, deleted) = match change {
                Change::Put(make) => (make, false),
                Change::Delete(make) => (make, true),
            };
            let value = Bytes::from(make(revision));
            let object = Arc::new(Object { key: Arc::clone(&key), revision, created, value });
            pending.insert(key, (!deleted).then(|| Arc::clone(&object)));
            staged.push(Staged { event: Event { object, old, deleted }, durable, answer });
        }
        staged
    }

    fn publish(&mut self, staged: Vec<Staged>) {
        let mut answers = Vec::with_capacity(staged.len());
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for Staged { event, durable, answer } in staged {
                if durable {
                    self.dirty.remove(&event.object.key);
                } else {
                    self.dirty.insert(Arc::clone(&event.object.key));
                    self.dirty_since.get_or_insert_with(Instant::now);
                }
                answers.push((answer, Arc::clone(&event.object)));
                state.publish(event);
            }
        }
        self.latest.send_replace(self.revision);
        for (answer, object) in answers {
            // A writer that stopped waiting has no use for the answer.
            drop(answer.send(Ok(object)));
        }
    }

    /// The disk failed: volatile writes go on, as long as they build on nothing that failed.
    fn publish_volatile(&mut self, staged: Vec<Staged>, error: &WriteError) {
        let lost: BTreeSet<Arc<str>> =
            staged.iter().filter(|s| s.durable).map(|s| Arc::clone(&s.event.object.key)).collect();
        let (good, bad): (Vec<_>, Vec<_>) = staged.into_iter().partition(|s| {
            !s.durable && s.event.revision() <= self.reserved && !lost.contains(&s.event.object.key)
        });
        self.publish(good);
        for Staged { answer, .. } in bad {
            drop(answer.send(Err(error.clone())));
        }
    }

    /// Writes all volatile objects; at the end also gives back the unused part of the reservation.
    fn flush(&mut self, closing: bool) -> Result<(), WriteError> {
        let mut batch = Batch::default();
        {
            let state = read(&self.state);
            for key in &self.dirty {
                match state.objects.get(key) {
                    Some(object) => add(&mut batch, object, false),
                    None => batch.deletes.push(Arc::clone(key)),
                }
            }
        }
        if closing && self.failed.is_some() {
            // What was refused must not be there after the next start.
            self.repair()?;
        }
        if closing && self.reserved != self.revision {
            batch.reserved = Some(self.revision);
        }
        let result = self.commit(batch);
        self.dirty_since = match &result {
            Ok(()) => {
                self.dirty.clear();
                None
            }
            Err(_) => Some(Instant::now()),
        };
        result
    }

    /// Commits a batch, after repairing what an earlier failure may have left behind.
    fn commit(&mut self, mut batch: Batch) -> Result<(), WriteError> {
        if batch.reserved.is_none() && self.revision > self.reserved {
            batch.reserved = Some(self.revision + BLOCK);
        }
        if batch.is_empty() {
            return Ok(());
        }
        if let Some((error, at)) = &self.failed {
            if at.elapsed() < RETRY_AFTER {
                return Err(WriteError::Disk(error.clone()));
            }
            self.repair()?;
        }
        self.engine.commit(&batch).map_err(|error| self.fail(&error))?;
        self.reserved = batch.reserved.unwrap_or(self.reserved);
        Ok(())
    }

    /// Reopens the engine and makes the disk equal to what was acknowledged.
    fn repair(&mut self) -> Result<(), WriteError> {
        self.engine.reopen().map_err(|error| self.fail(&error))?;
        let loaded = self.engine.load().map_err(|error| self.fail(&error))?;
        let batch = difference(&loaded.records, &read(&self.state));
        if !batch.is_empty() {
            self.engine.commit(&batch).map_err(|error| self.fail(&error))?;
        }
        self.failed = None;
        tracing::info!("the store writes again");
        Ok(())
    }

    fn fail(&mut self, error: &super::EngineError) -> WriteError {
        let text = error.chain();
        tracing::error!(error = %text, "the store cannot write");
        self.failed = Some((text.clone(), Instant::now()));
        WriteError::Disk(text)
    }
}

fn add(batch: &mut Batch, object: &Object, deleted: bool) {
    if deleted {
        batch.deletes.push(Arc::clone(&object.key));
    } else {
        batch.puts.push(Record {
            key: Arc::clone(&object.key),
            revision: object.revision,
            created: object.created,
            value: object.value.clone(),
        });
    }
}

/// What must be written so that the disk holds what memory holds.
fn difference(disk: &[Record], state: &State) -> Batch {
    let mut batch = Batch::default();
    let on_disk: BTreeMap<&Arc<str>, u64> = disk.iter().map(|r| (&r.key, r.revision)).collect();
    for object in state.objects.values() {
        if on_disk.get(&object.key) != Some(&object.revision) {
            add(&mut batch, object, false);
        }
    }
    batch
        .deletes
        .extend(disk.iter().filter(|r| !state.objects.contains_key(&r.key)).map(|r| Arc::clone(&r.key)));
    batch
}
