//! [pure] The status of a ReplicaSet, counted from its pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::object::{available_at, is_active, is_ready, labels};

/// Why pods could not be made or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The status, and after what time it changes by itself because a pod has been ready for long enough.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let template = spec.and_then(|s| s.template.as_ref()).and_then(|t| t.metadata.as_ref());
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let wanted = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let active: Vec<_> = pods.iter().filter(|pod| is_active(pod)).collect();
    let labelled = |pod: &&&Arc<Pod>| wanted.iter().all(|(k, v)| labels(&pod.metadata).get(k) == Some(v));
    let since: Vec<_> = active.iter().filter_map(|pod| available_at(pod, min_ready)).collect();
    let next = since.iter().filter(|at| **at > now).min();
    let status = ReplicaSetStatus {
        replicas: count(active.len()).unwrap_or(0),
        fully_labeled_replicas: count(active.iter().filter(labelled).count()),
        ready_replicas: count(active.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: count(since.iter().filter(|at| **at <= now).count()),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
        terminating_replicas: set.status.as_ref().and_then(|status| status.terminating_replicas),
    };
    let again = next.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
    (status, again.map(|wait| wait + Duration::from_millis(1)))
}

/// Nothing instead of zero, as the API writes it.
fn count(number: usize) -> Option<i32> {
    i32::try_from(number).ok().filter(|number| *number > 0)
}

fn conditions(
    set: &ReplicaSet,
    failure: Option<Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let old = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let known = old.iter().find(|c| c.type_ == FAILURE).cloned();
    let mut conditions: Vec<_> = old.into_iter().filter(|c| c.type_ != FAILURE).collect();
    conditions.extend(failure.map(|Failure { reason, message }| {
        known.filter(|known| known.reason.as_deref() == Some(reason)).unwrap_or(ReplicaSetCondition {
            type_: FAILURE.to_owned(),
            status: "True".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        })
    }));
    if conditions.is_empty() { None } else { Some(conditions) }
}

/// A merge patch that sets exactly this status.
pub(super) fn patch(status: &ReplicaSetStatus) -> Value {
    json!({ "status": {
        "replicas": status.replicas,
        "fullyLabeledReplicas": status.fully_labeled_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "observedGeneration": status.observed_generation,
        "conditions": status.conditions,
    } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn check(set: &str, pods: &[&str], expected: &str) {
        let pods: Vec<Arc<Pod>> = pods.iter().map(|text| Arc::new(yaml(text))).collect();
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        let (status, again) = status(&yaml(set), &pods, None, now);
        let numbers = [status.fully_labeled_replicas, status.ready_replicas, status.available_replicas];
        let numbers = numbers.map(Option::unwrap_or_default);
        assert_eq!(
            format!("{} {numbers:?} again {:?}", status.replicas, again.map(|d| d.as_secs())),
            expected
        );
    }

    #[test]
    fn pods_are_counted_by_what_they_are() {
        let set = "{metadata: {generation: 2}, spec: {minReadySeconds: 30, selector: {}, template: {metadata: {labels: {app: a}}}}}";
        let ready = |since: &str| {
            format!(
                "{{metadata: {{labels: {{app: a}}}}, status: {{phase: Running, conditions: [{{type: Ready, status: 'True', lastTransitionTime: '{since}'}}]}}}}"
            )
        };
        check(
            set,
            &[
                &ready("2024-01-01T00:00:10Z"),
                &ready("2024-01-01T00:00:50Z"),
                "{}",
                "{status: {phase: Failed}}",
            ],
            "3 [2, 2, 1] again Some(20)",
        );
        check(set, &[], "0 [0, 0, 0] again None");
    }

    #[test]
    fn a_failure_keeps_its_time_until_it_is_over() {
        let now = "2024-01-01T00:01:00Z".parse().unwrap();
        let failure = Some(Failure { reason: "FailedCreate", message: "full".to_owned() });
        let (first, _) = status(&yaml("spec: {selector: {}}"), &[], failure.clone(), now);
        let mut set: ReplicaSet = yaml("spec: {selector: {}}");
        set.status = Some(first.clone());
        let later = "2024-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(status(&set, &[], failure, later).0, first);
        assert_eq!(status(&set, &[], None, later).0.conditions, None);
    }
}
