//! [pure] The status of a Deployment: numbers, and the conditions that `kubectl rollout status` waits for.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::object::name;

use super::draft::{Draft, available, wanted};
use super::rollout;

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
/// What upstream calls no deadline.
const NO_DEADLINE: i32 = i32::MAX;

/// The conditions while they are being worked out.
#[derive(Debug, Clone, Default)]
pub(super) struct Conditions(Vec<DeploymentCondition>);

impl Conditions {
    pub(super) fn of(deployment: &Deployment) -> Self {
        Self(deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default())
    }

    fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.0.iter().find(|condition| condition.type_ == kind)
    }

    fn remove(&mut self, kind: &str) {
        self.0.retain(|condition| condition.type_ != kind);
    }

    /// Nothing happens when status and reason are the same already; the time of the last change stays while the
    /// status does.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String, now: Timestamp) {
        let known = self.get(kind).cloned();
        if known.as_ref().is_some_and(|c| c.status == status && c.reason.as_deref() == Some(reason)) {
            return;
        }
        let since = known.filter(|c| c.status == status).and_then(|c| c.last_transition_time);
        self.remove(kind);
        self.0.push(DeploymentCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            last_transition_time: since.or(Some(Time(now))),
        });
    }

    fn reason(&self) -> Option<&str> {
        self.get(PROGRESSING).and_then(|condition| condition.reason.as_deref())
    }
}

/// The seconds after which a rollout without progress has failed.
fn deadline(deployment: &Deployment) -> Option<i32> {
    let spec = deployment.spec.as_ref()?;
    spec.progress_deadline_seconds.filter(|seconds| *seconds != NO_DEADLINE)
}

/// Notes that a rollout is paused, or goes on.
pub(super) fn mark_paused(conditions: &mut Conditions, deployment: &Deployment, now: Timestamp) {
    let paused = deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true));
    if deadline(deployment).is_none() || conditions.reason() == Some("ProgressDeadlineExceeded") {
        return;
    }
    let marked = conditions.reason() == Some("DeploymentPaused");
    if paused && !marked {
        let text = "Deployment is paused".to_owned();
        conditions.set(PROGRESSING, "Unknown", "DeploymentPaused", text, now);
    } else if !paused && marked {
        let text = "Deployment is resumed".to_owned();
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", text, now);
    }
}

/// Notes that the new ReplicaSet was made, or was there already.
pub(super) fn mark_new_set(
    conditions: &mut Conditions,
    deployment: &Deployment,
    new: &Draft,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        return;
    }
    let set = name(&new.set.metadata);
    if new.new {
        let text = format!("Created new replica set \"{set}\"");
        conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", text, now);
    } else if conditions.get(PROGRESSING).is_none() {
        let text = format!("Found new replica set \"{set}\"");
        conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", text, now);
    }
}

/// The status in the case that the new ReplicaSet was refused.
pub(super) fn creation_failed(deployment: &Deployment, message: String, now: Timestamp) -> DeploymentStatus {
    let mut conditions = Conditions::of(deployment);
    conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message, now);
    DeploymentStatus { conditions: Some(conditions.0), ..deployment.status.clone().unwrap_or_default() }
}

/// Counts, and decides on Available. `all` are all ReplicaSets, the new one included.
pub(super) fn count(
    deployment: &Deployment,
    conditions: &mut Conditions,
    new: Option<&Draft>,
    all: &[Draft],
    now: Timestamp,
) -> DeploymentStatus {
    let available = available(all);
    let enough = available >= rollout::replicas(deployment) - rollout::max_unavailable(deployment);
    if enough {
        let text = "Deployment has minimum availability.".to_owned();
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", text, now);
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", text, now);
    }
    let some = |number: i32| Some(number).filter(|number| *number > 0);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(all.iter().map(Draft::actual).sum()),
        updated_replicas: new.map(Draft::actual).and_then(some),
        ready_replicas: some(all.iter().map(Draft::ready).sum()),
        available_replicas: some(available),
        unavailable_replicas: some(wanted(all) - available),
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        terminating_replicas: deployment.status.as_ref().and_then(|status| status.terminating_replicas),
        conditions: None,
    }
}

/// Decides on Progressing and ReplicaFailure; says when the deadline must be looked at.
pub(super) fn progress(
    deployment: &Deployment,
    conditions: &mut Conditions,
    status: &DeploymentStatus,
    new: Option<&Draft>,
    now: Timestamp,
) -> Option<Duration> {
    let Some(seconds) = deadline(deployment) else {
        conditions.remove(PROGRESSING);
        return None;
    };
    let done =
        status.replicas == status.updated_replicas && conditions.reason() == Some("NewReplicaSetAvailable");
    let what = match new {
        Some(new) => format!("ReplicaSet \"{}\"", name(&new.set.metadata)),
        None => format!("Deployment \"{}\"", name(&deployment.metadata)),
    };
    if done {
    } else if is_complete(deployment, status) {
        let text = format!("{what} has successfully progressed.");
        conditions.set(PROGRESSING, "True", "NewReplicaSetAvailable", text, now);
    } else if is_progressing(deployment, status) {
        let since = conditions.get(PROGRESSING).filter(|c| c.status == "True");
        let since = since.and_then(|c| c.last_transition_time.clone());
        conditions.remove(PROGRESSING);
        conditions.set(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."), now);
        if let (Some(since), Some(condition)) = (since, conditions.0.last_mut()) {
            condition.last_transition_time = Some(since);
        }
    } else if wait(conditions, seconds, now) == Some(Duration::ZERO) {
        let text = format!("{what} has timed out progressing.");
        conditions.set(PROGRESSING, "False", "ProgressDeadlineExceeded", text, now);
    }
    match conditions.reason() {
        _ if is_complete(deployment, status) => None,
        Some("ProgressDeadlineExceeded" | "DeploymentPaused") => None,
        _ => wait(conditions, seconds, now).map(|left| left + Duration::from_secs(1)),
    }
}

/// What is left until the deadline; nothing while no progress is expected.
fn wait(conditions: &Conditions, seconds: i32, now: Timestamp) -> Option<Duration> {
    let condition = conditions.get(PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some("NewReplicaSetAvailable" | "DeploymentPaused")) {
        return None;
    }
    let until =
        condition.last_update_time.as_ref()?.0.checked_add(SignedDuration::from_secs(i64::from(seconds)));
    Some(Duration::try_from(until.ok()?.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Every pod is new, available, and none is too many.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let size = rollout::replicas(deployment);
    status.updated_replicas.unwrap_or(0) == size
        && status.replicas.unwrap_or(0) == size
        && status.available_replicas.unwrap_or(0) == size
        && status.observed_generation >= deployment.metadata.generation
}

/// More new pods, fewer old ones, or more that are ready than last time.
fn is_progressing(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let nothing = DeploymentStatus::default();
    let old = deployment.status.as_ref().unwrap_or(&nothing);
    let left = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    status.updated_replicas > old.updated_replicas
        || left(status) < left(old)
        || status.ready_replicas > old.ready_replicas
        || status.available_replicas > old.available_replicas
}

/// Hands the failure of a ReplicaSet up, the new one's first.
pub(super) fn failures(conditions: &mut Conditions, new: Option<&Draft>, all: &[Draft]) {
    let of = |draft: &Draft| {
        let conditions = draft.set.status.as_ref().and_then(|status| status.conditions.clone());
        conditions.into_iter().flatten().find(|condition| condition.type_ == FAILURE)
    };
    let failure = new.and_then(of).or_else(|| all.iter().find_map(of));
    let known = conditions.get(FAILURE).cloned();
    let Some(failure) = failure else { return conditions.remove(FAILURE) };
    if known.is_some_and(|known| known.status == failure.status && known.reason == failure.reason) {
        return;
    }
    conditions.remove(FAILURE);
    conditions.0.push(DeploymentCondition {
        type_: FAILURE.to_owned(),
        status: failure.status,
        reason: failure.reason,
        message: failure.message,
        last_update_time: failure.last_transition_time.clone(),
        last_transition_time: failure.last_transition_time,
    });
}

/// Numbers and conditions together.
pub(super) fn finish(status: DeploymentStatus, conditions: Conditions) -> DeploymentStatus {
    let conditions = Some(conditions.0).filter(|list| !list.is_empty());
    DeploymentStatus { conditions, ..status }
}

/// A merge patch that sets exactly this status.
pub(super) fn patch(status: &DeploymentStatus) -> Value {
    json!({ "status": {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "updatedReplicas": status.updated_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "unavailableReplicas": status.unavailable_replicas,
        "collisionCount": status.collision_count,
        "conditions": status.conditions,
    } })
}
