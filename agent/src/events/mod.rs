//! Events for users, as `kubectl describe` and `kubectl get events` show them.
//!
//! ```text
//! workers, probers ─ record(event) ─▶ bounded queue ─▶ Recorder task ─ create, or count + 1 ─▶ API server
//! ```
//!
//! Order is kept. Nobody waits for an event: when the queue is full the newest is dropped and counted. Not for: logs.

mod build;
pub mod log;
pub mod node;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::images::rate::{Bucket, Rate};
use crate::worker::ports::{Clock, EventSink, PodEvent};

const QUEUE: usize = 1024;
/// How often it is looked whether the next event may be written.
const TURN: Duration = Duration::from_millis(20);
/// Events remembered for counting repeats.
const REMEMBERED: usize = 1024;

/// Takes events and writes them behind the caller's back. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(PodEvent, Timestamp)>,
    clock: Arc<dyn Clock>,
    dropped: Arc<AtomicU64>,
}

impl Recorder {
    /// The recorder and the task that writes, at most so often; the task ends when the last recorder is dropped.
    pub fn start(
        client: Client,
        node_name: String,
        clock: Arc<dyn Clock>,
        rate: Option<Rate>,
    ) -> (Recorder, JoinHandle<()>) {
        let (queue, events) = mpsc::channel(QUEUE);
        let rate = rate.map(|rate| Bucket::new(rate, Instant::now()));
        let writer = Writer { client, node_name, rate, known: HashMap::new(), order: VecDeque::new() };
        let task = tokio::spawn(writer.run(events));
        (Recorder { queue, clock, dropped: Arc::default() }, task)
    }

    /// How many events found the queue full.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl EventSink for Recorder {
    fn record(&self, event: PodEvent) {
        if self.queue.try_send((event, self.clock.now())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What makes two events the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    field_path: Option<String>,
    reason: &'static str,
    message: String,
}

/// An event that was created and may be counted up.
struct Known {
    name: String,
    count: i32,
}

struct Writer {
    client: Client,
    node_name: String,
    rate: Option<Bucket>,
    known: HashMap<Key, Known>,
    order: VecDeque<Key>,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<(PodEvent, Timestamp)>) {
        while let Some((event, at)) = events.recv().await {
            while self.rate.as_mut().is_some_and(|rate| !rate.take(Instant::now())) {
                tokio::time::sleep(TURN).await;
            }
            self.write(event, at).await;
        }
    }

    async fn write(&mut self, event: PodEvent, at: Timestamp) {
        let uid = event.pod.metadata.uid.clone().unwrap_or_default();
        let namespace = event.pod.metadata.namespace.clone().unwrap_or_default();
        let key = Key {
            uid,
            field_path: event.field_path.clone(),
            reason: event.reason,
            message: event.message.clone(),
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Some(known) = self.known.get_mut(&key) {
            known.count = known.count.saturating_add(1);
            let patch = json!({ "count": known.count, "lastTimestamp": build::seconds(at) });
            let patched = api.patch(&known.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match patched {
                Ok(_) => return,
                // It has expired: a new one is made.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return tracing::debug!(%error, reason = event.reason, "count an event"),
            }
        }
        let object = build::event(&event, &self.node_name, at);
        let name = object.metadata.name.clone().unwrap_or_default();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => self.remember(key, name),
            Err(error) => tracing::debug!(%error, reason = event.reason, "create an event"),
        }
    }

    fn remember(&mut self, key: Key, name: String) {
        if self.known.insert(key.clone(), Known { name, count: 1 }).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}
