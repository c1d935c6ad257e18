//! Rollouts played through: the plan against ReplicaSets that obey at once, pods that get ready in time.

use super::*;
use crate::object::controller_reference;
use crate::testing::yaml;
use expect_test::{Expect, expect};
use jiff::SignedDuration;
use serde_json::json;

/// A Deployment, its ReplicaSets (called A, B, … as they appear) and a log of what the plan did.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    names: Vec<String>,
    pods: Vec<Arc<Pod>>,
    now: Timestamp,
    log: Vec<String>,
    /// Whether pods of new templates get ready.
    healthy: bool,
}

impl World {
    fn new(spec: &str) -> Self {
        let text = format!(
            "{{metadata: {{name: web, namespace: d, uid: du, generation: 1, annotations: {{note: x}}}}, spec: {{selector: {{matchLabels: {{app: web}}}}, progressDeadlineSeconds: 600, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: c, image: one}}]}}}}, {spec}}}}}"
        );
        Self {
            deployment: yaml(&text),
            sets: Vec::new(),
            names: Vec::new(),
            pods: Vec::new(),
            now: "2024-01-01T00:00:00Z".parse().unwrap(),
            log: Vec::new(),
            healthy: true,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut k8s_openapi::api::apps::v1::DeploymentSpec)) {
        change(self.deployment.spec.as_mut().unwrap());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn image(&mut self, image: &str) {
        self.change(|spec| spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned()));
    }

    fn alias(&self, name: Option<&String>) -> String {
        let index = self.names.iter().position(|known| Some(known) == name).unwrap();
        char::from(b'A' + u8::try_from(index).unwrap()).to_string()
    }

    /// One plan and its writes; false when there was nothing to write.
    fn step(&mut self) -> bool {
        let plan = plan(&Observed {
            deployment: &self.deployment.clone(),
            owner: controller_reference(&self.deployment),
            sets: &self.sets.clone(),
            pods: &self.pods.clone(),
            now: self.now,
        });
        let any = !plan.actions.is_empty();
        for action in plan.actions {
            match action {
                Action::Create(set) => self.create(*set),
                Action::Update { set, patch, scaled } => self.update(&set, patch, scaled),
                Action::Delete(set) => {
                    self.log.push(format!("delete {}", self.alias(set.metadata.name.as_ref())));
                    self.sets.retain(|other| other.metadata.name != set.metadata.name);
                }
                Action::Revision(revision) => {
                    let annotations = self.deployment.metadata.annotations.get_or_insert_default();
                    annotations.insert(revision::REVISION.to_owned(), revision.clone());
                    self.log.push(format!("revision {revision}"));
                }
                Action::Status(status) => self.deployment.status = Some(*status),
            }
        }
        any
    }

    fn create(&mut self, mut set: ReplicaSet) {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap();
        set.metadata.uid = Some(format!("u{}", self.names.len()));
        set.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now));
        set.metadata.generation = Some(1);
        self.names.push(set.metadata.name.clone().unwrap());
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        self.log.push(format!("create {} {}", self.alias(set.metadata.name.as_ref()), replicas.unwrap()));
        self.sets.push(Arc::new(set));
    }

    fn update(&mut self, set: &ReplicaSet, mut patch: Value, scaled: Option<(i32, i32)>) {
        let set_alias = self.alias(set.metadata.name.as_ref());
        self.log.push(match scaled {
            Some((from, to)) => format!("{set_alias} {from}>{to}"),
            None => format!("annotate {set_alias}"),
        });
        let found = self.sets.iter_mut().find(|other| other.metadata.name == set.metadata.name).unwrap();
        let changed = Arc::make_mut(found);
        if let Some(annotations) = patch.pointer_mut("/metadata/annotations") {
            let changes: std::collections::BTreeMap<String, String> =
                serde_json::from_value(annotations.take()).unwrap();
            changed.metadata.annotations.get_or_insert_default().extend(changes);
        }
        if let Some(replicas) = patch.pointer("/spec/replicas") {
            changed.spec.as_mut().unwrap().replicas = serde_json::from_value(replicas.clone()).ok();
        }
    }

    /// ReplicaSets obey and pods get ready: at most one more per set and turn.
    fn obey(&mut self) {
        let healthy = self.healthy;
        for set in &mut self.sets {
            let set = Arc::make_mut(set);
            let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            let status = set.status.get_or_insert_default();
            let broken = !healthy && serde_json::to_string(&set.spec).unwrap().contains("broken");
            status.replicas = wanted;
            let ready = status.ready_replicas.unwrap_or(0);
            let ready = if broken { 0 } else { (ready + 1).min(wanted) };
            (status.ready_replicas, status.available_replicas) = (Some(ready), Some(ready));
            status.observed_generation = set.metadata.generation;
        }
    }

    /// Plays until nothing happens any more; checks the promises of a rolling update at every step.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..100 {
            let mut any = false;
            while self.step() {
                any = true;
                self.promises();
            }
            let before = self.sets.clone();
            self.obey();
            if !any && before == self.sets {
                return self;
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    fn promises(&self) {
        let drafts: Vec<_> = self.sets.iter().cloned().map(Draft::of).collect();
        let size = rollout::replicas(&self.deployment);
        let most = size + rollout::max_surge(&self.deployment);
        if self.log.iter().all(|line| !line.starts_with("resize")) {
            assert!(
                wanted(&drafts) <= most,
                "{} pods wanted, {most} allowed: {:?}",
                wanted(&drafts),
                self.log
            );
        }
    }

    fn check(&mut self, expected: Expect) -> &mut Self {
        let conditions = self.deployment.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let shown: Vec<_> =
            conditions.map(|c| format!("{}={}/{}", c.type_, c.status, c.reason.clone().unwrap())).collect();
        expected.assert_eq(&format!("{}\n{}", std::mem::take(&mut self.log).join(", "), shown.join(" ")));
        self
    }
}

#[test]
fn a_deployment_is_created_updated_and_rolled_back() {
    let mut world = World::new("replicas: 3");
    world.settle().check(expect![[r#"
        create A 3, revision 1
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
    world.image("two");
    world.settle().check(expect![[r#"
        create B 1, revision 2, A 3>2, B 1>2, A 2>1, B 2>3, A 1>0
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
    world.image("one");
    world.settle().check(expect![[r#"
        A 0>1, revision 3, B 3>2, A 1>2, B 2>1, A 2>3, B 1>0
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
    let history = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(history.get("deployment.kubernetes.io/revision-history").map(String::as_str), Some("1"));
    assert_eq!(history.get("note").map(String::as_str), Some("x"));
}

#[test]
fn scaling_outside_of_a_rollout_touches_one_set() {
    let mut world = World::new("replicas: 3");
    world.settle().log.clear();
    world.change(|spec| spec.replicas = Some(5));
    world.settle().check(expect![[r#"
        A 3>5
        Progressing=True/NewReplicaSetAvailable Available=True/MinimumReplicasAvailable"#]]);
    world.change(|spec| spec.replicas = Some(0));
    world.settle().check(expect![[r#"
        A 5>0
        Progressing=True/NewReplicaSetAvailable Available=True/MinimumReplicasAvailable"#]]);
    world.change(|spec| spec.replicas = Some(2));
    world.settle().check(expect![[r#"
        A 0>2
        Progressing=True/NewReplicaSetAvailable Available=True/MinimumReplicasAvailable"#]]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_proportional() {
    let mut world = World::new("replicas: 10, strategy: {rollingUpdate: {maxSurge: 3, maxUnavailable: 2}}");
    world.settle().log.clear();
    world.healthy = false;
    world.image("broken");
    world.settle().check(expect![[r#"
        create B 3, A 10>8, revision 2, B 3>5
        Available=True/MinimumReplicasAvailable Progressing=True/ReplicaSetUpdated"#]]);
    world.change(|spec| spec.replicas = Some(15));
    world.settle().check(expect![[r#"
        B 5>7, A 8>11
        Available=False/MinimumReplicasUnavailable Progressing=True/ReplicaSetUpdated"#]]);
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new("replicas: 2, strategy: {type: Recreate}");
    world.settle().log.clear();
    world.image("two");
    world.pods = vec![Arc::new(yaml(
        "metadata: {name: p, ownerReferences: [{apiVersion: v1, kind: ReplicaSet, name: a, uid: u0, controller: true}]}",
    ))];
    world.settle().check(expect![[r#"
        A 2>0
        Progressing=True/NewReplicaSetAvailable Available=False/MinimumReplicasUnavailable"#]]);
    world.pods.clear();
    world.settle().check(expect![[r#"
        create B 2, revision 2
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
}

#[test]
fn a_paused_deployment_starts_no_rollout_but_scales() {
    let mut world = World::new("replicas: 2");
    world.settle().log.clear();
    world.change(|spec| spec.paused = Some(true));
    world.image("two");
    world.change(|spec| spec.replicas = Some(3));
    world.settle().check(expect![[r#"
        A 2>3
        Progressing=Unknown/DeploymentPaused Available=True/MinimumReplicasAvailable"#]]);
    world.change(|spec| spec.paused = None);
    world.settle().check(expect![[r#"
        create B 1, revision 2, A 3>2, B 1>2, A 2>1, B 2>3, A 1>0
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
}

#[test]
fn a_stuck_rollout_times_out_and_keeps_serving() {
    let mut world = World::new("replicas: 3");
    world.settle().log.clear();
    world.healthy = false;
    world.image("broken");
    world.settle();
    world.now = world.now.checked_add(SignedDuration::from_secs(601)).unwrap();
    world.settle().check(expect![[r#"
        create B 1, revision 2
        Available=True/MinimumReplicasAvailable Progressing=False/ProgressDeadlineExceeded"#]]);
    world.image("three");
    world.settle().check(expect![[r#"
        create C 0, B 1>0, revision 3, C 0>1, A 3>2, C 1>2, A 2>1, C 2>3, A 1>0
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
}

#[test]
fn old_revisions_beyond_the_limit_are_removed() {
    let mut world = World::new("replicas: 1, revisionHistoryLimit: 1");
    for image in ["one", "two", "three"] {
        world.image(image);
        world.settle();
    }
    world.log.retain(|line| line.starts_with("delete"));
    world.check(expect![[r#"
        delete A
        Available=True/MinimumReplicasAvailable Progressing=True/NewReplicaSetAvailable"#]]);
}

#[test]
fn a_failing_replica_set_shows_in_the_deployment() {
    let mut world = World::new("replicas: 1");
    world.step();
    let status = json!({ "replicas": 0, "conditions": [{ "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate" }] });
    Arc::make_mut(&mut world.sets[0]).status = serde_json::from_value(status).ok();
    world.step();
    world.check(expect![[r#"
        create A 1, revision 1
        Progressing=True/NewReplicaSetCreated Available=False/MinimumReplicasUnavailable ReplicaFailure=True/FailedCreate"#]]);
}
