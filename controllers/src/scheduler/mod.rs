//! The scheduler: gives every pod without a node a node.
//!
//! ```text
//!  pods, nodes ──changes──▶ Board [pure] ──placements──▶ bindings in flight ──results──▶ Board
//!                              └──no node fits──▶ event and condition on the pod
//! ```
//! A placed pod counts on its node at once, before the API server has confirmed the binding: a burst of pods
//! is decided in one go, with all bindings under way together.
//!
//! Volumes that wait for their first consumer are bound first; then the pod.
//!
//! Not here: preemption, pod affinity and spreading.

pub(crate) mod affinity;
mod board;
mod filter;
mod ledger;
mod prebind;
mod report;
mod request;
mod score;
mod volumes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{
    Binding, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::error::{is_conflict, is_not_found};
use crate::object::{name, namespace, reference};
use crate::record::Recorder;

use board::{Board, Decision, Placement};

/// Bindings under way at the same time, at most.
const IN_FLIGHT: usize = 128;
/// The pause after a binding that the API server did not take.
const RETRY: Duration = Duration::from_secs(1);

/// What the scheduler hears.
enum Change {
    Pod(Option<Arc<Pod>>, Option<Arc<Pod>>),
    Node(Option<Arc<Node>>, Option<Arc<Node>>),
    Claim(Option<Arc<PersistentVolumeClaim>>, Option<Arc<PersistentVolumeClaim>>),
    Volume(Option<Arc<PersistentVolume>>, Option<Arc<PersistentVolume>>),
    Class(Option<Arc<StorageClass>>, Option<Arc<StorageClass>>),
}

/// How a binding ended.
struct Bound {
    placement: Placement,
    result: Result<(), Failed>,
}

/// Why a pod did not get its node.
enum Failed {
    Api(kube::Error),
    /// Its volumes could not be bound.
    Volumes(String),
}

/// Schedules until dropped.
pub(crate) async fn run(client: Client, cache: Arc<Cache>, recorder: Recorder) {
    let recorder = recorder.named("default-scheduler");
    let mut changes = subscribe(&cache);
    let mut board = Board::default();
    let mut bindings = FuturesUnordered::new();
    let mut reports = FuturesUnordered::new();
    cache.pods.synced().await;
    cache.nodes.synced().await;
    cache.claims.synced().await;
    cache.volumes.synced().await;
    cache.storage_classes.synced().await;
    loop {
        while let Ok(change) = changes.try_recv() {
            apply(&mut board, change);
        }
        while bindings.len() < IN_FLIGHT {
            match board.next(Instant::now()) {
                Some(Decision::Place(placement)) => bindings.push(bind(&client, &cache, placement)),
                Some(Decision::Refuse(refusal)) => reports.push(report::refuse(&client, &recorder, refusal)),
                None => break,
            }
        }
        let timer = async {
            match board.wake_at() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => apply(&mut board, change),
                None => return,
            },
            Some(bound) = bindings.next(), if !bindings.is_empty() => finish(&mut board, &recorder, bound),
            Some(()) = reports.next(), if !reports.is_empty() => {}
            () = timer => {}
        }
    }
}

fn subscribe(cache: &Cache) -> mpsc::UnboundedReceiver<Change> {
    let (sender, changes) = mpsc::unbounded_channel();
    let pods = sender.clone();
    // The receiver may be gone when the scheduler was stopped: then nobody needs to hear.
    cache.pods.on_change(move |old, new| drop(pods.send(Change::Pod(old.cloned(), new.cloned()))));
    let nodes = sender.clone();
    cache.nodes.on_change(move |old, new| drop(nodes.send(Change::Node(old.cloned(), new.cloned()))));
    let claims = sender.clone();
    cache.claims.on_change(move |old, new| drop(claims.send(Change::Claim(old.cloned(), new.cloned()))));
    let volumes = sender.clone();
    cache.volumes.on_change(move |old, new| drop(volumes.send(Change::Volume(old.cloned(), new.cloned()))));
    let classes = sender;
    cache
        .storage_classes
        .on_change(move |old, new| drop(classes.send(Change::Class(old.cloned(), new.cloned()))));
    changes
}

fn apply(board: &mut Board, change: Change) {
    match change {
        Change::Pod(_, Some(new)) => board.pod(new),
        Change::Pod(Some(old), None) => board.pod_gone(&old),
        Change::Node(_, Some(new)) => board.node(&new),
        Change::Node(Some(old), None) => board.node_gone(name(&old.metadata)),
        Change::Claim(old, new) => board.volumes(|volumes| volumes.claim(old.as_deref(), new)),
        Change::Volume(old, new) => board.volumes(|volumes| volumes.volume(old.as_deref(), new)),
        Change::Class(old, new) => board.volumes(|volumes| volumes.class(old.as_deref(), new)),
        Change::Pod(None, None) | Change::Node(None, None) => {}
    }
}

async fn bind(client: &Client, cache: &Cache, placement: Placement) -> Bound {
    if let Err(failed) = prebind::bind(client, cache, &placement).await {
        return Bound { placement, result: Err(failed) };
    }
    let meta = &placement.pod.metadata;
    let binding = Binding {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(placement.node.clone()),
            ..ObjectReference::default()
        },
    };
    let api = Api::<Pod>::namespaced(client.clone(), namespace(meta));
    let result = post_binding(&api, name(meta), &binding).await;
    Bound { placement, result: result.map_err(Failed::Api) }
}

async fn post_binding(api: &Api<Pod>, pod: &str, binding: &Binding) -> kube::Result<()> {
    let answer: serde_json::Value =
        api.create_subresource("binding", pod, &PostParams::default(), binding).await?;
    drop(answer);
    Ok(())
}

fn finish(board: &mut Board, recorder: &Recorder, Bound { placement, result }: Bound) {
    let Placement { pod, node, volumes } = placement;
    if result.is_err() {
        board.take_back(&volumes);
    }
    let meta = &pod.metadata;
    match result {
        Ok(()) => {
            let (namespace, name) = (namespace(meta), name(meta));
            let message = format!("Successfully assigned {namespace}/{name} to {node}");
            recorder.note(reference(&*pod), false, "Scheduled", message, Some("Binding"));
        }
        // The pod is gone or somebody else was quicker: the watch tells.
        Err(Failed::Api(error)) if is_not_found(&error) || is_conflict(&error) => board.forget(&pod),
        Err(Failed::Volumes(error)) => {
            let message = format!("running PreBind plugin \"VolumeBinding\": {error}");
            recorder.note(reference(&*pod), true, "FailedScheduling", message, Some("Scheduling"));
            board.retry(pod, Instant::now() + RETRY);
        }
        Err(Failed::Api(error)) => {
            let pod_name = name(meta);
            let error = &error as &dyn std::error::Error;
            tracing::warn!(pod = pod_name, node, error, "binding failed, trying again");
            board.retry(pod, Instant::now() + RETRY);
        }
    }
}
