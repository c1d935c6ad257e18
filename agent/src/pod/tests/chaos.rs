//! Whatever happens in whatever order: no instance runs twice, nothing is removed under a running container, a pod left
//! alone comes to what it was declared to be, and a deleted pod ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{EphemeralContainer, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::*;

use crate::pod::{
    allocation::{Allocation, Granted},
    desired::{Desired, Kind},
    ending::Ending,
    events::{Event, Resized},
    machine::{Container, ContainerState, Exit, PodRef, Sandbox},
    observed::{ImageTrouble, Images, Instance, Observed, Unhealthy, Volumes, started_without_probe},
    plan::{Action, plan},
    settings::Settings,
    status::{is_end, is_terminal, status},
};

/// The machine as it really is, beside what the agent believes.
struct World {
    desired: Desired,
    observed: Observed,
    told: PodStatus,
    now: Timestamp,
    /// Actions the executor is busy with.
    busy: Vec<Action>,
    sandbox: bool,
    containers: BTreeMap<String, Container>,
    ever_started: BTreeSet<String>,
    deleted: bool,
    finished: bool,
    log: Vec<String>,
}

const SPECS: [&str; 5] = [
    "{containers: [{name: a, image: i}, {name: b, image: i}]}",
    "{restartPolicy: OnFailure, initContainers: [{name: i, image: i}], containers: [{name: a, image: i}]}",
    "{restartPolicy: Never, initContainers: [{name: i, image: i}, {name: s, image: i, restartPolicy: Always}], \
     containers: [{name: a, image: i}, {name: b, image: i}]}",
    "{restartPolicy: Never, containers: [{name: a, image: i, restartPolicy: OnFailure}, {name: b, image: i, \
     restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]}]}",
    "{containers: [{name: a, image: i, resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]}], \
     ephemeralContainers: [{name: e, image: i}]}",
];

const DAY: i64 = 86_400;

impl World {
    fn new(spec: usize, of_file: bool) -> World {
        let mut pod: Pod = serde_norway::from_str("{metadata: {name: p, namespace: ns, uid: u}}").unwrap();
        pod.spec = Some(serde_norway::from_str(SPECS[spec]).unwrap());
        if of_file {
            let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
            pod.metadata.annotations = Some(BTreeMap::from([source]));
        }
        let now = Timestamp::from_second(1_000_000).unwrap();
        World {
            desired: Desired::new(Arc::new(pod)),
            observed: Observed { started_at: Some(now), ..Observed::default() },
            told: PodStatus::default(),
            now,
            busy: Vec::new(),
            sandbox: false,
            containers: BTreeMap::new(),
            ever_started: BTreeSet::new(),
            deleted: false,
            finished: false,
            log: Vec::new(),
        }
    }

    fn plan(&mut self) {
        self.observed.hear_deletion(&self.desired);
        let plan = plan(&self.desired, &self.observed, self.now);
        for action in plan.actions {
            self.log.push(action.to_string());
            self.check(&action);
            self.observed.started(&action, self.now);
            self.busy.push(action);
        }
        let longest = self.now + Duration::from_secs(300);
        assert!(
            plan.wake_at.is_none_or(|at| at <= longest),
            "waits longer than any back-off: {:#?}",
            self.log
        );
        self.finished = plan.finished;
        if self.finished {
            // What makes nothing may be cut off: a pull, the removal of a dead container.
            let makes = |action: &Action| {
                matches!(
                    action,
                    Action::MakeVolumes
                        | Action::CreateSandbox
                        | Action::AttachNetwork
                        | Action::StartContainer { .. }
                        | Action::RemoveSandbox
                        | Action::RemoveVolumes
                )
            };
            assert!(!self.sandbox && !self.busy.iter().any(makes), "finished too early: {:?}", self.busy);
        }
        let told = status(&self.desired, &self.observed, &self.told, &Settings::for_tests(), self.now);
        if is_terminal(self.told.phase.as_deref()) {
            assert_eq!(told.phase, self.told.phase, "an end is for ever");
        }
        if is_terminal(told.phase.as_deref()) {
            self.observed.over = true;
            assert!(!self.runs(), "told an end while something runs: {:#?}", self.log);
        }
        self.told = told;
    }

    fn runs(&self) -> bool {
        self.containers.values().any(|c| matches!(c.state, ContainerState::Running { .. }))
    }

    fn check(&self, action: &Action) {
        match action {
            Action::StartContainer { container, attempt } => {
                assert!(!self.desired.deleting(), "start of a pod that goes");
                let twice = self.busy.iter().any(
                    |other| matches!(other, Action::StartContainer { container: c, .. } if c == container),
                );
                assert!(!twice, "{container} is started already");
                let newer = self.containers.values().any(|c| c.name == *container && c.attempt > *attempt);
                assert!(!newer, "{container}: numbers go back");
            }
            Action::RemoveSandbox => {
                assert!(self.observed.lost || !self.runs(), "sandbox removed under a running container");
            }
            Action::RemoveVolumes | Action::ClearVolumes | Action::DeleteObject => {
                assert!(!self.sandbox, "removed before the sandbox");
            }
            _ => {}
        }
    }

    /// One of the actions under way ends.
    fn complete(&mut self, which: usize, works: bool) {
        if self.busy.is_empty() {
            return;
        }
        let action = self.busy.remove(which % self.busy.len());
        self.log.push(format!("{} {action}", if works { "done" } else { "failed" }));
        let failure = || Err("no".to_owned());
        let event = match action {
            Action::MakeVolumes if works => Event::VolumesMade(Ok(Arc::new(Volumes::default()))),
            Action::MakeVolumes => Event::VolumesMade(failure().map(|()| Arc::default())),
            Action::CreateSandbox => {
                self.sandbox |= works;
                Event::SandboxCreated(if works { Ok(Some("/ns".into())) } else { Err("no".into()) })
            }
            Action::AttachNetwork if works => Event::NetworkAttached(Ok(vec![[10, 0, 0, 2].into()])),
            Action::AttachNetwork => Event::NetworkAttached(Err("no".into())),
            Action::EnsureImage { container, image } => {
                let trouble =
                    || ImageTrouble { reference: image, reason: "ErrImagePull", message: "no".into() };
                let result = if works { Ok(Images::default()) } else { Err(trouble()) };
                Event::ImageEnsured { container, result }
            }
            Action::StartContainer { container, attempt } if works && self.sandbox => {
                self.start(container, attempt)
            }
            Action::StartContainer { container, .. } => Event::StartFailed {
                container,
                reason: "CreateContainerError",
                message: "no".into(),
                instance: None,
            },
            Action::StopContainer { id, .. } => {
                self.exit(&id, 143);
                return;
            }
            Action::RemoveContainer { container, id } => {
                self.containers.remove(&id);
                Event::ContainerRemoved { container, id }
            }
            Action::Resize => Event::Resized(Box::new(Resized {
                allocation: Allocation::of(self.desired.spec()),
                granted: self.granted(),
                seen: BTreeMap::new(),
                result: if works { Ok(()) } else { failure() },
            })),
            Action::RemoveSandbox if works => {
                self.sandbox = false;
                self.containers.clear();
                Event::SandboxRemoved(Ok(()))
            }
            Action::RemoveSandbox => Event::SandboxRemoved(failure()),
            Action::RemoveVolumes => Event::VolumesRemoved(if works { Ok(()) } else { failure() }),
            Action::ClearVolumes => Event::VolumesCleared(if works { Ok(()) } else { failure() }),
            Action::DeleteObject => {
                self.deleted = true;
                return;
            }
            Action::TellBackOff { .. } | Action::TellDeadline => return,
        };
        self.observed.apply(event, self.now);
    }

    fn granted(&self) -> BTreeMap<String, Granted> {
        let of = |c: &Container| Some((c.id.clone(), Granted::of(&self.desired.container(&c.name)?.1)));
        self.containers.values().filter_map(of).collect()
    }

    fn start(&mut self, name: String, attempt: u32) -> Event {
        let id = format!("{name}-{attempt}");
        let running = self
            .containers
            .values()
            .any(|c| c.name == name && matches!(c.state, ContainerState::Running { .. }));
        assert!(!running, "{name} runs twice");
        assert!(self.ever_started.insert(id.clone()), "{id} was started before");
        let container = Container {
            id: id.clone(),
            name: name.clone(),
            attempt,
            image_ref: "i".into(),
            image_id: "sha256:1".into(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: ContainerState::Running { pid: 1, started_at: self.now },
            labels: BTreeMap::from([Granted::of(&self.desired.container(&name).unwrap().1).to_label()]),
        };
        self.containers.insert(id.clone(), container.clone());
        if self.observed.lost {
            self.end(&id, 137);
        }
        let kind = self.desired.container(&name).map(|(kind, _)| kind);
        let started = started_without_probe(&self.desired, kind, &name);
        let instance = Box::new(Instance::new(container, started));
        Event::ContainerStarted { container: name, instance, hook: false }
    }

    /// False: it does not run.
    fn exit(&mut self, id: &str, code: i32) -> bool {
        let Some(exit) = self.end(id, code) else { return false };
        self.observed.apply(Event::Exited { id: id.into(), exit, message: None }, self.now);
        true
    }

    /// It ends, and nobody has said so yet.
    fn end(&mut self, id: &str, code: i32) -> Option<Exit> {
        let now = self.now;
        let container = self.containers.get_mut(id)?;
        let ContainerState::Running { started_at, .. } = container.state else { return None };
        let exit = Exit { code, signal: None, oom_killed: false, started_at, finished_at: now };
        container.state = ContainerState::Exited(exit.clone());
        Some(exit)
    }

    /// The agent is killed: what it was busy with may or may not have happened, what it believed is gone.
    fn restart(&mut self) {
        let busy = std::mem::take(&mut self.busy);
        for action in busy {
            if let Action::StartContainer { container, attempt } = action
                && self.sandbox
                && attempt % 2 == 0
            {
                let _unreported = self.start(container, attempt);
            }
        }
        let pod = Arc::make_mut(&mut self.desired.pod);
        pod.status = Some(self.told.clone());
        let sandbox = self.sandbox.then(|| Sandbox {
            pod: PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
            netns: Some("/ns".into()),
            created_at: self.now,
            shim_alive: true,
            containers: {
                let mut all: Vec<_> = self.containers.values().cloned().collect();
                all.sort_by_key(|container| container.attempt);
                all
            },
            labels: BTreeMap::new(),
        });
        self.observed = Observed::adopt(&self.desired, sandbox, None, self.now);
        self.observed.started_at.get_or_insert(self.now);
        self.told = self.desired.pod.status.clone().unwrap_or_default();
    }

    fn step(&mut self, (kind, pick, works): (u8, usize, bool)) {
        if kind >= 8 {
            self.log.push(format!("step {kind}"));
        }
        match kind {
            0..8 => self.complete(pick, works),
            8 => {
                let id = self.containers.keys().nth(pick % self.containers.len().max(1)).cloned();
                if let Some(id) = id {
                    self.exit(&id, i32::from(!works));
                }
            }
            9 => self.now += Duration::from_secs(pick as u64),
            10 if is_end(&self.told) => self.observed.apply(Event::EndWritten, self.now),
            11 if self.sandbox && works => {
                let ids: Vec<_> = self.containers.keys().cloned().collect();
                for id in ids {
                    self.end(&id, 137);
                }
                self.observed.apply(Event::ShimLost, self.now);
            }
            12 => {
                let id = self.containers.keys().next().cloned().unwrap_or_default();
                self.observed.apply(Event::Unhealthy { id, why: Unhealthy::Liveness }, self.now);
            }
            13 => self.restart(),
            14 if pick % 4 == 0 => self.delete(),
            15 if pick % 4 == 0 => {
                let message = "The node was low on resource: memory. ".to_owned();
                let ending = Ending { reason: "Evicted", message, grace: works.then_some(Duration::ZERO) };
                self.observed.apply(Event::End(Box::new(ending)), self.now);
            }
            16 => self.set_clock(if works { DAY } else { -DAY }),
            17 => self.resize(if works { "cpu" } else { "memory" }, pick),
            18 if pick % 4 == 0 => self.debug(pick),
            _ => {}
        }
        self.plan();
    }

    /// Nothing begins and nothing ends for it, and what waits does not wait longer.
    fn set_clock(&mut self, by: i64) {
        let by = SignedDuration::from_secs(by);
        let before = plan(&self.desired, &self.observed, self.now);
        self.now += by;
        self.observed.clock_set(by);
        let after = plan(&self.desired, &self.observed, self.now);
        assert_eq!(after.actions, before.actions, "the clock was set by {by}");
        assert_eq!(after.wake_at, before.wake_at.map(|at| at + by), "the clock was set by {by}");
    }

    fn resize(&mut self, what: &str, amount: usize) {
        let resources = format!("{{limits: {{{what}: {}}}}}", amount + 1);
        let spec = Arc::make_mut(&mut self.desired.pod).spec.as_mut().unwrap();
        spec.containers[0].resources = Some(serde_norway::from_str(&resources).unwrap());
    }

    fn debug(&mut self, pick: usize) {
        let name = format!("debug{pick}");
        let spec = Arc::make_mut(&mut self.desired.pod).spec.as_mut().unwrap();
        let all = spec.ephemeral_containers.get_or_insert_default();
        if all.iter().all(|container| container.name != name) {
            let image = Some("i".to_owned());
            all.push(EphemeralContainer { name, image, ..EphemeralContainer::default() });
        }
    }

    /// Lets all that is under way succeed until nothing is left to do or to wait for.
    fn settle(&mut self) {
        for _ in 0..400 {
            self.plan();
            let init = self.desired.init().filter(|(kind, _)| *kind == Kind::Init);
            let names: Vec<_> = init.map(|(_, container)| container.name.clone()).collect();
            let ids: Vec<_> =
                self.containers.values().filter(|c| names.contains(&c.name)).map(|c| c.id.clone()).collect();
            if !self.busy.is_empty() {
                self.complete(0, true);
            } else if is_end(&self.told) && !self.observed.told_end {
                self.observed.apply(Event::EndWritten, self.now);
            } else if let Some(at) = plan(&self.desired, &self.observed, self.now).wake_at {
                self.now = at;
            } else if !ids.iter().any(|id| self.exit(id, 0)) {
                return;
            }
        }
        panic!("no rest: {:#?}", self.log);
    }

    /// The declared state: all that should run does, or the end was told.
    fn check_settled(&self) {
        let nothing = plan(&self.desired, &self.observed, self.now);
        assert!(nothing.actions.is_empty() && nothing.wake_at.is_none(), "{nothing:?}");
        if is_terminal(self.told.phase.as_deref()) || self.desired.deleting() {
            assert!(!self.runs(), "told an end while something runs");
            return;
        }
        for container in self.desired.regular() {
            let instances = self.observed.container(&container.name);
            let over = instances.effective(&self.desired, Kind::Regular, container);
            let done = over.is_some_and(|over| {
                over.ended().is_some() && !self.desired.follows(Kind::Regular, container, over)
            });
            assert!(
                done || instances.running().is_some(),
                "{} does not run: {:#?}",
                container.name,
                self.log
            );
        }
    }

    fn delete(&mut self) {
        let now = self.now;
        // The file of a static pod is removed; nobody says anything else.
        self.desired.gone |= self.desired.is_static();
        if self.desired.gone {
            return;
        }
        let pod = Arc::make_mut(&mut self.desired.pod);
        pod.metadata.deletion_timestamp.get_or_insert(Time(now));
        pod.metadata.deletion_grace_period_seconds.get_or_insert(30);
        self.observed.hear_deletion(&self.desired);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_instance_runs_twice_and_any_pod_comes_to_rest(
        spec in 0..SPECS.len(),
        of_file in prop::bool::weighted(0.2),
        settles in any::<bool>(),
        steps in prop::collection::vec((0_u8..19, 0_usize..40, prop::bool::weighted(0.8)), 0..120),
    ) {
        let mut world = World::new(spec, of_file);
        world.plan();
        for step in steps {
            world.step(step);
        }
        if settles {
            world.settle();
            world.check_settled();
        }
        // From wherever that led: deleted, with everything working, it goes.
        world.delete();
        for _ in 0..200 {
            world.plan();
            if world.finished {
                break;
            }
            world.desired.gone |= world.deleted;
            world.complete(0, true);
            if is_end(&world.told) {
                world.observed.apply(Event::EndWritten, world.now);
            }
            world.now += Duration::from_secs(1);
        }
        prop_assert!(world.deleted || of_file, "the object was never asked to go: {:#?} {:?}", world.log, world.observed);
        prop_assert!(world.finished, "{:#?} {:?}", world.log, world.observed);
    }
}
