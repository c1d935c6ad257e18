//! EndpointSlices for Services whose addresses people give as Endpoints: whoever serves Services reads slices alone.
//!
//! Not for: Services with a selector, which have slices of their own (`endpointslice`).

mod plan;
mod subsets;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Endpoints;
use kube::Client;

use crate::cache::Cache;
use crate::error::SyncError;
use crate::object::Key;
use crate::queue::Queue;
use crate::record::Recorder;
use crate::slices;

use plan::{MANAGER, Plan};

const PARALLEL: usize = 4;

struct Mirroring {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
}

/// Mirrors until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            add.add(Key::of(&service.metadata));
        }
    });
    let add = Arc::clone(&queue);
    cache.endpoints.on_change(move |old, new| {
        if let Some(endpoints) = new.or(old) {
            add.add(Key::of(&endpoints.metadata));
        }
    });
    slices::follow(&cache, &queue, MANAGER);
    cache.services.synced().await;
    cache.endpoints.synced().await;
    cache.endpoint_slices.synced().await;
    let recorder = recorder.named("endpoint-slice-mirroring-controller");
    let controller = Mirroring { client, cache, recorder };
    queue.work("endpointslice-mirroring-controller", PARALLEL, |key| controller.sync(key)).await;
}

impl Mirroring {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let (endpoints, service) = (self.cache.endpoints.get(&key), self.cache.services.get(&key));
        let known = slices::of_service(&self.cache, &key, MANAGER);
        let mirrored = plan::mirrored(endpoints.as_deref(), service.as_deref());
        let plan = plan::plan(mirrored, &known);
        if let Some(endpoints) = mirrored {
            self.tell(endpoints, &plan);
        }
        let writes =
            plan.writes.into_iter().map(|write| slices::write(&self.client, &self.cache, &key, write));
        join_all(writes).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        Ok(None)
    }

    /// What is not mirrored, in upstream's words.
    fn tell(&self, endpoints: &Endpoints, plan: &Plan) {
        let Plan { invalid, skipped, .. } = plan;
        if *invalid > 0 {
            let text = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
            self.recorder.warning(endpoints, "InvalidIPAddress", text);
        }
        if skipped > invalid {
            let text = format!(
                "A max of {} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped",
                subsets::MAX
            );
            self.recorder.warning(endpoints, "TooManyAddressesToMirror", text);
        }
    }
}
