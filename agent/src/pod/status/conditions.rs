//! Pod conditions with upstream's reasons and messages.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::pod::{
    allocation::{Allocation, Granted},
    desired::{Desired, Kind},
    observed::Observed,
    words,
};

/// Conditions that only a node says.
pub const OUR_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Conditions that are there only while a resize waits or goes on.
pub const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Said together with the end of a pod that the node ended.
const DISRUPTION: &str = "DisruptionTarget";

/// What a condition says, before times are added.
struct Said {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Said {
    fn yes() -> Said {
        Said { status: true, reason: None, message: None }
    }

    fn plain(status: bool) -> Said {
        Said { status, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Said {
        Said { status: false, reason: Some(reason), message }
    }
}

pub(super) fn conditions(
    desired: &Desired,
    observed: &Observed,
    previous: &PodStatus,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(desired, init, regular, phase);
    let said = [
        Said::plain(ready_to_start(desired, observed)),
        initialized(desired, init, regular, phase),
        ready(desired, previous, &containers_ready),
        containers_ready,
        Said::yes(),
    ];
    let told = |kind: &str| previous.conditions.iter().flatten().find(|c| c.type_ == kind);
    let generation = desired.pod.metadata.generation;
    let mut conditions: Vec<_> = OUR_CONDITIONS
        .iter()
        .zip(said)
        .map(|(kind, said)| condition(kind, said, told(kind), generation, now))
        .collect();
    // Conditions of other owners (readiness gates, the scheduler's, controllers') are theirs.
    let ours = |kind: &str| OUR_CONDITIONS.contains(&kind) || RESIZE_CONDITIONS.contains(&kind);
    let disrupted = observed.ending.as_ref().filter(|_| phase == "Failed").map(|ending| {
        let message = Some(ending.message.clone());
        let said = Said { status: true, reason: Some("TerminationByKubelet"), message };
        condition(DISRUPTION, said, told(DISRUPTION), generation, now)
    });
    let others = previous.conditions.iter().flatten().filter(|c| !ours(&c.type_));
    let others = others.filter(|c| disrupted.is_none() || c.type_ != DISRUPTION);
    conditions.extend(others.cloned());
    conditions.extend(disrupted);
    let resize = RESIZE_CONDITIONS.iter().zip([pending(desired), in_progress(desired, observed)]);
    let resize = resize.filter_map(|(kind, said)| Some(condition(kind, said?, told(kind), generation, now)));
    conditions.extend(resize);
    conditions
}

fn pending(desired: &Desired) -> Option<Said> {
    let pending = desired.pending.as_ref()?;
    Some(Said { status: true, reason: Some(pending.reason), message: Some(pending.message.clone()) })
}

/// What was granted is not in the kernel yet, of the pod or of a container that runs.
fn in_progress(desired: &Desired, observed: &Observed) -> Option<Said> {
    let changed = observed.granted.as_ref().is_some_and(|known| *known != Allocation::of(desired.spec()));
    let waits = desired.containers().any(|(_, container)| {
        let instance = observed.container(&container.name).running();
        let granted = instance.and_then(|instance| instance.granted.as_ref());
        granted.is_some_and(|granted| *granted != Granted::of(container))
    });
    if desired.deleting() || !(changed || waits) {
        return None;
    }
    let trouble = observed.resize_trouble.as_ref();
    let message = trouble.map(|trouble| trouble.message.clone());
    Some(Said { status: true, reason: trouble.map(|trouble| trouble.reason), message })
}

fn condition(
    kind: &str,
    said: Said,
    told: Option<&PodCondition>,
    generation: Option<i64>,
    now: Timestamp,
) -> PodCondition {
    let status = if said.status { "True" } else { "False" };
    let moved = told.filter(|told| told.status == status).and_then(|told| told.last_transition_time.clone());
    PodCondition {
        type_: kind.into(),
        status: status.into(),
        reason: said.reason.map(Into::into),
        message: said.message,
        last_transition_time: moved.or(Some(Time(super::whole_seconds(now)))),
        last_probe_time: told.and_then(|told| told.last_probe_time.clone()),
        observed_generation: generation,
    }
}

fn ready_to_start(desired: &Desired, observed: &Observed) -> bool {
    let network = desired.host_network() || observed.network.done().is_some();
    super::sandbox_shown(observed) && network
}

fn initialized(
    desired: &Desired,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Said {
    let began = regular.iter().any(|status| {
        let last = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        let now = status.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        last || now
    });
    if phase == "Succeeded" {
        return Said { status: true, reason: Some("PodCompleted"), message: None };
    }
    let incomplete: Vec<_> = desired
        .init()
        .zip(init)
        .filter(|((kind, _), status)| match kind {
            Kind::Sidecar => status.started != Some(true),
            _ => !status.ready,
        })
        .map(|(_, status)| status.name.as_str())
        .collect();
    if incomplete.is_empty() || began {
        return Said::yes();
    }
    let message = format!("containers with incomplete status: {}", words::list(&incomplete));
    Said::no("ContainersNotInitialized", Some(message))
}

fn containers_ready(
    desired: &Desired,
    init: &[ContainerStatus],
    regular: &[ContainerStatus],
    phase: &str,
) -> Said {
    match phase {
        "Succeeded" => return Said::no("PodCompleted", None),
        "Failed" => return Said::no("PodFailed", None),
        _ => {}
    }
    let sidecars = desired.init().zip(init).filter(|((kind, _), _)| *kind == Kind::Sidecar);
    let counted = sidecars.map(|(_, status)| status);
    // Spec order, as users list them.
    let regular = desired.regular().filter_map(|c| regular.iter().find(|status| status.name == c.name));
    let unready: Vec<_> =
        counted.chain(regular).filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if unready.is_empty() {
        return Said::yes();
    }
    let message = format!("containers with unready status: {}", words::list(&unready));
    Said::no("ContainersNotReady", Some(message))
}

fn ready(desired: &Desired, previous: &PodStatus, containers: &Said) -> Said {
    if !containers.status {
        return Said { status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = desired.spec().readiness_gates.iter().flatten();
    let api = desired.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let problems: Vec<_> = gates
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            let known = api.into_iter().flatten().chain(previous.conditions.iter().flatten());
            match known.into_iter().find(|condition| condition.type_ == *kind) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist."))
                }
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    match problems.is_empty() {
        true => Said::yes(),
        false => Said::no("ReadinessGatesNotReady", Some(problems.join(", "))),
    }
}
