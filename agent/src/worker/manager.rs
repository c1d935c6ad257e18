//! Starts, feeds and retires the workers; adopts what is found at the start; removes what nobody asks for.
//!
//! Nothing is removed before the first full list: a pod that the API has not mentioned yet is not an unknown pod.
//! Not for: anything about one pod that its worker can do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use orlop_model::event::Event as Change;
use prometheus::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinError, JoinSet},
};

use super::{
    Desk, Known, Message, Reports, Shared,
    desk::{Question, Questions},
    pod_worker::PodWorker,
    ports::{ObjectRef, Ports, RuntimeEvent, Sandbox, Written},
    traces::Traces,
};
use crate::{
    cri,
    pod::{
        admission::{self, Refused},
        allocation::Allocation,
        desired::{Desired, pod_ref},
        ending::Ending,
        events::Event,
        machine::PodRef,
        needed,
        node_state::NodeState,
        preempt, refs,
        resize::{self, Pending},
        resources,
        settings::Settings,
        status::is_end,
        trace::Trace,
    },
};

/// What the manager listens to.
pub struct Inputs {
    /// Pods of this node; all sources merged, so that a `Reset` names them all.
    pub pods: mpsc::Receiver<Change<Arc<Pod>>>,
    /// What the runtime tells.
    pub runtime: mpsc::UnboundedReceiver<RuntimeEvent>,
    /// Statuses that reached the API server.
    pub written: mpsc::UnboundedReceiver<Written>,
    /// Objects of the API that changed.
    pub changed: mpsc::UnboundedReceiver<ObjectRef>,
    /// What runs short, and whether the machine goes down.
    pub state: watch::Receiver<NodeState>,
}

/// All pods of this node.
pub struct Manager {
    shared: Shared,
    workers: HashMap<String, Handle>,
    /// Sandboxes found at the start that no pod has claimed yet.
    found: HashMap<String, Sandbox>,
    /// Critical pods that others make room for, by UID, with the UIDs of the others.
    preempting: BTreeMap<String, (Arc<Pod>, BTreeSet<String>)>,
    state: NodeState,
    /// Static pods whose predecessor of the same name is still ending, by UID.
    held: BTreeMap<String, Arc<Pod>>,
    tasks: JoinSet<bool>,
    /// Whose task it is.
    owners: HashMap<task::Id, String>,
    cleanups: JoinSet<()>,
    /// New pods that plugins are asked about, as the API has them now.
    coming: HashMap<String, Arc<Pod>>,
    answers: JoinSet<(String, Timestamp, Result<(), Refused>)>,
    listed: bool,
    counts: watch::Sender<Counts>,
    desk: Desk,
    questions: Questions,
    needed: watch::Sender<Needed>,
    burstable: watch::Sender<i64>,
}

/// Which images the pods of this node need, for those who remove images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// The first full list is in: there are no other pods.
    pub listed: bool,
    /// References, each with a pod that needs it.
    pub images: BTreeMap<String, String>,
}

/// How many pods there are, for metrics and readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods with a worker.
    pub workers: usize,
    /// The first full list is in and what it did not name is being removed.
    pub listed: bool,
}

struct Handle {
    desired: watch::Sender<Desired>,
    /// As the API has it; `desired` has the resources that were granted.
    wanted: Arc<Pod>,
    /// What this node has granted.
    granted: Allocation,
    /// The API asks for something else.
    asks: bool,
    messages: Reports,
    /// No set: a set of one has room for eleven.
    refs: Box<[ObjectRef]>,
}

impl Manager {
    /// A manager that knows no pod yet.
    pub fn new(settings: Arc<Settings>, ports: Ports) -> Manager {
        let (desk, questions) = Desk::open();
        Manager {
            shared: Shared::new(ports, settings),
            workers: HashMap::new(),
            found: HashMap::new(),
            preempting: BTreeMap::new(),
            state: NodeState::default(),
            held: BTreeMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            cleanups: JoinSet::new(),
            coming: HashMap::new(),
            answers: JoinSet::new(),
            listed: false,
            counts: watch::Sender::default(),
            desk,
            questions,
            needed: watch::Sender::default(),
            burstable: watch::Sender::default(),
        }
    }

    /// How many pods there are.
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    /// Where to ask about the pods.
    pub fn desk(&self) -> Desk {
        self.desk.clone()
    }

    /// How pods came up.
    pub fn traces(&self) -> Traces {
        self.shared.traces.clone()
    }

    /// Makes known what the workers count, that of probes apart.
    pub fn register(&self, kubelet: &Registry, probes: &Registry) {
        self.shared.metrics.register(kubelet, probes);
    }

    fn known(&self) -> Vec<Known> {
        let known = |handle: &Handle| {
            let desired = handle.desired.borrow();
            Known {
                pod: Arc::clone(&handle.wanted),
                gone: desired.gone,
                ended: desired.told_terminal(),
                of_node: desired.is_static(),
                desired: desired.clone(),
            }
        };
        self.workers.values().map(known).collect()
    }

    /// Which images the pods need.
    pub fn needed(&self) -> watch::Receiver<Needed> {
        self.needed.subscribe()
    }

    /// What Burstable pods ask for together, in thousandths of a processor.
    pub fn burstable(&self) -> watch::Receiver<i64> {
        self.burstable.subscribe()
    }

    fn tell_needed(&self) {
        let pods: Vec<_> =
            self.workers.values().map(|handle| Arc::clone(&handle.desired.borrow().pod)).collect();
        let active = self.workers.values().map(|handle| handle.desired.borrow().clone());
        let active: Vec<_> = active.filter(|desired| !desired.told_terminal()).collect();
        let there = active.iter().map(|desired| Arc::clone(&desired.pod)).collect();
        let coming = self.coming.keys().chain(self.found.keys()).cloned();
        self.shared.ports.exclusive.retain(there, coming);
        let asked = resources::asked_by_burstable(active.iter().map(Desired::spec));
        self.burstable.send_if_modified(|known| std::mem::replace(known, asked) != asked);
        let needed =
            Needed { listed: self.listed, images: needed::needed(pods.iter().map(|pod| pod.as_ref())) };
        self.needed.send_if_modified(|known| {
            let news = *known != needed;
            *known = needed;
            news
        });
    }

    /// Until the source of pods ends. Pods go on without us; a later manager adopts them.
    pub async fn run(mut self, mut inputs: Inputs) {
        let found = self.shared.ports.runtime.pods().await;
        self.found = found.into_iter().map(|sandbox| (sandbox.pod.uid.clone(), sandbox)).collect();
        // Before anybody new is given anything.
        for (uid, sandbox) in &self.found {
            self.shared.ports.exclusive.adopt(uid, &sandbox.labels);
        }
        loop {
            tokio::select! {
                // Ends of containers are taken before new wishes, so that no plan is made on stale ground.
                biased;
                Some(event) = inputs.runtime.recv() => self.runtime_event(event),
                Some(written) = inputs.written.recv() => self.written(&written),
                change = inputs.pods.recv() => match change {
                    Some(change) => {
                        self.change(change).await;
                        self.admit_waiting();
                        self.settle("pod_updated");
                        self.tell_needed();
                    }
                    None => return,
                },
                Some(object) = inputs.changed.recv() => self.object_changed(&object),
                Ok(()) = inputs.state.changed() => self.state = inputs.state.borrow_and_update().clone(),
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended).await;
                    self.admit_waiting();
                    self.settle("pods_removed");
                    self.tell_needed();
                }
                Some(answer) = self.answers.join_next() => {
                    if let Ok((uid, seen, admitted)) = answer {
                        self.answered(&uid, seen, admitted);
                        self.settle("pods_added");
                    }
                    self.tell_needed();
                }
                Some(_) = self.cleanups.join_next() => {}
                // Whoever asked may have given up.
                Some(question) = self.questions.recv() => self.answer(question),
            }
            let counts = Counts { workers: self.workers.len(), listed: self.listed };
            self.counts.send_if_modified(|known| std::mem::replace(known, counts) != counts);
        }
    }

    async fn change(&mut self, change: Change<Arc<Pod>>) {
        match change {
            Change::Apply(pod) => self.apply(pod),
            Change::Delete(pod) => {
                if let Some(uid) = uid(&pod) {
                    self.held.remove(uid);
                    self.preempting.remove(uid);
                    self.coming.remove(uid);
                }
                if let Some(handle) = uid(&pod).and_then(|uid| self.workers.get(uid)) {
                    let pod = handle.granted.into_pod(&pod);
                    handle
                        .desired
                        .send_modify(|desired| *desired = Desired { gone: true, ..Desired::new(pod) });
                }
            }
            Change::Reset(pods) => self.reset(pods).await,
        }
    }

    async fn reset(&mut self, pods: Vec<Arc<Pod>>) {
        let named: HashSet<String> = pods.iter().filter_map(|pod| uid(pod)).map(Into::into).collect();
        self.preempting.retain(|uid, _| named.contains(uid));
        self.held.retain(|uid, _| named.contains(uid));
        pods.into_iter().for_each(|pod| self.apply(pod));
        self.coming.retain(|uid, _| named.contains(uid));
        for (_, handle) in self.workers.iter().filter(|(uid, _)| !named.contains(*uid)) {
            handle.desired.send_modify(|desired| desired.gone = true);
        }
        if !std::mem::replace(&mut self.listed, true) {
            self.remove_unknown().await;
        }
    }

    /// What was found on this machine and is in no list: sandboxes, addresses, directories.
    async fn remove_unknown(&mut self) {
        let mut unknown: HashMap<String, PodRef> =
            self.found.drain().map(|(uid, sandbox)| (uid, sandbox.pod)).collect();
        let (attached, directories) =
            tokio::join!(self.shared.ports.network.attached(), self.shared.ports.files.pods());
        for uid in attached.into_iter().map(|(uid, _)| uid).chain(directories) {
            let nameless = PodRef { namespace: String::new(), name: String::new(), uid: uid.clone() };
            unknown.entry(uid).or_insert(nameless);
        }
        // What a client of the CRI socket made is its business.
        unknown.retain(|uid, _| !self.workers.contains_key(uid) && !cri::owns(uid));
        for pod in unknown.into_values() {
            self.shared.metrics.orphaned_pods.inc();
            self.cleanups.spawn(remove_leftover(self.shared.clone(), pod));
        }
    }

    fn apply(&mut self, pod: Arc<Pod>) {
        let Some(uid) = uid(&pod).map(str::to_owned) else { return };
        if let Some(handle) = self.workers.get_mut(&uid) {
            handle.refs = refs::of_pod(&Desired::new(Arc::clone(&pod))).into_iter().collect();
            let news = handle.wanted.metadata.resource_version != pod.metadata.resource_version
                || pod.metadata.resource_version.is_none();
            if news {
                for words in asked(&handle.wanted, &pod) {
                    self.shared.metrics.resizes_asked.with_label_values(&words).inc();
                }
                handle.wanted = pod;
                handle.asks = handle.granted.differs(&handle.wanted);
                // What asks for other resources is judged first (`settle`), unless it goes.
                if !handle.asks {
                    handle.send(None);
                } else if handle.wanted.metadata.deletion_timestamp.is_some() {
                    let pending = handle.desired.borrow().pending.clone();
                    handle.send(pending);
                }
            }
            return;
        }
        if let Some(known) = self.coming.get_mut(&uid) {
            *known = pod;
            return;
        }
        if let Some((waiting, _)) = self.preempting.get_mut(&uid)
            && pod.metadata.deletion_timestamp.is_none()
        {
            *waiting = pod;
            return;
        }
        if self.has_to_wait(&pod) {
            self.held.insert(uid, pod);
            return;
        }
        let victims = self.make_room(&pod);
        if !victims.is_empty() {
            self.preempting.insert(uid, (pod, victims));
            return;
        }
        let seen = self.shared.ports.clock.now();
        let sandbox = self.found.remove(&uid);
        let desired = Desired::new(Arc::clone(&pod));
        if let Some(refused) = self.refuse(&desired, sandbox.is_some()) {
            return self.begin(pod, seen, sandbox, Some(refused));
        }
        // What was found here has what it has.
        let asks = sandbox.is_none() && !desired.told_terminal() && !desired.deleting();
        match asks.then(|| self.shared.ports.exclusive.reserve(&desired)) {
            None => self.begin(pod, seen, sandbox, None),
            Some(Err(refused)) => {
                let refused = self.told(&desired, refused);
                self.begin(pod, seen, sandbox, Some(refused));
            }
            Some(Ok(wanted)) if wanted.is_empty() => self.begin(pod, seen, sandbox, None),
            Some(Ok(wanted)) => {
                let exclusive = Arc::clone(&self.shared.ports.exclusive);
                self.coming.insert(uid.clone(), pod);
                self.answers.spawn(async move {
                    let admitted = exclusive.complete(&uid, &wanted).await;
                    (uid, seen, admitted)
                });
            }
        }
    }

    /// The plugins have said what they think of a new pod; it may be gone by now.
    fn answered(&mut self, uid: &str, seen: Timestamp, admitted: Result<(), Refused>) {
        let Some(pod) = self.coming.remove(uid) else { return };
        let refused = admitted.err().map(|refused| self.told(&Desired::new(Arc::clone(&pod)), refused));
        self.begin(pod, seen, None, refused);
    }

    /// `seen` is when it was first heard of.
    fn begin(
        &mut self,
        pod: Arc<Pod>,
        seen: Timestamp,
        sandbox: Option<Sandbox>,
        refused: Option<(String, String)>,
    ) {
        let Some(uid) = uid(&pod).map(str::to_owned) else { return };
        let asked = || Allocation::of(Desired::new(Arc::clone(&pod)).spec());
        let granted = sandbox.as_ref().and_then(|sandbox| Allocation::from_labels(&sandbox.labels));
        let granted = granted.unwrap_or_else(asked);
        let (wanted, desired) = (Arc::clone(&pod), Desired::new(granted.into_pod(&pod)));
        if sandbox.is_none() && refused.is_none() && !desired.told_terminal() {
            let now = self.shared.ports.clock.now();
            self.shared.metrics.worker_start.observe(now.duration_since(seen).as_secs_f64());
            self.shared.traces.begin(Trace::begin(&desired, seen, now));
        }
        let (desired, messages) = self.start(desired, sandbox, refused, Duration::ZERO);
        let refs = refs::of_pod(&desired.borrow()).into_iter().collect();
        let asks = granted.differs(&wanted);
        self.workers.insert(uid, Handle { desired, wanted, granted, asks, messages, refs });
    }

    /// A critical pod that lacks nothing but room gets it from others; it is taken when they have ended.
    fn make_room(&self, pod: &Arc<Pod>) -> BTreeSet<String> {
        let desired = Desired::new(Arc::clone(pod));
        let known = self.found.contains_key(desired.uid())
            || desired.told_phase().is_some_and(|phase| phase != "Pending");
        if known || desired.deleting() || !admission::is_critical(&desired) {
            return BTreeSet::new();
        }
        let others = self.others();
        let short = match admission::admit(&self.shared.settings, &self.state, &desired, &others) {
            Err(refused) if refused.is_for_room() => refused.reason,
            _ => return BTreeSet::new(),
        };
        let short = short.trim_start_matches("OutOf");
        let victims = preempt::victims(&self.shared.settings, &desired, &others);
        for victim in &victims {
            let message = "Preempted in order to admit critical pod".to_owned();
            self.shared.tell(victim, true, "Preempting", message.clone());
            self.shared.metrics.preemptions.with_label_values(&[short]).inc();
            let ending = Ending { reason: "Preempting", message, grace: None };
            self.send(victim.uid(), Event::End(Box::new(ending)).into());
        }
        victims.iter().map(|victim| victim.uid().to_owned()).collect()
    }

    /// Pods that a new one has to share the node with.
    fn others(&self) -> Vec<Desired> {
        let coming = self.coming.values().map(|pod| Desired::new(Arc::clone(pod)));
        self.active().into_iter().chain(coming).collect()
    }

    /// Pods that are here and have not ended.
    fn active(&self) -> Vec<Desired> {
        let all = self.workers.values().map(|handle| handle.desired.borrow().clone());
        all.filter(|desired| !desired.told_terminal()).collect()
    }

    /// Those who wait for room look whether there is some now.
    fn admit_waiting(&mut self) {
        let active: BTreeSet<_> = self.active().iter().map(|desired| desired.uid().to_owned()).collect();
        let ready =
            |(_, (_, victims)): &(&String, &(Arc<Pod>, BTreeSet<String>))| active.is_disjoint(victims);
        let ready: Vec<_> = self.preempting.iter().filter(ready).map(|(uid, _)| uid.clone()).collect();
        for uid in ready {
            if let Some((pod, _)) = self.preempting.remove(&uid) {
                self.apply(pod);
            }
        }
    }

    /// A static pod that was changed is another pod of the same name; it starts when the old one has ended.
    fn has_to_wait(&self, pod: &Arc<Pod>) -> bool {
        let (name, is_static) = (pod_ref(pod), Desired::new(Arc::clone(pod)).is_static());
        is_static
            && self.workers.values().any(|handle| {
                let other = pod_ref(&handle.wanted);
                (&other.namespace, &other.name) == (&name.namespace, &name.name) && other.uid != name.uid
            })
    }

    /// Judges what asks for other resources than it was granted, those with the best right first. What has to wait is
    /// judged again at every news, and when another one gave something back: there may be more room.
    /// `trigger` is the news, as upstream's metrics call it.
    fn settle(&mut self, mut trigger: &'static str) {
        while self.judge_all(trigger) {
            trigger = "pod_resized";
        }
    }

    /// True if something was granted: that may be less than before.
    fn judge_all(&mut self, trigger: &str) -> bool {
        let asks = |handle: &Handle| handle.asks && handle.wanted.metadata.deletion_timestamp.is_none();
        let asking = self.workers.iter().filter(|(_, handle)| asks(handle));
        let rank = |handle: &Handle| resize::rank(&Desired::new(Arc::clone(&handle.wanted)));
        let mut asking: Vec<_> = asking.map(|(uid, handle)| (rank(handle), uid.clone())).collect();
        asking.sort();
        let mut granted = false;
        for (_, uid) in asking {
            let others = self.workers.iter().filter(|(other, _)| **other != uid);
            let others: Vec<_> = others.map(|(_, handle)| handle.desired.borrow().clone()).collect();
            let Some(handle) = self.workers.get_mut(&uid) else { continue };
            let wanted = Desired::new(Arc::clone(&handle.wanted));
            let verdict = resize::judge(&self.shared.settings, &wanted, &others);
            // What has to wait says so in a condition; upstream has no event for it before 1.35.
            let before = handle.desired.borrow().pending.clone();
            let metrics = &self.shared.metrics;
            match &verdict {
                Ok(()) => {
                    (handle.granted, handle.asks) = (Allocation::of(wanted.spec()), false);
                    granted = true;
                    if before.is_some_and(|before| before.reason == "Deferred") {
                        metrics.resizes_granted_late.with_label_values(&[trigger]).inc();
                    }
                }
                Err(pending) if !pending.detail.is_empty() && before.as_ref() != Some(pending) => {
                    metrics.resizes_infeasible.with_label_values(&[pending.detail]).inc();
                }
                Err(_) => {}
            }
            handle.send(verdict.err());
        }
        granted
    }

    fn start(
        &mut self,
        desired: Desired,
        sandbox: Option<Sandbox>,
        refused: Option<(String, String)>,
        pause: Duration,
    ) -> (watch::Sender<Desired>, Reports) {
        let uid = desired.uid().to_owned();
        let (desired, wanted) = watch::channel(desired);
        let (reports, messages) = Reports::open();
        let channel = (reports.clone(), messages);
        // Boxed: a future keeps what it is made of once more for each future around it.
        let worker = Box::new(PodWorker::new(self.shared.clone(), wanted, sandbox, refused, channel));
        let task = self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            worker.run().await
        });
        self.owners.insert(task.id(), uid);
        (desired, reports)
    }

    /// Why a pod that was never here cannot be here; what once ran is not asked again.
    fn refuse(&self, desired: &Desired, found: bool) -> Option<(String, String)> {
        let known = found || desired.told_phase().is_some_and(|phase| phase != "Pending");
        if known || desired.deleting() {
            return None;
        }
        let refused = admission::admit(&self.shared.settings, &self.state, desired, &self.others()).err()?;
        Some(self.told(desired, refused))
    }

    fn told(&self, desired: &Desired, Refused { reason, text }: Refused) -> (String, String) {
        self.shared.metrics.admission_rejections.with_label_values(&[&*reason]).inc();
        self.shared.tell(desired, true, admission::event_reason(&reason), text.clone());
        (reason, text)
    }

    fn runtime_event(&mut self, event: RuntimeEvent) {
        let (uid, message) = match event {
            RuntimeEvent::Exited { uid, container_id, exit } => {
                (uid, Message::Exited { id: container_id, exit })
            }
            RuntimeEvent::ShimLost { uid } => (uid, Event::ShimLost.into()),
            // The exit record of the container says so too; until then the container goes on.
            RuntimeEvent::Oom { .. } => return,
        };
        self.send(&uid, message);
    }

    fn written(&self, written: &Written) {
        let now = self.shared.ports.clock.now();
        let startup = self.shared.traces.with(&written.uid, |trace| trace.written(&written.status, now));
        if let Some(startup) = startup.flatten() {
            self.shared.metrics.pod_start_total.observe(startup.total.as_secs_f64());
            self.shared.metrics.pod_start_sli.observe(startup.own.as_secs_f64());
        }
        if is_end(&written.status) {
            self.send(&written.uid, Event::EndWritten.into());
        }
    }

    fn object_changed(&self, object: &ObjectRef) {
        for handle in self.workers.values().filter(|handle| handle.refs.contains(object)) {
            handle.messages.send(Event::ObjectsChanged);
        }
    }

    fn answer(&self, question: Question) {
        match question {
            // Whoever asked may be gone.
            Question::Pods(answer) => drop(answer.send(self.known())),
            Question::End { uid, ending } => self.send(&uid, Event::End(Box::new(ending)).into()),
        }
    }

    fn send(&self, uid: &str, message: Message) {
        if let Some(handle) = self.workers.get(uid) {
            handle.messages.send(message);
        }
    }

    /// A worker that is done is forgotten; one that died is started anew over what is there.
    async fn ended(&mut self, ended: Result<(task::Id, bool), JoinError>) {
        let (id, done) = match ended {
            Ok(ended) => ended,
            Err(died) => (died.id(), false),
        };
        let Some(uid) = self.owners.remove(&id) else { return };
        let Some(handle) = self.workers.remove(&uid).filter(|_| !done) else {
            for pod in std::mem::take(&mut self.held).into_values() {
                self.apply(pod);
            }
            return;
        };
        tracing::error!(uid, "the worker of a pod died and is started again");
        let desired = handle.desired.borrow().clone();
        let sandbox = self.shared.ports.runtime.pods().await.into_iter().find(|found| found.pod.uid == uid);
        let (desired, messages) = self.start(desired, sandbox, None, REVIVAL);
        self.workers.insert(uid, Handle { desired, messages, ..handle });
    }
}

impl Handle {
    /// Tells the worker, if there is something to tell.
    fn send(&self, pending: Option<Pending>) {
        self.desired.send_if_modified(|desired| {
            let told = &desired.pod.metadata.resource_version;
            let news = *told != self.wanted.metadata.resource_version || told.is_none();
            let pod = self.granted.into_pod(&self.wanted);
            let changed = news || desired.pending != pending || desired.pod.spec != pod.spec;
            if changed {
                (desired.pod, desired.pending) = (pod, pending);
            }
            changed
        });
    }
}

/// Before a worker that died is started again.
const REVIVAL: Duration = Duration::from_secs(1);

/// A pod only this machine knows: everything of it goes, repeated until it is gone.
async fn remove_leftover(shared: Shared, pod: PodRef) {
    let mut pause = Duration::from_secs(1);
    loop {
        tracing::info!(
            uid = pod.uid,
            namespace = pod.namespace,
            name = pod.name,
            "remove a pod nobody asks for"
        );
        let detached = shared.ports.network.detach(&pod.uid).await;
        let removed = shared.ports.runtime.remove_sandbox(&pod.uid).await;
        let cleared = shared.ports.files.remove_pod(&pod).await;
        let errors = [detached.err().map(|e| e.0), removed.err().map(|e| e.0), cleared.err()];
        if errors.iter().all(Option::is_none) {
            return;
        }
        for error in errors.into_iter().flatten() {
            tracing::warn!(uid = pod.uid, error, "remove a pod nobody asks for");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(60));
    }
}

/// What a changed pod asks for otherwise.
fn asked(before: &Pod, after: &Pod) -> Vec<[&'static str; 3]> {
    let both = before.spec.as_ref().zip(after.spec.as_ref());
    both.map(|(before, after)| resize::asked(before, after)).unwrap_or_default()
}

fn uid(pod: &Arc<Pod>) -> Option<&str> {
    pod.metadata.uid.as_deref()
}
