//! Which mirror pods to make and to remove.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Container, EmptyDirVolumeSource, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};

use crate::source::merge::MIRROR;

/// Something to do in the API.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make a mirror of this static pod.
    Create(Arc<Pod>),
    /// Remove this mirror pod.
    Delete(Arc<Pod>),
}

/// One step towards one mirror for each static pod. `alive` are the UIDs of static pods that still have something
/// here: their mirror stays until they have ended, and only then is there one for the next pod of the name.
pub fn plan(statics: &[Arc<Pod>], alive: &BTreeSet<String>, mirrors: &[Arc<Pod>]) -> Vec<Action> {
    let name = |pod: &Arc<Pod>| (pod.metadata.namespace.clone(), pod.metadata.name.clone());
    let wanted: BTreeMap<_, _> = statics.iter().map(|pod| (name(pod), pod)).collect();
    let shown: BTreeSet<_> = mirrors.iter().map(name).collect();
    let outdated = mirrors.iter().filter(|mirror| {
        let of = shows(mirror).unwrap_or_default();
        let current = wanted.get(&name(mirror)).is_some_and(|pod| pod.metadata.uid.as_deref() == Some(of));
        // Who deletes a mirror gets a new one: it is only a picture.
        mirror.metadata.deletion_timestamp.is_some() || !(current || alive.contains(of))
    });
    let missing = wanted.iter().filter(|(name, _)| !shown.contains(*name));
    let missing = missing.map(|(_, pod)| Action::Create(Arc::clone(pod)));
    outdated.map(|mirror| Action::Delete(Arc::clone(mirror))).chain(missing).collect()
}

/// UID of the static pod that a mirror shows.
pub fn shows(mirror: &Pod) -> Option<&str> {
    mirror.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// The mirror as it is sent. An API server refuses mirrors that refer to its objects, and ours would not mean them:
/// what stands in the pod's file is left out.
pub fn mirror(pod: &Pod, node_uid: &str) -> Pod {
    let mut mirror = Pod { metadata: pod.metadata.clone(), spec: pod.spec.clone(), status: None };
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    mirror.metadata.creation_timestamp = None;
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), uid);
    let spec = mirror.spec.get_or_insert_default();
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: spec.node_name.clone().unwrap_or_default(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    without_references(spec);
    mirror
}

fn without_references(spec: &mut PodSpec) {
    spec.image_pull_secrets = None;
    for volume in spec.volumes.iter_mut().flatten() {
        let refers = volume.config_map.take().is_some() | volume.secret.take().is_some();
        let sources =
            volume.projected.iter_mut().flat_map(|projected| projected.sources.iter_mut().flatten());
        for source in sources {
            (source.config_map, source.secret) = (None, None);
        }
        if refers {
            volume.empty_dir = Some(EmptyDirVolumeSource::default());
        }
        if let Some(sources) = volume.projected.as_mut().and_then(|projected| projected.sources.as_mut()) {
            sources.retain(|source| source.downward_api.is_some());
        }
    }
    let containers = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
    containers.for_each(|Container { env, env_from, .. }| {
        *env_from = None;
        for variable in env.iter_mut().flatten() {
            let source = variable.value_from.as_ref();
            if source.is_some_and(|from| from.config_map_key_ref.is_some() || from.secret_key_ref.is_some()) {
                variable.value_from = None;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::pod::desired::pod_ref;

    fn pod(name: &str, uid: &str) -> Arc<Pod> {
        let mut pod = Pod::default();
        (pod.metadata.name, pod.metadata.uid) = (Some(name.to_owned()), Some(uid.to_owned()));
        Arc::new(pod)
    }

    /// `name=uid` for a static pod; `name=uid` or `name=uid!` (being deleted) for the mirror of one.
    fn check(statics: &str, alive: &str, mirrors: &str, expected: Expect) {
        let pairs = |text: &str| -> Vec<(String, String)> {
            let pairs = text.split_whitespace().filter_map(|word| word.split_once('='));
            pairs.map(|(name, uid)| (name.to_owned(), uid.to_owned())).collect()
        };
        let statics: Vec<_> = pairs(statics).iter().map(|(name, uid)| pod(name, uid)).collect();
        let alive = alive.split_whitespace().map(Into::into).collect();
        let mirrors = pairs(mirrors).into_iter().map(|(name, of)| {
            let mut mirror = pod(&name, "m");
            let meta = &mut Arc::make_mut(&mut mirror).metadata;
            let going = of.ends_with('!');
            meta.deletion_timestamp = going.then_some(Time(jiff::Timestamp::UNIX_EPOCH));
            meta.annotations =
                Some(BTreeMap::from([(MIRROR.to_owned(), of.trim_end_matches('!').to_owned())]));
            mirror
        });
        let said: Vec<_> = plan(&statics, &alive, &mirrors.collect::<Vec<_>>())
            .iter()
            .map(|action| match action {
                Action::Create(pod) => format!("create {}", pod_ref(pod).name),
                Action::Delete(pod) => format!("delete {}", pod_ref(pod).name),
            })
            .collect();
        expected.assert_eq(&said.join(", "));
    }

    #[test]
    fn one_mirror_for_each() {
        check("a=1 b=2", "1 2", "", expect!["create a, create b"]);
        check("a=1 b=2", "1 2", "a=1 b=2", expect![""]);
    }

    #[test]
    fn a_mirror_goes_when_its_pod_has_ended() {
        check("", "1", "a=1", expect![""]);
        check("", "", "a=1", expect!["delete a"]);
    }

    #[test]
    fn a_changed_pod_is_shown_when_the_old_one_has_ended() {
        check("a=2", "1", "a=1", expect![""]);
        check("a=2", "2", "a=1", expect!["delete a"]);
        check("a=2", "2", "", expect!["create a"]);
    }

    #[test]
    fn a_deleted_mirror_comes_back() {
        check("a=1", "1", "a=1!", expect!["delete a"]);
    }

    #[test]
    fn references_stay_at_home() {
        let pod: Pod = serde_norway::from_str(
            "{metadata: {name: a, uid: u}, spec: {nodeName: n, imagePullSecrets: [{name: s}], containers: [{name: c, \
             envFrom: [{secretRef: {name: s}}], env: [{name: A, valueFrom: {configMapKeyRef: {name: m, key: k}}}, \
             {name: B, value: b}]}], volumes: [{name: v, configMap: {name: m}}, {name: w, projected: {sources: \
             [{secret: {name: s}}, {downwardAPI: {}}]}}]}}",
        )
        .unwrap();
        let mirror = serde_json::to_value(mirror(&pod, "node-uid")).unwrap();
        expect![[r#"{"containers":[{"env":[{"name":"A"},{"name":"B","value":"b"}],"name":"c"}],"nodeName":"n","volumes":[{"emptyDir":{},"name":"v"},{"name":"w","projected":{"sources":[{"downwardAPI":{}}]}}]}"#]].assert_eq(&mirror["spec"].to_string());
        expect![[r#"{"annotations":{"kubernetes.io/config.mirror":"u"},"name":"a","ownerReferences":[{"apiVersion":"v1","controller":true,"kind":"Node","name":"n","uid":"node-uid"}]}"#]].assert_eq(&mirror["metadata"].to_string());
    }
}
