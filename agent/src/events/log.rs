//! Events where there is no API server to take them: lines of the log.

use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    images::collect::NodeEvents,
    worker::ports::{EventSink, PodEvent},
};

/// Writes events to the log.
pub struct EventLog;

impl EventSink for EventLog {
    fn record(&self, PodEvent { pod, field_path, warning, reason, message, annotations: _ }: PodEvent) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let part = field_path.unwrap_or_default();
        if warning {
            tracing::warn!(namespace, name, part, reason, message, "pod");
        } else {
            tracing::info!(namespace, name, part, reason, message, "pod");
        }
    }
}

impl NodeEvents for EventLog {
    fn tell(&self, warning: bool, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
        if warning {
            tracing::warn!(reason, message, "node");
        } else {
            tracing::info!(reason, message, "node");
        }
        std::future::ready(()).boxed()
    }
}
