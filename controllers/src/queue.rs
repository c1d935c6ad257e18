//! Keys waiting to be worked on: each at most once, never twice at the same time, failed ones after a pause.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use orlop_model::backoff::Backoff;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::error::SyncError;

const RETRY: Backoff = Backoff::doubling(Duration::from_millis(5), Duration::from_secs(30));

/// A queue of keys. Adding a key that waits already changes nothing; adding one that is being worked on lets
/// it run once more afterwards.
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    waiting: HashSet<T>,
    running: HashSet<T>,
    later: BTreeSet<(Instant, T)>,
    failures: HashMap<T, u32>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            running: HashSet::new(),
            later: BTreeSet::new(),
            failures: HashMap::new(),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

impl<T: Clone + Eq + Ord + Hash + Display> Queue<T> {
    /// To be worked on now.
    pub(crate) fn add(&self, key: T) {
        if self.state().add(key) {
            self.changed.notify_one();
        }
    }

    /// To be worked on after a while; if it comes up earlier, then also earlier.
    pub(crate) fn add_after(&self, key: T, delay: Duration) {
        self.state().later.insert((Instant::now() + delay, key));
        self.changed.notify_one();
    }

    /// Works on keys, `parallel` at a time, until dropped. `sync` may ask for another turn after a while.
    pub(crate) async fn work<F>(&self, name: &'static str, parallel: usize, sync: impl Fn(T) -> F)
    where
        F: Future<Output = Result<Option<Duration>, SyncError>>,
    {
        let mut running = FuturesUnordered::new();
        loop {
            let wake_at = {
                let mut state = self.state();
                let wake_at = state.ripen(Instant::now());
                while running.len() < parallel {
                    let Some(key) = state.take() else { break };
                    let work = sync(key.clone());
                    running.push(async move { (key, work.await) });
                }
                wake_at
            };
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some((key, result)) = running.next(), if !running.is_empty() => self.finish(name, &key, result),
                () = self.changed.notified() => {}
                () = timer => {}
            }
        }
    }

    fn finish(&self, name: &'static str, key: &T, result: Result<Option<Duration>, SyncError>) {
        let mut state = self.state();
        state.running.remove(key);
        if state.waiting.contains(key) {
            state.ready.push_back(key.clone());
        }
        match result {
            Ok(again) => {
                state.failures.remove(key);
                if let Some(delay) = again {
                    state.later.insert((Instant::now() + delay, key.clone()));
                }
            }
            Err(error) => {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures += 1;
                let (failures, delay) = (*failures, RETRY.delay(*failures));
                state.later.insert((Instant::now() + delay, key.clone()));
                report(name, key, &error, failures);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(controller: &'static str, key: &impl Display, error: &SyncError, failures: u32) {
    let error = error as &dyn std::error::Error;
    // Losing a race against another writer is normal; losing it again and again is not.
    if failures < 4 {
        tracing::debug!(controller, %key, error, failures, "trying again");
    } else {
        tracing::warn!(controller, %key, error, failures, "trying again");
    }
}

impl<T: Clone + Eq + Ord + Hash> State<T> {
    fn add(&mut self, key: T) -> bool {
        let new = self.waiting.insert(key.clone());
        if new && !self.running.contains(&key) {
            self.ready.push_back(key);
            return true;
        }
        false
    }

    /// Moves what is due to the ready ones; says when the next one is.
    fn ripen(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, _)) = self.later.first() {
            if *at > now {
                return Some(*at);
            }
            if let Some((_, key)) = self.later.pop_first() {
                self.add(key);
            }
        }
        None
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Works `seconds` of paused time; every pass takes 1 s and is logged as `key@second`.
    async fn passes(queue: &Queue<String>, seconds: u64, fail: &str) -> String {
        let (start, log) = (Instant::now(), RefCell::new(Vec::new()));
        let work = queue.work("test", 2, |key: String| {
            log.borrow_mut().push(format!("{key}@{}", start.elapsed().as_secs()));
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if key == fail { Err(SyncError::Object("no".to_owned())) } else { Ok(None) }
            }
        });
        drop(tokio::time::timeout(Duration::from_secs(seconds), work).await);
        log.into_inner().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn keys_run_once_and_only_so_many_at_a_time() {
        let queue = Queue::default();
        for key in ["a", "b", "a", "c"] {
            queue.add(key.to_owned());
        }
        assert_eq!(passes(&queue, 5, "").await, "a@0 b@0 c@1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_it_runs_runs_again_afterwards() {
        let queue = Queue::default();
        queue.add("a".to_owned());
        let again = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            queue.add("a".to_owned());
            queue.add_after("b".to_owned(), Duration::from_secs(3));
        };
        let (log, ()) = tokio::join!(passes(&queue, 9, ""), again);
        assert_eq!(log, "a@0 a@1 b@3");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_ever_later() {
        let queue = Queue::default();
        queue.add("x".to_owned());
        let log = passes(&queue, 30, "x").await;
        assert_eq!(log.split(' ').take(3).collect::<Vec<_>>(), ["x@0", "x@1", "x@2"]);
        assert!(log.split(' ').count() < 20, "{log}");
    }
}
