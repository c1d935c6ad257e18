//! Deployments: replaces the pods of an old template by those of a new one, step by step, and back.
//!
//! The plan works on drafts of the ReplicaSets and yields the writes that lead there; each pass does one step,
//! and the answers of its writes trigger the next.

mod draft;
mod plan;
mod revision;
mod rollout;
mod status;
mod template;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::params::PropagationPolicy;
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::claim::{claim, settle};
use crate::error::{SyncError, Trying, is_conflict, is_not_found, message, reason};
use crate::object::{
    Key, controller_of, controller_reference, is_controlled_by, is_deleting, labels, name, namespace,
    selector, uid,
};
use crate::queue::Queue;
use crate::record::Recorder;

use plan::{Action, Observed};

const PARALLEL: usize = 8;

struct Deployments {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
}

/// Controls Deployments until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    subscribe(&cache, &queue);
    cache.pods.synced().await;
    cache.replica_sets.synced().await;
    cache.deployments.synced().await;
    let recorder = recorder.named("deployment-controller");
    let controller = Deployments { client, cache, recorder };
    queue.work("deployment-controller", PARALLEL, |key| controller.sync(key)).await;
}

fn subscribe(cache: &Arc<Cache>, queue: &Arc<Queue<Key>>) {
    let add = Arc::clone(queue);
    cache.deployments.on_change(move |_, new| {
        if let Some(deployment) = new {
            add.add(Key::of(&deployment.metadata));
        }
    });
    let (add, all) = (Arc::clone(queue), Arc::clone(cache));
    cache.replica_sets.on_change(move |old, new| {
        for set in [old, new].into_iter().flatten() {
            match controller_of(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => {
                    add.add(Key::new(namespace(&set.metadata), &*owner.name));
                }
                Some(_) => {}
                None => {
                    for deployment in candidates(&all, set) {
                        add.add(Key::of(&deployment.metadata));
                    }
                }
            }
        }
    });
    // Recreate waits until the last old pod is gone.
    let (add, all) = (Arc::clone(queue), Arc::clone(cache));
    cache.pods.on_change(move |old, new| {
        let gone = match (old, new) {
            (Some(old), None) => old,
            (_, Some(new)) if crate::object::is_finished(new) => new,
            _ => return,
        };
        let Some(owner) = controller_of(&gone.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
            return;
        };
        let set = all.replica_sets.get(&Key::new(namespace(&gone.metadata), &*owner.name));
        if let Some(owner) = set.as_ref().and_then(|set| controller_of(&set.metadata)) {
            add.add(Key::new(namespace(&gone.metadata), &*owner.name));
        }
    });
}

/// The Deployments that would adopt this ReplicaSet.
fn candidates(cache: &Cache, set: &ReplicaSet) -> Vec<Arc<Deployment>> {
    cache.deployments.select(namespace(&set.metadata), |deployment| {
        let selector = deployment.spec.as_ref().map(|spec| selector(Some(&spec.selector)));
        selector.is_some_and(|s| s.is_ok_and(|s| !s.is_empty() && s.matches(labels(&set.metadata))))
    })
}

impl Deployments {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let Some(deployment) = self.cache.deployments.get(&key) else { return Ok(None) };
        let selector = selector(deployment.spec.as_ref().map(|spec| &spec.selector))
            .map_err(|error| SyncError::Object(error.to_string()))?;
        if selector.is_empty() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*deployment, "SelectingAll", text.to_owned());
            return Ok(None);
        }
        let owner = uid(&deployment.metadata);
        let seen = self.cache.replica_sets.select(&key.namespace, |set| {
            is_controlled_by(&set.metadata, owner)
                || (controller_of(&set.metadata).is_none() && selector.matches(labels(&set.metadata)))
        });
        let claimed = claim(&deployment.metadata, &selector, seen);
        let sets = settle(&self.client, &self.cache.replica_sets, &*deployment, claimed).await?;
        let pods = self.cache.pods.select(&key.namespace, |pod| {
            let owner = controller_of(&pod.metadata);
            owner.is_some_and(|owner| sets.iter().any(|set| uid(&set.metadata) == owner.uid))
        });
        let plan = plan::plan(&Observed {
            deployment: &deployment,
            owner: controller_reference(&*deployment),
            sets: &sets,
            pods: &pods,
            now: Timestamp::now(),
        });
        for action in plan.actions {
            if !self.act(&deployment, action).await? {
                break;
            }
        }
        Ok(plan.again)
    }

    /// Does one thing; false when the rest of the plan rests on something that turned out different.
    async fn act(&self, deployment: &Deployment, action: Action) -> Result<bool, SyncError> {
        match action {
            Action::Create(set) => self.create(deployment, *set).await,
            Action::Update { set, patch, scaled } => self.update(deployment, &set, patch, scaled).await,
            Action::Delete(set) => self.delete(&set).await,
            Action::Revision(revision) => self.annotate(deployment, &revision).await,
            Action::Status(status) => self.write_status(deployment, *status).await,
        }
    }

    async fn create(&self, deployment: &Deployment, set: ReplicaSet) -> Result<bool, SyncError> {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), namespace(&deployment.metadata));
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        match api.create(&PostParams::default(), &set).await {
            Ok(created) => {
                if replicas > 0 {
                    let set_name = name(&created.metadata);
                    let text = format!("Scaled up replica set {set_name} from 0 to {replicas}");
                    self.recorder.normal(deployment, "ScalingReplicaSet", text);
                }
                self.cache.replica_sets.absorb(created);
                Ok(true)
            }
            Err(error) if reason(&error) == "AlreadyExists" => self.collided(deployment, &set, &api).await,
            Err(error) => {
                let text = message(&error);
                if reason(&error) == "Forbidden" && text.contains("because it is being terminated") {
                    return Ok(false);
                }
                let text = format!("Failed to create new replica set \"{}\": {text}", name(&set.metadata));
                self.recorder.warning(deployment, "ReplicaSetCreateError", text.clone());
                let status = status::creation_failed(deployment, text, Timestamp::now());
                self.write_status(deployment, status).await?;
                Err(error).trying(|| format!("create replicaset {}", name(&set.metadata)))
            }
        }
    }

    /// The name is taken: by the very set that was to be made (the cache is behind), or by another template with
    /// the same hash. Then the next hash includes one more collision.
    async fn collided(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        api: &Api<ReplicaSet>,
    ) -> Result<bool, SyncError> {
        let set_name = name(&set.metadata);
        let there = api.get_opt(set_name).await.trying(|| format!("read replicaset {set_name}"))?;
        let Some(there) = there else { return Ok(false) };
        let ours = is_controlled_by(&there.metadata, uid(&deployment.metadata));
        if ours && template::is_same(&there, set) {
            self.cache.replica_sets.absorb(there);
            return Ok(false);
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(deployment, status).await?;
        Ok(false)
    }

    async fn update(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        patch: serde_json::Value,
        scaled: Option<(i32, i32)>,
    ) -> Result<bool, SyncError> {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), namespace(&set.metadata));
        let set_name = name(&set.metadata);
        match api.patch(set_name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(updated) => self.cache.replica_sets.absorb(updated),
            // The next pass sees what became of it.
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(false),
            error => drop(error.trying(|| format!("update replicaset {set_name}"))?),
        }
        if let Some((from, to)) = scaled {
            let direction = if to > from { "up" } else { "down" };
            let text = format!("Scaled {direction} replica set {set_name} from {from} to {to}");
            self.recorder.normal(deployment, "ScalingReplicaSet", text);
        }
        Ok(true)
    }

    async fn delete(&self, set: &ReplicaSet) -> Result<bool, SyncError> {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), namespace(&set.metadata));
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: set.metadata.uid.clone(), resource_version: None }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match api.delete(name(&set.metadata), &params).await {
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                Err(error).trying(|| format!("delete replicaset {}", name(&set.metadata)))
            }
            _ => Ok(true),
        }
    }

    async fn annotate(&self, deployment: &Deployment, revision: &str) -> Result<bool, SyncError> {
        let patch = json!({ "metadata": { "annotations": { revision::REVISION: revision } } });
        let api = Api::<Deployment>::namespaced(self.client.clone(), namespace(&deployment.metadata));
        let name = name(&deployment.metadata);
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(updated) => self.cache.deployments.absorb(updated),
            Err(error) if is_not_found(&error) => return Ok(false),
            error => drop(error.trying(|| format!("write the revision of deployment {name}"))?),
        }
        Ok(true)
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<bool, SyncError> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), namespace(&deployment.metadata));
        let name = name(&deployment.metadata);
        let patch = Patch::Merge(status::patch(&status));
        match api.patch_status(name, &PatchParams::default(), &patch).await {
            Ok(updated) => self.cache.deployments.absorb(updated),
            Err(error) if is_not_found(&error) => return Ok(false),
            error => drop(error.trying(|| format!("write the status of deployment {name}"))?),
        }
        Ok(!is_deleting(&deployment.metadata))
    }
}
