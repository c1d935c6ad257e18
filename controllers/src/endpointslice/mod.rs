//! EndpointSlices: publishes the pods behind every Service with a selector.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use kube::Client;

use crate::cache::Cache;
use crate::error::{SyncError, is_conflict, message};
use crate::object::{Key, controller_reference, labels, namespace};
use crate::queue::Queue;
use crate::record::Recorder;
use crate::service::{self, Backend};
use crate::slices::{self, plan::Write};

use plan::MANAGER;

const PARALLEL: usize = 8;

struct EndpointSlices {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
}

/// Publishes until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    follow_services(&cache, &queue);
    slices::follow(&cache, &queue, MANAGER);
    cache.services.synced().await;
    cache.pods.synced().await;
    cache.nodes.synced().await;
    cache.endpoint_slices.synced().await;
    let controller = EndpointSlices { client, cache, recorder: recorder.named("endpoint-slice-controller") };
    queue.work("endpointslice-controller", PARALLEL, |key| controller.sync(key)).await;
}

/// Adds a Service whenever it, or a pod that it selects, changes.
pub(crate) fn follow_services(cache: &Arc<Cache>, queue: &Arc<Queue<Key>>) {
    let add = Arc::clone(queue);
    cache.services.on_change(move |old, new| {
        if let Some(service) = new.or(old) {
            add.add(Key::of(&service.metadata));
        }
    });
    let (add, all) = (Arc::clone(queue), Arc::clone(cache));
    cache.pods.on_change(move |old, new| {
        if let (Some(old), Some(new)) = (old, new)
            && !service::matters(old, new)
        {
            return;
        }
        let Some(any) = old.or(new) else { return };
        let services = all.services.select(namespace(&any.metadata), |service| {
            [old, new].into_iter().flatten().any(|pod| service::selects(service, pod))
        });
        for service in services {
            add.add(Key::of(&service.metadata));
        }
    });
}

/// The pods behind a Service, by IP family.
pub(crate) fn backends(cache: &Cache, service: &Service, family: &str) -> Vec<Backend> {
    let pods = cache.pods.select(namespace(&service.metadata), |pod| service::selects(service, pod));
    pods.iter().filter_map(|pod| service::backend(service, pod, family)).collect()
}

impl EndpointSlices {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let Some(service) = self.cache.services.get(&key) else { return Ok(None) };
        if !service::is_ours(&service) {
            return Ok(None);
        }
        let known = slices::of_service(&self.cache, &key, MANAGER);
        let zone = |node: &str| {
            let node = self.cache.nodes.get(&Key::new("", node))?;
            labels(&node.metadata).get("topology.kubernetes.io/zone").cloned()
        };
        let families = service::families(&service);
        let left = known.iter().filter(|slice| !families.contains(&slice.address_type));
        let mut writes: Vec<_> = left.map(|slice| Write::Delete(Arc::clone(slice))).collect();
        for family in families {
            writes.extend(plan::plan(&plan::Wanted {
                service: &service,
                owner: controller_reference(&*service),
                family: &family,
                backends: backends(&self.cache, &service, &family),
                zone: &zone,
                known: &known,
                now: Timestamp::now(),
            }));
        }
        let results =
            join_all(writes.into_iter().map(|write| slices::write(&self.client, &self.cache, &key, write)))
                .await;
        let failed = results.into_iter().find_map(Result::err);
        let Some(error) = failed else { return Ok(None) };
        if let SyncError::Api { source, .. } = &error
            && !is_conflict(source)
        {
            let text = format!("Error updating Endpoint Slices for Service {key}: {}", message(source));
            self.recorder.warning(&*service, "FailedToUpdateEndpointSlices", text);
        }
        Err(error)
    }
}
