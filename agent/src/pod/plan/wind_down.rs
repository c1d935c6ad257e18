//! Towards an ended pod: containers, sidecars after them, then the sandbox; for a deleted pod also volumes and the
//! API object. The order carries the safety: exit codes are written down before what they were read from is removed.

use std::time::Duration;

use jiff::Timestamp;

use super::{Action, Plan};
use crate::pod::{
    desired::{Desired, Kind},
    ending,
    observed::{Observed, Step},
};

pub(super) fn plan(desired: &Desired, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    stop_containers(desired, observed, now, plan);
    let running = observed.anything_runs();
    if running || observed.sandbox.busy() || observed.network.busy() || observed.volumes.busy() {
        return;
    }
    if !desired.gone && !observed.told_end {
        // An API server that shares a full disk can only be told when there is room: what an evicted pod holds goes first.
        let Some(at) = frees_anyway(observed) else { return };
        if now < at {
            return plan.wake(Some(at));
        }
    }
    if !observed.sandbox.absent() {
        return remove(&observed.sandbox, Action::RemoveSandbox, now, plan);
    }
    if !desired.deleting() {
        // What an ended pod holds on the disk is free as soon as it has ended, not when somebody deletes the object.
        if !observed.cleared {
            remove(&observed.volumes, Action::ClearVolumes, now, plan);
        }
        return;
    }
    if !observed.cleaned {
        return remove(&observed.volumes, Action::RemoveVolumes, now, plan);
    }
    if desired.gone {
        plan.finished = true;
    } else if !observed.delete_asked {
        plan.actions.push(Action::DeleteObject);
    }
}

/// When an evicted pod that ran makes room though its end is not written down. Its end is lost if the agent ends before it
/// could be told; the pod is then started anew.
fn frees_anyway(observed: &Observed) -> Option<Timestamp> {
    observed.ending.as_ref().filter(|ending| ending.reason == ending::EVICTED)?;
    let ran = observed.containers.values().any(|container| container.current.is_some());
    observed.quiet_since.filter(|_| ran)?.checked_add(UNTOLD).ok()
}

/// A removal that failed is repeated after a while; whatever else the state is, there may be something to remove.
fn remove<T>(step: &Step<T>, action: Action, now: Timestamp, plan: &mut Plan) {
    match step {
        Step::Failed { retry_at, .. } if *retry_at > now => plan.wake(Some(*retry_at)),
        _ => plan.actions.push(action),
    }
}

fn stop_containers(desired: &Desired, observed: &Observed, now: Timestamp, plan: &mut Plan) {
    let grace = ending::grace(desired, observed);
    let why = |name: &str| format!("Stopping container {name}");
    let mut others_run = false;
    for (_, container) in desired.containers().filter(|(kind, _)| *kind != Kind::Sidecar) {
        let instances = observed.container(&container.name);
        others_run |= instances.starting || instances.running().is_some();
        plan.stop(observed, &container.name, (grace, now, false), why(&container.name));
    }
    // Nobody waits for ephemeral ones, except the end of the pod.
    for container in desired.spec().ephemeral_containers.iter().flatten() {
        plan.stop(observed, &container.name, (grace, now, false), why(&container.name));
    }
    // Containers the spec does not know.
    for name in observed.containers.keys().filter(|name| desired.container(name).is_none()) {
        others_run |= observed.container(name).running().is_some();
        plan.stop(observed, name, (grace, now, false), why(name));
    }
    if others_run {
        return;
    }
    for (_, sidecar) in desired.init().filter(|(kind, _)| *kind == Kind::Sidecar).rev() {
        let instances = observed.container(&sidecar.name);
        plan.stop(observed, &sidecar.name, (left(desired, observed, now), now, false), why(&sidecar.name));
        if instances.starting || instances.running().is_some() {
            // Reverse spec order, one after the other.
            return;
        }
    }
}

/// Sidecars get what the others left of the grace period.
fn left(desired: &Desired, observed: &Observed, now: Timestamp) -> Duration {
    let grace = ending::grace(desired, observed);
    let ends = observed.deletion.map(|(_, ends)| ends).filter(|_| !desired.gone);
    let left = ends.and_then(|ends| Duration::try_from(ends.duration_since(now)).ok());
    match ends {
        Some(_) => left.unwrap_or_default().clamp(LEAST, grace.max(LEAST)),
        None => grace,
    }
}

const LEAST: Duration = Duration::from_secs(2);
/// How long an evicted pod keeps its disk while the API server does not take the news.
const UNTOLD: Duration = Duration::from_secs(10);
