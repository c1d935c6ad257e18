//! What a watch tells about pods, with the time at which it was told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, ResourceExt as _,
    api::{WatchEvent, WatchParams},
};
use tokio::sync::watch;

use crate::PATIENCE;

/// Microseconds since the epoch: the agent's log and the container logs speak of the same clock.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// When the watch first told something about a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) uid: String,
    pub(crate) bound: Option<u64>,
    pub(crate) ready: Option<u64>,
    pub(crate) gone: Option<u64>,
    /// Statuses told from the time it was bound until it was ready.
    pub(crate) writes: usize,
    status: Option<PodStatus>,
}

/// Follows the pods of a namespace in a task of its own.
#[derive(Clone)]
pub(crate) struct Seen {
    pods: Arc<Mutex<HashMap<String, Times>>>,
    changes: watch::Receiver<u64>,
}

impl Seen {
    pub(crate) async fn follow(pods: &Api<Pod>) -> Result<Self> {
        let version = pods.list(&Default::default()).await?.metadata.resource_version.unwrap_or_default();
        let stream = pods.watch(&WatchParams::default().timeout(290), &version).await?;
        let (changed, changes) = watch::channel(0);
        let seen = Self { pods: Arc::default(), changes };
        let own = seen.clone();
        tokio::spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                own.note(&event, now());
                changed.send_modify(|count| *count += 1);
            }
        });
        Ok(seen)
    }

    fn note(&self, event: &WatchEvent<Pod>, at: u64) {
        let (pod, gone) = match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, false),
            WatchEvent::Deleted(pod) => (pod, true),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => return,
        };
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        let times = pods.entry(pod.name_any()).or_default();
        times.uid = pod.uid().unwrap_or_default();
        times.gone = gone.then_some(at);
        if times.bound.is_some() && times.ready.is_none() && times.status != pod.status {
            times.writes += 1;
        }
        times.status.clone_from(&pod.status);
        if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
            times.bound.get_or_insert(at);
        }
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        if conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True") {
            times.ready.get_or_insert(at);
        }
    }

    /// Waits until what is known of a pod satisfies `accept`.
    pub(crate) async fn until(&self, name: &str, accept: impl Fn(&Times) -> bool) -> Result<Times> {
        let mut changes = self.changes.clone();
        let wait = async {
            loop {
                let times = self
                    .pods
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get(name)
                    .cloned()
                    .unwrap_or_default();
                if accept(&times) {
                    return Ok(times);
                }
                if changes.changed().await.is_err() {
                    bail!("the watch ended while waiting for {name}");
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .with_context(|| format!("waited {PATIENCE:?} for {name}"))?
    }
}
