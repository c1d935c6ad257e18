//! EndpointSlices: publishes the pods behind every Service with a selector.

mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found, message, reason};
use crate::object::{Key, controller_reference, labels, name, namespace};
use crate::queue::Queue;
use crate::record::Recorder;
use crate::service::{self, Backend};

use plan::{MANAGED_BY, MANAGER, SERVICE, Write};

const PARALLEL: usize = 8;

struct EndpointSlices {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
}

/// Publishes until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    subscribe(&cache, &queue);
    cache.services.synced().await;
    cache.pods.synced().await;
    cache.nodes.synced().await;
    cache.endpoint_slices.synced().await;
    let controller = EndpointSlices { client, cache, recorder: recorder.named("endpoint-slice-controller") };
    queue.work("endpointslice-controller", PARALLEL, |key| controller.sync(key)).await;
}

fn subscribe(cache: &Arc<Cache>, queue: &Arc<Queue<Key>>) {
    follow_services(cache, queue);
    // A slice that somebody else changed or removed is put right.
    let add = Arc::clone(queue);
    cache.endpoint_slices.on_change(move |old, new| {
        let ours = |slice: &&Arc<EndpointSlice>| {
            labels(&slice.metadata).get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
        };
        if let Some(slice) = new.or(old).filter(ours)
            && let Some(service) = labels(&slice.metadata).get(SERVICE)
        {
            add.add(Key::new(namespace(&slice.metadata), service));
        }
    });
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
        let known = self.cache.endpoint_slices.select(&key.namespace, |slice| {
            let labels = labels(&slice.metadata);
            labels.get(SERVICE) == Some(&key.name) && labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER)
        });
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
        let results = join_all(writes.into_iter().map(|write| self.write(&key, write))).await;
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

    async fn write(&self, key: &Key, write: Write) -> Result<(), SyncError> {
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        match write {
            Write::Create(slice) => match api.create(&params, &slice).await {
                Ok(slice) => self.cache.endpoint_slices.absorb(slice),
                Err(error)
                    if reason(&error) == "Forbidden" && message(&error).contains("being terminated") => {}
                error => drop(error.trying(|| format!("create an endpoint slice of service {key}"))?),
            },
            Write::Replace(slice) => {
                let slice_name = name(&slice.metadata).to_owned();
                match api.replace(&slice_name, &params, &slice).await {
                    Ok(slice) => self.cache.endpoint_slices.absorb(slice),
                    error => drop(error.trying(|| format!("replace endpoint slice {slice_name}"))?),
                }
            }
            Write::Delete(slice) => match api.delete(name(&slice.metadata), &DeleteParams::default()).await {
                Err(error) if is_not_found(&error) => {}
                answer => drop(answer.trying(|| format!("delete endpoint slice {}", name(&slice.metadata)))?),
            },
        }
        Ok(())
    }
}
