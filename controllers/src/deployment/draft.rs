//! [pure] ReplicaSets as they are and as they should become.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Map, Value, json};

use super::plan::Action;
use super::{revision, rollout};

/// A ReplicaSet that the plan changes before anything is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) replicas: i32,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) min_ready: Option<i32>,
    /// Whether it must be created.
    pub(super) new: bool,
}

impl Draft {
    /// Nothing changed yet.
    pub(super) fn of(set: Arc<ReplicaSet>) -> Self {
        let spec = set.spec.as_ref();
        Self {
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            annotations: set.metadata.annotations.clone().unwrap_or_default(),
            min_ready: spec.and_then(|spec| spec.min_ready_seconds),
            new: false,
            set,
        }
    }

    /// Gives it a size and records the Deployment's; true when the size is another.
    pub(super) fn scale(&mut self, replicas: i32, deployment: &Deployment) -> bool {
        let desired = rollout::replicas(deployment);
        let changed = self.replicas != replicas;
        self.replicas = replicas;
        revision::set_sizes(&mut self.annotations, desired, desired + rollout::max_surge(deployment));
        changed
    }

    pub(super) fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
    }

    /// Pods that there are, whatever is wanted.
    pub(super) fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |status| status.replicas)
    }

    pub(super) fn ready(&self) -> i32 {
        self.set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
    }

    /// The write that makes it real, if anything changed.
    pub(super) fn action(self) -> Option<Action> {
        let Self { set, replicas, annotations, min_ready, new } = self;
        if new {
            let mut set = Arc::unwrap_or_clone(set);
            set.metadata.annotations = Some(annotations);
            set.spec.get_or_insert_default().replicas = Some(replicas);
            return Some(Action::Create(Box::new(set)));
        }
        let old = Draft::of(Arc::clone(&set));
        let mut patch = Map::new();
        if old.annotations != annotations {
            let changed: Map<_, _> = annotations
                .into_iter()
                .filter(|(key, value)| old.annotations.get(key) != Some(value))
                .map(|(key, value)| (key, Value::String(value)))
                .collect();
            // The version guards the history of revisions against a double count.
            patch.insert("metadata".to_owned(), json!({
                "uid": set.metadata.uid, "resourceVersion": set.metadata.resource_version, "annotations": changed,
            }));
        }
        let mut spec = Map::new();
        if old.replicas != replicas {
            spec.insert("replicas".to_owned(), json!(replicas));
        }
        if old.min_ready.unwrap_or(0) != min_ready.unwrap_or(0) {
            spec.insert("minReadySeconds".to_owned(), json!(min_ready));
        }
        if !spec.is_empty() {
            patch.insert("spec".to_owned(), Value::Object(spec));
        }
        let scaled = (old.replicas != replicas).then_some((old.replicas, replicas));
        (!patch.is_empty()).then_some(Action::Update { set, patch: Value::Object(patch), scaled })
    }
}

pub(super) fn wanted(drafts: &[Draft]) -> i32 {
    drafts.iter().map(|draft| draft.replicas).sum()
}

pub(super) fn available(drafts: &[Draft]) -> i32 {
    drafts.iter().map(Draft::available).sum()
}
