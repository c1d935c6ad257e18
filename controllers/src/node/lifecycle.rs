//! Node lifecycle: notices nodes that went silent, and keeps the taints that follow from conditions.
//!
//! A node lives while its lease or its status moves; moments are counted by our own clock, from when a change
//! was seen, so that clocks of nodes do not matter. Not here: eviction of pods by taints.

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_conflict, is_not_found};
use crate::object::{Key, is_ready, name, namespace, node_name, pod_condition};
use crate::queue::Queue;
use crate::record::Recorder;

const LEASES: &str = "kube-node-lease";
/// After so long without a sign of life a node counts as unreachable.
const GRACE: Duration = Duration::from_secs(50);

/// The last sign of life of a node.
#[derive(Debug, Clone, PartialEq)]
struct Sign {
    lease: Option<MicroTime>,
    status: Option<Time>,
}

struct Lifecycle {
    client: Client,
    cache: Arc<Cache>,
    recorder: Recorder,
    signs: Mutex<HashMap<String, (Sign, Instant)>>,
}

/// Watches over nodes until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let queue = Arc::new(Queue::default());
    let add = Arc::clone(&queue);
    cache.nodes.on_change(move |old, new| {
        if let Some(node) = new.or(old) {
            add.add(Key::of(&node.metadata));
        }
    });
    let add = Arc::clone(&queue);
    cache.leases.on_change(move |_, new| {
        if let Some(lease) = new.filter(|lease| namespace(&lease.metadata) == LEASES) {
            add.add(Key::new("", name(&lease.metadata)));
        }
    });
    cache.nodes.synced().await;
    cache.leases.synced().await;
    cache.pods.synced().await;
    let recorder = recorder.named("node-controller");
    let controller = Lifecycle { client, cache, recorder, signs: Mutex::default() };
    queue.work("node-lifecycle-controller", 4, |key| controller.sync(key)).await;
}

impl Lifecycle {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, SyncError> {
        let Some(node) = self.cache.nodes.get(&key) else {
            self.signs.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(None);
        };
        let (quiet, new) = self.quiet_for(&key, &node);
        if new {
            let text = format!("Node {} event: Registered Node {0} in Controller", key.name);
            self.recorder.normal(&*node, "RegisteredNode", text);
        }
        let node = match plan::conditions(&node, quiet >= GRACE, Timestamp::now()) {
            None => node,
            Some(conditions) => {
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                self.recorder.normal(&*node, "NodeNotReady", text);
                match self.write_conditions(&key, conditions).await? {
                    Some(node) => Arc::new(node),
                    None => return Ok(None),
                }
            }
        };
        if let Some(taints) = plan::taints(&node, Timestamp::now()) {
            self.write_taints(&key, &node, taints).await?;
        }
        if plan::is_down(&node) {
            self.mark_pods(&key).await?;
            return Ok(None);
        }
        Ok(Some(GRACE.saturating_sub(quiet) + Duration::from_millis(100)))
    }

    /// How long the node has given no sign of life, and whether this is the first time that we see it.
    fn quiet_for(&self, key: &Key, node: &Node) -> (Duration, bool) {
        let lease = self.cache.leases.get(&Key::new(LEASES, &*key.name));
        let lease = lease.as_ref().and_then(|lease| lease.spec.as_ref()?.renew_time.clone());
        let sign = Sign { lease, status: plan::heartbeat(node) };
        let mut signs = self.signs.lock().unwrap_or_else(PoisonError::into_inner);
        let new = !signs.contains_key(&key.name);
        let (known, at) = signs.entry(key.name.clone()).or_insert_with(|| (sign.clone(), Instant::now()));
        if *known != sign {
            (*known, *at) = (sign, Instant::now());
        }
        (at.elapsed(), new)
    }

    async fn write_conditions(
        &self,
        key: &Key,
        conditions: serde_json::Value,
    ) -> Result<Option<Node>, SyncError> {
        let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
        let api = Api::<Node>::all(self.client.clone());
        match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
            Ok(node) => {
                self.cache.nodes.absorb(node.clone());
                Ok(Some(node))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            error => error.trying(|| format!("write the conditions of node {}", key.name)).map(Some),
        }
    }

    async fn write_taints(&self, key: &Key, node: &Node, taints: Vec<plan::Taint>) -> Result<(), SyncError> {
        // The version protects taints that somebody else sets at the same time.
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": node.metadata.resource_version },
            "spec": { "taints": Some(taints).filter(|taints| !taints.is_empty()) },
        }));
        let api = Api::<Node>::all(self.client.clone());
        match api.patch(&key.name, &PatchParams::default(), &patch).await {
            Ok(node) => self.cache.nodes.absorb(node),
            Err(error) if is_not_found(&error) => {}
            error => drop(error.trying(|| format!("write the taints of node {}", key.name))?),
        }
        Ok(())
    }

    /// Nobody reports the pods of a node that is down: they count as not ready, so that Services leave them out.
    async fn mark_pods(&self, key: &Key) -> Result<(), SyncError> {
        let pods = self.cache.pods.list();
        let ready = pods.iter().filter(|pod| node_name(pod) == Some(&*key.name) && is_ready(pod));
        for result in join_all(ready.map(|pod| self.mark_pod(pod))).await {
            result?;
        }
        Ok(())
    }

    async fn mark_pod(&self, pod: &Pod) -> Result<(), SyncError> {
        let condition = pod_condition(pod, "Ready");
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": pod.metadata.uid },
            "status": { "conditions": [{
                "type": "Ready",
                "status": "False",
                "reason": condition.and_then(|condition| condition.reason.clone()),
                "lastTransitionTime": Time(Timestamp::now()),
            }] },
        }));
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace(&pod.metadata));
        match api.patch_status(name(&pod.metadata), &PatchParams::default(), &patch).await {
            Ok(changed) => {
                self.cache.pods.absorb(changed);
                self.recorder.warning(pod, "NodeNotReady", "Node is not ready".to_owned());
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            error => error.trying(|| format!("mark pod {} as not ready", name(&pod.metadata))).map(drop),
        }
    }
}
