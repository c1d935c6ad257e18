//! The bundled provisioner, `orlop.dev/local`: volumes that are directories on the node where they are needed.
//!
//! ```text
//!  claim with selected-node ─▶ volume [pure] (local path, node affinity) ─▶ binder
//!  released, Delete ─▶ delete the volume ─▶ its node removes the directory and lets it go
//! ```
//! Where a node keeps such directories it says in an annotation. Not here: making or removing them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    LocalVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found, reason};
use crate::object::{Key, annotation, is_deleting, labels, name, uid};
use crate::queue::Queue;
use crate::record::Recorder;

use super::apply;
use super::words::{
    BIND_COMPLETED, PROVISIONED_BY, PROVISIONER, SELECTED_NODE, claim_class, policy, volume_name,
    volume_phase,
};

/// The name of the provisioner.
pub(crate) const NAME: &str = "orlop.dev/local";
/// The class that is there from the start.
const CLASS: &str = "orlop-local";
/// Where a node keeps such volumes.
const DIRECTORY: &str = "orlop.dev/local-volumes";
const ON_NODE: &str = "orlop.dev/provisioned-on";
const FINALIZER: &str = "orlop.dev/local-directory";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Whether such volumes can be made for a node.
pub(crate) fn serves(node: &Node) -> bool {
    annotation(&node.metadata, DIRECTORY).is_some_and(|directory| directory.starts_with('/'))
}

/// The volume for a claim, or why there can be none.
fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
) -> Result<PersistentVolume, String> {
    let spec = claim.spec.as_ref().ok_or("the claim has no spec")?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block volumes are not supported".into());
    }
    if spec.selector.is_some() {
        return Err("claim.Spec.Selector is not supported".into());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("claims from a data source are not supported".into());
    }
    let alone = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
    if !spec.access_modes.iter().flatten().all(alone) {
        return Err("only ReadWriteOnce and ReadWriteOncePod access modes are supported".into());
    }
    let node_name = name(&node.metadata);
    let directory = annotation(&node.metadata, DIRECTORY).filter(|_| serves(node));
    let directory = directory.ok_or_else(|| format!("node \"{node_name}\" keeps no volumes of {NAME}"))?;
    let hostname = labels(&node.metadata).get(HOSTNAME).map_or(node_name, String::as_str);
    let volume = format!("pvc-{}", uid(&claim.metadata));
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.clone());
    Ok(PersistentVolume {
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: requests,
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: claim.metadata.namespace.clone(),
                name: claim.metadata.name.clone(),
                uid: claim.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
            local: Some(LocalVolumeSource { path: format!("{directory}/{volume}"), fs_type: None }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(on_host(hostname)),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(name(&class.metadata).to_owned()),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        metadata: ObjectMeta {
            name: Some(volume),
            annotations: Some(BTreeMap::from([
                (PROVISIONED_BY.to_owned(), NAME.to_owned()),
                (ON_NODE.to_owned(), node_name.to_owned()),
            ])),
            finalizers: Some(vec![FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        status: None,
    })
}

fn on_host(hostname: &str) -> VolumeNodeAffinity {
    let requirement = NodeSelectorRequirement {
        key: HOSTNAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![hostname.to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![requirement]), match_fields: None };
    VolumeNodeAffinity { required: Some(NodeSelector { node_selector_terms: vec![term] }) }
}

/// Whether the claim asks this provisioner, and can be served now.
fn is_asked(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, PROVISIONER) == Some(NAME)
        && annotation(&claim.metadata, BIND_COMPLETED).is_none()
        && volume_name(claim).is_empty()
        && !is_deleting(&claim.metadata)
}

/// Provisions until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let recorder = recorder.named(NAME);
    let (claims, volumes) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let add = Arc::clone(&claims);
    cache.claims.on_change(move |_, new| {
        if let Some(claim) = new.filter(|claim| is_asked(claim)) {
            add.add(Key::of(&claim.metadata));
        }
    });
    let add = Arc::clone(&volumes);
    cache.volumes.on_change(move |_, new| {
        if let Some(volume) = new.filter(|volume| annotation(&volume.metadata, PROVISIONED_BY) == Some(NAME))
        {
            add.add(Key::of(&volume.metadata));
        }
    });
    let (add, all) = (Arc::clone(&volumes), Arc::clone(&cache));
    cache.nodes.on_change(move |_, new| {
        if new.is_none() {
            all.volumes.list().iter().for_each(|volume| add.add(Key::of(&volume.metadata)));
        }
    });
    cache.synced().await;
    ensure_class(&client).await;
    let make = async |key: Key| make(&client, &cache, &recorder, &key).await;
    let end = async |key: Key| end(&client, &cache, &key).await;
    tokio::join!(claims.work("local-provisioner", 4, make), volumes.work("local-provisioner", 4, end),);
}

/// The class of before stays as somebody made it.
async fn ensure_class(client: &Client) {
    let class = StorageClass {
        metadata: ObjectMeta {
            name: Some(CLASS.to_owned()),
            annotations: Some(BTreeMap::from([(
                "storageclass.kubernetes.io/is-default-class".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        provisioner: NAME.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        ..StorageClass::default()
    };
    let api = Api::<StorageClass>::all(client.clone());
    let mut pause = Duration::from_millis(200);
    while let Err(error) = api.create(&PostParams::default(), &class).await {
        if reason(&error) == "AlreadyExists" {
            return;
        }
        tracing::debug!(error = &error as &dyn std::error::Error, "storage class not made yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(30));
    }
}

async fn make(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    key: &Key,
) -> Result<Option<Duration>, SyncError> {
    let Some(claim) = cache.claims.get(key).filter(|claim| is_asked(claim)) else { return Ok(None) };
    let Some(class) = cache.storage_classes.get(&Key::new("", claim_class(&claim))) else { return Ok(None) };
    let failed = |error: String| {
        let text =
            format!("failed to provision volume with StorageClass \"{}\": {error}", name(&class.metadata));
        recorder.warning(&*claim, "ProvisioningFailed", text);
        Ok(Some(Duration::from_secs(30)))
    };
    let Some(selected) = annotation(&claim.metadata, SELECTED_NODE) else {
        return failed("a node is chosen with volumeBindingMode WaitForFirstConsumer only".into());
    };
    let Some(node) = cache.nodes.get(&Key::new("", selected)) else {
        return failed(format!("node \"{selected}\" not found"));
    };
    let volume = match volume(&claim, &class, &node) {
        Ok(volume) => volume,
        Err(error) => return failed(error),
    };
    let volume_name = name(&volume.metadata).to_owned();
    if cache.volumes.get(&Key::new("", &*volume_name)).is_some() {
        return Ok(None);
    }
    let text = format!("External provisioner is provisioning volume for claim \"{key}\"");
    recorder.normal(&*claim, "Provisioning", text);
    match Api::all(client.clone()).create(&PostParams::default(), &volume).await {
        Err(error) if reason(&error) == "AlreadyExists" => {}
        answer => {
            cache.volumes.absorb(answer.trying(|| format!("create volume {volume_name}"))?);
            let text = format!("Successfully provisioned volume {volume_name}");
            recorder.normal(&*claim, "ProvisioningSucceeded", text);
        }
    }
    Ok(None)
}

/// What this provisioner does about a volume of its own.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Nothing,
    Delete,
    /// Its node is gone, and the directory with it.
    LetGo,
}

fn judge(volume: &PersistentVolume, node_is_there: bool) -> End {
    if is_deleting(&volume.metadata) {
        let finalizers = volume.metadata.finalizers.as_deref().unwrap_or_default();
        let last = finalizers.len() == 1 && finalizers[0] == FINALIZER;
        return if last && !node_is_there { End::LetGo } else { End::Nothing };
    }
    match (volume_phase(volume), policy(volume)) {
        ("Released", "Delete") => End::Delete,
        _ => End::Nothing,
    }
}

async fn end(client: &Client, cache: &Cache, key: &Key) -> Result<Option<Duration>, SyncError> {
    let Some(volume) = cache.volumes.get(key) else { return Ok(None) };
    if annotation(&volume.metadata, PROVISIONED_BY) != Some(NAME) {
        return Ok(None);
    }
    let node = annotation(&volume.metadata, ON_NODE).unwrap_or_default();
    match judge(&volume, cache.nodes.get(&Key::new("", node)).is_some()) {
        End::Nothing => {}
        End::Delete => apply::delete(client, &volume).await?,
        End::LetGo => {
            // The cache may be behind.
            let nodes = Api::<Node>::all(client.clone());
            if nodes.get_metadata_opt(node).await.trying(|| format!("look for node {node}"))?.is_some() {
                return Ok(None);
            }
            tracing::warn!(volume = %key, node, "the node of a volume is gone, and what it held");
            let patch = json!({ "metadata": {
                "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version, "finalizers": [],
            }});
            let api = Api::<PersistentVolume>::all(client.clone());
            match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(error) if is_not_found(&error) => {}
                answer => drop(answer.trying(|| format!("let go of volume {key}"))?),
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    /// A claim's spec and a node's metadata → the volume or why there is none.
    fn check(claim: &str, node: &str, expected: Expect) {
        let claim = yaml(&format!(
            "{{metadata: {{name: data, namespace: ns, uid: u}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}, {claim}}}}}"
        ));
        let class = yaml(
            "{metadata: {name: orlop-local}, provisioner: orlop.dev/local, reclaimPolicy: Delete, mountOptions: [noatime]}",
        );
        let node = yaml(&format!("{{metadata: {{name: n1, {node}}}}}"));
        let text = match volume(&claim, &class, &node) {
            Ok(volume) => serde_norway::to_string(&volume).unwrap(),
            Err(error) => error,
        };
        expected.assert_eq(&text);
    }

    const NODE: &str =
        "labels: {kubernetes.io/hostname: host1}, annotations: {orlop.dev/local-volumes: /s/local-volumes}";

    #[test]
    fn a_claim_becomes_a_directory_on_its_node() {
        check(
            "",
            NODE,
            expect![[r#"
            apiVersion: v1
            kind: PersistentVolume
            metadata:
              annotations:
                orlop.dev/provisioned-on: n1
                pv.kubernetes.io/provisioned-by: orlop.dev/local
              finalizers:
              - orlop.dev/local-directory
              name: pvc-u
            spec:
              accessModes:
              - ReadWriteOnce
              capacity:
                storage: 1Gi
              claimRef:
                apiVersion: v1
                kind: PersistentVolumeClaim
                name: data
                namespace: ns
                uid: u
              local:
                path: /s/local-volumes/pvc-u
              mountOptions:
              - noatime
              nodeAffinity:
                required:
                  nodeSelectorTerms:
                  - matchExpressions:
                    - key: kubernetes.io/hostname
                      operator: In
                      values:
                      - host1
              persistentVolumeReclaimPolicy: Delete
              storageClassName: orlop-local
              volumeMode: Filesystem
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_a_directory_on_one_node_is_refused() {
        check("volumeMode: Block", NODE, expect!["block volumes are not supported"]);
        check(
            "accessModes: [ReadWriteMany]",
            NODE,
            expect!["only ReadWriteOnce and ReadWriteOncePod access modes are supported"],
        );
        check("selector: {matchLabels: {a: b}}", NODE, expect!["claim.Spec.Selector is not supported"]);
        check("", "labels: {}", expect![[r#"node "n1" keeps no volumes of orlop.dev/local"#]]);
    }

    #[test]
    fn a_volume_ends_with_its_claim_and_its_directory() {
        let judge = |text: &str, node: bool| judge(&yaml(text), node);
        let spec = "spec: {persistentVolumeReclaimPolicy: Delete}";
        assert_eq!(judge(&format!("{{{spec}, status: {{phase: Released}}}}"), true), End::Delete);
        assert_eq!(judge(&format!("{{{spec}, status: {{phase: Bound}}}}"), true), End::Nothing);
        assert_eq!(
            judge("{spec: {persistentVolumeReclaimPolicy: Retain}, status: {phase: Released}}", true),
            End::Nothing
        );
        let going = |finalizers: &str| {
            format!(
                "{{metadata: {{deletionTimestamp: '2024-01-01T00:00:00Z', finalizers: [{finalizers}]}}, {spec}}}"
            )
        };
        assert_eq!(judge(&going("orlop.dev/local-directory"), true), End::Nothing);
        assert_eq!(judge(&going("orlop.dev/local-directory"), false), End::LetGo);
        assert_eq!(
            judge(&going("kubernetes.io/pv-protection, orlop.dev/local-directory"), false),
            End::Nothing
        );
    }
}
