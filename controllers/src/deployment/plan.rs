//! [pure] One step of a Deployment: which ReplicaSets to make, scale and remove, and what status to show.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use crate::object::{annotation, controller_of, created, is_deleting, is_finished, uid};

use super::draft::{Draft, wanted};
use super::status::{self, Conditions};
use super::{revision, rollout, template};

/// What the plan is made from.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// How ReplicaSets refer to it.
    pub(super) owner: OwnerReference,
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// The pods of these ReplicaSets.
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    Create(Box<ReplicaSet>),
    /// `scaled` is (from, to), for the event.
    Update {
        set: Arc<ReplicaSet>,
        patch: Value,
        scaled: Option<(i32, i32)>,
    },
    Delete(Arc<ReplicaSet>),
    /// The Deployment's own revision.
    Revision(String),
    Status(Box<DeploymentStatus>),
}

/// What to write now, in this order, and when to look again if nothing happens.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) again: Option<Duration>,
}

/// The next step.
pub(super) fn plan(observed: &Observed<'_>) -> Plan {
    let deployment = observed.deployment;
    let Some(spec) = &deployment.spec else { return Plan::default() };
    let mut step = Step::new(observed);
    let paused = spec.paused == Some(true);
    if is_deleting(&deployment.metadata) {
        return step.finish(Vec::new());
    }
    status::mark_paused(&mut step.conditions, deployment, observed.now);
    let mut garbage = Vec::new();
    if paused || rollout::was_resized(deployment, &step.all()) {
        step.revise();
        step.resize();
        if paused {
            garbage = step.garbage();
        }
    } else if rollout::is_rolling(deployment) {
        step.ensure_new();
        if !step.grow() {
            step.shrink();
        }
        garbage = step.garbage_if_complete();
    } else {
        step.revise();
        if !step.stop_old() && !step.old_pods_left() {
            step.ensure_new();
            step.grow();
        }
        garbage = step.garbage_if_complete();
    }
    step.finish(garbage)
}

/// A step while it is being worked out.
struct Step<'a> {
    observed: &'a Observed<'a>,
    new: Option<Draft>,
    old: Vec<Draft>,
    conditions: Conditions,
    revision: Option<String>,
}

impl<'a> Step<'a> {
    fn new(observed: &'a Observed<'a>) -> Self {
        let template = observed.deployment.spec.as_ref().map(|spec| &spec.template);
        let mut sets: Vec<_> = observed.sets.to_vec();
        sets.sort_by_key(|set| (created(&set.metadata), set.metadata.name.clone()));
        // Of several with this template the oldest counts, as upstream decides.
        let index = sets.iter().position(|set| template.is_some_and(|wanted| template::matches(set, wanted)));
        let new = index.map(|index| Draft::of(sets.remove(index)));
        // The newest of the old ones first: it grows when nothing runs.
        let old = sets.into_iter().rev().map(Draft::of).collect();
        Self { observed, new, old, conditions: Conditions::of(observed.deployment), revision: None }
    }

    fn all(&self) -> Vec<Draft> {
        self.new.iter().chain(&self.old).cloned().collect()
    }

    fn newest_revision(&self) -> i64 {
        self.old.iter().map(|draft| revision::of(&draft.set)).max().unwrap_or(0) + 1
    }

    /// Brings annotations and revision of the new ReplicaSet up to date, if there is one.
    fn revise(&mut self) {
        let (deployment, newest) = (self.observed.deployment, self.newest_revision());
        let Some(new) = &mut self.new else { return };
        revision::promote(&mut new.annotations, deployment, newest);
        new.min_ready = deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        self.revision = new.annotations.get(revision::REVISION).cloned();
        status::mark_new_set(&mut self.conditions, deployment, new, self.observed.now);
    }

    /// Drafts the new ReplicaSet if there is none.
    fn ensure_new(&mut self) {
        if self.new.is_none() {
            let owner = self.observed.owner.clone();
            let set =
                template::new_set(self.observed.deployment, owner, 0, std::collections::BTreeMap::new());
            self.new = set.map(|set| {
                let mut draft = Draft::of(Arc::new(set));
                draft.new = true;
                let all: Vec<_> = self.old.iter().chain([&draft]).cloned().collect();
                let size = rollout::grow(self.observed.deployment, 0, &all);
                draft.scale(size, self.observed.deployment);
                draft
            });
        }
        self.revise();
    }

    /// Scales the new ReplicaSet; true when its size changed.
    fn grow(&mut self) -> bool {
        let all = self.all();
        let Some(new) = &mut self.new else { return false };
        let size = rollout::grow(self.observed.deployment, new.replicas, &all);
        size != new.replicas && new.scale(size, self.observed.deployment)
    }

    fn shrink(&mut self) {
        if let Some(new) = &self.new {
            rollout::shrink(self.observed.deployment, new, &mut self.old);
        }
    }

    fn resize(&mut self) {
        let deployment = self.observed.deployment;
        let active = self.all().iter().filter(|draft| draft.replicas > 0).count();
        if active > 1 && rollout::is_saturated(deployment, self.new.as_ref()) {
            self.stop_old();
            return;
        }
        rollout::resize(deployment, self.new.as_mut(), &mut self.old);
    }

    /// Scales all old ReplicaSets to nothing; true when one was not there yet.
    fn stop_old(&mut self) -> bool {
        let active = wanted(&self.old) > 0;
        for draft in self.old.iter_mut().filter(|draft| draft.replicas > 0) {
            draft.scale(0, self.observed.deployment);
        }
        active
    }

    fn old_pods_left(&self) -> bool {
        let new = self.new.as_ref().map(|draft| uid(&draft.set.metadata));
        let old =
            |pod: &&Arc<Pod>| controller_of(&pod.metadata).is_some_and(|owner| Some(&*owner.uid) != new);
        self.observed.pods.iter().filter(old).any(|pod| !is_finished(pod))
    }

    fn garbage_if_complete(&self) -> Vec<Arc<ReplicaSet>> {
        let status = self.observed.deployment.status.as_ref();
        let complete = status.is_some_and(|status| status::is_complete(self.observed.deployment, status));
        if complete { self.garbage() } else { Vec::new() }
    }

    /// Old ReplicaSets beyond the history that is to be kept, the oldest revisions.
    fn garbage(&self) -> Vec<Arc<ReplicaSet>> {
        let spec = self.observed.deployment.spec.as_ref();
        let keep = spec.and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        if keep == i32::MAX {
            return Vec::new();
        }
        let mut old: Vec<_> = self.old.iter().filter(|draft| !is_deleting(&draft.set.metadata)).collect();
        let surplus = old.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
        old.sort_by_key(|draft| (revision::of(&draft.set), created(&draft.set.metadata)));
        let idle = |draft: &&&Draft| {
            let observed = draft.set.status.as_ref().and_then(|status| status.observed_generation);
            draft.replicas == 0 && draft.actual() == 0 && observed >= draft.set.metadata.generation
        };
        old.iter().take(surplus).filter(idle).map(|draft| Arc::clone(&draft.set)).collect()
    }

    fn finish(mut self, garbage: Vec<Arc<ReplicaSet>>) -> Plan {
        let Observed { deployment, now, .. } = *self.observed;
        let all = self.all();
        let status = status::count(deployment, &mut self.conditions, self.new.as_ref(), &all, now);
        let paused = deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true));
        let again = if paused {
            None
        } else {
            status::progress(deployment, &mut self.conditions, &status, self.new.as_ref(), now)
        };
        status::failures(&mut self.conditions, self.new.as_ref(), &all);
        let status = status::finish(status, self.conditions);
        let mut actions: Vec<_> = self.new.into_iter().chain(self.old).filter_map(Draft::action).collect();
        let known = annotation(&deployment.metadata, revision::REVISION);
        if let Some(revision) = self.revision.filter(|revision| known != Some(revision)) {
            actions.push(Action::Revision(revision));
        }
        if deployment.status.as_ref() != Some(&status) {
            actions.push(Action::Status(Box::new(status)));
        }
        actions.extend(garbage.into_iter().map(Action::Delete));
        Plan { actions, again }
    }
}

#[cfg(test)]
mod tests;
