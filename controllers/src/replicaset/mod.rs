//! ReplicaSets: keeps as many pods as asked for, and says how many are ready.
//!
//! The loop claims pods, creates or deletes what the plan says, and writes the status. Created pods enter the
//! cache with the answer, deleted ones are remembered until the watch shows it: no pod is made or removed twice.

mod plan;
mod rank;
mod status;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::params::PropagationPolicy;
use kube::{Api, Client};

use crate::cache::Cache;
use crate::claim::{claim, settle};
use crate::error::{SyncError, Trying, is_not_found, message, reason};
use crate::object::{
    Key, controller_of, controller_reference, is_active, is_controlled_by, is_deleting, labels, name,
    namespace, selector, uid,
};
use crate::queue::Queue;
use crate::record::Recorder;

use plan::Scaling;
use status::Failure;

const PARALLEL: usize = 8;
/// Pods created or deleted in one pass, at most.
const BURST: usize = 500;
/// The first group of pods that is created together; each further group is twice as large. When a group has
/// failures (a full quota, say), the rest of the pass is not tried.
const FIRST_GROUP: usize = 16;

struct ReplicaSets {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
    /// Pods that were deleted but still look alive in the cache, by ReplicaSet.
    going: Mutex<HashMap<Key, HashSet<String>>>,
}

/// Controls ReplicaSets until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    subscribe(&cache, &queue);
    cache.pods.synced().await;
    cache.replica_sets.synced().await;
    let recorder = recorder.named("replicaset-controller");
    let controller = ReplicaSets { client, cache, recorder, going: Mutex::default() };
    queue.work("replicaset-controller", PARALLEL, |key| controller.sync(key)).await;
}

fn subscribe(cache: &Arc<Cache>, queue: &Arc<Queue<Key>>) {
    let add = Arc::clone(queue);
    cache.replica_sets.on_change(move |old, new| {
        let only_status = matches!((old, new), (Some(old), Some(new))
            if old.metadata.generation.is_some()
                && old.metadata.generation == new.metadata.generation
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
                && old.metadata.labels == new.metadata.labels);
        if let Some(set) = new.or(old).filter(|_| !only_status) {
            add.add(Key::of(&set.metadata));
        }
    });
    let (add, sets) = (Arc::clone(queue), Arc::clone(cache));
    cache.pods.on_change(move |old, new| {
        for pod in [old, new].into_iter().flatten() {
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == "ReplicaSet" => {
                    add.add(Key::new(namespace(&pod.metadata), &*owner.name));
                }
                Some(_) => {}
                None => {
                    for set in candidates(&sets, pod) {
                        add.add(Key::of(&set.metadata));
                    }
                }
            }
        }
    });
}

/// The ReplicaSets that would adopt this pod.
fn candidates(cache: &Cache, pod: &Pod) -> Vec<Arc<ReplicaSet>> {
    cache.replica_sets.select(namespace(&pod.metadata), |set| {
        let selector = set.spec.as_ref().map(|spec| selector(Some(&spec.selector)));
        selector.is_some_and(|s| s.is_ok_and(|s| !s.is_empty() && s.matches(labels(&pod.metadata))))
    })
}

impl ReplicaSets {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let Some(set) = self.cache.replica_sets.get(&key) else {
            self.lock_going().remove(&key);
            return Ok(None);
        };
        let selector = selector(set.spec.as_ref().map(|spec| &spec.selector))
            .map_err(|error| SyncError::Object(error.to_string()))?;
        let owner = uid(&set.metadata).to_owned();
        let seen = self.cache.pods.select(&key.namespace, |pod| {
            is_controlled_by(&pod.metadata, &owner)
                || (is_active(pod)
                    && controller_of(&pod.metadata).is_none()
                    && selector.matches(labels(&pod.metadata)))
        });
        let pods =
            settle(&self.client, &self.cache.pods, &*set, claim(&set.metadata, &selector, seen)).await?;
        let result = if is_deleting(&set.metadata) { Ok(()) } else { self.scale(&key, &set, &pods).await };
        let pods = self.cache.pods.select(&key.namespace, |pod| is_controlled_by(&pod.metadata, &owner));
        let failure = result.as_ref().err().cloned();
        let again = self.write_status(&key, &set, &pods, failure).await?;
        match result {
            Ok(()) => Ok(again),
            Err(failure) => Err(SyncError::Object(failure.message)),
        }
    }

    async fn scale(&self, key: &Key, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Result<(), Failure> {
        let going = self.still_going(key, pods);
        match plan::scale(set, pods, &going, &self.related(set), Timestamp::now()) {
            Scaling::Enough => Ok(()),
            Scaling::Create(count) => self.create(set, count.min(BURST)).await,
            Scaling::Delete(mut pods) => {
                pods.truncate(BURST);
                self.delete(key, set, pods).await
            }
        }
    }

    /// Forgets deleted pods that the cache knows about by now; the others.
    fn still_going(&self, key: &Key, pods: &[Arc<Pod>]) -> HashSet<String> {
        let mut going = self.lock_going();
        let Some(known) = going.get_mut(key) else { return HashSet::new() };
        known.retain(|id| pods.iter().any(|pod| uid(&pod.metadata) == id && is_active(pod)));
        if known.is_empty() {
            going.remove(key);
            return HashSet::new();
        }
        known.clone()
    }

    fn lock_going(&self) -> std::sync::MutexGuard<'_, HashMap<Key, HashSet<String>>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods of all ReplicaSets of the same Deployment: where they crowd, scaling down starts.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let namespace = namespace(&set.metadata);
        let owner = controller_of(&set.metadata).map(|owner| owner.uid.clone());
        let siblings = self.cache.replica_sets.select(namespace, |other| match &owner {
            Some(owner) => is_controlled_by(&other.metadata, owner),
            None => other.metadata.uid == set.metadata.uid,
        });
        let owners: HashSet<_> = siblings.iter().filter_map(|set| set.metadata.uid.clone()).collect();
        self.cache.pods.select(namespace, |pod| {
            is_active(pod) && controller_of(&pod.metadata).is_some_and(|owner| owners.contains(&owner.uid))
        })
    }

    async fn create(&self, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let Some(pod) = plan::new_pod(set, controller_reference(set)) else { return Ok(()) };
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace(&set.metadata));
        let (mut left, mut group) = (count, FIRST_GROUP);
        while left > 0 {
            let now = group.min(left);
            let params = PostParams::default();
            let results = join_all((0..now).map(|_| api.create(&params, &pod))).await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", name(&pod.metadata));
                        self.cache.pods.absorb(pod);
                        self.recorder.normal(set, "SuccessfulCreate", message);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                return self.creation_failed(set, &error);
            }
            (left, group) = (left - now, group * 2);
        }
        Ok(())
    }

    fn creation_failed(&self, set: &ReplicaSet, error: &kube::Error) -> Result<(), Failure> {
        let text = message(error);
        if reason(error) == "Forbidden" && text.contains("because it is being terminated") {
            // The namespace is on its way out; there is nothing to do and nobody to tell.
            return Ok(());
        }
        self.recorder.warning(set, "FailedCreate", format!("Error creating: {text}"));
        Err(Failure { reason: "FailedCreate", message: text })
    }

    async fn delete(&self, key: &Key, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Result<(), Failure> {
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        self.lock_going()
            .entry(key.clone())
            .or_default()
            .extend(pods.iter().filter_map(|p| p.metadata.uid.clone()));
        let results = join_all(pods.iter().map(|pod| delete_pod(&api, &pod.metadata))).await;
        let mut failure = None;
        for (pod, result) in pods.iter().zip(results) {
            let pod_name = name(&pod.metadata);
            match result {
                Ok(answer) => {
                    if let Some(pod) = answer {
                        self.cache.pods.absorb(pod);
                    }
                    self.recorder.normal(set, "SuccessfulDelete", format!("Deleted pod: {pod_name}"));
                }
                Err(error) if is_not_found(&error) => {}
                Err(error) => {
                    if let Some(going) = self.lock_going().get_mut(key) {
                        going.remove(uid(&pod.metadata));
                    }
                    let text = message(&error);
                    self.recorder.warning(set, "FailedDelete", format!("Error deleting: {text}"));
                    failure = Some(Failure { reason: "FailedDelete", message: text });
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &ReplicaSet,
        pods: &[Arc<Pod>],
        failure: Option<Failure>,
    ) -> Result<Option<Duration>, SyncError> {
        // Another writer may have changed the spec while pods were made: count against what was worked on.
        let (status, again) = status::status(set, pods, failure, Timestamp::now());
        if set.status.as_ref() == Some(&status) {
            return Ok(again);
        }
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Merge(status::patch(&status));
        match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
            Ok(set) => self.cache.replica_sets.absorb(set),
            Err(error) if is_not_found(&error) => return Ok(None),
            error => drop(error.trying(|| format!("write the status of replicaset {key}"))?),
        }
        Ok(again)
    }
}

/// Deletes gracefully, but only this very pod; the pod as it is now, where the server shows it.
async fn delete_pod(api: &Api<Pod>, meta: &ObjectMeta) -> kube::Result<Option<Pod>> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: None }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let answer = api.delete(name(meta), &params).await?;
    Ok(answer.left().filter(|pod| is_deleting(&pod.metadata)))
}
