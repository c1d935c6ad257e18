//! What to do next for a pod: `plan(desired, observed, now)`.
//!
//! The answer names the actions that may start now, side by side, and when to look again if nothing happens before.
//! What is under way is part of `observed`, so asking twice never starts anything twice. Not for: how an action is
//! carried out, nor for the status.

mod bring_up;
mod wind_down;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{
    desired::{Desired, Kind},
    observed::Observed,
};

/// What to do now and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be started now, in this order, each on its own.
    pub actions: Vec<Action>,
    /// Look again at this time even if nothing happens.
    pub wake_at: Option<Timestamp>,
    /// Nothing is left on the node and nothing remains to be said: the worker may end.
    pub finished: bool,
}

/// One step towards what is wanted; idempotent, named after its end state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make all volumes, or bring their content up to date.
    MakeVolumes,
    /// Namespaces, pod cgroup, shim.
    CreateSandbox,
    /// The limits of what runs are as they were granted.
    Resize,
    /// An address for the pod.
    AttachNetwork,
    /// The image for the next instance: look, pull by policy.
    EnsureImage {
        /// Container name.
        container: String,
        /// What the pod asks for.
        image: String,
    },
    /// Start the container and run its postStart hook.
    StartContainer {
        /// Container name.
        container: String,
        /// Restart count.
        attempt: u32,
    },
    /// preStop hook, signal, grace, SIGKILL.
    StopContainer {
        /// Container name.
        container: String,
        /// Container id.
        id: String,
        /// For hook and signal together.
        grace: Duration,
        /// Text of the `Killing` event.
        why: String,
        /// Another instance follows, whatever the restart policy says.
        replace: bool,
        /// Run the preStop hook; not for a stop that only shortens an earlier one.
        hook: bool,
    },
    /// Remove an old ended instance.
    RemoveContainer {
        /// Container name.
        container: String,
        /// Container id.
        id: String,
    },
    /// Network, shim, namespaces, cgroup.
    RemoveSandbox,
    /// Unmount and delete the pod's directory and logs.
    RemoveVolumes,
    /// Unmount and delete the pod's directory; the logs stay.
    ClearVolumes,
    /// Delete the API object with grace 0.
    DeleteObject,
    /// Say that the container waits.
    TellBackOff {
        /// Container name.
        container: String,
        /// The back-off is for the pull of this image, not for the restart.
        image: Option<String>,
    },
    /// Say that the deadline has passed.
    TellDeadline,
}

/// An error is shown for at least this long before the text about waiting takes its place.
pub const SHOW_ERROR: Duration = Duration::from_secs(2);

/// Decides.
pub fn plan(desired: &Desired, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if observed.refused.is_some() && !desired.deleting() {
        return plan;
    }
    let deadline = desired.deadline(observed.started_at);
    let overdue = deadline.is_some_and(|deadline| deadline <= now);
    if overdue && !observed.told_deadline && !desired.deleting() && !desired.told_terminal() {
        plan.actions.push(Action::TellDeadline);
    }
    let over = observed.over
        || observed.ending.is_some()
        || desired.told_terminal()
        || overdue
        || finished(desired, observed);
    if desired.deleting() || over {
        wind_down::plan(desired, observed, now, &mut plan);
    } else {
        bring_up::plan(desired, observed, now, &mut plan);
        plan.wake(deadline);
    }
    plan
}

/// The containers that count have ended and none of them will be started again.
pub fn finished(desired: &Desired, observed: &Observed) -> bool {
    if init_failed(desired, observed) {
        return true;
    }
    let done = |container: &Container| {
        let instances = observed.container(&container.name);
        // A sandbox that was lost took with it for good what must not run twice.
        let instance = instances.effective(desired, Kind::Regular, container);
        let over = instance.filter(|instance| instance.ended().is_some());
        !instances.starting && over.is_some_and(|over| !desired.follows(Kind::Regular, container, over))
    };
    desired.regular().next().is_some() && desired.regular().all(done)
}

fn init_failed(desired: &Desired, observed: &Observed) -> bool {
    desired.init().filter(|(kind, _)| *kind == Kind::Init).any(|(kind, container)| {
        let instances = observed.container(&container.name);
        let over = instances.current.as_ref().filter(|_| !instances.starting);
        over.is_some_and(|over| {
            over.ended().is_some_and(|ended| !ended.succeeded()) && !desired.follows(kind, container, over)
        })
    })
}

impl Plan {
    fn wake(&mut self, at: Option<Timestamp>) {
        self.wake_at = self.wake_at.into_iter().chain(at).min();
    }

    fn stop(
        &mut self,
        observed: &Observed,
        container: &str,
        (grace, now, replace): (Duration, Timestamp, bool),
        why: String,
    ) {
        let instances = observed.container(container);
        let Some(instance) = instances.running().filter(|_| !instances.starting) else { return };
        // A stop under way can be shortened, never prolonged.
        let ends = now.checked_add(grace).unwrap_or(Timestamp::MAX);
        if instances.stopping.is_some_and(|before| before <= ends) {
            return;
        }
        self.actions.push(Action::StopContainer {
            container: container.into(),
            id: instance.id.clone(),
            grace,
            why,
            replace,
            hook: instances.stopping.is_none(),
        });
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::MakeVolumes => f.write_str("volumes"),
            Action::Resize => f.write_str("resize"),
            Action::CreateSandbox => f.write_str("sandbox"),
            Action::AttachNetwork => f.write_str("network"),
            Action::EnsureImage { container, image } => write!(f, "image {image} for {container}"),
            Action::StartContainer { container, attempt } => write!(f, "start {container}#{attempt}"),
            Action::StopContainer { container, grace, why, hook, .. } => {
                let hook = if *hook { "" } else { " without hook" };
                write!(f, "stop {container} within {}s{hook}: {why}", grace.as_secs())
            }
            Action::RemoveContainer { container, id } => write!(f, "remove {container} {id}"),
            Action::RemoveSandbox => f.write_str("remove sandbox"),
            Action::RemoveVolumes => f.write_str("remove volumes"),
            Action::ClearVolumes => f.write_str("clear volumes"),
            Action::DeleteObject => f.write_str("delete object"),
            Action::TellBackOff { container, image: None } => write!(f, "tell back-off of {container}"),
            Action::TellBackOff { container, image: Some(image) } => {
                write!(f, "tell pull back-off of {container} for {image}")
            }
            Action::TellDeadline => f.write_str("tell deadline"),
        }
    }
}
