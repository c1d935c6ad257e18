//! Owner garbage collection: deletes objects whose owners are all gone, finishes foreground and orphaning
//! deletions.
//!
//! ```text
//!  stores ──every object's owners and finalizers──▶ Graph [pure] ──uids──▶ Queue ──▶ plan [pure] ──▶ writes
//! ```
//! Before an owner counts as gone, the API server is asked for it: the graph alone may be behind.

mod graph;
mod owners;
mod plan;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::core::params::PropagationPolicy;
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use crate::cache::{Cache, Store};
use crate::error::{SyncError, Trying, is_not_found};
use crate::queue::Queue;

use graph::{Graph, Item};
use owners::Owners;
use plan::{Action, Policy};

const PARALLEL: usize = 16;

struct Collector {
    client: Client,
    graph: Arc<Mutex<Graph>>,
    owners: Owners,
}

/// Collects until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    let graph = Arc::new(Mutex::new(Graph::default()));
    follow(&cache.pods, &graph, &queue);
    follow(&cache.nodes, &graph, &queue);
    follow(&cache.services, &graph, &queue);
    follow(&cache.replica_sets, &graph, &queue);
    follow(&cache.deployments, &graph, &queue);
    follow(&cache.endpoint_slices, &graph, &queue);
    follow(&cache.endpoints, &graph, &queue);
    follow(&cache.namespaces, &graph, &queue);
    follow(&cache.leases, &graph, &queue);
    follow(&cache.volumes, &graph, &queue);
    follow(&cache.claims, &graph, &queue);
    follow(&cache.storage_classes, &graph, &queue);
    follow(&cache.config_maps, &graph, &queue);
    follow(&cache.secrets, &graph, &queue);
    follow(&cache.service_accounts, &graph, &queue);
    cache.synced().await;
    let collector = Collector { owners: Owners::new(client.clone()), client, graph };
    queue.work("garbage-collector", PARALLEL, |uid| collector.sync(uid)).await;
}

/// A store whose objects can be owners and be owned.
fn follow<K: Owned>(store: &Store<K>, graph: &Arc<Mutex<Graph>>, queue: &Arc<Queue<String>>) {
    let (graph, queue, resource) = (Arc::clone(graph), Arc::clone(queue), Arc::new(K::resource()));
    store.on_change(move |old, new| {
        let mut graph = graph.lock().unwrap_or_else(PoisonError::into_inner);
        let uids = match (old, new) {
            (_, Some(new)) => graph.put(Item::of(new.meta(), &resource)),
            (Some(old), None) => graph.remove(old.meta().uid.as_deref().unwrap_or_default()),
            (None, None) => Vec::new(),
        };
        drop(graph);
        for uid in uids {
            queue.add(uid);
        }
    });
}

/// Kinds of the cache, whole or metadata only.
trait Owned: Resource + Send + Sync + 'static {
    fn resource() -> ApiResource;
}

impl<K: Resource<DynamicType = ()> + Send + Sync + 'static> Owned for K {
    fn resource() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
}

impl Collector {
    async fn sync(&self, uid: String) -> Result<Option<Duration>, SyncError> {
        let Some(view) = self.graph.lock().unwrap_or_else(PoisonError::into_inner).view(&uid) else {
            return Ok(None);
        };
        let mut absent = Vec::new();
        for owner in &view.unknown_owners {
            if self.owners.is_absent(&view.item, owner).await? {
                absent.push(owner.uid.clone());
            }
        }
        let action = plan::plan(&view, &absent);
        tracing::trace!(object = %view.item, ?action, "garbage collection");
        match action {
            Action::Nothing => {}
            Action::Delete(policy) => self.delete(&view.item, policy).await?,
            Action::DropOwners(uids) => {
                self.patch(&view.item, json!({ "ownerReferences": view.item.owners_without(&uids) })).await?;
            }
            Action::Orphan => {
                let uids = [uid];
                let patches = view.dependents.iter().map(|dependent| {
                    self.patch(dependent, json!({ "ownerReferences": dependent.owners_without(&uids) }))
                });
                for result in join_all(patches).await {
                    result?;
                }
            }
            Action::Finish(finalizer) => {
                self.patch(&view.item, json!({ "finalizers": view.item.finalizers_without(finalizer) }))
                    .await?;
            }
        }
        Ok(None)
    }

    fn api(&self, item: &Item) -> Api<DynamicObject> {
        match item.namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &*item.resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &*item.resource),
        }
    }

    /// Deletes exactly the object that was judged: not a newer one, which may have another owner by now.
    async fn delete(&self, item: &Item, policy: Policy) -> Result<(), SyncError> {
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                Policy::Background => PropagationPolicy::Background,
                Policy::Foreground => PropagationPolicy::Foreground,
                Policy::Orphan => PropagationPolicy::Orphan,
            }),
            preconditions: Some(Preconditions {
                uid: Some(item.uid.clone()),
                resource_version: Some(item.version.clone()),
            }),
            ..DeleteParams::default()
        };
        match self.api(item).delete(&item.name, &params).await {
            Err(error) if is_not_found(&error) => Ok(()),
            answer => answer.trying(|| format!("delete {item}")).map(drop),
        }
    }

    async fn patch(&self, item: &Item, mut metadata: Value) -> Result<(), SyncError> {
        metadata["uid"] = json!(item.uid);
        metadata["resourceVersion"] = json!(item.version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match self.api(item).patch_metadata(&item.name, &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) => Ok(()),
            answer => answer.trying(|| format!("change the owners or finalizers of {item}")).map(drop),
        }
    }
}
