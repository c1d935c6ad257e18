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

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

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

/// What all workers share.
#[derive(Clone)]
pub struct Shared {
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

/// Where actions and probes report to.
pub(crate) type Reports = mpsc::UnboundedSender<Message>;

impl Shared {
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
