//! Scripts: a pod, what happens to it, and after each step what the plan does and the status says.
//!
//! Not for: the executor (that is tested in `worker`).

mod chaos;
mod end;
mod ephemeral;
mod images;
mod resize;
mod restart;
mod start;
mod table;

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, sync::Arc, time::Duration};

use expect_test::Expect;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};

use crate::pod::{
    allocation::{Allocation, Granted},
    desired::{Desired, Kind},
    ending::Ending,
    events::{Event, Resized},
    machine::{Container, ContainerState, Exit, Sandbox},
    observed::{Ended, ImageState, ImageTrouble, Images, Instance, Life, Observed, Step, Unhealthy, Volumes},
    plan::{Plan, plan},
    resize::Pending,
    settings::Settings,
    status::{is_end, is_terminal, status},
};

/// One pod going through a script.
struct Story {
    desired: Desired,
    observed: Observed,
    told: PodStatus,
    now: Timestamp,
    out: String,
}

fn check(spec: &str, script: &[&str], expect: Expect) {
    let mut story = Story::new(spec);
    for line in script {
        story.step(line);
    }
    expect.assert_eq(&story.out);
}

impl Story {
    fn new(spec: &str) -> Story {
        let spec = serde_norway::from_str(spec).unwrap();
        let mut pod = Pod { spec: Some(spec), ..Pod::default() };
        pod.metadata.name = Some("p".into());
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.uid = Some("u".into());
        let now = Timestamp::from_second(1_000_000).unwrap();
        let observed = Observed { started_at: Some(now), ..Observed::default() };
        let desired = Desired::new(Arc::new(pod));
        Story { desired, observed, told: PodStatus::default(), now, out: String::new() }
    }

    /// `; `-separated events, then the plan and the status once.
    fn step(&mut self, line: &str) {
        writeln!(self.out, "> {line}").unwrap();
        for event in line.split("; ") {
            self.event(event);
            let plan = self.plan();
            for action in &plan.actions {
                writeln!(self.out, "  {action}").unwrap();
            }
            if plan.finished {
                writeln!(self.out, "  finished").unwrap();
            }
            if let Some(at) = plan.wake_at {
                let wait = at.duration_since(self.now).as_millis();
                writeln!(self.out, "  look again in {wait}ms").unwrap();
            }
        }
        self.tell();
        self.out += &summary(&self.told);
    }

    fn plan(&mut self) -> Plan {
        self.observed.hear_deletion(&self.desired);
        let plan = plan(&self.desired, &self.observed, self.now);
        plan.actions.iter().for_each(|action| self.observed.started(action, self.now));
        plan
    }

    fn tell(&mut self) {
        let settings = Settings::for_tests();
        self.told = status(&self.desired, &self.observed, &self.told, &settings, self.now);
        self.observed.over |= is_terminal(self.told.phase.as_deref());
    }

    /// As the worker does it: one event, a plan, a status. What was planned on the way is in the plan.
    fn live(&mut self, event: &str) -> Plan {
        if let Some(times) = event.strip_prefix("crash c ") {
            // Each time as soon as the back-off lets it.
            for _ in 0..times.parse().unwrap() {
                let wake = self.live("exit c 1").wake_at;
                self.now = self.now.max(wake.unwrap_or(self.now));
                self.live("begin");
                self.live("run");
            }
            return Plan::default();
        }
        if event != "run" {
            self.event(event);
        }
        let mut whole = self.plan();
        self.tell();
        for _ in 0..if event == "run" { 99 } else { 0 } {
            let under_way = self.under_way();
            if under_way.is_empty() {
                break;
            }
            under_way.iter().for_each(|event| self.event(event));
            let next = self.plan();
            self.tell();
            whole.actions.extend(next.actions);
            (whole.wake_at, whole.finished) = (next.wake_at, next.finished);
        }
        whole
    }

    /// How all that is under way ends well.
    fn under_way(&self) -> Vec<String> {
        let Observed { sandbox, network, volumes, resizing, .. } = &self.observed;
        let deleting = self.desired.deleting();
        let removed = if deleting { "volumes-removed" } else { "cleared" };
        let steps = [
            (matches!(volumes, Step::Making { .. }), "volumes"),
            (matches!(volumes, Step::Undoing), removed),
            (matches!(sandbox, Step::Making { .. }), "sandbox"),
            (matches!(sandbox, Step::Undoing), "sandbox-removed"),
            (matches!(network, Step::Making { .. }), "network"),
            (*resizing, "resized well"),
        ];
        let mut events: Vec<_> = steps.into_iter().filter(|(on, _)| *on).map(|(_, e)| e.to_owned()).collect();
        for (name, instances) in &self.observed.containers {
            let kind = self.desired.container(name).map(|(kind, _)| kind);
            if matches!(instances.image, ImageState::Ensuring { .. }) {
                events.push(format!("image {name}"));
            }
            if instances.starting {
                events.push(format!("started {name}"));
            } else if instances.hook {
                events.push(format!("hook {name} passed"));
            } else if kind == Some(Kind::Init) && instances.running().is_some() {
                events.push(format!("exit {name} 0"));
            }
            if instances.removing {
                events.push(format!("removed {name} {}", instances.garbage[0]));
            }
        }
        events
    }

    fn ending(&self, grace: Option<Duration>) -> Event {
        let message = "The node was low on resource: memory. ".into();
        Event::End(Box::new(Ending { reason: "Evicted", message, grace }))
    }

    fn event(&mut self, event: &str) {
        let words: Vec<_> = event.split(' ').collect();
        let event = match words[..] {
            ["begin"] => return,
            ["wait", seconds] => {
                self.now += Duration::from_secs(seconds.parse().unwrap());
                return;
            }
            ["clock", seconds] => {
                let by = SignedDuration::from_secs(seconds.parse().unwrap());
                self.now += by;
                self.observed.clock_set(by);
                return;
            }
            ["delete", grace] => {
                let ends = self.now + Duration::from_secs(grace.parse().unwrap());
                self.edit(|pod| {
                    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
                    pod.metadata.deletion_timestamp = Some(Time(ends));
                    pod.metadata.deletion_grace_period_seconds = Some(grace.parse().unwrap());
                });
                return;
            }
            ["evict"] => self.ending(None),
            ["evict", grace] => self.ending(Some(Duration::from_secs(grace.parse().unwrap()))),
            ["cleared"] => Event::VolumesCleared(Ok(())),
            ["gone"] => {
                self.desired.gone = true;
                return;
            }
            ["reimage", image] => {
                self.edit(|pod| pod.spec.as_mut().unwrap().containers[0].image = Some(image.into()));
                return;
            }
            ["resources", c, ref resources @ ..] => {
                let resources = Some(serde_norway::from_str(&resources.join(" ")).unwrap());
                self.edit(|pod| {
                    let spec = pod.spec.as_mut().unwrap();
                    let mut all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
                    all.find(|container| container.name == c).unwrap().resources = resources;
                });
                return;
            }
            ["debug", ref container @ ..] => {
                let container = serde_norway::from_str(&container.join(" ")).unwrap();
                self.edit(|pod| {
                    let spec = pod.spec.as_mut().unwrap();
                    spec.ephemeral_containers.get_or_insert_default().push(container);
                });
                return;
            }
            ["granted"] => Event::Granted(Allocation::of(self.desired.spec())),
            ["resized", how] => {
                let result = if how == "well" { Ok(()) } else { Err("too low".to_owned()) };
                let all = self.desired.containers().map(|(_, container)| (container, Granted::of(container)));
                let id = |name: &str| Some(self.observed.container(name).running()?.id.clone());
                let granted = all.filter_map(|(c, granted)| Some((id(&c.name)?, granted))).collect();
                let allocation = Allocation::of(self.desired.spec());
                Event::Resized(Box::new(Resized { allocation, granted, seen: BTreeMap::new(), result }))
            }
            ["written"] => {
                assert!(is_end(&self.told), "only an end is confirmed");
                Event::EndWritten
            }
            ["up"] => {
                for event in ["volumes", "sandbox", "network"] {
                    self.event(event);
                }
                return;
            }
            ["end", reason] => {
                let reason = ["Preempting", "Terminated"].into_iter().find(|known| *known == reason).unwrap();
                let message = "The node ends it.".into();
                Event::End(Box::new(Ending { reason, message, grace: None }))
            }
            ["refuse", reason] => {
                self.observed.refused = Some((reason.into(), "no room".into()));
                return;
            }
            // The agent begins anew: what it knows is what it told and what still runs.
            ["restart"] => {
                self.restart(true);
                return;
            }
            ["reboot"] => {
                self.restart(false);
                return;
            }
            ["static"] => {
                self.edit(|pod| {
                    let source = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
                    pod.metadata.annotations = Some(BTreeMap::from([source]));
                });
                return;
            }
            ["condition", kind, value] => {
                self.condition(kind, value);
                return;
            }
            ["grace", seconds] => {
                let seconds = Some(seconds.parse().unwrap());
                self.edit(|pod| pod.spec.as_mut().unwrap().termination_grace_period_seconds = seconds);
                return;
            }
            ["pending", reason] => {
                let reason = if reason == "Deferred" { "Deferred" } else { "Infeasible" };
                self.desired.pending = Some(Pending { reason, detail: "", message: "no room".into() });
                return;
            }
            ["granted-pending"] => {
                self.desired.pending = None;
                return;
            }
            ["obey"] => {
                let mut names = Vec::new();
                for (name, instances) in &self.observed.containers {
                    names.extend(instances.stopping.and(instances.running()).map(|_| name.clone()));
                }
                names.iter().for_each(|name| self.event(&format!("exit {name} 143")));
                return;
            }
            ["oom", c] => {
                let exit = Exit { oom_killed: true, ..self.exit(137) };
                Event::Exited { id: self.id(c), exit, message: None }
            }
            // A child of it was killed, and it went on to end well.
            ["oom-child", c] => {
                let exit = Exit { oom_killed: true, ..self.exit(0) };
                Event::Exited { id: self.id(c), exit, message: None }
            }
            ["startup", c] => Event::StartupPassed { id: self.id(c) },
            ["unready", c] => Event::Ready { id: self.id(c), ready: false },
            ["unhealthy", c, "startup"] => Event::Unhealthy { id: self.id(c), why: Unhealthy::Startup },
            ["create-error", c] => Event::StartFailed {
                container: c.into(),
                reason: "CreateContainerError",
                message: "no".into(),
                instance: None,
            },
            ["network", "fail"] => Event::NetworkAttached(Err("no".into())),
            ["objects-changed"] => Event::ObjectsChanged,
            ["image", c, "bad", reason] => {
                let known = ["InvalidImageName", "ImageInspectError"];
                let reason = known.into_iter().find(|known| *known == reason).unwrap();
                Event::ImageEnsured {
                    container: c.into(),
                    result: Err(self.no_image(c, None, reason, "bad")),
                }
            }
            ["sandbox-removed", "fail"] => Event::SandboxRemoved(Err("busy".into())),
            ["volumes-removed", "fail"] => Event::VolumesRemoved(Err("busy".into())),
            ["volumes"] => Event::VolumesMade(Ok(Arc::new(Volumes::default()))),
            ["volumes", "fail"] => Event::VolumesMade(Err("no".into())),
            ["sandbox"] => Event::SandboxCreated(Ok(Some("/ns".into()))),
            ["sandbox", "fail"] => Event::SandboxCreated(Err("no".into())),
            ["network"] => Event::NetworkAttached(Ok(vec![IpAddr::from([10, 0, 0, 2])])),
            ["image", c] => Event::ImageEnsured { container: c.into(), result: Ok(Images::default()) },
            ["image", c, "fail", ref rest @ ..] => Event::ImageEnsured {
                container: c.into(),
                result: Err(self.no_image(c, rest.first().copied(), "ErrImagePull", "refused")),
            },
            ["image", c, "never"] => Event::ImageEnsured {
                container: c.into(),
                result: Err(self.no_image(
                    c,
                    None,
                    "ErrImageNeverPull",
                    "Container image \"i\" is not present",
                )),
            },
            ["started", c] => Event::ContainerStarted {
                container: c.into(),
                instance: Box::new(self.instance(c)),
                hook: false,
            },
            ["hooking", c] => Event::ContainerStarted {
                container: c.into(),
                instance: Box::new(self.instance(c)),
                hook: true,
            },
            ["hook", c, passed] => Event::HookEnded { container: c.into(), passed: passed == "passed" },
            ["config-error", c] => Event::StartFailed {
                container: c.into(),
                reason: "CreateContainerConfigError",
                message: "configmap \"x\" not found".into(),
                instance: None,
            },
            ["not-run", c] => {
                let mut instance = self.instance(c);
                let exit = self.exit(128);
                let message = Some("no such file".into());
                instance.life = Life::Ended(Ended { exit, reason: "StartError".into(), message });
                Event::StartFailed {
                    container: c.into(),
                    reason: "RunContainerError",
                    message: "no such file".into(),
                    instance: Some(Box::new(instance)),
                }
            }
            ["exit", c, code] => {
                let exit = self.exit(code.parse().unwrap());
                Event::Exited { id: self.id(c), exit, message: None }
            }
            ["unhealthy", c] => Event::Unhealthy { id: self.id(c), why: Unhealthy::Liveness },
            ["ready", c] => Event::Ready { id: self.id(c), ready: true },
            ["removed", c, id] => Event::ContainerRemoved { container: c.into(), id: id.into() },
            ["sandbox-removed"] => Event::SandboxRemoved(Ok(())),
            ["volumes-removed"] => Event::VolumesRemoved(Ok(())),
            ["shim-lost"] => Event::ShimLost,
            _ => panic!("what is {event}?"),
        };
        self.observed.apply(event, self.now);
    }

    /// The container's own image, or that of a volume.
    fn no_image(
        &self,
        container: &str,
        other: Option<&str>,
        reason: &'static str,
        text: &str,
    ) -> ImageTrouble {
        let own = || self.desired.container(container).and_then(|(_, c)| c.image.clone()).unwrap_or_default();
        let reference = other.map_or_else(own, str::to_owned);
        ImageTrouble { reference, reason, message: text.into() }
    }

    fn id(&self, container: &str) -> String {
        self.observed.container(container).current.as_ref().unwrap().id.clone()
    }

    fn condition(&mut self, kind: &str, value: &str) {
        let condition = PodCondition { type_: kind.into(), status: value.into(), ..PodCondition::default() };
        self.told.conditions.get_or_insert_default().retain(|known| known.type_ != kind);
        self.edit(|pod| {
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            conditions.retain(|known| known.type_ != kind);
            conditions.push(condition);
        });
    }

    /// With what the shim still has, or without.
    fn restart(&mut self, machine: bool) {
        let told = Some(self.told.clone());
        self.edit(|pod| pod.status = told);
        let found = |instance: &Instance| Container {
            id: instance.id.clone(),
            name: instance.id.rsplit_once('-').unwrap().0.into(),
            attempt: instance.attempt,
            image_ref: instance.image_ref.clone(),
            image_id: instance.image_id.clone(),
            user: None,
            tty: false,
            log_path: instance.log_path.clone(),
            state: match &instance.life {
                Life::Running { started_at } => ContainerState::Running { pid: 1, started_at: *started_at },
                Life::Ended(ended) => ContainerState::Exited(ended.exit.clone()),
            },
            labels: BTreeMap::new(),
        };
        let all = self.observed.containers.values();
        let containers = all.flat_map(|i| i.last.iter().chain(&i.current)).map(found).collect();
        let sandbox = self.observed.sandbox.done().filter(|_| machine).map(|netns| Sandbox {
            pod: self.desired.pod_ref(),
            netns: netns.clone(),
            created_at: self.now,
            shim_alive: true,
            containers,
            labels: BTreeMap::from([Allocation::of(self.desired.spec()).to_label()]),
        });
        self.observed = Observed::adopt(&self.desired, sandbox, None, self.now);
        self.observed.started_at.get_or_insert(self.now);
    }

    fn edit(&mut self, change: impl FnOnce(&mut Pod)) {
        change(Arc::make_mut(&mut self.desired.pod));
    }

    fn instance(&self, name: &str) -> Instance {
        let attempt = self.observed.container(name).next_attempt;
        let (kind, container) = self.desired.container(name).unwrap();
        let container = Container {
            id: format!("{name}-{attempt}"),
            name: name.into(),
            attempt,
            image_ref: container.image.clone().unwrap_or_default(),
            image_id: "sha256:1".into(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: ContainerState::Running { pid: 1, started_at: self.now },
            labels: BTreeMap::from([Granted::of(&container).to_label()]),
        };
        let started = crate::pod::observed::started_without_probe(&self.desired, Some(kind), name);
        Instance::new(container, started)
    }

    fn exit(&self, code: i32) -> Exit {
        Exit { code, signal: None, oom_killed: false, started_at: self.now, finished_at: self.now }
    }
}

fn summary(status: &PodStatus) -> String {
    let mut text = format!("  = {}", status.phase.as_deref().unwrap_or("?"));
    if let Some(reason) = &status.reason {
        write!(text, " ({reason})").unwrap();
    }
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
    if let Some(ready) = ready.filter(|ready| ready.status == "True" || ready.reason.is_some()) {
        let reason = ready.message.as_ref().or(ready.reason.as_ref());
        write!(text, ", ready {}: {}", ready.status, reason.map_or("", |text| text)).unwrap();
    }
    let resize = status.conditions.iter().flatten().filter(|c| c.type_.starts_with("PodResize"));
    for condition in resize {
        let said = [&condition.reason, &condition.message].map(|text| text.as_deref().unwrap_or_default());
        write!(text, ", {} {}", condition.type_, said.join(" ").trim()).unwrap();
    }
    text.push('\n');
    let all = status.init_container_statuses.iter().flatten();
    let all = all.chain(status.container_statuses.iter().flatten());
    for container in all.chain(status.ephemeral_container_statuses.iter().flatten()) {
        writeln!(text, "    {}: {}", container.name, state(container)).unwrap();
    }
    text
}

fn state(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let mut text = if state.running.is_some() {
        if status.started == Some(false) { "running, not started".into() } else { String::from("running") }
    } else if let Some(ended) = state.terminated {
        format!("terminated {} {}", ended.reason.unwrap_or_default(), ended.exit_code)
    } else {
        let waiting = state.waiting.unwrap_or_default();
        format!("waiting {} {}", waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
    };
    if let Some(last) = last {
        write!(text, ", last {} {}", last.reason.as_deref().unwrap_or_default(), last.exit_code).unwrap();
    }
    if status.restart_count > 0 {
        write!(text, ", restarts {}", status.restart_count).unwrap();
    }
    if status.ready {
        text += ", ready";
    }
    text.trim_end().into()
}

const ONE: &str = "{restartPolicy: Never, containers: [{name: c, image: i}]}";
const ALWAYS: &str = "{containers: [{name: c, image: i}]}";
const INIT: &str = "{restartPolicy: Never, initContainers: [{name: one, image: i}, \
                    {name: side, image: i, restartPolicy: Always}], \
                    containers: [{name: b, image: i}, {name: a, image: i}]}";
