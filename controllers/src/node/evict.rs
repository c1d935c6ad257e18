//! Eviction by taints: deletes pods that do not tolerate a NoExecute taint of their node, or not for longer.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found};
use crate::object::{Key, is_deleting, is_finished, name, node_name};
use crate::queue::Queue;
use crate::record::Recorder;
use crate::scheduler::affinity::tolerates;

/// Evicts until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.pods.on_change(move |old, new| {
        let same = |old: &Pod, new: &Pod| {
            let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
            node_name(old) == node_name(new) && tolerations(old) == tolerations(new)
        };
        if let Some(new) = new.filter(|new| old.is_none_or(|old| !same(old, new))) {
            add.add(Key::of(&new.metadata));
        }
    });
    let (add, all) = (Arc::clone(&queue), Arc::clone(&cache));
    cache.nodes.on_change(move |old, new| {
        let Some(node) = new else { return };
        if hard_taints(node).is_empty() || old.is_some_and(|old| hard_taints(old) == hard_taints(node)) {
            return;
        }
        let here = name(&node.metadata);
        for pod in all.pods.list().iter().filter(|pod| node_name(pod) == Some(here)) {
            add.add(Key::of(&pod.metadata));
        }
    });
    cache.pods.synced().await;
    cache.nodes.synced().await;
    let recorder = recorder.named("taint-eviction-controller");
    queue.work("taint-eviction-controller", 8, |key| sync(&client, &cache, &recorder, key)).await;
}

fn hard_taints(node: &Node) -> Vec<&Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").collect()
}

async fn sync(
    client: &Client,
    cache: &Cache,
    recorder: &Recorder,
    key: Key,
) -> Result<Option<Duration>, SyncError> {
    let Some(pod) = cache.pods.get(&key) else { return Ok(None) };
    if is_deleting(&pod.metadata) || is_finished(&pod) {
        return Ok(None);
    }
    let node = node_name(&pod).and_then(|node| cache.nodes.get(&Key::new("", node)));
    let Some(node) = node else { return Ok(None) };
    match stays_until(&pod, &hard_taints(&node)) {
        Stay::Forever => Ok(None),
        Stay::Until(at) => {
            let left = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
            if left.is_zero() {
                evict(client, recorder, &key, &pod).await?;
                return Ok(None);
            }
            Ok(Some(left + Duration::from_millis(1)))
        }
    }
}

/// How long a pod may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    Forever,
    Until(Timestamp),
}

/// [pure] The first moment at which a taint is not tolerated any more.
fn stays_until(pod: &Pod, taints: &[&Taint]) -> Stay {
    let tolerations: Vec<_> = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).collect();
    let mut stay = Stay::Forever;
    for taint in taints {
        let since = taint.time_added.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let matching = tolerations.iter().filter(|toleration| tolerates(toleration, taint));
        let limits: Vec<_> = matching.map(|toleration| toleration.toleration_seconds).collect();
        // Of several tolerations the shortest counts, and one without limit is none.
        let end = match limits.iter().flatten().min() {
            Some(seconds) => since.checked_add(SignedDuration::from_secs((*seconds).max(0))).unwrap_or(since),
            None if limits.is_empty() => since,
            None => continue,
        };
        stay = match stay {
            Stay::Until(earlier) if earlier <= end => stay,
            _ => Stay::Until(end),
        };
    }
    stay
}

async fn evict(client: &Client, recorder: &Recorder, key: &Key, pod: &Pod) -> Result<(), SyncError> {
    let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
    let patch = Patch::Strategic(json!({
        "metadata": { "uid": pod.metadata.uid },
        "status": { "conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": Time(Timestamp::now()),
        }] },
    }));
    match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
        Err(error) if is_not_found(&error) => return Ok(()),
        answer => drop(answer.trying(|| format!("mark pod {key} for eviction"))?),
    }
    recorder.normal(pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api.delete(&key.name, &params).await {
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
        answer => answer.trying(|| format!("evict pod {key}")).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    /// Tolerations of the pod, taints of the node, seconds it may stay.
    fn check(tolerations: &str, taints: &str, expected: Option<i64>) {
        let pod = yaml(&format!("spec: {{containers: [], tolerations: [{tolerations}]}}"));
        let node: Node = yaml(&format!("spec: {{taints: [{taints}]}}"));
        let stay = match stays_until(&pod, &hard_taints(&node)) {
            Stay::Forever => None,
            Stay::Until(at) => Some(at.as_second()),
        };
        assert_eq!(stay, expected, "{tolerations} on {taints}");
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let gone = "{key: gone, effect: NoExecute, timeAdded: '1970-01-01T00:00:10Z'}";
        check("", "{key: a, effect: NoSchedule}", None);
        check("", gone, Some(10));
        check("{key: gone, operator: Exists}", gone, None);
        check("{key: gone, operator: Exists, tolerationSeconds: 300}", gone, Some(310));
        check("{operator: Exists}, {key: gone, operator: Exists, tolerationSeconds: 5}", gone, Some(15));
        let both = format!("{gone}, {{key: b, effect: NoExecute, timeAdded: '1970-01-01T00:00:20Z'}}");
        check("{key: gone, operator: Exists, tolerationSeconds: 300}", &both, Some(20));
    }
}
