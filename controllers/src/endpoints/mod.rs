//! Endpoints, the older form of EndpointSlices, for clients that still read them.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Endpoints;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::cache::Cache;
use crate::endpointslice::{backends, follow_services};
use crate::error::{SyncError, Trying, message, reason};
use crate::object::Key;
use crate::queue::Queue;
use crate::service;

const PARALLEL: usize = 4;

struct EndpointsController {
    client: Client,
    cache: Arc<Cache>,
}

/// Publishes until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    follow_services(&cache, &queue);
    let add = Arc::clone(&queue);
    cache.endpoints.on_change(move |old, new| {
        if let Some(endpoints) = new.or(old) {
            add.add(Key::of(&endpoints.metadata));
        }
    });
    cache.services.synced().await;
    cache.pods.synced().await;
    cache.endpoints.synced().await;
    let controller = EndpointsController { client, cache };
    queue.work("endpoints-controller", PARALLEL, |key| controller.sync(key)).await;
}

impl EndpointsController {
    /// An object of a Service that is gone is removed by the garbage collector of owners, or by us.
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let known = self.cache.endpoints.get(&key);
        let api = Api::<Endpoints>::namespaced(self.client.clone(), &key.namespace);
        let Some(service) = self.cache.services.get(&key) else {
            if known.is_some_and(|known| plan::is_ours(&known)) {
                let answer = api.delete(&key.name, &kube::api::DeleteParams::default()).await;
                if !answer.as_ref().is_err_and(crate::error::is_not_found) {
                    answer.trying(|| format!("delete endpoints {key}"))?;
                }
            }
            return Ok(None);
        };
        if !service::is_ours(&service) {
            return Ok(None);
        }
        // Endpoints know one family only: the Service's first.
        let family = service::families(&service).into_iter().next().unwrap_or_default();
        let wanted = plan::plan(&service, &backends(&self.cache, &service, &family), known.as_deref());
        let Some(wanted) = wanted else { return Ok(None) };
        let params = PostParams::default();
        let answer = match known {
            None => api.create(&params, &wanted).await,
            Some(_) => api.replace(&key.name, &params, &wanted).await,
        };
        match answer {
            Ok(endpoints) => self.cache.endpoints.absorb(endpoints),
            Err(error) if reason(&error) == "Forbidden" && message(&error).contains("being terminated") => {}
            error => drop(error.trying(|| format!("write endpoints {key}"))?),
        }
        Ok(None)
    }
}
