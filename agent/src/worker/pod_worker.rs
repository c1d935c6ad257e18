//! The loop of one pod.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, channel::mpsc};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use tokio::{sync::watch, time::Instant};

use super::{
    Message, Reports, Shared,
    executor::{Executor, pod_ips},
    ports::LastWords,
    record::Record,
};
use crate::{
    pod::{
        desired::Desired,
        events::Event,
        machine::{Exit, Sandbox},
        observed::{Ended, Life, Observed},
        plan::{Plan, plan},
        refs,
        status::{is_terminal, status},
    },
    probe::Probers,
    status::diff,
};

/// One pod and everything that is known and under way about it.
pub(super) struct PodWorker {
    shared: Shared,
    desired: watch::Receiver<Desired>,
    messages: mpsc::UnboundedReceiver<Message>,
    reports: Reports,
    observed: Observed,
    told: Arc<PodStatus>,
    /// The object that `told` was last compared with.
    heard: Arc<Pod>,
    /// Since when there is only little to tell.
    quiet_since: Option<Instant>,
    /// The node's clock when it was last read, and one that nobody sets.
    clock: (Timestamp, Instant),
    executor: Executor,
    probers: Probers,
    /// Ends that arrived before their start was reported.
    early: HashMap<String, Exit>,
    /// Containers that ended and whose last words are being read.
    ending: HashSet<String>,
    record: Record,
    /// The shim is gone; that counts after the ends it was told with.
    bereft: bool,
}

impl PodWorker {
    pub(super) fn new(
        shared: Shared,
        desired: watch::Receiver<Desired>,
        sandbox: Option<Sandbox>,
        refused: Option<(String, String)>,
        (reports, messages): (Reports, mpsc::UnboundedReceiver<Message>),
    ) -> PodWorker {
        let now = shared.ports.clock.now();
        let first = desired.borrow().clone();
        let mut observed =
            Observed::adopt(&first, sandbox, Some(shared.settings.policy.longest_restart), now);
        observed.started_at.get_or_insert(now);
        observed.refused = refused;
        let told = Arc::new(first.pod.status.clone().unwrap_or_default());
        PodWorker {
            executor: Executor::new(shared.clone(), reports.clone()),
            probers: Probers::new(shared.clone(), reports.clone()),
            early: HashMap::new(),
            ending: HashSet::new(),
            record: Record::new(shared.clone()),
            bereft: false,
            shared,
            desired,
            messages,
            reports,
            observed,
            told,
            heard: first.pod,
            quiet_since: None,
            clock: (now, Instant::now()),
        }
    }

    /// Until the pod is gone from the API and from this node. False: a part of it died, and with it what it would
    /// have reported; only a new look at the machine helps.
    #[tracing::instrument(skip_all, fields(pod = %name(&self.desired.borrow()), uid = %self.desired.borrow().uid()))]
    pub(super) async fn run(mut self: Box<Self>) -> bool {
        let first = self.desired.borrow().clone();
        let uid = first.uid().to_owned();
        self.shared.ports.objects.follow(&uid, refs::of_pod(&first));
        self.read_last_words(&first).await;
        if self.observed.lost {
            self.tell_lost(&first);
        }
        // The loop may last for months: what it was first wanted to be is not kept.
        drop(first);
        loop {
            let desired = self.desired.borrow_and_update().clone();
            let now = self.now();
            let (old, new) = (&self.heard.metadata, &desired.pod.metadata);
            if (&old.labels, &old.annotations) != (&new.labels, &new.annotations) {
                // They may be shown in a downward API volume.
                self.observed.apply(Event::ObjectsChanged, now);
            }
            self.observed.hear_deletion(&desired);
            let Plan { actions, wake_at, finished } = plan(&desired, &self.observed, now);
            for action in actions {
                tracing::debug!(%action, "start");
                self.record.action(&action, &desired, now);
                self.observed.started(&action, now);
                self.executor.start(action, &desired, &self.observed);
            }
            let tell_at = self.tell(&desired, now);
            let wake_at = wake_at.into_iter().chain(tell_at).min();
            if finished {
                break;
            }
            self.probers.keep(&desired, &self.observed, &pod_ips(&self.shared, &desired, &self.observed));
            tokio::select! {
                // The agent ends, the pod does not.
                changed = self.desired.changed() => if changed.is_err() { return true },
                reported = self.executor.one_ended() => if !reported { return false },
                Some(message) = self.messages.next() => self.receive(message),
                () = sleep_until(wake_at, now), if wake_at.is_some() => {}
            }
        }
        self.shared.ports.objects.follow(&uid, Default::default());
        self.shared.ports.statuses.forget(&uid);
        true
    }

    fn receive(&mut self, message: Message) {
        let mut next = Some(message);
        // Whatever else is there is taken too, so that one plan answers all of it.
        while let Some(message) = next {
            match message {
                Message::Event(Event::ShimLost) => self.bereft = true,
                Message::Event(event) => self.apply(event),
                Message::Exited { id, exit } => self.exited(id, exit),
            }
            next = self.messages.try_recv().ok();
        }
        if self.bereft && self.ending.is_empty() {
            self.bereft = false;
            self.tell_lost(&self.desired.borrow());
            self.apply(Event::ShimLost);
        }
    }

    fn tell_lost(&self, desired: &Desired) {
        let text = "The shim of the pod is gone: whatever of its containers still ran was killed";
        self.shared.tell(desired, true, "ShimLost", text.into());
    }

    /// The time. Where the clock was set since it was last read, what waits goes on waiting as long as before.
    fn now(&mut self) -> Timestamp {
        let (now, instant) = (self.shared.ports.clock.now(), Instant::now());
        let (before, then) = std::mem::replace(&mut self.clock, (now, instant));
        let passed = SignedDuration::try_from(instant.duration_since(then)).unwrap_or_default();
        let set_by = now.duration_since(before).saturating_sub(passed);
        if set_by.unsigned_abs() > DRIFT {
            self.observed.clock_set(set_by);
        }
        now
    }

    fn apply(&mut self, event: Event) {
        let now = self.now();
        let started = match &event {
            Event::ContainerStarted { instance, .. } => Some(instance.id.clone()),
            Event::Exited { id, .. } => {
                self.ending.remove(id);
                None
            }
            _ => None,
        };
        tracing::debug!(?event, "event");
        self.record.event(&event, &self.desired.borrow(), &self.observed, now);
        self.observed.apply(event, now);
        if let Some((id, exit)) = started.and_then(|id| self.early.remove_entry(&id)) {
            self.exited(id, exit);
        }
    }

    /// An end counts when its last words are read; a start that is not reported yet comes first.
    fn exited(&mut self, id: String, exit: Exit) {
        let current = self.observed.containers.values().filter_map(|instances| instances.current.as_ref());
        let Some(instance) = current.into_iter().find(|instance| instance.id == id) else {
            if self.observed.containers.values().any(|instances| instances.starting) {
                self.early.insert(id, exit);
            }
            return;
        };
        if !instance.running() {
            return;
        }
        let desired = self.desired.borrow().clone();
        let (shared, reports) = (self.shared.clone(), self.reports.clone());
        let (attempt, log_path) = (instance.attempt, instance.log_path.clone());
        let name = self.observed.name_of(&id).unwrap_or_default().to_owned();
        self.ending.insert(id.clone());
        self.executor.spawn(async move {
            let failed = exit.code != 0;
            let words = match desired.container(&name) {
                Some((_, container)) => {
                    let (pod, container) = (&desired.pod_ref(), &*container);
                    let words = LastWords { pod, container, attempt, failed, log_path: &log_path };
                    shared.ports.files.last_words(words).await
                }
                None => None,
            };
            reports.send(Event::Exited { id, exit, message: words });
        });
    }

    /// Instances that were found dead left their words on the disk.
    async fn read_last_words(&mut self, desired: &Desired) {
        let pod = &desired.pod_ref();
        for (name, instances) in &mut self.observed.containers {
            let Some((_, container)) = desired.container(name) else { continue };
            for instance in instances.current.iter_mut().chain(&mut instances.last) {
                let Life::Ended(Ended { exit, message, .. }) = &mut instance.life else { continue };
                let failed = exit.code != 0;
                let (attempt, log_path) = (instance.attempt, &*instance.log_path);
                let words = LastWords { pod, container: &container, attempt, failed, log_path };
                *message = self.shared.ports.files.last_words(words).await;
            }
        }
    }

    /// Publishes the status if it says something new, or if the API server came to say something else. The first
    /// news of a pod, that it is on its way, waits a moment: it mostly is outrun by the news that it runs.
    fn tell(&mut self, desired: &Desired, now: Timestamp) -> Option<Timestamp> {
        if desired.gone {
            return None;
        }
        let status = status(desired, &self.observed, &self.told, &self.shared.settings, now);
        let contradicted = !Arc::ptr_eq(&self.heard, &desired.pod) && {
            let version = |pod: &Pod| pod.metadata.resource_version.is_some();
            // The first word of the API server about a pod that was known from memory: it may have missed a lot.
            let back = !version(&self.heard) && version(&desired.pod);
            self.heard = Arc::clone(&desired.pod);
            let in_api = desired.pod.status.as_ref();
            in_api.is_some_and(|in_api| back || diff::contradicts(in_api, &self.told))
        };
        if *self.told == status && !contradicted {
            return None;
        }
        if on_its_way(&self.told) && on_its_way(&status) {
            let since = *self.quiet_since.get_or_insert_with(Instant::now);
            let left = QUIET.saturating_sub(since.elapsed());
            if !left.is_zero() {
                return now.checked_add(left).ok();
            }
        }
        self.observed.over |= is_terminal(status.phase.as_deref());
        self.shared.traces.with(desired.uid(), |trace| trace.tells(&status, now));
        self.told = Arc::new(status);
        self.shared.ports.statuses.publish(&desired.pod, Arc::clone(&self.told));
        None
    }
}

/// Two clocks that nobody sets do not differ by more from one look to the next.
const DRIFT: Duration = Duration::from_secs(1);

/// How long the news that a pod is on its way may wait.
const QUIET: Duration = Duration::from_millis(200);

/// Nothing has run yet and nothing is wrong.
fn on_its_way(status: &PodStatus) -> bool {
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let calm = |container: &ContainerStatus| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.is_some_and(|waiting| {
            matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing"))
        })
    };
    matches!(status.phase.as_deref(), None | Some("Pending")) && containers.into_iter().all(calm)
}

fn name(desired: &Desired) -> String {
    let pod = desired.pod_ref();
    format!("{}/{}", pod.namespace, pod.name)
}

async fn sleep_until(at: Option<Timestamp>, now: Timestamp) {
    let wait = at.map_or(Ok(std::time::Duration::ZERO), |at| at.duration_since(now).try_into());
    tokio::time::sleep(wait.unwrap_or_default()).await;
}
