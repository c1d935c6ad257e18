//! Events about the node itself: rare, so that each is written at once.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, Client, api::PostParams};

use crate::{images::collect::NodeEvents, node::news, worker::ports::Clock};

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
    fn tell(&self, warning: bool, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
        async move {
            let kind = if warning { "Warning" } else { "Normal" };
            let event = news::event(&self.node_name, kind, reason, message, 0, self.clock.now());
            let api = Api::<Event>::namespaced(self.client.clone(), news::NAMESPACE);
            if let Err(error) = api.create(&PostParams::default(), &event).await {
                tracing::debug!(%error, reason, "create an event");
            }
        }
        .boxed()
    }
}
