//! Keeps claims that pods use, and volumes that are bound, until nobody needs them (StorageObjectInUseProtection).

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found};
use crate::object::{Key, is_deleting, name, namespace, node_name};
use crate::queue::Queue;

use super::words::volume_phase;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

/// The name of the claim that a volume of a pod stands for.
pub(crate) fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{}-{}", name(&pod.metadata), volume.name)))
}

/// The claims that a pod uses.
pub(crate) fn claims_of(pod: &Pod) -> impl Iterator<Item = Key> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| claim_of(pod, volume));
    names.map(|claim| Key::new(namespace(&pod.metadata), claim))
}

/// The finalizers that an object should have; nothing when they are right.
fn finalizers(meta: &ObjectMeta, ours: &str, in_use: bool) -> Option<Vec<String>> {
    let known = meta.finalizers.clone().unwrap_or_default();
    let has = known.iter().any(|finalizer| finalizer == ours);
    match (is_deleting(meta), has) {
        (true, true) if !in_use => Some(known.into_iter().filter(|finalizer| finalizer != ours).collect()),
        (false, false) => Some(known.into_iter().chain([ours.to_owned()]).collect()),
        _ => None,
    }
}

/// Protects claims until dropped.
pub(crate) async fn run_claims(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.claims.on_change(move |_, new| {
        if let Some(claim) = new {
            add.add(Key::of(&claim.metadata));
        }
    });
    let add = Arc::clone(&queue);
    cache.pods.on_change(move |old, new| {
        if let (Some(pod), None) = (old, new) {
            claims_of(pod).for_each(|key| add.add(key));
        }
    });
    cache.synced().await;
    let sync = async |key: Key| {
        let Some(claim) = cache.claims.get(&key) else { return Ok(None) };
        // What is not on a node yet will not start with a claim that is going.
        let uses = |pod: &Pod| node_name(pod).is_some() && claims_of(pod).any(|used| used == key);
        let in_use = !cache.pods.select(&key.namespace, uses).is_empty();
        let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &key.namespace);
        write(&api, &claim.metadata, finalizers(&claim.metadata, CLAIM, in_use)).await
    };
    queue.work("pvc-protection", 4, sync).await;
}

/// Protects volumes until dropped.
pub(crate) async fn run_volumes(client: Client, cache: Arc<Cache>) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.volumes.on_change(move |_, new| {
        if let Some(volume) = new {
            add.add(Key::of(&volume.metadata));
        }
    });
    cache.synced().await;
    let api = Api::<PersistentVolume>::all(client);
    let sync = async |key: Key| {
        let Some(volume) = cache.volumes.get(&key) else { return Ok(None) };
        let in_use = volume_phase(&volume) == "Bound";
        write(&api, &volume.metadata, finalizers(&volume.metadata, VOLUME, in_use)).await
    };
    queue.work("pv-protection", 4, sync).await;
}

async fn write<K: Clone + Debug + DeserializeOwned>(
    api: &Api<K>,
    meta: &ObjectMeta,
    finalizers: Option<Vec<String>>,
) -> Result<Option<Duration>, SyncError> {
    let Some(finalizers) = finalizers else { return Ok(None) };
    let patch = json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": finalizers,
    }});
    match api.patch(name(meta), &PatchParams::default(), &Patch::Merge(patch)).await {
        Err(error) if is_not_found(&error) => Ok(None),
        answer => answer.trying(|| format!("change the finalizers of {}", Key::of(meta))).map(|_| None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn finalizers_come_early_and_go_when_nobody_needs_them() {
        let check = |meta: &str, in_use: bool, expected: Option<&[&str]>| {
            let found = finalizers(&yaml(meta), CLAIM, in_use);
            let found = found.as_ref().map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{meta}");
        };
        let going = "deletionTimestamp: '2024-01-01T00:00:00Z'";
        check("{finalizers: [x]}", false, Some(&["x", CLAIM]));
        check(&format!("{{finalizers: [{CLAIM}]}}"), false, None);
        check(&format!("{{finalizers: [x, {CLAIM}], {going}}}"), true, None);
        check(&format!("{{finalizers: [x, {CLAIM}], {going}}}"), false, Some(&["x"]));
        check(&format!("{{finalizers: [x], {going}}}"), false, None);
    }

    #[test]
    fn a_pod_uses_the_claims_that_it_names_and_those_made_for_it() {
        let pod: Pod = yaml(
            "{metadata: {name: p, namespace: ns}, spec: {containers: [], volumes: [{name: a, persistentVolumeClaim: {claimName: data}}, {name: b, ephemeral: {}}, {name: c, emptyDir: {}}]}}",
        );
        let claims: Vec<_> = claims_of(&pod).map(|key| key.to_string()).collect();
        assert_eq!(claims, ["ns/data", "ns/p-b"]);
    }
}
