//! [pure] Which pods go first when there are too many: those that do least for their users.
//!
//! The order is that of upstream's `ActivePodsWithRanks`.

use std::cmp::{Ordering, Reverse};
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::object::{annotation, created, is_ready, node_name, phase, ready_since, uid};

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Sorts so that those to delete come first. `related` are all pods that serve the same purpose.
pub(super) fn order(mut pods: Vec<Arc<Pod>>, related: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for node in related.iter().filter_map(|pod| node_name(pod)) {
        *crowd.entry(node).or_default() += 1;
    }
    let company = |pod: &Pod| node_name(pod).and_then(|node| crowd.get(node)).copied().unwrap_or(0);
    pods.sort_by(|a, b| key(a, company(a)).cmp(&key(b, company(b))).then_with(|| by_age(a, b, now)));
    pods
}

/// Without node, not running, not ready, cheap to delete, crowded.
fn key(pod: &Pod, company: usize) -> (bool, u8, bool, i32, Reverse<usize>) {
    let phase = match phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = annotation(&pod.metadata, DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
    (node_name(pod).is_some(), phase, is_ready(pod), cost, Reverse(company))
}

/// Shorter ready, more restarts, younger; ages are compared by their magnitude only.
fn by_age(a: &Pod, b: &Pod, now: Timestamp) -> Ordering {
    let by_id = || uid(&a.metadata).cmp(uid(&b.metadata));
    if let (Some(a), Some(b)) = (ready_since(a), ready_since(b))
        && a != b
    {
        return magnitude(a, now).cmp(&magnitude(b, now)).then_with(by_id);
    }
    let by_restarts = restarts(b).cmp(&restarts(a));
    let (a, b) = (created(&a.metadata), created(&b.metadata));
    by_restarts.then_with(|| magnitude(a, now).cmp(&magnitude(b, now))).then_with(by_id)
}

/// The binary logarithm of the age; -1 for none.
fn magnitude(since: Timestamp, now: Timestamp) -> i64 {
    let age = now.as_nanosecond().saturating_sub(since.as_nanosecond());
    u128::try_from(age).ok().and_then(u128::checked_ilog2).map_or(-1, i64::from)
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    statuses.unwrap_or_default().iter().map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::name;
    use crate::testing::yaml;

    /// Pods as `NAME spec-and-status`, in the order in which they should be deleted, given backwards.
    fn check(expected: &[(&str, &str)]) {
        let pod = |(name, rest): &(&str, &str)| {
            let (meta, rest) = rest.split_once('|').unwrap_or(("", rest));
            Arc::new(yaml::<Pod>(&format!("{{metadata: {{name: {name}, uid: {name}, {meta}}}, {rest}}}")))
        };
        let pods: Vec<_> = expected.iter().rev().map(pod).collect();
        let related = pods.clone();
        let now = "2024-01-02T00:00:00Z".parse().unwrap();
        let sorted: Vec<_> =
            order(pods, &related, now).iter().map(|p| name(&p.metadata).to_owned()).collect();
        assert_eq!(sorted, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    const ON: &str = "spec: {nodeName: n, containers: []}, status: {phase: Running";

    #[test]
    fn useless_pods_go_before_useful_ones() {
        let ready = |since: &str| {
            format!("{ON}, conditions: [{{type: Ready, status: 'True', lastTransitionTime: '{since}'}}]}}")
        };
        check(&[
            ("nodeless", ""),
            ("pending", "spec: {nodeName: n, containers: []}, status: {phase: Pending}"),
            ("unready", &format!("{ON}}}")),
            ("cheap", &format!("annotations: {{{DELETION_COST}: '-5'}}|{}", ready("2024-01-01T00:00:00Z"))),
            ("young", &ready("2024-01-01T23:00:00Z")),
            ("old", &ready("2024-01-01T00:00:00Z")),
        ]);
    }

    #[test]
    fn crowded_nodes_are_thinned_first() {
        check(&[
            ("b", "spec: {nodeName: full, containers: []}"),
            ("c", "spec: {nodeName: full, containers: []}"),
            ("a", "spec: {nodeName: empty, containers: []}"),
        ]);
    }

    #[test]
    fn restarts_then_age_decide_among_unready() {
        let restarted = |n: u8| {
            format!(
                "{ON}, containerStatuses: [{{name: c, image: i, imageID: i, ready: false, restartCount: {n}}}]}}"
            )
        };
        check(&[("b", &restarted(3)), ("a", &restarted(0))]);
        check(&[
            ("young", &format!("creationTimestamp: '2024-01-01T23:59:00Z'|{ON}}}")),
            ("old", &format!("creationTimestamp: '2024-01-01T00:00:00Z'|{ON}}}")),
        ]);
    }
}
