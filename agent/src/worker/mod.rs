//! One task per pod: it compares what is wanted with what is there, starts the actions of the plan and waits.
//!
//! ```text
//! source ─▶ manager ─ watch<Desired> (latest wins) ─▶ pod worker ─ action ─▶ executor ─▶ runtime, images, network, disk
//!              ▲   └─ events ──────────────────────▶   │  ▲                    │
//! runtime events, written statuses, changed objects    │  └──── event ─────────┘
//!                                                      ├─ status ─▶ StatusSink
//!                                                      └─ wanted probes ─▶ prober tasks ─ event ─▶ worker
//! ```
//!
//! Not for: deciding (that is `pod`), or knowing a particular runtime or API client (those come through `ports`).

mod desk;
mod executor;
#[cfg(test)]
pub mod fakes;
mod hook;
mod image;
pub mod manager;
pub(crate) mod metrics;
mod pod_worker;
pub mod ports;
mod record;
mod resize;
mod start;
#[cfg(test)]
mod tests;
pub mod traces;

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use futures::channel::mpsc;
use k8s_openapi::api::core::v1::Pod;

pub use self::desk::{Desk, Known};
use self::{
    metrics::Metrics,
    ports::{PodEvent, Ports},
    traces::Traces,
};
use crate::pod::{
    desired::{Desired, Kind, field_path},
    events::Event,
    machine::Exit,
    settings::Settings,
};

/// What all workers share. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Common>);

/// See [`Shared`].
pub struct Common {
    /// The doors.
    pub ports: Ports,
    /// The node.
    pub settings: Arc<Settings>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// How pods came up.
    pub(crate) traces: Traces,
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened.
    Event(Event),
    /// The runtime says that a container ended; its last words are still to be read.
    Exited {
        /// Container id.
        id: String,
        /// How.
        exit: Exit,
    },
}

impl From<Event> for Message {
    fn from(event: Event) -> Message {
        Message::Event(event)
    }
}

/// Where actions and probes report to. Not tokio's channel: that has room for 32 messages from the start, for each pod.
#[derive(Clone)]
pub(crate) struct Reports(mpsc::UnboundedSender<Message>);

impl Reports {
    /// For one pod.
    fn open() -> (Reports, mpsc::UnboundedReceiver<Message>) {
        let (reports, messages) = mpsc::unbounded();
        (Reports(reports), messages)
    }

    /// A worker that has ended needs no news.
    pub(crate) fn send(&self, message: impl Into<Message>) {
        let _ended = self.0.unbounded_send(message.into());
    }
}

impl Deref for Shared {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.0
    }
}

impl Shared {
    fn new(ports: Ports, settings: Arc<Settings>) -> Shared {
        Shared(Arc::new(Common { ports, settings, metrics: Metrics::new(), traces: Traces::default() }))
    }

    /// Tells users something about a pod.
    pub(crate) fn tell(&self, desired: &Desired, warning: bool, reason: &'static str, message: String) {
        let pod = Arc::clone(&desired.pod);
        self.record(pod, None, warning, reason, message);
    }

    /// Tells users something about a container.
    pub(crate) fn tell_about(
        &self,
        desired: &Desired,
        container: &str,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let kind = desired.container(container).map_or(Kind::Regular, |(kind, _)| kind);
        let pod = Arc::clone(&desired.pod);
        let field_path = Some(field_path(kind, container));
        self.record(pod, field_path, warning, reason, message);
    }

    fn record(
        &self,
        pod: Arc<Pod>,
        field_path: Option<String>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let annotations = BTreeMap::new();
        self.ports.events.record(PodEvent { pod, field_path, warning, reason, message, annotations });
    }
}
