//! Claims for ephemeral volumes: made for a pod, owned by it, gone with it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::cache::Cache;
use crate::error::{SyncError, Trying, reason};
use crate::object::{Key, controller_of, controller_reference, is_deleting, is_finished, namespace, uid};
use crate::queue::Queue;
use crate::record::Recorder;

use super::protect::claim_of;

/// The claim that a volume of the pod needs, if it is to be made.
fn wanted(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: claim_of(pod, volume),
            namespace: pod.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

/// Makes claims until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let recorder = recorder.named("ephemeral_volume");
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.pods.on_change(move |old, new| {
        let Some(pod) = new.filter(|_| old.is_none()) else { return };
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        if volumes.any(|volume| volume.ephemeral.is_some()) {
            add.add(Key::of(&pod.metadata));
        }
    });
    cache.synced().await;
    let sync = async |key: Key| {
        let pod = cache.pods.get(&key).filter(|pod| !is_deleting(&pod.metadata) && !is_finished(pod));
        let Some(pod) = pod else { return Ok(None) };
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            if let Some(claim) = wanted(&pod, volume) {
                make(&client, &cache, &recorder, &pod, claim).await?;
            }
        }
        Ok(None)
    };
    queue.work("ephemeral-volume", 4, sync).await;
}

async fn make(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    pod: &Pod,
    claim: PersistentVolumeClaim,
) -> Result<(), SyncError> {
    let key = Key::of(&claim.metadata);
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace(&pod.metadata));
    let known = match cache.claims.get(&key) {
        Some(known) => Some((*known).clone()),
        None => match api.create(&PostParams::default(), &claim).await {
            Err(error) if reason(&error) == "AlreadyExists" => {
                Some(api.get(&key.name).await.trying(|| format!("get claim {key}"))?)
            }
            Err(error) => {
                let text = format!("ephemeral volume claim {}: {}", key.name, crate::error::message(&error));
                recorder.warning(pod, "FailedBinding", text);
                return Err(error).trying(|| format!("create claim {key}"));
            }
            Ok(made) => {
                cache.claims.absorb(made);
                None
            }
        },
    };
    let theirs = known.filter(|known| {
        controller_of(&known.metadata).map(|owner| owner.uid.as_str()) != Some(uid(&pod.metadata))
    });
    if theirs.is_some() {
        let text = format!("PVC {key} was not created for pod {} (pod is not owner)", Key::of(&pod.metadata));
        recorder.warning(pod, "FailedBinding", text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn the_claim_is_the_template_and_the_pods() {
        let pod: Pod = yaml(
            "{metadata: {name: p, namespace: ns, uid: u}, spec: {containers: [], volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce]}}}}, {name: e}]}}",
        );
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        let claim = wanted(&pod, &volumes[0]).unwrap();
        assert_eq!(Key::of(&claim.metadata).to_string(), "ns/p-scratch");
        assert_eq!(controller_of(&claim.metadata).unwrap().uid, "u");
        assert_eq!(claim.metadata.labels.unwrap()["a"], "b");
        assert!(wanted(&pod, &volumes[1]).is_none());
    }
}
