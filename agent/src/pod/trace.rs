//! How a pod came up: which stage began when and how long it took, from what the worker does and hears anyway.
//!
//! A trace ends with the start of its pod; what comes later is not recorded. Not for: keeping traces (`worker::traces`),
//! showing them (`cli`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde::{Deserialize, Serialize};

use super::{
    desired::{Desired, Kind},
    events::Event,
    machine::PodRef,
    observed::Life,
    plan::Action,
};

/// Stages of a pod that tries again and again.
const MOST_STAGES: usize = 200;

/// The start of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The pod.
    pub pod: PodRef,
    /// When the API made it, in whole seconds.
    pub created: Option<Timestamp>,
    /// When this node heard of it.
    pub seen: Timestamp,
    /// In the order in which they began.
    pub stages: Vec<Stage>,
    /// All of its containers had started.
    pub running: Option<Timestamp>,
    /// And the API was told.
    pub told: Option<Timestamp>,
    /// It was ready.
    pub ready: Option<Timestamp>,
    /// And the API was told that too.
    pub told_ready: Option<Timestamp>,
    /// Containers that have not started yet.
    waits_for: Vec<String>,
}

/// A part of a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What was done.
    pub what: What,
    /// The container, where it is about one.
    pub container: Option<String>,
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub until: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
}

/// Parts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// From the news of the pod to its worker: whether it fits here.
    Admission,
    /// Volumes and what they need.
    Volumes,
    /// Namespaces, cgroup, shim.
    Sandbox,
    /// An address.
    Network,
    /// An image that is here.
    Image,
    /// An image that was fetched.
    Pull,
    /// Environment, mounts, root file system, up to the first instruction of the program.
    Create,
    /// From there to the news of it.
    Start,
    /// The postStart hook.
    PostStart,
    /// An init container at work.
    Init,
    /// Until a startup probe passed.
    StartupProbe,
    /// Until a readiness probe passed.
    ReadinessProbe,
}

impl What {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            What::Admission => "admission",
            What::Volumes => "volumes",
            What::Sandbox => "sandbox",
            What::Network => "network",
            What::Image => "image",
            What::Pull => "pull",
            What::Create => "create",
            What::Start => "start",
            What::PostStart => "postStart",
            What::Init => "init",
            What::StartupProbe => "startup probe",
            What::ReadinessProbe => "readiness probe",
        }
    }
}

/// The start of a pod in the numbers of the kubelet's metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Startup {
    /// From the creation until the start was told.
    pub total: Duration,
    /// The same without pulls and init containers.
    pub own: Duration,
}

impl Trace {
    /// A pod was seen, and `now` its worker begins.
    pub fn begin(desired: &Desired, seen: Timestamp, now: Timestamp) -> Trace {
        let mut trace = Trace {
            pod: desired.pod_ref(),
            created: desired.pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            seen,
            stages: Vec::new(),
            running: None,
            told: None,
            ready: None,
            told_ready: None,
            waits_for: desired.regular().map(|container| container.name.clone()).collect(),
        };
        trace.open(What::Admission, None, seen);
        trace.close(What::Admission, None, now, None);
        trace
    }

    /// Nothing more is to come.
    pub fn over(&self) -> bool {
        self.told_ready.is_some()
    }

    /// An action begins.
    pub fn started(&mut self, action: &Action, now: Timestamp) {
        match action {
            // Content that is brought up to date later is no part of a start.
            Action::MakeVolumes if self.running.is_none() => self.open(What::Volumes, None, now),
            Action::CreateSandbox => self.open(What::Sandbox, None, now),
            Action::AttachNetwork => self.open(What::Network, None, now),
            Action::EnsureImage { container, .. } => self.open(What::Image, Some(container), now),
            Action::StartContainer { container, .. } => self.open(What::Create, Some(container), now),
            _ => {}
        }
    }

    /// Something happened. True if with it all containers of the pod have started.
    pub fn event(&mut self, desired: &Desired, event: &Event, now: Timestamp) -> bool {
        let failed = |result: Result<(), &String>| result.err().cloned();
        match event {
            Event::VolumesMade(made) => {
                self.close(What::Volumes, None, now, failed(made.as_ref().map(|_| ())));
            }
            Event::SandboxCreated(made) => {
                self.close(What::Sandbox, None, now, failed(made.as_ref().map(|_| ())));
            }
            Event::NetworkAttached(made) => {
                self.close(What::Network, None, now, failed(made.as_ref().map(|_| ())));
            }
            Event::ImageEnsured { container, result } => {
                let pulled = match result {
                    Ok(images) => images.pulled || images.volumes.iter().any(|volume| volume.pulled),
                    Err(trouble) => trouble.reason == "ErrImagePull",
                };
                if let Some(stage) = self.stage(What::Image, Some(container)).filter(|_| pulled) {
                    stage.what = What::Pull;
                }
                let what = if pulled { What::Pull } else { What::Image };
                let error = result.as_ref().err().map(|trouble| trouble.message.clone());
                self.close(what, Some(container), now, error);
            }
            Event::ContainerStarted { container, instance, hook } => {
                let at = match &instance.life {
                    Life::Running { started_at } => *started_at,
                    Life::Ended(ended) => ended.exit.started_at,
                };
                self.close(What::Create, Some(container), at.min(now), None);
                self.open(What::Start, Some(container), at.min(now));
                self.close(What::Start, Some(container), now, None);
                if *hook {
                    self.open(What::PostStart, Some(container), now);
                }
                if let Some((kind, spec)) = desired.container(container) {
                    if kind == Kind::Init {
                        self.open(What::Init, Some(container), now);
                    } else if spec.startup_probe.is_some() {
                        self.open(What::StartupProbe, Some(container), now);
                    } else if spec.readiness_probe.is_some() {
                        self.open(What::ReadinessProbe, Some(container), now);
                    }
                }
                self.waits_for.retain(|name| name != container);
                if self.waits_for.is_empty() && self.running.is_none() {
                    self.running = Some(now);
                    return true;
                }
            }
            Event::StartFailed { container, message, .. } => {
                self.close(What::Create, Some(container), now, Some(message.clone()));
            }
            Event::HookEnded { container, passed } => {
                let error = (!passed).then(|| "PostStartHook failed".to_owned());
                self.close(What::PostStart, Some(container), now, error);
            }
            Event::Exited { .. } => self.close_init(now),
            _ => {}
        }
        false
    }

    /// A probe of a container passed.
    pub fn passed(&mut self, desired: &Desired, container: &str, startup: bool, now: Timestamp) {
        let what = if startup { What::StartupProbe } else { What::ReadinessProbe };
        self.close(what, Some(container), now, None);
        let waits = desired.container(container).is_some_and(|(_, spec)| spec.readiness_probe.is_some());
        if startup && waits {
            self.open(What::ReadinessProbe, Some(container), now);
        }
    }

    /// The worker has this status to tell.
    pub fn tells(&mut self, status: &PodStatus, now: Timestamp) {
        if self.running.is_some() && is_ready(status) {
            self.ready.get_or_insert(now);
        }
    }

    /// The API server has this status. The numbers of the start, when it is the first that says so.
    pub fn written(&mut self, status: &PodStatus, now: Timestamp) -> Option<Startup> {
        if self.ready.is_some() && is_ready(status) {
            self.told_ready.get_or_insert(now);
        }
        let started = |container: &ContainerStatus| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        };
        let mut containers = status.container_statuses.iter().flatten();
        if self.running.is_none() || self.told.is_some() || !containers.all(started) {
            return None;
        }
        self.told = Some(now);
        let since = |from: Timestamp| Duration::try_from(now.duration_since(from)).unwrap_or_default();
        let total = since(self.created.unwrap_or(self.seen));
        Some(Startup { total, own: total.saturating_sub(self.of_others(now)) })
    }

    /// Time that pulls and init containers took, none of it counted twice.
    fn of_others(&self, now: Timestamp) -> Duration {
        let others = self.stages.iter().filter(|stage| matches!(stage.what, What::Pull | What::Init));
        let mut spans: Vec<_> = others.map(|stage| (stage.from, stage.until.unwrap_or(now))).collect();
        spans.sort_unstable();
        let (mut all, mut end) = (Duration::ZERO, Timestamp::MIN);
        for (from, until) in spans {
            let alone = until.duration_since(from.max(end));
            all += Duration::try_from(alone).unwrap_or_default();
            end = end.max(until);
        }
        all
    }

    fn open(&mut self, what: What, container: Option<&str>, from: Timestamp) {
        if self.stages.len() < MOST_STAGES {
            let container = container.map(str::to_owned);
            self.stages.push(Stage { what, container, from, until: None, error: None });
        }
    }

    /// The stage of this kind that goes on.
    fn stage(&mut self, what: What, container: Option<&str>) -> Option<&mut Stage> {
        let open = |stage: &&mut Stage| {
            stage.what == what && stage.until.is_none() && stage.container.as_deref() == container
        };
        self.stages.iter_mut().rev().find(open)
    }

    fn close(&mut self, what: What, container: Option<&str>, until: Timestamp, error: Option<String>) {
        if let Some(stage) = self.stage(what, container) {
            (stage.until, stage.error) = (Some(until.max(stage.from)), error);
        }
    }

    /// Init containers run one after the other: the one that ended is the one that is open.
    fn close_init(&mut self, now: Timestamp) {
        let mut open = self.stages.iter_mut().filter(|stage| stage.until.is_none());
        if let Some(stage) = open.find(|stage| stage.what == What::Init) {
            stage.until = Some(now);
        }
    }
}

fn is_ready(status: &PodStatus) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::machine::{Container, ContainerState};
    use crate::pod::observed::{ImageTrouble, Images, Instance, Volumes};

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    fn desired() -> Desired {
        let pod = serde_norway::from_str(
            "{metadata: {name: p, namespace: n, uid: u, creationTimestamp: '2023-11-14T22:13:20Z'},
              spec: {initContainers: [{name: i}], containers: [{name: a, readinessProbe: {}}, {name: b}]}}",
        );
        Desired::new(Arc::new(pod.unwrap()))
    }

    fn started(container: &str, millis: i64) -> Event {
        let instance = Container {
            id: container.into(),
            name: container.into(),
            attempt: 0,
            image_ref: String::new(),
            image_id: String::new(),
            user: None,
            tty: false,
            log_path: "/l".into(),
            state: ContainerState::Running { pid: 1, started_at: at(millis) },
            labels: Default::default(),
        };
        let instance = Box::new(Instance::new(instance, true));
        Event::ContainerStarted { container: container.into(), instance, hook: false }
    }

    fn pulled(container: &str, pulled: bool) -> Event {
        let images = Images { own: Arc::default(), pulled, volumes: Vec::new() };
        Event::ImageEnsured { container: container.into(), result: Ok(images) }
    }

    fn status(ready: bool) -> PodStatus {
        let ready = if ready { "True" } else { "False" };
        serde_norway::from_str(&format!(
            "{{conditions: [{{type: Ready, status: '{ready}'}}],
               containerStatuses: [{{name: a, image: i, imageID: x, ready: true, restartCount: 0, state: {{running: {{}}}}}}]}}"
        ))
        .unwrap()
    }

    fn shown(trace: &Trace) -> Vec<String> {
        let line = |stage: &Stage| {
            let millis = |time: Timestamp| time.as_millisecond() - 1_700_000_000_000;
            let until = stage.until.map_or("…".to_owned(), |until| millis(until).to_string());
            let of = stage.container.clone().unwrap_or_default();
            let error = stage.error.clone().unwrap_or_default();
            format!("{} {of} {}-{until} {error}", stage.what.as_str(), millis(stage.from)).trim().to_owned()
        };
        trace.stages.iter().map(line).collect()
    }

    #[test]
    fn a_start_is_its_stages() {
        let desired = desired();
        let mut trace = Trace::begin(&desired, at(300), at(302));
        let image = |container: &str| Action::EnsureImage { container: container.into(), image: "x".into() };
        let start = |container: &str| Action::StartContainer { container: container.into(), attempt: 0 };
        trace.started(&Action::MakeVolumes, at(303));
        trace.started(&Action::CreateSandbox, at(303));
        trace.started(&image("i"), at(303));
        assert!(!trace.event(&desired, &Event::VolumesMade(Ok(Arc::new(Volumes::default()))), at(305)));
        trace.event(&desired, &Event::SandboxCreated(Err("no".into())), at(310));
        trace.started(&Action::CreateSandbox, at(810));
        trace.event(&desired, &Event::SandboxCreated(Ok(None)), at(820));
        trace.event(&desired, &pulled("i", true), at(900));
        trace.started(&start("i"), at(900));
        trace.event(&desired, &started("i", 915), at(920));
        trace.started(&image("a"), at(921));
        trace.event(&desired, &pulled("a", true), at(1000));
        let exit = crate::pod::machine::Exit {
            code: 0,
            signal: None,
            oom_killed: false,
            started_at: at(915),
            finished_at: at(1099),
        };
        trace.event(&desired, &Event::Exited { id: "i".into(), exit, message: None }, at(1100));
        trace.started(&start("a"), at(1100));
        assert!(!trace.event(&desired, &started("a", 1110), at(1112)));
        trace.started(&image("b"), at(1112));
        let trouble =
            ImageTrouble { reference: "x".into(), reason: "ErrImageNeverPull", message: "never".into() };
        trace.event(&desired, &Event::ImageEnsured { container: "b".into(), result: Err(trouble) }, at(1113));
        trace.started(&start("b"), at(1120));
        assert!(trace.event(&desired, &started("b", 1130), at(1131)));
        trace.passed(&desired, "a", false, at(1200));
        expect_test::expect![[r#"
            [
                "admission  300-302",
                "volumes  303-305",
                "sandbox  303-310 no",
                "pull i 303-900",
                "sandbox  810-820",
                "create i 900-915",
                "start i 915-920",
                "init i 920-1100",
                "pull a 921-1000",
                "create a 1100-1110",
                "start a 1110-1112",
                "readiness probe a 1112-1200",
                "image b 1112-1113 never",
                "create b 1120-1130",
                "start b 1130-1131",
            ]
        "#]]
        .assert_debug_eq(&shown(&trace));
        // Created at 0, told at 1500; pulls and the init container took 303-900 and 920-1100.
        trace.tells(&status(false), at(1490));
        let numbers = trace.written(&status(false), at(1500)).unwrap();
        assert_eq!((numbers.total.as_millis(), numbers.own.as_millis()), (1500, 1500 - 597 - 180));
        assert_eq!(trace.written(&status(true), at(1501)), None);
        assert!(!trace.over());
        trace.tells(&status(true), at(1600));
        trace.written(&status(true), at(1610));
        assert!(trace.over() && trace.ready == Some(at(1600)) && trace.running == Some(at(1131)));
    }

    #[test]
    fn a_pod_that_never_gets_there_stays_small() {
        let desired = desired();
        let mut trace = Trace::begin(&desired, at(0), at(0));
        for millis in 0..1000 {
            trace.started(&Action::CreateSandbox, at(millis));
            trace.event(&desired, &Event::SandboxCreated(Err("no".into())), at(millis));
        }
        assert_eq!(trace.stages.len(), MOST_STAGES);
        assert_eq!(trace.written(&status(true), at(2000)), None);
    }
}
