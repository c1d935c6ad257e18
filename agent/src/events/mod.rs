//! Events for users, as `kubectl describe` and `kubectl get events` show them.
//!
//! ```text
//! workers, probers ─ record(event) ─▶ bounded queue ─▶ Recorder task ─ correlate [p] ─ create, or count + 1 ─▶ API server
//! ```
//!
//! Order is kept. Nobody waits for an event: when the queue is full the newest is dropped and counted. Not for: logs.

pub(crate) mod build;
mod correlate;
pub mod log;
mod lru;
pub mod node;
pub mod service;

use std::{
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
use tokio::{sync::mpsc, task::JoinHandle};

use self::correlate::{Correlator, Verdict};
use crate::images::rate::{Bucket, Rate};
use crate::worker::ports::{Clock, EventSink, PodEvent};

const QUEUE: usize = 1024;
/// How often it is looked whether the next event may be written.
const TURN: Duration = Duration::from_millis(20);

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
        let writer = Writer { client, node_name, rate, correlator: Correlator::default() };
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

struct Writer {
    client: Client,
    node_name: String,
    rate: Option<Bucket>,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut events: mpsc::Receiver<(PodEvent, Timestamp)>) {
        while let Some((event, at)) = events.recv().await {
            while self.rate.as_mut().is_some_and(|rate| !rate.take(Instant::now())) {
                tokio::time::sleep(TURN).await;
            }
            self.write(&event, at).await;
        }
    }

    async fn write(&mut self, event: &PodEvent, at: Timestamp) {
        let namespace = event.pod.metadata.namespace.as_deref().unwrap_or_default();
        let verdict = self.correlator.take(build::event(event, &self.node_name, at), at);
        write(&Api::namespaced(self.client.clone(), namespace), verdict).await;
    }
}

/// Does what was judged. What cannot be written is lost.
async fn write(api: &Api<Event>, verdict: Verdict) {
    let new = match verdict {
        Verdict::Drop => return,
        Verdict::Create(new) => new,
        Verdict::Patch { name, patch, whole } => {
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return,
                // It has expired: a new one is made.
                Err(kube::Error::Api(status)) if status.code == 404 => whole,
                Err(error) => return tracing::debug!(%error, reason = whole.reason, "count an event"),
            }
        }
    };
    if let Err(error) = api.create(&PostParams::default(), &new).await {
        tracing::debug!(%error, reason = new.reason, "create an event");
    }
}
