//! Persistent volumes against the real API server, in one process: claims, classes, protection, the bundled provisioner.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "each test binary uses its own part")]
mod cluster;

use cluster::Cluster;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

fn claim(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}, {more}}}}}"
    )
}

fn pod(name: &str, volume: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: i}}], volumes: [{{name: v, {volume}}}]}}}}"
    )
}

fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

async fn keeps_volumes(cluster: &Cluster, node: &str) {
    let patch = json!({ "metadata": {
        "annotations": { "orlop.dev/local-volumes": "/s/local-volumes" }, "labels": { "kubernetes.io/hostname": node },
    }});
    let nodes = cluster.all::<Node>();
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn told(cluster: &Cluster, about: &str, text: &str) {
    let found = |events: &[Event]| {
        let mut events = events.iter().filter(|event| event.involved_object.name.as_deref() == Some(about));
        events.any(|event| event.message.as_deref().is_some_and(|message| message.contains(text)))
    };
    cluster.until(&cluster.api::<Event>(), text, found).await;
}

#[tokio::test]
async fn a_claim_gets_the_volume_that_suits_it_and_leaves_it_released() {
    let cluster = Cluster::start(1).await;
    let (claims, volumes) = (cluster.api::<PersistentVolumeClaim>(), cluster.all::<PersistentVolume>());
    cluster.create::<PersistentVolumeClaim>(&claim("data", "storageClassName: ''")).await;
    told(&cluster, "data", "no persistent volumes available for this claim and no storage class is set")
        .await;
    for (name, size) in [("small", "512Mi"), ("big", "9Gi"), ("right", "2Gi")] {
        let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp/none"}}});
        volumes.create(&Default::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    }
    let bound = |list: &[PersistentVolumeClaim]| list.iter().all(|claim| claim_phase(claim) == "Bound");
    let list = cluster.until(&claims, "a bound claim", bound).await;
    let volume = list[0].spec.as_ref().unwrap().volume_name.clone().unwrap();
    assert!(volume == "right" || volume == "big", "{volume}: the small one is too small");
    let finalizers = list[0].metadata.finalizers.as_deref().unwrap_or_default();
    assert_eq!(finalizers, ["kubernetes.io/pvc-protection"]);

    // A bound volume stays while it is bound, a claim while a pod has it.
    cluster.create::<Pod>(&pod("p", "persistentVolumeClaim: {claimName: data}")).await;
    let placed = |pods: &[Pod]| pods[0].spec.as_ref().unwrap().node_name.is_some();
    cluster.until(&cluster.api::<Pod>(), "a place", placed).await;
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    volumes.delete(&volume, &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(claims.get("data").await.is_ok() && volumes.get(&volume).await.is_ok());
    cluster.api::<Pod>().delete("p", &DeleteParams::default()).await.unwrap();
    cluster.until(&claims, "no claim", <[_]>::is_empty).await;
    cluster.until(&volumes, "no volume", |list| list.len() == 2).await;
}

#[tokio::test]
async fn the_bundled_class_makes_a_volume_where_the_pod_goes() {
    let cluster = Cluster::start(2).await;
    let (claims, volumes) = (cluster.api::<PersistentVolumeClaim>(), cluster.all::<PersistentVolume>());
    let class = |list: &[StorageClass]| {
        list.iter().any(|class| class.metadata.name.as_deref() == Some("orlop-local"))
    };
    cluster.until(&cluster.all::<StorageClass>(), "the class", class).await;
    keeps_volumes(&cluster, "n1").await;
    let made = cluster.create::<PersistentVolumeClaim>(&claim("data", "")).await;
    assert_eq!(made.spec.unwrap().storage_class_name.as_deref(), Some("orlop-local"));
    told(&cluster, "data", "waiting for first consumer to be created before binding").await;
    for name in ["a", "b"] {
        cluster.create::<Pod>(&pod(name, "persistentVolumeClaim: {claimName: data}")).await;
    }
    let on = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.clone();
    let placed = |pods: &[Pod]| pods.iter().all(|pod| on(pod).is_some());
    let pods = cluster.until(&cluster.api::<Pod>(), "places", placed).await;
    assert!(pods.iter().all(|pod| on(pod).as_deref() == Some("n1")), "both where the volume is");
    told(&cluster, "data", "Successfully provisioned volume pvc-").await;
    let volume = volumes.list(&Default::default()).await.unwrap().items.remove(0);
    assert_eq!(phase(&volume), "Bound");

    for name in ["a", "b"] {
        cluster.api::<Pod>().delete(name, &DeleteParams::default()).await.unwrap();
    }
    claims.delete("data", &DeleteParams::default()).await.unwrap();
    // It waits for its node, which takes the directory away and then the last finalizer.
    let waits = |list: &[PersistentVolume]| {
        let meta = &list[0].metadata;
        meta.deletion_timestamp.is_some()
            && meta.finalizers.as_deref() == Some(&["orlop.dev/local-directory".to_owned()])
    };
    let list = cluster.until(&volumes, "a volume that waits for its node", waits).await;
    assert_eq!(phase(&list[0]), "Released");
    // A node that is gone took it along.
    cluster.all::<Node>().delete("n1", &DeleteParams::default()).await.unwrap();
    cluster.until(&volumes, "no volume", <[_]>::is_empty).await;
}

#[tokio::test]
async fn pods_wait_for_claims_in_upstreams_words_and_ephemeral_ones_are_made() {
    let cluster = Cluster::start(1).await;
    keeps_volumes(&cluster, "n0").await;
    cluster.create::<Pod>(&pod("p", "persistentVolumeClaim: {claimName: late}")).await;
    let text = "0/1 nodes are available: persistentvolumeclaim \"late\" not found. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    told(&cluster, "p", text).await;
    cluster.create::<PersistentVolumeClaim>(&claim("late", "storageClassName: ''")).await;
    told(&cluster, "p", "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.").await;

    let template = "ephemeral: {volumeClaimTemplate: {spec: {storageClassName: orlop-local, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}}";
    cluster.create::<Pod>(&pod("e", template)).await;
    let placed = |pods: &[Pod]| pods.iter().any(|pod| pod.spec.as_ref().unwrap().node_name.is_some());
    cluster.until(&cluster.api::<Pod>(), "a place", placed).await;
    cluster.api::<Pod>().delete("e", &DeleteParams::default()).await.unwrap();
    let gone = |list: &[PersistentVolumeClaim]| list.len() == 1;
    cluster.until(&cluster.api(), "no claim e-v", gone).await;
}
