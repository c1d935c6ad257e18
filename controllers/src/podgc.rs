//! Pods of nodes that are gone: nobody will ever report their end, so they are ended here.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found};
use crate::object::{Key, is_finished, name, node_name};
use crate::queue::Queue;

/// A node that comes back within this time keeps its pods.
const QUARANTINE: Duration = Duration::from_secs(40);

/// Ends such pods until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.pods.on_change(move |old, new| {
        if let Some(pod) = new
            && let Some(node) = node_name(pod)
            && old.is_none_or(|old| node_name(old) != Some(node))
        {
            // When it is due, the first lists are in.
            add.add_after(Key::of(&pod.metadata), QUARANTINE);
        }
    });
    let (add, all) = (Arc::clone(&queue), Arc::clone(&cache));
    cache.nodes.on_change(move |old, new| {
        if let (Some(old), None) = (old, new) {
            let gone = name(&old.metadata);
            for pod in all.pods.list().iter().filter(|pod| node_name(pod) == Some(gone)) {
                add.add_after(Key::of(&pod.metadata), QUARANTINE);
            }
        }
    });
    cache.pods.synced().await;
    cache.nodes.synced().await;
    queue.work("pod-garbage-collector", 4, |key| sync(&client, &cache, key)).await;
}

async fn sync(client: &Client, cache: &Cache, key: Key) -> Result<Option<Duration>, SyncError> {
    let Some(pod) = cache.pods.get(&key) else { return Ok(None) };
    let Some(node) = node_name(&pod) else { return Ok(None) };
    if cache.nodes.get(&Key::new("", node)).is_some() {
        return Ok(None);
    }
    let nodes = Api::<Node>::all(client.clone());
    if nodes.get_metadata_opt(node).await.trying(|| format!("look for node {node}"))?.is_some() {
        return Ok(None);
    }
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    if !is_finished(&pod) {
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.metadata.uid },
            "status": { "phase": "Failed", "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": Time(Timestamp::now()),
            }] },
        }));
        match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(None),
            answer => drop(answer.trying(|| format!("fail pod {key}"))?),
        }
    }
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    tracing::info!(pod = %key, node, "deleting a pod of a node that is gone");
    match api.delete(&key.name, &params).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => {}
        answer => drop(answer.trying(|| format!("delete pod {key}"))?),
    }
    Ok(None)
}
