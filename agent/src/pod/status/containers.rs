//! The status of one container.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, ContainerUser, LinuxContainerUser, PodStatus, ResourceRequirements,
        VolumeMountStatus,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use orlop_model::quantities::Quantity as Amount;

use super::whole_seconds;
use crate::pod::{
    backoff::BackOff,
    desired::{Desired, Kind},
    ephemeral,
    observed::{Ended, Instance, Instances, Life, Observed, Trouble, Unhealthy},
    plan::SHOW_ERROR,
    resources, words,
};

/// The scheme of container ids: `orlop://<id>`.
pub const RUNTIME_NAME: &str = "orlop";

pub(super) fn status(
    desired: &Desired,
    observed: &Observed,
    previous: &PodStatus,
    kind: Kind,
    container: &Container,
    now: Timestamp,
) -> ContainerStatus {
    let instances = observed.container(&container.name);
    let instance = instances.effective(desired, kind, container);
    let told = told(previous, &container.name);
    let shown = State::of(desired, observed, kind, container, instances, instance, now);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        volume_mounts: volume_mounts(container),
        last_state: Some(last_state(instances, instance, &shown)),
        restart_count: restart_count(instances, instance, told),
        started: Some(instances.up().is_some_and(|i| i.started)),
        ready: ready(kind, container, instances, instance),
        ..ContainerStatus::default()
    };
    // The instance that is shown: the one that counts, or the last one while waiting for the next.
    if let Some(instance) = instance.or(instances.last.as_ref()) {
        status.image = instance.image.clone();
        status.image_id = instance.image_id.clone();
        status.container_id = Some(container_id(&instance.id));
        status.user = instance.user.as_ref().map(user);
        status.resources = Some(applied(container, instance));
        status.allocated_resources = container.resources.as_ref().and_then(|r| r.requests.clone());
    }
    status.state = Some(shown.into_api());
    if kind == Kind::Ephemeral && instance.is_none() && !ephemeral::unborn(instances) {
        // This machine has forgotten it, and it will never be started again.
        never_found(&mut status, told);
    } else {
        vanished(&mut status, told, instances);
    }
    if kind == Kind::Ephemeral {
        // No probe speaks for it.
        status.started = None;
    }
    status
}

/// What a user sees of a container now.
enum State<'a> {
    Waiting { reason: &'static str, message: Option<String> },
    Running { since: Timestamp },
    Ended(&'a Instance, &'a Ended),
}

impl<'a> State<'a> {
    fn of(
        desired: &Desired,
        observed: &Observed,
        kind: Kind,
        container: &Container,
        instances: &'a Instances,
        instance: Option<&'a Instance>,
        now: Timestamp,
    ) -> State<'a> {
        let ended = match instance.map(|instance| (instance, &instance.life)) {
            // A container is told to run only after its postStart hook.
            Some(_) if instances.hook => {
                return State::Waiting { reason: default_waiting(desired, kind), message: None };
            }
            Some((instance, Life::Running { .. })) if instance.unhealthy == Some(Unhealthy::PostStart) => {
                let message = Some("PostStartHook failed".into());
                return State::Waiting { reason: "PostStartHookError", message };
            }
            Some((_, Life::Running { started_at })) => return State::Running { since: *started_at },
            Some((instance, Life::Ended(ended))) => Some((instance, ended)),
            None => None,
        };
        let again =
            ended.is_none_or(|(instance, _)| restarted(desired, observed, (kind, container), instance));
        if let (Some((instance, ended)), false) = (ended, again) {
            return State::Ended(instance, ended);
        }
        if let Some((reason, message)) = trouble(desired, container, instances, observed, now) {
            return State::Waiting { reason, message: Some(message) };
        }
        match ended {
            // Between two instances without a wait: the end of the last one is the news.
            Some((instance, ended)) => State::Ended(instance, ended),
            None => State::Waiting { reason: default_waiting(desired, kind), message: None },
        }
    }

    fn into_api(self) -> ContainerState {
        match self {
            State::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some(reason.into()), message }),
                ..ContainerState::default()
            },
            State::Running { since } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(time(since)) }),
                ..ContainerState::default()
            },
            State::Ended(instance, ended) => {
                ContainerState { terminated: Some(terminated(instance, ended)), ..ContainerState::default() }
            }
        }
    }
}

fn default_waiting(desired: &Desired, kind: Kind) -> &'static str {
    if matches!(kind, Kind::Init | Kind::Sidecar) || desired.init().next().is_some() {
        "PodInitializing"
    } else {
        "ContainerCreating"
    }
}

/// Whether an ended container is to be started again.
fn restarted(
    desired: &Desired,
    observed: &Observed,
    (kind, container): (Kind, &Container),
    instance: &Instance,
) -> bool {
    let ends = observed.ending.is_some() || observed.told_deadline;
    if desired.deleting() || desired.told_terminal() || ends {
        return false;
    }
    match kind {
        Kind::Sidecar => !super::over(desired, observed),
        _ => desired.follows(kind, container, instance),
    }
}

/// Why it waits: the last error for a while, then the text about the back-off.
fn trouble(
    desired: &Desired,
    container: &Container,
    instances: &Instances,
    observed: &Observed,
    now: Timestamp,
) -> Option<(&'static str, String)> {
    let trouble = instances.trouble.as_ref();
    let fresh = |trouble: &Trouble| trouble.at.checked_add(SHOW_ERROR).is_ok_and(|until| until > now);
    if let Some(trouble) = trouble.filter(|trouble| fresh(trouble)) {
        return Some((trouble.reason, trouble.message.clone()));
    }
    if let Some(trouble) = trouble.filter(|trouble| trouble.reason == "ErrImagePull") {
        let image = instances.missing_image(container.image.as_deref().unwrap_or_default());
        let waits = observed.pulls.contains_key(image);
        let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {}", trouble.message);
        return Some(match waits {
            true => ("ImagePullBackOff", message),
            false => (trouble.reason, trouble.message.clone()),
        });
    }
    if let (Some(backoff), true) = (instances.backoff, instances.ended().is_some()) {
        // Once told it stays until the next instance runs, however short that takes.
        if instances.told_backoff {
            return Some(("CrashLoopBackOff", crash_loop(desired, container, backoff)));
        }
    }
    trouble.map(|trouble| (trouble.reason, trouble.message.clone()))
}

fn crash_loop(desired: &Desired, container: &Container, backoff: BackOff) -> String {
    format!(
        "back-off {} restarting failed container={} pod={}",
        words::go_duration(backoff.delay),
        container.name,
        words::full_name(&desired.pod)
    )
}

/// The end before the state that is shown.
fn last_state(instances: &Instances, instance: Option<&Instance>, shown: &State<'_>) -> ContainerState {
    let previous = match shown {
        State::Ended(..) => instances.last.as_ref().filter(|last| Some(*last) != instance),
        State::Running { .. } => instances.last.as_ref(),
        State::Waiting { .. } => instance.filter(|i| !i.running()).or(instances.last.as_ref()),
    };
    let ended = previous.and_then(|instance| Some((instance, instance.ended()?)));
    ContainerState {
        terminated: ended.map(|(instance, ended)| terminated(instance, ended)),
        ..ContainerState::default()
    }
}

fn restart_count(instances: &Instances, instance: Option<&Instance>, told: Option<&ContainerStatus>) -> i32 {
    let count = |attempt: u32| i32::try_from(attempt).unwrap_or(i32::MAX);
    match instance.or(instances.last.as_ref()) {
        Some(instance) => count(instance.attempt),
        None => told.map_or(0, |told| told.restart_count),
    }
}

fn ready(kind: Kind, container: &Container, instances: &Instances, instance: Option<&Instance>) -> bool {
    let Some(instance) = instance else { return false };
    match (kind, &instance.life) {
        (Kind::Init, Life::Ended(ended)) => ended.exit.code == 0,
        (Kind::Init | Kind::Ephemeral, _) | (_, Life::Ended(_)) => false,
        (_, Life::Running { .. }) => {
            let probed = || instance.ready.unwrap_or(container.readiness_probe.is_none());
            instances.up().is_some() && instance.started && probed()
        }
    }
}

/// A container the API knew and this machine does not.
fn vanished(status: &mut ContainerStatus, told: Option<&ContainerStatus>, instances: &Instances) {
    let Some(told) = told.filter(|_| instances.current.is_none() && instances.last.is_none()) else { return };
    let Some(state) = &told.state else { return };
    if state.terminated.is_some() && instances.trouble.is_none() {
        // Its end stays in sight until there is something new to tell.
        status.state.clone_from(&told.state);
        status.last_state.clone_from(&told.last_state);
        status.ready = told.ready;
    } else if state.running.is_some() {
        let message = "The container could not be located when the pod was deleted.  \
                       The container used to be Running";
        status.last_state =
            Some(ContainerState { terminated: Some(unknown(message)), ..ContainerState::default() });
        status.restart_count = told.restart_count.saturating_add(1);
    } else {
        // Still before its first instance on this machine since then: what was told stays told.
        status.last_state = told
            .last_state
            .clone()
            .filter(|_| state.terminated.is_none())
            .or(Some(ContainerState { terminated: state.terminated.clone(), ..ContainerState::default() }));
    }
    status.container_id.clone_from(&told.container_id);
    status.image_id.clone_from(&told.image_id);
}

/// The pod is torn down and nothing says how this one ended, except perhaps what was told before.
pub(super) fn never_found(status: &mut ContainerStatus, told: Option<&ContainerStatus>) {
    let told_end = told.and_then(|told| told.state.clone()).filter(|state| state.terminated.is_some());
    let unknown = unknown("The container could not be located when the pod was terminated");
    status.state =
        Some(told_end.unwrap_or(ContainerState { terminated: Some(unknown), ..ContainerState::default() }));
    (status.ready, status.started) = (false, Some(false));
    if let Some(told) = told.filter(|_| status.container_id.is_none()) {
        // That it has run is known from here only, after the next start of the agent too.
        status.container_id.clone_from(&told.container_id);
        status.image_id.clone_from(&told.image_id);
    }
}

fn unknown(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        reason: Some("ContainerStatusUnknown".into()),
        exit_code: 137,
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    }
}

fn terminated(instance: &Instance, ended: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(&instance.id)),
        exit_code: ended.exit.code,
        reason: Some(ended.reason.clone()),
        message: ended.message.clone(),
        signal: None,
        started_at: Some(time(ended.exit.started_at)),
        finished_at: Some(time(ended.exit.finished_at)),
    }
}

/// Messages of all containers of a pod together; each has its share of it.
const MAX_MESSAGES: usize = 12 << 10;

/// Cuts what ended containers say to their share.
pub(super) fn shorten_messages<'a>(
    desired: &Desired,
    statuses: impl Iterator<Item = &'a mut ContainerStatus>,
) {
    let ephemeral = desired.spec().ephemeral_containers.as_ref().map_or(0, Vec::len);
    let share = MAX_MESSAGES / (desired.containers().count() + ephemeral).max(1);
    let states = statuses.flat_map(|status| status.state.iter_mut().chain(&mut status.last_state));
    for message in states.filter_map(|state| state.terminated.as_mut()?.message.as_mut()) {
        message.truncate(message.floor_char_boundary(share));
    }
}

/// `orlop://<id>`.
pub(crate) fn container_id(id: &str) -> String {
    format!("{RUNTIME_NAME}://{id}")
}

fn time(at: Timestamp) -> Time {
    Time(whole_seconds(at))
}

pub(super) fn told<'a>(previous: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    let all = [
        &previous.container_statuses,
        &previous.init_container_statuses,
        &previous.ephemeral_container_statuses,
    ];
    all.into_iter().flatten().flatten().find(|status| status.name == name)
}

/// What the instance has: processor and limit of memory as the kernel says it, where it was asked. What is the same as
/// the spec's is spelled as there. No cgroup holds a request of memory: it is the one that the limits followed from.
fn applied(container: &Container, instance: &Instance) -> ResourceRequirements {
    let mut resources =
        ResourceRequirements { claims: None, ..container.resources.clone().unwrap_or_default() };
    let mut put = |limits: bool, name: &str, amount: Option<Quantity>| {
        let list = if limits { &mut resources.limits } else { &mut resources.requests };
        match amount {
            Some(amount) => drop(list.get_or_insert_default().insert(name.to_owned(), amount)),
            None => list.iter_mut().for_each(|list| drop(list.remove(name))),
        }
    };
    if let Some(granted) = &instance.granted {
        for name in ["cpu", "memory"] {
            let [request, limit] = granted.amounts(name);
            put(false, name, request.cloned());
            put(true, name, limit.cloned());
        }
    }
    let Some(limits) = instance.limits.as_ref().filter(|_| instance.running()) else { return resources };
    let granted = instance.granted.clone().unwrap_or_default();
    let [cpu_request, cpu_limit] = granted.amounts("cpu");
    if let (Some(quota), Some(period_us)) = (limits.cpu_quota_us, limits.cpu_period_us) {
        let period = i64::try_from(period_us).unwrap_or(i64::MAX).max(1);
        let known = milli(cpu_limit);
        // Quotas have a least value, and shares are a little coarser than thousandths.
        let same = known > 0 && resources::quota(known, period_us) == quota;
        match same {
            true => {}
            false if quota < 0 => put(true, "cpu", None),
            false => put(true, "cpu", Some(milli_quantity(quota.saturating_mul(1000) / period))),
        }
    }
    let asked = resources::shares(milli(cpu_request.or(cpu_limit)));
    if let Some(shares) = limits.cpu_shares.filter(|shares| *shares != asked) {
        let shares = i64::try_from(shares).unwrap_or(i64::MAX);
        put(false, "cpu", Some(milli_quantity(shares.saturating_mul(1000).div_euclid(1024))));
    }
    if let Some(bytes) = limits.memory_limit {
        let known = granted.amounts("memory")[1].and_then(|limit| Amount::parse(&limit.0).ok());
        match known.map_or(0, |limit| i64::try_from(limit.value()).unwrap_or(i64::MAX)) {
            known if known == bytes || (known == 0 && bytes < 0) => {}
            _ if bytes < 0 => put(true, "memory", None),
            _ => put(true, "memory", Some(Quantity(Amount::from_bytes(bytes).to_string()))),
        }
    }
    resources
}

fn milli(amount: Option<&Quantity>) -> i64 {
    let amount = amount.and_then(|amount| Amount::parse(&amount.0).ok());
    amount.map_or(0, |amount| i64::try_from(amount.milli()).unwrap_or(i64::MAX))
}

fn milli_quantity(milli: i64) -> Quantity {
    Quantity(Amount::from_milli(milli).to_string())
}

fn user(user: &crate::pod::machine::User) -> ContainerUser {
    let extra = user.additional_gids.iter().filter(|gid| **gid != user.gid);
    let groups = std::iter::once(&user.gid).chain(extra).map(|gid| i64::from(*gid)).collect();
    let supplemental_groups = Some(groups);
    let (uid, gid) = (i64::from(user.uid), i64::from(user.gid));
    ContainerUser { linux: Some(LinuxContainerUser { uid, gid, supplemental_groups }) }
}

fn volume_mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref()?.iter();
    let told = mounts.map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
            match mount.recursive_read_only.as_deref() {
                Some("Enabled" | "IfPossible") => "Enabled".into(),
                _ => "Disabled".into(),
            }
        }),
    });
    Some(told.collect())
}
