//! What to tell the API server about a pod: a pure function of what is there.
//!
//! Texts and order are what users, controllers and dashboards know from upstream. Not for: sending it.

mod conditions;
mod containers;
mod phase;
mod torn_down;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, HostIP, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub use conditions::{OUR_CONDITIONS, RESIZE_CONDITIONS};
pub use containers::RUNTIME_NAME;

use super::{
    desired::{Desired, Kind},
    ephemeral,
    observed::Observed,
    plan, resources,
    settings::Settings,
};

const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// The status of a pod. `previous` is what was last told (or found in the API after a restart).
pub fn status(
    desired: &Desired,
    observed: &Observed,
    previous: &PodStatus,
    settings: &Settings,
    now: Timestamp,
) -> PodStatus {
    let mut status = base(desired, observed, previous, settings, now);
    if let Some((reason, text)) = &observed.refused {
        status.phase = Some("Failed".into());
        status.reason = Some(reason.clone());
        status.message = Some(format!("Pod was rejected: {text}"));
        return status;
    }
    if forgotten(observed) && is_terminal(previous.phase.as_deref()) {
        // A node that lost everything about an ended pod has nothing to add.
        return PodStatus { observed_generation: status.observed_generation, ..previous.clone() };
    }
    let all = |kind: fn(Kind) -> bool| {
        let wanted = desired.containers().filter(move |(k, _)| kind(*k));
        wanted.map(|(kind, c)| containers::status(desired, observed, previous, kind, c, now))
    };
    let mut init: Vec<_> = all(|kind| kind != Kind::Regular).collect();
    let mut regular: Vec<_> = all(|kind| kind == Kind::Regular).collect();
    let ephemeral = ephemeral::containers(desired.spec());
    let mut ephemeral: Vec<_> = ephemeral
        .map(|c| containers::status(desired, observed, previous, Kind::Ephemeral, &c, now))
        .collect();
    containers::shorten_messages(desired, init.iter_mut().chain(&mut regular).chain(&mut ephemeral));
    regular.sort_by(|a, b| a.name.cmp(&b.name));
    ephemeral.sort_by(|a, b| a.name.cmp(&b.name));

    let overdue = desired.deadline(observed.started_at).is_some_and(|at| at <= now) || observed.told_deadline;
    let ends = desired.deleting() || observed.over || overdue || observed.ending.is_some();
    let torn_down = ends && !observed.anything_runs() && !observed.sandbox.busy();
    if torn_down {
        torn_down::fill(desired, previous, &mut init, &mut regular);
    }
    let computed = phase::phase(desired, observed, &init, &regular, torn_down && desired.deleting());
    let ending = observed.ending.as_ref().filter(|_| computed != "Succeeded");
    let failed = (overdue && !desired.deleting()) || ending.is_some();
    let computed = if failed { "Failed" } else { computed };
    let phase = settle_phase(computed, observed, previous);
    let kept = previous.phase.as_deref() == Some(phase);
    let newly_failed = phase == "Failed" && !is_terminal(previous.phase.as_deref());
    (status.reason, status.message) = match (ending, overdue) {
        (Some(ending), _) if newly_failed => (Some(ending.reason.into()), Some(ending.message.clone())),
        (_, true) if newly_failed => (Some("DeadlineExceeded".into()), Some(DEADLINE_MESSAGE.into())),
        _ if kept => (previous.reason.clone(), previous.message.clone()),
        _ => (None, None),
    };
    status.phase = Some(phase.into());
    status.conditions =
        Some(conditions::conditions(desired, observed, previous, &init, &regular, phase, now));
    status.init_container_statuses = some(init);
    status.container_statuses = some(regular);
    status.ephemeral_container_statuses = some(ephemeral);
    status
}

/// Terminal is sticky, and told only when nothing can be running any more.
fn settle_phase<'a>(computed: &'a str, observed: &Observed, previous: &'a PodStatus) -> &'a str {
    match previous.phase.as_deref() {
        Some(told) if is_terminal(Some(told)) => told,
        told if is_terminal(Some(computed)) && observed.anything_runs() => told.unwrap_or("Pending"),
        _ => computed,
    }
}

/// Failed or Succeeded.
pub fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// A status after which nothing will change any more but the removal of the sandbox.
pub fn is_end(status: &PodStatus) -> bool {
    let running = |all: &Option<Vec<ContainerStatus>>| {
        all.iter().flatten().any(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    is_terminal(status.phase.as_deref())
        && !running(&status.container_statuses)
        && !running(&status.init_container_statuses)
        && !running(&status.ephemeral_container_statuses)
}

fn forgotten(observed: &Observed) -> bool {
    observed.sandbox.absent() && observed.containers.values().all(|c| c.current.is_none() && c.last.is_none())
}

fn base(
    desired: &Desired,
    observed: &Observed,
    previous: &PodStatus,
    settings: &Settings,
    now: Timestamp,
) -> PodStatus {
    let started_at = observed.started_at.unwrap_or(now);
    let host_ips: Vec<_> = settings.node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    let pod_ips = pod_ips(desired, observed, previous, settings);
    let refused = observed.refused.is_some();
    PodStatus {
        observed_generation: desired.pod.metadata.generation,
        start_time: previous.start_time.clone().or(Some(Time(whole_seconds(started_at)))),
        host_ip: host_ips.first().map(|host| host.ip.clone()).filter(|_| !refused),
        host_ips: some(host_ips).filter(|_| !refused),
        pod_ip: pod_ips.first().map(|pod| pod.ip.clone()),
        pod_ips: some(pod_ips),
        qos_class: previous
            .qos_class
            .clone()
            .or_else(|| Some(resources::qos(desired.spec()).as_str().into())),
        ephemeral_container_statuses: previous.ephemeral_container_statuses.clone(),
        nominated_node_name: previous.nominated_node_name.clone(),
        resource_claim_statuses: previous.resource_claim_statuses.clone(),
        ..PodStatus::default()
    }
}

/// The address stays in the status while the sandbox is down. It is not told before the volumes are there: upstream
/// makes the sandbox after them, and whoever reads a `Pending` pod takes an address as a sign that they were mounted.
fn pod_ips(desired: &Desired, observed: &Observed, previous: &PodStatus, settings: &Settings) -> Vec<PodIP> {
    if !sandbox_shown(observed) {
        return previous.pod_ips.clone().unwrap_or_default();
    }
    if desired.host_network() {
        return settings.node_ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect();
    }
    match observed.network.done() {
        Some(ips) => ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect(),
        None => previous.pod_ips.clone().unwrap_or_default(),
    }
}

/// The sandbox counts once the volumes were there.
fn sandbox_shown(observed: &Observed) -> bool {
    let up = observed.sandbox.done().is_some() && !observed.lost;
    up && (observed.volumes.done().is_some() || observed.containers.values().any(|c| c.current.is_some()))
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// With no room to grow: a status is kept for as long as its pod runs.
fn some<T>(mut list: Vec<T>) -> Option<Vec<T>> {
    list.shrink_to_fit();
    (!list.is_empty()).then_some(list)
}

/// Whether the pod's regular work is over; used by conditions.
fn over(desired: &Desired, observed: &Observed) -> bool {
    plan::finished(desired, observed)
}
