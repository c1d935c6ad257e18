//! Towards a running pod: sandbox, network and volumes side by side with the image, init containers one by one,
//! regular containers in spec order, restarts with back-off.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{Action, Plan, SHOW_ERROR};
use crate::pod::{
    allocation::{Allocation, Granted},
    desired::{Desired, Kind},
    ephemeral,
    events::is_image_trouble,
    observed::{Ended, ImageState, Instance, Instances, Observed, Step, Unhealthy},
    resize,
};

pub(super) fn plan(desired: &Desired, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    if observed.lost {
        return replace_sandbox(observed, now, plan);
    }
    foundation(desired, observed, now, plan);
    let settled = limits(desired, observed, now, plan);
    let mut may_start = settled && founded(desired, observed);
    // Beside everything else, however far the pod has come.
    for container in desired.spec().ephemeral_containers.iter().flatten() {
        if ephemeral::unborn(observed.container(&container.name)) {
            start(observed, (&container.name, container.image.as_deref()), may_start, now, plan);
        }
    }
    for container in candidates(desired, observed) {
        let free = start(observed, (&container.name, container.image.as_deref()), may_start, now, plan);
        // Starts are sequential: one that is under way holds back the next. Failures hold back nobody.
        may_start &= free;
    }
    for (kind, container) in desired.containers() {
        kill(desired, observed, (kind, container), now, plan);
        let instances = observed.container(&container.name);
        if let Some(id) = instances.garbage.first().filter(|_| !instances.removing) {
            plan.actions.push(Action::RemoveContainer { container: container.name.clone(), id: id.clone() });
        }
    }
}

/// Sandbox, network and volumes are there.
fn founded(desired: &Desired, observed: &Observed) -> bool {
    let network = desired.host_network() || observed.network.done().is_some();
    network && observed.sandbox.done().is_some() && observed.volumes.done().is_some()
}

fn foundation(desired: &Desired, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    make(&observed.volumes, Action::MakeVolumes, now, plan);
    if let Some(refresh_at) = observed.volumes.done().and_then(|volumes| volumes.refresh_at) {
        if refresh_at <= now {
            plan.actions.push(Action::MakeVolumes);
        } else {
            plan.wake(Some(refresh_at));
        }
    }
    make(&observed.sandbox, Action::CreateSandbox, now, plan);
    if observed.sandbox.done().is_some() && !desired.host_network() {
        make(&observed.network, Action::AttachNetwork, now, plan);
    }
}

fn make<T>(step: &Step<T>, action: Action, now: Timestamp, plan: &mut Plan) {
    match step {
        Step::Absent => plan.actions.push(action),
        Step::Failed { retry_at, .. } if *retry_at <= now => plan.actions.push(action),
        Step::Failed { retry_at, .. } => plan.wake(Some(*retry_at)),
        Step::Making { .. } | Step::Done(_) | Step::Undoing => {}
    }
}

/// What was granted may have changed, or was never looked at since this agent runs. One step at a time: what the kernel
/// has after it is where the next one starts. False while it is under way: a new instance needs the room.
fn limits(desired: &Desired, observed: &Observed, now: Timestamp, plan: &mut Plan) -> bool {
    let running = |container: &Container| observed.container(&container.name).running();
    // The pod shrinks when nobody in it has more any longer.
    if desired.containers().any(|(_, c)| running(c).is_some_and(|instance| needs_restart(c, instance))) {
        return true;
    }
    let known = observed.granted.as_ref();
    let changed = known.is_some_and(|granted| *granted != Allocation::of(desired.spec()));
    let waits = in_place(desired, observed).next().is_some();
    if observed.resizing {
        return false;
    }
    if observed.sandbox.done().is_none() || !(changed || waits || observed.unchecked) {
        return true;
    }
    match &observed.resize_trouble {
        Some(trouble) if trouble.retry_at > now => {
            plan.wake(Some(trouble.retry_at));
            true
        }
        _ => {
            plan.actions.push(Action::Resize);
            false
        }
    }
}

/// Running containers that have other limits than they were granted, and need no new instance for them.
fn in_place<'a>(desired: &'a Desired, observed: &'a Observed) -> impl Iterator<Item = &'a Container> {
    let differs = move |container: &Container| {
        let Some(before) = observed.container(&container.name).running().and_then(|i| i.granted.as_ref())
        else {
            return false;
        };
        let after = Granted::of(container);
        *before != after && !resize::restarts(container, before, &after)
    };
    desired.containers().map(|(_, container)| container).filter(move |container| differs(container))
}

/// The old sandbox goes first; `observed` forgets its containers when it is gone.
fn replace_sandbox(observed: &Observed, now: Timestamp, plan: &mut Plan) {
    // A start under way fails soon, now that nobody is there to make it. An attachment under way would be made after the
    // one that is removed.
    if observed.network.busy() || observed.containers.values().any(|instances| instances.starting) {
        return;
    }
    match &observed.sandbox {
        Step::Done(_) => plan.actions.push(Action::RemoveSandbox),
        Step::Failed { retry_at, .. } if *retry_at <= now => plan.actions.push(Action::RemoveSandbox),
        Step::Failed { retry_at, .. } => plan.wake(Some(*retry_at)),
        Step::Absent => plan.actions.push(Action::RemoveSandbox),
        Step::Making { .. } | Step::Undoing => {}
    }
}

/// The containers that should have an instance now, in the order in which they may start.
fn candidates<'a>(desired: &'a Desired, observed: &Observed) -> Vec<&'a Container> {
    let mut candidates = Vec::new();
    let initialized = desired.regular().any(|c| observed.container(&c.name).current.is_some());
    for (kind, container) in desired.init() {
        let instances = observed.container(&container.name);
        let ended = instances.ended();
        if kind == Kind::Sidecar {
            if instances.running().is_none() {
                candidates.push(container);
            }
            // A sidecar that has been up does not hold back the rest while it restarts.
            let up = instances.up().is_some_and(|i| i.started);
            let was_up = instances.last.as_ref().is_some_and(|i| i.started);
            if initialized || up || was_up {
                continue;
            }
            return candidates;
        }
        if initialized || ended.is_some_and(Ended::succeeded) {
            continue;
        }
        if instances.running().is_none() {
            candidates.push(container);
        }
        return candidates;
    }
    let regular = desired.regular().filter(|container| {
        let instances = observed.container(&container.name);
        let instance = instances.effective(desired, Kind::Regular, container);
        instance.is_none_or(|instance| desired.follows(Kind::Regular, container, instance))
            || instances.starting
            || (instances.running().is_some() && instances.up().is_none())
    });
    candidates.extend(regular);
    candidates
}

/// Brings one candidate a step further; false if a step is under way and the next container has to wait.
fn start(
    observed: &Observed,
    (name, image): (&String, Option<&str>),
    may_start: bool,
    now: Timestamp,
    plan: &mut Plan,
) -> bool {
    let instances = observed.container(name);
    // One whose hook failed is waited for until it has ended.
    if instances.starting || (instances.running().is_some() && instances.up().is_none()) {
        return false;
    }
    if let Some(until) = restart_wait(instances, now) {
        tell_restart_backoff(instances, name, until, now, plan);
        return true;
    }
    if let Some(retry_at) = create_wait(instances, now) {
        plan.wake(Some(retry_at));
        return true;
    }
    let image = image.unwrap_or_default();
    let ensure = || Action::EnsureImage { container: name.clone(), image: image.into() };
    match &instances.image {
        ImageState::Ensuring { .. } => false,
        ImageState::Failed { at, .. } => match pull_wait(observed, instances, image, *at, now) {
            Some(until) => {
                tell_pull_backoff(instances, name, instances.missing_image(image), *at, until, now, plan);
                true
            }
            None => {
                plan.actions.push(ensure());
                true
            }
        },
        ImageState::Ready { reference, .. } if reference == image => {
            if may_start {
                let attempt = instances.next_attempt;
                plan.actions.push(Action::StartContainer { container: name.clone(), attempt });
            }
            !may_start
        }
        ImageState::Unknown | ImageState::Ready { .. } => {
            plan.actions.push(ensure());
            false
        }
    }
}

/// Until when a container that could not be created is left alone. One that was created and did not start has an
/// instance, and the restart back-off counts.
fn create_wait(instances: &Instances, now: Timestamp) -> Option<Timestamp> {
    let trouble = instances.trouble.as_ref()?;
    let created = matches!(trouble.reason, "RunContainerError" | "PostStartHookError");
    (!created && !is_image_trouble(trouble.reason) && trouble.retry_at > now).then_some(trouble.retry_at)
}

/// Until when an ended container has to wait before its next instance.
pub(crate) fn restart_wait(instances: &Instances, now: Timestamp) -> Option<Timestamp> {
    instances.ended()?;
    instances.backoff?.waits_until(instances.ended_at?, now)
}

fn tell_restart_backoff(
    instances: &Instances,
    name: &str,
    until: Timestamp,
    now: Timestamp,
    plan: &mut Plan,
) {
    if !instances.told_backoff {
        plan.actions.push(Action::TellBackOff { container: name.into(), image: None });
    }
    // The status goes from the error to the wait then.
    let shown = instances.trouble.as_ref().and_then(|trouble| trouble.at.checked_add(SHOW_ERROR).ok());
    plan.wake(shown.filter(|shown| *shown > now));
    plan.wake(Some(until));
}

/// Until when a failed image is left alone; a changed reference is tried at once.
fn pull_wait(
    observed: &Observed,
    instances: &Instances,
    wanted: &str,
    failed_at: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let ImageState::Failed { reference, .. } = &instances.image else { return None };
    let trouble = instances.trouble.as_ref().filter(|_| reference == wanted)?;
    if trouble.reason != "ErrImagePull" {
        // Never present, unreadable, misspelt: look again after a while, there is no pull to back off from.
        return Some(trouble.retry_at).filter(|at| *at > now);
    }
    observed.pulls.get(instances.missing_image(wanted))?.waits_until(failed_at, now)
}

fn tell_pull_backoff(
    instances: &Instances,
    name: &str,
    wanted: &str,
    failed_at: Timestamp,
    until: Timestamp,
    now: Timestamp,
    plan: &mut Plan,
) {
    plan.wake(Some(until));
    if instances.trouble.as_ref().is_none_or(|trouble| trouble.reason != "ErrImagePull") {
        return;
    }
    let shown = failed_at.checked_add(SHOW_ERROR).unwrap_or(until);
    if shown > now {
        plan.wake(Some(shown));
    } else if !instances.told_backoff {
        plan.actions.push(Action::TellBackOff { container: name.into(), image: Some(wanted.into()) });
    }
}

/// Reasons to end a container of a pod that goes on.
fn kill(
    desired: &Desired,
    observed: &Observed,
    (kind, container): (Kind, &Container),
    now: Timestamp,
    plan: &mut Plan,
) {
    let instances = observed.container(&container.name);
    let Some(instance) = instances.running() else { return };
    let name = &container.name;
    let restarted = if kind == Kind::Init { "" } else { ", will be restarted" };
    let (grace, why) = match instance.unhealthy {
        Some(Unhealthy::Liveness) => (
            desired.probe_grace(container.liveness_probe.as_ref()),
            format!("Container {name} failed liveness probe{restarted}"),
        ),
        Some(Unhealthy::Startup) => (
            desired.probe_grace(container.startup_probe.as_ref()),
            format!("Container {name} failed startup probe{restarted}"),
        ),
        Some(Unhealthy::PostStart) => (desired.grace(), "FailedPostStartHook".into()),
        None if container.image.as_ref().is_some_and(|image| *image != instance.image_ref) => {
            (desired.grace(), format!("Container {name} definition changed{restarted}"))
        }
        None if needs_restart(container, instance) => {
            (desired.grace(), format!("Container {name} resize requires restart"))
        }
        None => return,
    };
    // What a probe ends is the restart policy's; what is to be another one is made anew in any case.
    let replace = instance.unhealthy.is_none();
    plan.stop(observed, name, (grace, now, replace), why);
}

fn needs_restart(container: &Container, instance: &Instance) -> bool {
    let before = instance.granted.as_ref();
    before.is_some_and(|before| resize::restarts(container, before, &Granted::of(container)))
}
