//! Events about the node itself: rare, so that each is written at once.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};

use super::build::seconds;
use crate::{images::collect::NodeEvents, worker::ports::Clock};

/// Writes them.
pub struct NodeRecorder {
    /// The API.
    pub client: Client,
    /// This node.
    pub node_name: String,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl NodeEvents for NodeRecorder {
    fn warn(&self, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
        async move {
            let event = event(&self.node_name, self.clock.now(), reason, message);
            let api = Api::<Event>::namespaced(self.client.clone(), "default");
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::debug!(%error, reason, "create an event");
            }
        }
        .boxed()
    }
}

fn event(node: &str, now: jiff::Timestamp, reason: &str, message: String) -> Event {
    let time = seconds(now);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            namespace: Some("default".into()),
            ..ObjectMeta::default()
        },
        // Upstream puts the name where the UID belongs.
        involved_object: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.into()),
            uid: Some(node.into()),
            ..ObjectReference::default()
        },
        reason: Some(reason.into()),
        message: Some(message),
        type_: Some("Warning".into()),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.into()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.into()),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        count: Some(1),
        ..Event::default()
    }
}
