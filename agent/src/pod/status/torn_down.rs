//! The end of a pod of which not all containers ever ran: how upstream fills what is missing.
//!
//! Containers that could have begun and have no end get one that says so. Those that it never came to (behind an init
//! container that did not succeed) stay as they are. Not for: what phase follows.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::containers::{never_found, told};
use crate::pod::desired::{Desired, Kind};

pub(super) fn fill(
    desired: &Desired,
    previous: &PodStatus,
    init: &mut [ContainerStatus],
    regular: &mut [ContainerStatus],
) {
    let begun = initialized(desired, init, regular);
    let reached = init.iter().rposition(|status| !waits(status)).map_or(1, |last| last + 1);
    let init = init.iter_mut().take(reached);
    let regular = regular.iter_mut().filter(|_| begun);
    for status in init.chain(regular).filter(|status| !ended(status)) {
        let told = told(previous, &status.name);
        never_found(status, told);
    }
}

/// The regular containers had their turn.
fn initialized(desired: &Desired, init: &[ContainerStatus], regular: &[ContainerStatus]) -> bool {
    let Some((last, (kind, _))) = init.last().zip(desired.init().last()) else { return true };
    let succeeded = |status: &ContainerStatus| {
        let states = status.state.iter().chain(&status.last_state);
        states.filter_map(|state| state.terminated.as_ref()).any(|ended| ended.exit_code == 0)
    };
    let up = || match kind {
        Kind::Sidecar => last.started == Some(true),
        _ => succeeded(last),
    };
    regular.iter().any(|status| !waits(status)) || up()
}

/// It never was anything but waiting.
fn waits(status: &ContainerStatus) -> bool {
    let waiting = status.state.as_ref().is_none_or(|state| state.waiting.is_some());
    waiting && status.last_state.as_ref().is_none_or(|last| last.terminated.is_none())
}

fn ended(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.terminated.is_some())
}
