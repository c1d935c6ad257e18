//! Ends pods before the node runs out of memory, disk or processes.
//!
//! ```text
//!  measure (node, all pods) ─▶ judge ─▶ pressures ─▶ node conditions, admission
//!                               └ reached ─▶ images nobody needs ─▶ choose ─▶ Desk ─▶ manager
//!  pods with limits of local disk ─▶ local ──────────────────────────────────┘
//! ```
//!
//! One pod at a time, every ten seconds, sooner while one is ending. While nothing is short it costs a few system calls,
//! however many pods there are; only pods with limits of local disk are looked at one by one. Not for: the order in
//! which the kernel ends processes when it is too late.

mod choose;
mod judge;
mod local;
mod measure;
mod metrics;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use orlop_runtime::Runtime;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

pub use self::metrics::Metrics;
use self::{
    choose::{Notice, PodUse},
    judge::{History, Reached, Resource, Verdict, judge},
    measure::Places,
};
use crate::{
    config::kubelet::eviction::Eviction,
    images::collect::{Collector, NodeEvents},
    pod::{
        admission::is_critical,
        desired::Desired,
        ending::{EVICTED, Ending},
        node_state::NodeState,
        resources,
        settings::Settings,
    },
    worker::{
        Desk,
        ports::{Clock, EventSink, PodEvent},
    },
};

/// A kubelet's period.
const PERIOD: Duration = Duration::from_secs(10);
/// While a pod is ending.
const SOON: Duration = Duration::from_secs(1);
/// An eviction that takes longer than its grace and this is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The loop.
pub struct Evictor {
    /// When.
    pub eviction: Eviction,
    /// Whether limits of local disk hold.
    pub local_storage: bool,
    /// The image store, which is emptied first.
    pub images: PathBuf,
    /// Who empties it.
    pub collector: Collector,
    /// What pods use.
    pub runtime: Runtime,
    /// The node.
    pub settings: Arc<Settings>,
    /// To the manager.
    pub desk: Desk,
    /// What pods that come have to know.
    pub state: Arc<watch::Sender<NodeState>>,
    /// For users, about pods.
    pub pod_events: Arc<dyn EventSink>,
    /// For users, about the node.
    pub events: Arc<dyn NodeEvents>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Evictor {
    /// For as long as the node runs.
    pub async fn run(self) {
        let places = self.places();
        let mut history = History::default();
        let mut ending: Option<(String, Instant)> = None;
        let mut told = BTreeSet::new();
        loop {
            sleep(if ending.is_some() { SOON } else { PERIOD }).await;
            let (measured, seen) = (places.clone(), Instant::now());
            let Ok(measures) = tokio::task::spawn_blocking(move || measure::node(&measured)).await else {
                continue;
            };
            let verdict = judge(&self.eviction, &measures, &mut history, self.clock.now());
            self.publish(&verdict);
            let Some(pods) = self.desk.active().await else { continue };
            ending = ending
                .filter(|(uid, until)| pods.iter().any(|pod| pod.uid() == uid) && *until > Instant::now());
            if ending.is_some() {
                continue;
            }
            if let Some(uid) = self.hold_to_limits(&pods).await {
                ending = Some((uid, Instant::now() + PATIENCE));
                continue;
            }
            let Some(reached) = verdict.reached else {
                told.clear();
                continue;
            };
            let resource = reached.measure.resource();
            if told.insert(resource.name()) {
                let text = format!("Attempting to reclaim {}", resource.name());
                self.events.warn("EvictionThresholdMet", text).await;
            }
            let disk = matches!(resource, Resource::EphemeralStorage | Resource::Inodes);
            if disk && self.images_helped(&places, &reached).await {
                continue;
            }
            ending = self.evict(&reached, &pods, disk, seen).await;
        }
    }

    fn places(&self) -> Places {
        let settings = &self.settings;
        let (pods_cgroup, limits) = resources::of_all_pods(settings);
        Places {
            state_dir: settings.state_dir.clone(),
            images: self.images.clone(),
            pods_cgroup,
            pods_memory: limits.memory_limit.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
        }
    }

    fn publish(&self, verdict: &Verdict) {
        self.state.send_if_modified(|state| {
            let news = state.pressures != verdict.pressures;
            state.pressures.clone_from(&verdict.pressures);
            news
        });
    }

    /// Ends a pod that has written more than it may.
    async fn hold_to_limits(&self, pods: &[Desired]) -> Option<String> {
        let limited = pods.iter().filter(|pod| self.local_storage && local::is_limited(pod.spec()));
        for pod in limited.filter(|pod| !pod.deleting()) {
            let usage = measure::disk_use(&self.runtime, &self.settings, pod).await;
            if let Some((limit, message)) = local::exceeded(pod.spec(), &usage) {
                let notice = Notice { message, ..Notice::default() };
                self.end(pod, limit, notice, Some(Duration::ZERO)).await;
                return Some(pod.uid().to_owned());
            }
        }
        None
    }

    /// Removes the images that nobody needs; whether the threshold is left by that.
    async fn images_helped(&self, places: &Places, reached: &Reached) -> bool {
        self.collector.remove_unused().await;
        let places = places.clone();
        let measured = tokio::task::spawn_blocking(move || measure::node(&places)).await.unwrap_or_default();
        measured.get(&reached.measure).is_some_and(|now| now.available >= reached.least)
    }

    /// `seen` is when it was measured.
    async fn evict(
        &self,
        reached: &Reached,
        pods: &[Desired],
        disk: bool,
        seen: Instant,
    ) -> Option<(String, Instant)> {
        let candidates = pods.iter().filter(|pod| !is_critical(pod) && !pod.deleting());
        let mut uses: Vec<PodUse> = Vec::new();
        for pod in candidates {
            uses.push(measure::pod(&self.runtime, &self.settings, pod, disk).await);
        }
        let chosen = choose::first(reached.measure.resource(), &uses)?;
        let pod = pods.iter().find(|pod| pod.uid() == chosen.uid)?;
        let most = Duration::from_secs(self.eviction.max_pod_grace_seconds.try_into().unwrap_or(0));
        let grace = if reached.hard { Duration::ZERO } else { most };
        let signal = reached.measure.signal();
        self.metrics.stats_age.with_label_values(&[signal]).observe(seen.elapsed().as_secs_f64());
        self.end(pod, signal, choose::notice(reached, chosen), Some(grace)).await;
        Some((chosen.uid.clone(), Instant::now() + pod.grace().min(grace) + PATIENCE))
    }

    async fn end(&self, pod: &Desired, signal: &str, notice: Notice, grace: Option<Duration>) {
        let Notice { message, annotations } = notice;
        self.metrics.evictions.with_label_values(&[signal]).inc();
        tracing::warn!(uid = pod.uid(), message, "evict a pod");
        let event = PodEvent {
            pod: Arc::clone(&pod.pod),
            field_path: None,
            warning: true,
            reason: EVICTED,
            message: message.clone(),
            annotations,
        };
        self.pod_events.record(event);
        let ending = Ending { reason: EVICTED, message, grace };
        self.desk.end(pod.uid(), ending).await;
    }
}
