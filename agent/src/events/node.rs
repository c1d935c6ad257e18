//! Events about the node itself: rare, so that each is written at once; judged as those of pods are.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{FutureExt as _, future::BoxFuture};
use kube::{Api, Client};

use super::{build, correlate::Correlator, write};
use crate::{images::collect::NodeEvents, node::news, worker::ports::Clock};

/// Writes them.
pub struct NodeRecorder {
    client: Client,
    node_name: String,
    clock: Arc<dyn Clock>,
    correlator: Mutex<Correlator>,
}

impl NodeRecorder {
    /// For a node.
    #[must_use]
    pub fn new(client: Client, node_name: String, clock: Arc<dyn Clock>) -> Self {
        Self { client, node_name, clock, correlator: Mutex::default() }
    }
}

impl NodeEvents for NodeRecorder {
    fn tell(&self, warning: bool, reason: &'static str, message: String) -> BoxFuture<'_, ()> {
        async move {
            let at = self.clock.now();
            let event = news::event(&self.node_name, warning, reason, &message, at);
            let verdict = self.correlator.lock().unwrap_or_else(PoisonError::into_inner).take(event, at);
            write(&Api::namespaced(self.client.clone(), build::NAMESPACE), verdict).await;
        }
        .boxed()
    }
}
