//! [pure] Revisions: the annotations by which `kubectl rollout history` and `undo` find their way.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use crate::object::annotation;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The revision of a ReplicaSet; 0 when it has none.
pub(super) fn of(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The size that the Deployment had when this ReplicaSet was last scaled.
pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, DESIRED).and_then(|text| text.parse().ok())
}

/// The most pods that the Deployment could have then.
pub(super) fn max(set: &ReplicaSet) -> Option<i32> {
    annotation(&set.metadata, MAX).and_then(|text| text.parse().ok())
}

/// Records the Deployment's size.
pub(super) fn set_sizes(annotations: &mut BTreeMap<String, String>, desired: i32, max: i32) {
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MAX.to_owned(), max.to_string());
}

/// Copies the Deployment's annotations to its newest ReplicaSet and gives it the newest revision. Going back to
/// an old ReplicaSet keeps its former revisions as history.
pub(super) fn promote(annotations: &mut BTreeMap<String, String>, deployment: &Deployment, newest: i64) {
    let known = annotations.get(REVISION).cloned();
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let revision = known.as_ref().and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if revision >= newest {
        return;
    }
    annotations.insert(REVISION.to_owned(), newest.to_string());
    if let Some(known) = known {
        let history = annotations.get(HISTORY).filter(|history| !history.is_empty());
        let history = history.map_or(known.clone(), |history| format!("{history},{known}"));
        annotations.insert(HISTORY.to_owned(), history);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn check(set: &[(&str, &str)], deployment: &str, newest: i64, expected: &[(&str, &str)]) {
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut annotations: BTreeMap<String, String> = map(set);
        promote(&mut annotations, &yaml(&format!("metadata: {{annotations: {deployment}}}")), newest);
        assert_eq!(annotations, map(expected));
    }

    #[test]
    fn a_new_set_gets_the_newest_revision_and_the_deployments_annotations() {
        check(
            &[],
            "{kubernetes.io/change-cause: why, kubectl.kubernetes.io/last-applied-configuration: x}",
            3,
            &[("kubernetes.io/change-cause", "why"), (REVISION, "3")],
        );
    }

    #[test]
    fn going_back_keeps_the_history() {
        check(&[(REVISION, "1")], "{}", 4, &[(REVISION, "4"), (HISTORY, "1")]);
        check(&[(REVISION, "4"), (HISTORY, "1")], "{}", 6, &[(REVISION, "6"), (HISTORY, "1,4")]);
        check(&[(REVISION, "4")], "{}", 4, &[(REVISION, "4")]);
    }
}
