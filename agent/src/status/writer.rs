//! One write in flight per pod, a few of all pods; what comes meanwhile waits as one, the latest.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use prometheus::{Histogram, Registry, core::Collector};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};

use super::diff;
use crate::{
    metrics::{histogram, register},
    pod::{desired::pod_ref, machine::PodRef},
    worker::ports::{StatusSink, Written},
};

/// Writes under way at once: each has a connection, and a burst of pods would open one each.
const AT_ONCE: usize = 16;
/// A write that takes longer has a dead connection, and others wait for their turn.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Writes statuses and deletes pods that are done. Cheap to clone.
#[derive(Clone)]
pub struct Writer(Arc<Inner>);

struct Inner {
    client: Client,
    written: mpsc::UnboundedSender<Written>,
    durations: Histogram,
    entries: Mutex<HashMap<String, Entry>>,
    turns: Semaphore,
}

struct Entry {
    pod: PodRef,
    /// What the API server has.
    known: Arc<PodStatus>,
    /// The version of the object in which it has that.
    version: u64,
    /// What it should have.
    wanted: Option<Arc<PodStatus>>,
    /// Since when it has something else.
    since: Option<Instant>,
    delete: bool,
    busy: bool,
}

/// The next thing to do for a pod.
enum Work {
    Patch { pod: PodRef, known: Arc<PodStatus>, wanted: Arc<PodStatus> },
    Delete(PodRef),
}

/// What became of a request.
enum Outcome {
    /// The object has this version now; `None` where it did not change.
    Done(Option<u64>),
    /// The object is gone or another one has its name.
    Gone,
    Again,
}

impl Writer {
    /// Confirmations go to `written`.
    pub fn new(client: Client, written: mpsc::UnboundedSender<Written>) -> Writer {
        let buckets = vec![0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
        let durations = histogram(
            "kubelet_pod_status_sync_duration_seconds",
            "Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until \
             the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
            buckets,
        );
        let turns = Semaphore::new(AT_ONCE);
        Writer(Arc::new(Inner { client, written, durations, entries: Mutex::default(), turns }))
    }

    /// Makes known how long writing takes.
    #[must_use]
    pub fn registered(self, registry: &Registry) -> Writer {
        register(registry, [Box::new(self.0.durations.clone()) as Box<dyn Collector>]);
        self
    }

    fn change(&self, pod: &Arc<Pod>, change: impl FnOnce(&mut Entry)) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let mut entries = self.0.entries();
        let entry = entries.entry(uid.clone()).or_insert_with(|| Entry {
            pod: pod_ref(pod),
            known: Arc::new(pod.status.clone().unwrap_or_default()),
            version: version(pod),
            wanted: None,
            since: None,
            delete: false,
            busy: false,
        });
        if version(pod) >= entry.version && !entry.busy {
            // What the API server shows is what it has, also where somebody else wrote since or in between.
            entry.version = version(pod);
            entry.known = Arc::new(pod.status.clone().unwrap_or_default());
        }
        change(entry);
        if !std::mem::replace(&mut entry.busy, true) {
            tokio::spawn(Arc::clone(&self.0).drive(uid));
        }
    }
}

impl StatusSink for Writer {
    fn publish(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        self.change(pod, |entry| {
            entry.wanted = Some(status);
            entry.since.get_or_insert_with(Instant::now);
        });
    }

    fn delete(&self, pod: &Arc<Pod>) {
        self.change(pod, |entry| entry.delete = true);
    }

    fn forget(&self, uid: &str) {
        self.0.entries().remove(uid);
    }
}

impl Inner {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self, uid: String, status: Arc<PodStatus>) {
        // At the end of the process nobody listens any more.
        let _ended = self.written.send(Written { uid, status });
    }

    /// Works until nothing is left to do for this pod.
    async fn drive(self: Arc<Self>, uid: String) {
        let mut pause = FIRST_PAUSE;
        while let Some((work, outcome)) = self.one(&uid).await {
            match (outcome, work) {
                (Outcome::Done(version), Work::Patch { wanted, .. }) => {
                    pause = FIRST_PAUSE;
                    if let Some(entry) = self.entries().get_mut(&uid) {
                        entry.known = Arc::clone(&wanted);
                        entry.version = entry.version.max(version.unwrap_or_default());
                        // What came meanwhile waits since now, near enough.
                        let newer = entry.wanted.is_some().then(Instant::now);
                        if let Some(since) = std::mem::replace(&mut entry.since, newer) {
                            self.durations.observe(since.elapsed().as_secs_f64());
                        }
                    }
                    self.confirm(uid.clone(), wanted);
                }
                (Outcome::Done(_), Work::Delete(_)) | (Outcome::Gone, _) => {
                    self.entries().remove(&uid);
                    return;
                }
                (Outcome::Again, work) => {
                    self.put_back(&uid, work);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Does the next thing when its turn comes; what that is, is looked at only then.
    async fn one(&self, uid: &str) -> Option<(Work, Outcome)> {
        // Never closed.
        let _turn = self.turns.acquire().await;
        let work = self.next(uid)?;
        let done = async {
            match &work {
                Work::Patch { pod, known, wanted } => self.patch(uid, pod, known, wanted).await,
                Work::Delete(pod) => self.delete(uid, pod).await,
            }
        };
        let outcome = timeout(PATIENCE, done).await.unwrap_or_else(|_late| {
            tracing::warn!(uid, "no answer about a pod's status, trying again");
            Outcome::Again
        });
        Some((work, outcome))
    }

    /// Takes the next work, or marks the pod as idle.
    fn next(&self, uid: &str) -> Option<Work> {
        let mut entries = self.entries();
        let entry = entries.get_mut(uid)?;
        let pod = entry.pod.clone();
        if let Some(wanted) = entry.wanted.take() {
            return Some(Work::Patch { pod, known: Arc::clone(&entry.known), wanted });
        }
        if std::mem::take(&mut entry.delete) {
            return Some(Work::Delete(pod));
        }
        entry.busy = false;
        None
    }

    /// What failed is wanted still, unless something newer is.
    fn put_back(&self, uid: &str, work: Work) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(uid) else { return };
        match work {
            Work::Patch { wanted, .. } => drop(entry.wanted.get_or_insert(wanted)),
            Work::Delete(_) => entry.delete = true,
        }
    }

    async fn patch(&self, uid: &str, pod: &PodRef, known: &PodStatus, wanted: &PodStatus) -> Outcome {
        let Some(patch) = diff::patch(uid, known, wanted) else { return Outcome::Done(None) };
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let patched = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match patched {
            Ok(pod) => Outcome::Done(Some(version(&pod))),
            Err(error) => judge(&error, "write the status of", &pod.namespace, &pod.name),
        }
    }

    async fn delete(&self, uid: &str, pod: &PodRef) -> Outcome {
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match api.delete(&pod.name, &params).await {
            Ok(_) => Outcome::Done(None),
            Err(error) => judge(&error, "delete", &pod.namespace, &pod.name),
        }
    }
}

/// The object's version as a number: comparable within one kind (KEP-5504).
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Whether it is worth another try.
fn judge(error: &kube::Error, what: &str, namespace: &str, name: &str) -> Outcome {
    let code = match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    };
    match code {
        404 => Outcome::Gone,
        // Another pod has the name, or what we say is not acceptable: saying it again does not help.
        409 | 422 if what == "delete" => Outcome::Gone,
        400 | 422 => {
            tracing::error!(namespace, name, %error, "cannot {what} pod");
            Outcome::Gone
        }
        _ => {
            tracing::warn!(namespace, name, %error, "cannot {what} pod, trying again");
            Outcome::Again
        }
    }
}
