//! [pure] Pod templates: when two are the same, and the ReplicaSet that a new one becomes.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use orlop_model::hash::template_hash;

use crate::object::name;

/// The label that tells the ReplicaSets of one Deployment apart.
pub(super) const HASH: &str = "pod-template-hash";

/// Whether the ReplicaSet has this template; the hash label does not count.
pub(super) fn matches(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let own = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    own.is_some_and(|own| plain(own) == plain(template))
}

/// Whether both ReplicaSets have the same template.
pub(super) fn is_same(a: &ReplicaSet, b: &ReplicaSet) -> bool {
    b.spec.as_ref().and_then(|spec| spec.template.as_ref()).is_some_and(|template| matches(a, template))
}

fn plain(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        // Empty and absent are the same; servers write it either way.
        meta.labels.take_if(|labels| labels.is_empty());
        meta.annotations.take_if(|annotations| annotations.is_empty());
        meta.creation_timestamp = None;
    }
    template.metadata.take_if(|meta| *meta == ObjectMeta::default());
    template
}

/// A ReplicaSet for the Deployment's current template.
pub(super) fn new_set(
    deployment: &Deployment,
    owner: OwnerReference,
    replicas: i32,
    annotations: BTreeMap<String, String>,
) -> Option<ReplicaSet> {
    let spec = deployment.spec.as_ref()?;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let bytes = serde_json::to_vec(&plain(&spec.template)).ok()?;
    let hash = template_hash(&bytes, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    Some(ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", name(&deployment.metadata))),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    })
}
