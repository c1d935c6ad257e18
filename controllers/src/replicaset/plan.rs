//! [pure] How many pods to make, or which ones to delete.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{is_active, name, uid};

use super::rank;

/// The difference between what is wanted and what is there.
#[derive(Debug)]
pub(super) enum Scaling {
    Enough,
    Create(usize),
    /// In the order in which they should go.
    Delete(Vec<Arc<Pod>>),
}

/// Compares wanted and active pods. Pods in `going` are deleted already, though they still look alive.
pub(super) fn scale(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    going: &HashSet<String>,
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Scaling {
    let alive = |pod: &&Arc<Pod>| is_active(pod) && !going.contains(uid(&pod.metadata));
    let active: Vec<_> = pods.iter().filter(alive).cloned().collect();
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() < wanted {
        return Scaling::Create(wanted - active.len());
    }
    let surplus = active.len() - wanted;
    if surplus == 0 {
        return Scaling::Enough;
    }
    // With nothing to keep there is nothing to choose.
    let mut doomed = if wanted == 0 { active } else { rank::order(active, related, now) };
    doomed.truncate(surplus);
    Scaling::Delete(doomed)
}

/// A pod from the template; the server picks its name.
pub(super) fn new_pod(set: &ReplicaSet, owner: OwnerReference) -> Option<Pod> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    let meta = template.metadata.as_ref();
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", name(&set.metadata))),
        namespace: set.metadata.namespace.clone(),
        labels: meta.and_then(|meta| meta.labels.clone()),
        annotations: meta.and_then(|meta| meta.annotations.clone()),
        finalizers: meta.and_then(|meta| meta.finalizers.clone()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Some(Pod { metadata, spec: template.spec.clone(), status: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn check(replicas: i32, pods: &[&str], going: &[&str], expected: &str) {
        let set: ReplicaSet = yaml(&format!("spec: {{replicas: {replicas}, selector: {{}}}}"));
        let pods: Vec<Arc<Pod>> = pods
            .iter()
            .map(|text| {
                let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
                Arc::new(yaml(&format!("{{metadata: {{name: {name}, uid: {name}}}, {rest}}}")))
            })
            .collect();
        let going = going.iter().map(|id| (*id).to_owned()).collect();
        let text = match scale(&set, &pods, &going, &pods, Timestamp::UNIX_EPOCH) {
            Scaling::Enough => "enough".to_owned(),
            Scaling::Create(count) => format!("create {count}"),
            Scaling::Delete(pods) => {
                let names: Vec<_> = pods.iter().map(|pod| name(&pod.metadata)).collect();
                format!("delete {}", names.join(" "))
            }
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn the_difference_is_made_up() {
        check(3, &["a"], &[], "create 2");
        check(1, &["a"], &[], "enough");
        check(0, &["a", "b"], &[], "delete a b");
        check(-1, &["a"], &[], "delete a");
    }

    #[test]
    fn finished_and_deleted_pods_do_not_count() {
        check(2, &["a", "b status: {phase: Failed}"], &[], "create 1");
        check(2, &["a", "b"], &["b"], "create 1");
        check(1, &["a", "b", "c"], &["c"], "delete a");
    }

    #[test]
    fn pods_without_node_go_first() {
        check(1, &["a spec: {nodeName: n, containers: []}", "b"], &[], "delete b");
    }
}
