//! A file of the static pod directory: one manifest or a set of them, read as a kubelet reads its static pods.
//!
//! A kubelet's static pod may not use a ConfigMap or a Secret, because the API server may not be there. Here they may
//! stand in the same file (kubernetes/kubernetes#27312 asks for it), as further YAML documents or as the
//! `items` of a `List` or of a `Static`; they are seen by the pods of that file only. Not for: reading files, nor the
//! rules for pods (those are the API server's, and come as an argument).

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Toleration};
use kube::Resource;
use serde::{Deserialize as _, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::pod::refs::ObjectRef;

/// How the API server would store an object, or what is wrong with it.
pub type Rules = fn(&Value) -> Result<Value, String>;

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    /// This node.
    pub node: &'a str,
    /// The file, which makes pods of equal manifests different ones.
    pub file: &'a str,
    /// Now.
    pub seen: Timestamp,
    /// What is a valid object.
    pub rules: Rules,
}

/// The contents of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// Pods, as they run on this node.
    pub pods: Vec<Arc<Pod>>,
    /// What they may refer to.
    pub objects: Arc<Objects>,
}

/// ConfigMaps and Secrets of one file, by namespace and name.
#[derive(Debug, Default, PartialEq)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<(String, String), Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<(String, String), Arc<Secret>>,
}

/// Objects that differ, or that only one side has.
pub fn differences(one: &Objects, other: &Objects) -> Vec<ObjectRef> {
    fn names<'a, K: PartialEq>(
        one: &'a BTreeMap<(String, String), K>,
        other: &'a BTreeMap<(String, String), K>,
    ) -> impl Iterator<Item = &'a (String, String)> {
        one.keys().chain(other.keys()).filter(|name| one.get(*name) != other.get(*name))
    }
    let maps = names(&one.config_maps, &other.config_maps).map(|(ns, name)| ObjectRef::config_map(ns, name));
    let secrets = names(&one.secrets, &other.secrets).map(|(ns, name)| ObjectRef::secret(ns, name));
    maps.chain(secrets).collect()
}

/// Deepest nesting of lists in lists.
const DEEPEST: usize = 4;

impl Reader<'_> {
    /// Reads the file's text: YAML or JSON.
    ///
    /// # Errors
    /// Which document or object it is, and what is wrong with it. Nothing of such a file is used.
    pub fn read(self, text: &str) -> Result<Set, String> {
        let mut objects = Vec::new();
        for (number, document) in serde_norway::Deserializer::from_str(text).enumerate() {
            let document =
                Value::deserialize(document).map_err(|error| format!("document {}: {error}", number + 1))?;
            flatten(document, 0, &mut objects)
                .map_err(|error| format!("document {}: {error}", number + 1))?;
        }
        let mut set = Set::default();
        let mut known = Objects::default();
        for object in objects {
            let (kind, name) = (text_of(&object, "/kind"), text_of(&object, "/metadata/name"));
            self.add(object, &kind, &mut set, &mut known).map_err(|error| {
                // Rules of the API server name the object themselves.
                if error.starts_with(&kind) { error } else { format!("{kind} {name:?}: {error}") }
            })?;
        }
        if set.pods.is_empty() {
            return Err("there is no Pod in it".into());
        }
        set.objects = Arc::new(known);
        Ok(set)
    }

    fn add(self, mut object: Value, kind: &str, set: &mut Set, known: &mut Objects) -> Result<(), String> {
        let version = text_of(&object, "/apiVersion");
        if !matches!((version.as_str(), kind), ("v1", "Pod" | "ConfigMap" | "Secret")) {
            return Err(format!(
                "{version} {kind} cannot be in a static pod's file: only v1 Pod, ConfigMap and Secret can"
            ));
        }
        // What a server counts is nothing that a file can say.
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["resourceVersion", "generation", "creationTimestamp", "managedFields"] {
                metadata.remove(field);
            }
        }
        let written = (kind == "Pod").then(|| object.clone());
        if object["metadata"]["namespace"].as_str().unwrap_or_default().is_empty() {
            object["metadata"]["namespace"] = json!("default");
        }
        let object = (self.rules)(&object)?;
        match written {
            Some(written) => {
                let pod = self.pod(typed(object)?, &written)?;
                let same = |other: &Arc<Pod>| {
                    let (one, other) = (&pod.metadata, &other.metadata);
                    (&one.namespace, &one.name) == (&other.namespace, &other.name) || one.uid == other.uid
                };
                if set.pods.iter().any(same) {
                    return Err("it is in the file twice".into());
                }
                set.pods.push(Arc::new(pod));
            }
            None if kind == "ConfigMap" => keep(&mut known.config_maps, typed(object)?)?,
            None => keep(&mut known.secrets, typed(object)?)?,
        }
        Ok(())
    }

    /// What a kubelet makes of the manifest of a static pod.
    fn pod(self, mut pod: Pod, written: &Value) -> Result<Pod, String> {
        let meta = &mut pod.metadata;
        let uid = match meta.uid.take().filter(|uid| !uid.is_empty()) {
            Some(uid) if fit(&uid) => uid,
            Some(uid) => return Err(format!("metadata.uid {uid:?}: letters, digits and - only, at most 64")),
            None => self.hash(written),
        };
        meta.name = Some(format!("{}-{}", meta.name.take().unwrap_or_default(), self.node));
        let annotations = meta.annotations.get_or_insert_default();
        annotations.insert(SOURCE.into(), "file".into());
        annotations.insert(HASH.into(), uid.clone());
        annotations.insert("kubernetes.io/config.seen".into(), self.seen.to_string());
        meta.uid = Some(uid);
        meta.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.seen));
        let spec = pod.spec.get_or_insert_default();
        spec.node_name = Some(self.node.to_owned());
        let account = spec.service_account_name.as_deref().unwrap_or_default();
        if !account.is_empty() {
            return Err(format!("spec.serviceAccountName {account:?}: a static pod has no service account"));
        }
        for volume in spec.volumes.iter().flatten() {
            let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
            let what = if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
                "a PersistentVolumeClaim"
            } else if projected.into_iter().any(|source| source.service_account_token.is_some()) {
                "a service account token"
            } else {
                continue;
            };
            return Err(format!("volume {:?} needs {what}, which a static pod cannot have", volume.name));
        }
        spec.tolerations.get_or_insert_default().push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Toleration::default()
        });
        pod.status = Some(PodStatus { phase: Some("Pending".into()), ..PodStatus::default() });
        Ok(pod)
    }

    /// Another manifest, another pod: what was written, on which node, in which file.
    fn hash(self, written: &Value) -> String {
        let digest = Sha256::digest(format!("host:{}\nfile:{}\n{written}", self.node, self.file));
        hex::encode(digest.get(..16).unwrap_or_default())
    }
}

/// Where a pod comes from, in a kubelet's annotations.
pub const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";

/// The objects of a document: itself, or what is in the list that it is.
fn flatten(document: Value, depth: usize, objects: &mut Vec<Value>) -> Result<(), String> {
    let list = matches!(
        (text_of(&document, "/apiVersion").as_str(), text_of(&document, "/kind").as_str()),
        ("v1", "List") | ("orlop.dev/v1", "Static")
    );
    match document {
        Value::Null => Ok(()),
        Value::Object(mut fields) if list => {
            if depth == DEEPEST {
                return Err("lists in lists in lists".into());
            }
            let Some(Value::Array(items)) = fields.remove("items") else {
                return Err("a list without items".into());
            };
            items.into_iter().try_for_each(|item| flatten(item, depth + 1, objects))
        }
        Value::Object(_) => {
            objects.push(document);
            Ok(())
        }
        _ => Err("not an object".into()),
    }
}

fn keep<K: Resource>(known: &mut BTreeMap<(String, String), Arc<K>>, object: K) -> Result<(), String> {
    let part = |value: &Option<String>| value.clone().unwrap_or_default();
    let key = (part(&object.meta().namespace), part(&object.meta().name));
    match known.insert(key, Arc::new(object)) {
        None => Ok(()),
        Some(_) => Err("it is in the file twice".into()),
    }
}

fn typed<K: DeserializeOwned>(object: Value) -> Result<K, String> {
    serde_json::from_value(object).map_err(|error| error.to_string())
}

fn text_of(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A UID becomes part of paths and cgroup names.
fn fit(uid: &str) -> bool {
    uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// What is in the file, a line each.
    fn check(text: &str, expected: Expect) {
        let set = read("web.yaml", text);
        let said = match set {
            Err(error) => error,
            Ok(set) => {
                let pods = set.pods.iter().map(|pod| {
                    let meta = &pod.metadata;
                    let part = |value: &Option<String>| value.clone().unwrap_or_default();
                    format!("pod {}/{} {}", part(&meta.namespace), part(&meta.name), part(&meta.uid))
                });
                let maps = set.objects.config_maps.keys().map(|(ns, name)| format!("configmap {ns}/{name}"));
                let secrets = set.objects.secrets.keys().map(|(ns, name)| format!("secret {ns}/{name}"));
                pods.chain(maps).chain(secrets).collect::<Vec<_>>().join("\n")
            }
        };
        expected.assert_eq(&said);
    }

    fn read(file: &str, text: &str) -> Result<Set, String> {
        let seen = Timestamp::from_second(1_000_000).unwrap();
        Reader { node: "n1", file, seen, rules: orlop_apiserver::manifest::admit }.read(text)
    }

    const POD: &str =
        "{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, image: i}]}}";

    #[test]
    fn a_pod_as_a_kubelet_takes_it() {
        let set = read("web.yaml", POD).unwrap();
        let pod = serde_json::to_value(&*set.pods[0]).unwrap();
        assert_eq!(pod["metadata"]["name"], "web-n1");
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
        assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/config.hash"], pod["metadata"]["uid"]);
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
        assert_eq!(pod["status"], json!({"phase": "Pending"}));
    }

    #[test]
    fn another_manifest_or_file_is_another_pod_and_the_same_is_the_same() {
        let uid = |file: &str, text: &str| read(file, text).unwrap().pods[0].metadata.uid.clone().unwrap();
        let other = POD.replace("image: i", "image: j");
        assert_eq!(uid("a", POD), uid("a", &POD.replace(": {name: web}", ":   {name: 'web'}")));
        assert_ne!(uid("a", POD), uid("b", POD));
        assert_ne!(uid("a", POD), uid("a", &other));
        assert_eq!(uid("a", POD).len(), 32);
    }

    #[test]
    fn a_set() {
        check(
            "apiVersion: orlop.dev/v1\nkind: Static\nitems:\n\
             - {apiVersion: v1, kind: ConfigMap, metadata: {name: conf}, data: {a: b}}\n\
             - {apiVersion: v1, kind: Secret, metadata: {name: s, namespace: other}, stringData: {a: b}}\n\
             - {apiVersion: v1, kind: Pod, metadata: {name: web, uid: abc}, spec: {containers: [{name: c, image: i}]}}\n",
            expect![[r#"
                pod default/web-n1 abc
                configmap default/conf
                secret other/s"#]],
        );
        check(
            "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: conf}}\n---\n---\n{apiVersion: v1, kind: Pod, metadata: {name: web, uid: abc, namespace: x}, spec: {containers: [{name: c, image: i}]}}\n",
            expect![[r#"
                pod x/web-n1 abc
                configmap default/conf"#]],
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        check("", expect!["there is no Pod in it"]);
        check(
            "{a: [",
            expect![
                "document 1: did not find expected node content at line 2 column 1, while parsing a flow node"
            ],
        );
        check("[1]", expect!["document 1: not an object"]);
        check("{apiVersion: v1, kind: List}", expect!["document 1: a list without items"]);
        check(
            "{apiVersion: v1, kind: Service, metadata: {name: s}}",
            expect![[
                r#"Service "s": v1 Service cannot be in a static pod's file: only v1 Pod, ConfigMap and Secret can"#
            ]],
        );
        check("{apiVersion: v1, kind: ConfigMap, metadata: {name: s}}", expect!["there is no Pod in it"]);
        check(&format!("{POD}\n---\n{POD}"), expect![[r#"Pod "web": it is in the file twice"#]]);
        check(
            &POD.replace("image: i", "image: i, porst: 1"),
            expect![[r#"Pod "web": strict decoding error: unknown field "spec.containers[0].porst""#]],
        );
        check(
            &POD.replace("name: c", "name: C"),
            expect![[
                r#"Pod "web" is invalid: spec.containers[0].name: Invalid value: "C": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"#
            ]],
        );
        check(
            &POD.replace("name: web", "name: web, uid: ../x"),
            expect![[r#"Pod "web": metadata.uid "../x": letters, digits and - only, at most 64"#]],
        );
        check(
            &POD.replace("spec: {", "spec: {serviceAccountName: a, "),
            expect![[r#"Pod "web": spec.serviceAccountName "a": a static pod has no service account"#]],
        );
        let claim = "spec: {volumes: [{name: v, persistentVolumeClaim: {claimName: c}}], ";
        check(
            &POD.replace("spec: {", claim),
            expect![[
                r#"Pod "web": volume "v" needs a PersistentVolumeClaim, which a static pod cannot have"#
            ]],
        );
        let token = "spec: {volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}], ";
        check(
            &POD.replace("spec: {", token),
            expect![[
                r#"Pod "web": volume "v" needs a service account token, which a static pod cannot have"#
            ]],
        );
    }
}
