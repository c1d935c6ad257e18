//! The phase of a pod, counted from container statuses in upstream's order of rules.

use k8s_openapi::api::core::v1::ContainerStatus;

use crate::pod::desired::{Desired, RestartPolicy};

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
}

/// `ending`: every container was torn down because the pod is being deleted.
pub(super) fn phase(
    desired: &Desired,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    ending: bool,
) -> &'static str {
    let count = count(desired, init, regular);
    let policy = desired.restart_policy();
    let started = regular.iter().any(|status| {
        let last = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        let now = status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        last || now
    });
    let verdict = match &count {
        c if c.failed_init > 0 && policy == RestartPolicy::Never => "Failed",
        c if c.pending_init > 0 || (c.pending_sidecar > 0 && !started) || c.waiting > 0 => "Pending",
        c if c.running > 0 && c.unknown == 0 => "Running",
        c if c.running == 0 && c.stopped > 0 && c.unknown == 0 => match policy {
            _ if ending && !desired.is_static() => outcome(c),
            RestartPolicy::Always => "Running",
            _ if c.stopped == c.succeeded => "Succeeded",
            RestartPolicy::Never => "Failed",
            RestartPolicy::OnFailure => "Running",
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

fn count(desired: &Desired, init: &[ContainerStatus], regular: &[ContainerStatus]) -> Count {
    let mut count = Count::default();
    for ((kind, _), status) in desired.init().zip(init) {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if kind == crate::pod::desired::Kind::Sidecar {
            match (state.running.is_some(), state.waiting.is_some()) {
                (true, _) if status.started != Some(true) => count.pending_sidecar += 1,
                (false, true) if last.is_none() => {
                    count.pending_sidecar += 1;
                    count.waiting += 1;
                }
                _ => {}
            }
        } else if let Some(ended) = &state.terminated {
            count.failed_init += usize::from(ended.exit_code != 0);
        } else if let (None, Some(last)) = (&state.running, last) {
            count.failed_init += usize::from(last.exit_code != 0);
        } else {
            count.pending_init += 1;
        }
    }
    for status in regular {
        let state = status.state.clone().unwrap_or_default();
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(ended) = &state.terminated {
            count.stopped += 1;
            count.succeeded += usize::from(ended.exit_code == 0);
        } else if last.is_some() {
            count.stopped += 1;
        } else if state.waiting.is_some() {
            count.waiting += 1;
        } else {
            count.unknown += 1;
        }
    }
    count
}
