//! The phase of a pod, counted from container statuses in upstream's order of rules.

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::pod::{
    desired::{Desired, Kind, RestartPolicy},
    observed::Observed,
};

#[derive(Default)]
struct Count {
    pending_init: usize,
    failed_init: usize,
    pending_sidecar: usize,
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    /// Stopped ones that will run again.
    restarting: usize,
}

/// `ending`: every container was torn down because the pod is being deleted.
pub(super) fn phase(
    desired: &Desired,
    observed: &Observed,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    ending: bool,
) -> &'static str {
    let count = count(desired, observed, init, regular);
    let started = regular.iter().any(|status| {
        let last = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        let now = status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        last || now
    });
    let verdict = match &count {
        c if c.failed_init > 0 => "Failed",
        c if c.pending_init > 0 || (c.pending_sidecar > 0 && !started) || c.waiting > 0 => "Pending",
        c if c.running > 0 && c.unknown == 0 => "Running",
        c if c.running == 0 && c.stopped > 0 && c.unknown == 0 => match c.restarting {
            1.. if !ending || desired.is_static() => "Running",
            _ => outcome(c),
        },
        _ => "Pending",
    };
    match verdict {
        // The end of termination leaves no pod behind that looks alive.
        "Pending" | "Running" if ending && !desired.is_static() => "Failed",
        verdict => verdict,
    }
}

fn outcome(count: &Count) -> &'static str {
    if count.stopped == count.succeeded { "Succeeded" } else { "Failed" }
}

fn count(
    desired: &Desired,
    observed: &Observed,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
) -> Count {
    let mut count = Count::default();
    for ((kind, container), status) in desired.init().zip(init) {
        let failed = |code: i32| usize::from(code != 0 && !desired.restarts(kind, container, code));
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if kind == Kind::Sidecar {
            match (state.running.is_some(), state.waiting.is_some()) {
                (true, _) if status.started != Some(true) => count.pending_sidecar += 1,
                (false, true) if last.is_none() => {
                    count.pending_sidecar += 1;
                    count.waiting += 1;
                }
                _ => {}
            }
        } else if let Some(ended) = &state.terminated {
            count.failed_init += failed(ended.exit_code);
        } else if let (None, Some(last)) = (&state.running, last) {
            count.failed_init += failed(last.exit_code);
        } else {
            count.pending_init += 1;
        }
    }
    let container = |name: &str| desired.regular().find(|container| container.name == name);
    let again = |name: &str, code: i32| {
        let replaced = observed.container(name).current.as_ref().is_some_and(|i| i.replaced && !i.running());
        replaced || container(name).is_some_and(|c| desired.restarts(Kind::Regular, c, code))
    };
    // Waiting for its next instance; who must not have one waits for nothing.
    let waits =
        |name: &str| container(name).is_some_and(|c| desired.restart_policy(c) != RestartPolicy::Never);
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(ended) = &state.terminated {
            count.stopped += 1;
            count.succeeded += usize::from(ended.exit_code == 0);
            count.restarting += usize::from(again(&status.name, ended.exit_code));
        } else if let Some(last) = last {
            count.stopped += 1;
            count.restarting += usize::from(again(&status.name, last.exit_code) || waits(&status.name));
        } else if state.waiting.is_some() {
            count.waiting += 1;
        } else {
            count.unknown += 1;
        }
    }
    count
}
