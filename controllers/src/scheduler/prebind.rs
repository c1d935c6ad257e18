//! Binds the volumes of a pod that has been given a node, and waits until they are.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::error::message;
use crate::object::{Key, annotation, name, namespace};
use crate::volume::{BOUND_BY_CONTROLLER, SELECTED_NODE, is_bound};

use super::Failed;
use super::board::Placement;
use super::volumes::Binding;

/// As long as upstream's `bindTimeoutSeconds`.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn bind(client: &Client, cache: &Cache, placement: &Placement) -> Result<(), Failed> {
    for binding in &placement.volumes {
        let begun = match binding {
            Binding::Promise(claim, volume) => promise(client, claim, volume).await,
            Binding::Provision(claim) => select(client, claim, &placement.node).await,
            Binding::Await(_) => Ok(()),
        };
        begun.map_err(|error| Failed::Volumes(format!("binding volumes: {}", message(&error))))?;
    }
    let end = Instant::now() + PATIENCE;
    let mut begun = false;
    while !placement.volumes.is_empty() {
        let claims = placement.volumes.iter().map(|binding| Key::of(&binding.claim().metadata));
        let claims: Vec<_> = claims.map(|key| cache.claims.get(&key)).collect();
        if claims.iter().all(|claim| claim.as_ref().is_some_and(|claim| is_bound(claim))) {
            break;
        }
        let selected = |claim: &PersistentVolumeClaim| {
            annotation(&claim.metadata, SELECTED_NODE) == Some(&*placement.node)
        };
        // Who makes volumes takes the mark away when this node cannot have one.
        let waits = placement.volumes.iter().zip(&claims).all(|(binding, claim)| match (binding, claim) {
            (_, None) => false,
            (Binding::Promise(..), Some(_)) => true,
            (_, Some(claim)) => is_bound(claim) || selected(claim),
        });
        if begun && !waits {
            return Err(Failed::Volumes(
                "binding volumes: provisioning failed for a claim of the pod".into(),
            ));
        }
        begun |= waits;
        if cache.pods.get(&Key::of(&placement.pod.metadata)).is_none() {
            return Err(Failed::Volumes("binding volumes: the pod is gone".into()));
        }
        if Instant::now() > end {
            return Err(Failed::Volumes("binding volumes: context deadline exceeded".into()));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Gives a volume that is there to the claim; the binder does the rest.
async fn promise(
    client: &Client,
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> kube::Result<()> {
    if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
        return Ok(());
    }
    let meta = &claim.metadata;
    let patch = json!({
        "metadata": {
            "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version,
            "annotations": { BOUND_BY_CONTROLLER: "yes" },
        },
        "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        }},
    });
    let api = Api::<PersistentVolume>::all(client.clone());
    api.patch(name(&volume.metadata), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Says where the volume is needed; whoever makes it is asked by the binder.
async fn select(client: &Client, claim: &PersistentVolumeClaim, node: &str) -> kube::Result<()> {
    let patch = json!({ "metadata": { "uid": claim.metadata.uid, "annotations": { SELECTED_NODE: node } } });
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace(&claim.metadata));
    api.patch(name(&claim.metadata), &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
