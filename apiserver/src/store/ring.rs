//! The recent past: events by revision, bounded in number and bytes, and cursors that read them.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

use tokio::sync::watch;

use super::state::State;
use super::{Object, Options, read};

/// One write as watchers see it.
#[derive(Debug)]
pub struct Event {
    /// The new object; for a deletion its last value, at the revision of the deletion.
    pub object: Arc<Object>,
    /// What was there before.
    pub old: Option<Arc<Object>>,
    /// Whether the key is gone.
    pub deleted: bool,
}

impl Event {
    /// When it happened.
    pub fn revision(&self) -> u64 {
        self.object.revision
    }

    fn weight(&self) -> usize {
        self.object.value.len() + self.old.as_ref().map_or(0, |old| old.value.len())
    }
}

/// The place in history is no longer held: the reader was too slow or asks for too old a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The oldest revision to start from now.
    pub floor: u64,
}

#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    floor: u64,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    pub(super) fn new(floor: u64, options: &Options) -> Self {
        Self {
            events: VecDeque::new(),
            floor,
            bytes: 0,
            max_events: options.ring_events,
            max_bytes: options.ring_bytes,
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether every event after `revision` is here.
    pub(super) fn holds(&self, revision: u64) -> bool {
        revision >= self.floor
    }

    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.weight();
        self.events.push_back(Arc::new(event));
        while self.events.len() > self.max_events || (self.bytes > self.max_bytes && self.events.len() > 1) {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.weight();
            self.floor = oldest.revision();
        }
    }

    fn after(&self, revision: u64) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|event| event.revision() <= revision);
        self.events.range(start..)
    }
}

/// A reader's place in history.
pub struct Cursor {
    state: Arc<RwLock<State>>,
    latest: watch::Receiver<u64>,
    revision: u64,
}

impl std::fmt::Debug for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cursor").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Cursor {
    pub(super) fn new(state: Arc<RwLock<State>>, latest: watch::Receiver<u64>, revision: u64) -> Self {
        Self { state, latest, revision }
    }

    /// Everything up to here was read (or skipped for lying outside the prefix).
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Up to `limit` events under a prefix that have happened and were not read yet; may be none.
    pub fn take(&mut self, prefix: &str, limit: usize) -> Result<Vec<Arc<Event>>, Lost> {
        // Before looking: what is published from here on wakes the next wait.
        self.latest.borrow_and_update();
        let state = read(&self.state);
        if !state.ring.holds(self.revision) {
            return Err(Lost { floor: state.ring.floor() });
        }
        let mut events = Vec::new();
        for event in state.ring.after(self.revision) {
            self.revision = event.revision();
            if event.object.key.starts_with(prefix) {
                events.push(Arc::clone(event));
                if events.len() == limit {
                    return Ok(events);
                }
            }
        }
        self.revision = self.revision.max(state.revision);
        Ok(events)
    }

    /// Waits until there may be more to take; `false` when the store is closed.
    pub async fn changed(&mut self) -> bool {
        self.latest.changed().await.is_ok()
    }
}
