//! What one node may see and touch of the others' things: nothing. Upstream's node authorizer and its admission
//! plugin NodeRestriction, for the kinds there are.

use serde_json::Value;

use super::filter::Filter;
use super::status::Failure;
use super::{Api, Call, Target, object};
use crate::admission::Surroundings;
use crate::auth::authorize::{self, Attributes, Resource};
use crate::kinds;

/// Names the node that has the directory of a volume.
const PROVISIONED_ON: &str = "orlop.dev/provisioned-on";
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Api {
    /// Refuses what lies outside the node that asks. Others pass.
    pub(super) fn restrict_node(
        &self,
        call: &Call,
        verb: &str,
        target: &Target,
        subresource: Option<&str>,
    ) -> Result<(), Failure> {
        let Some(node) = call.identity.node() else { return Ok(()) };
        let forbid = |text: String| Err(Failure::forbidden(target.kind, &target.name, &text));
        match (target.kind.resource, subresource, verb) {
            ("secrets" | "configmaps", None, "get" | "list" | "watch") => {
                self.related(call, verb, target, node)
            }
            ("persistentvolumeclaims", None | Some("status"), _) if !self.claims(target, node) => {
                self.unrelated(call, verb, target, &target.name, node)
            }
            ("persistentvolumes", None, "patch") if !self.ends_here(target, node) => forbid(format!(
                "node {node:?} can only let go of persistent volumes that were made on it and are being deleted"
            )),
            ("csinodes", None, "create") => match object::name(&call.decode(target.kind.gvk)?.value) {
                name if name == node => Ok(()),
                _ => forbid("can only access CSINode with the same name as the requesting node".into()),
            },
            ("nodes", None, "create") => {
                let asked = call.decode(target.kind.gvk)?.value;
                match object::name(&asked) {
                    name if name == node => Ok(()),
                    name => {
                        let text = format!("node {node:?} is not allowed to modify node {name:?}");
                        Err(Failure::forbidden(target.kind, name, &text))
                    }
                }
            }
            ("pods", None, "create") => {
                let pod = call.decode(target.kind.gvk)?.value;
                let forbid = |text: String| Err(Failure::forbidden(target.kind, object::name(&pod), &text));
                if pod["metadata"]["annotations"].get(MIRROR).is_none() {
                    return forbid(format!(
                        "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                    ));
                }
                if object::text(&pod, &["spec", "nodeName"]) != node {
                    return forbid(format!(
                        "node {node:?} can only create pods with spec.nodeName set to itself"
                    ));
                }
                Ok(())
            }
            ("pods", None, "delete") if !self.is_on(target, node) => {
                forbid(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
            ("pods", Some("status"), "update" | "patch") if !self.is_on(target, node) => forbid(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )),
            ("serviceaccounts", Some("token"), _) => {
                let request =
                    call.decode(target.kind.subresource("token").map_or(target.kind.gvk, |s| s.gvk))?;
                let bound = &request.value["spec"]["boundObjectRef"];
                if object::text(bound, &["kind"]) != "Pod" {
                    return forbid("node requested token not bound to a pod".into());
                }
                let Some(pods) = kinds::find("", "v1", "pods") else { return Ok(()) };
                let name = object::text(bound, &["name"]).to_owned();
                if !self.is_on(&Target { kind: pods, name, ..target.clone() }, node) {
                    return forbid(
                        "node requested token bound to a pod scheduled on a different node".into(),
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a pod is on a node; one that does not exist is nobody's and left to the handler.
    fn is_on(&self, pod: &Target, node: &str) -> bool {
        let found = Surroundings::get(self, "pods", &pod.namespace, &pod.name);
        found.is_none_or(|pod| object::text(&pod, &["spec", "nodeName"]) == node)
    }

    /// Secrets and config maps are read one by one, and only those that a pod of the node names.
    fn related(&self, call: &Call, verb: &str, target: &Target, node: &str) -> Result<(), Failure> {
        let filter = Filter::parse(target.kind, &call.query)?;
        let name = Some(target.name.as_str()).filter(|n| !n.is_empty()).or(filter.name()).unwrap_or_default();
        if name.is_empty() || target.namespace.is_empty() {
            let why = "can only get, list or watch individual resources of this type";
            return self.refuse(call, verb, target, name, why);
        }
        if self.names(target, name, node) {
            return Ok(());
        }
        self.unrelated(call, verb, target, name, node)
    }

    fn unrelated(
        &self,
        call: &Call,
        verb: &str,
        target: &Target,
        name: &str,
        node: &str,
    ) -> Result<(), Failure> {
        let why = format!("no relationship found between node '{node}' and this object");
        self.refuse(call, verb, target, name, &why)
    }

    fn refuse(&self, call: &Call, verb: &str, target: &Target, name: &str, why: &str) -> Result<(), Failure> {
        let resource = Resource {
            group: "",
            resource: target.kind.resource,
            subresource: "",
            namespace: &target.namespace,
            name,
        };
        let what = Attributes { verb, path: "", resource: Some(resource) };
        let text = format!("{}: {why}", authorize::refusal(&call.identity, &what));
        Err(Failure { message: text, ..Failure::forbidden(target.kind, name, "") })
    }

    fn names(&self, target: &Target, name: &str, node: &str) -> bool {
        if target.kind.resource != "secrets" {
            return self.pods_on(node, &target.namespace).any(|pod| refers(&pod["spec"], &CONFIG_MAPS, name));
        }
        self.pods_on(node, &target.namespace).any(|pod| refers(&pod["spec"], &SECRETS, name))
            || self.volume_secret(&target.namespace, name, node)
    }

    /// Pods of a node, in a namespace or (empty) in all.
    fn pods_on(&self, node: &str, namespace: &str) -> impl Iterator<Item = Value> {
        let prefix = if namespace.is_empty() { "pods".to_owned() } else { format!("pods/{namespace}") };
        let pods = Surroundings::all(self, &prefix).into_iter();
        pods.filter(move |pod| object::text(pod, &["spec", "nodeName"]) == node)
    }

    /// Whether a pod of the node uses the claim.
    fn claims(&self, claim: &Target, node: &str) -> bool {
        self.pods_on(node, &claim.namespace).any(|pod| claimed(&pod).any(|name| name == claim.name))
    }

    /// Whether a volume that pods of the node use names this secret for its driver.
    fn volume_secret(&self, namespace: &str, name: &str, node: &str) -> bool {
        let named = |volume: &Value| {
            let fields = volume["spec"]["csi"].as_object().into_iter().flatten();
            let mut references = fields.filter(|(field, _)| field.ends_with("SecretRef"));
            references.any(|(_, r)| {
                object::text(r, &["name"]) == name && object::text(r, &["namespace"]) == namespace
            })
        };
        let volumes = Surroundings::all(self, "persistentvolumes");
        volumes.iter().filter(|volume| named(volume)).any(|volume| {
            let reference = |key| object::text(volume, &["spec", "claimRef", key]);
            let mut pods = self.pods_on(node, reference("namespace"));
            !reference("name").is_empty()
                && pods.any(|pod| claimed(&pod).any(|claim| claim == reference("name")))
        })
    }

    /// Whether a volume was made on this node by the bundled provisioner and is on its way out: then the node has to
    /// say when its directory is gone.
    fn ends_here(&self, target: &Target, node: &str) -> bool {
        let Some(volume) = Surroundings::get(self, "persistentvolumes", "", &target.name) else {
            return true;
        };
        object::is_deleting(&volume)
            && object::text(&volume, &["metadata", "annotations", PROVISIONED_ON]) == node
    }
}

/// Claims that a pod uses: those that it names and those that are made for it.
fn claimed(pod: &Value) -> impl Iterator<Item = String> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|volume| {
        if volume.get("ephemeral").is_some() {
            return Some(format!("{}-{}", object::name(pod), object::text(volume, &["name"])));
        }
        let claim = object::text(volume, &["persistentVolumeClaim", "claimName"]);
        (!claim.is_empty()).then(|| claim.to_owned())
    })
}

/// Field that holds a reference, and the key of the name in it.
type References = [(&'static str, &'static str)];
const SECRETS: [(&str, &str); 6] = [
    ("nodePublishSecretRef", "name"),
    ("secret", "secretName"),
    ("secret", "name"),
    ("secretKeyRef", "name"),
    ("secretRef", "name"),
    ("imagePullSecrets", "name"),
];
const CONFIG_MAPS: [(&str, &str); 3] =
    [("configMap", "name"), ("configMapKeyRef", "name"), ("configMapRef", "name")];

/// Whether something in a spec refers to this name.
fn refers(value: &Value, references: &References, name: &str) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, child)| {
            let named = |child: &Value| {
                references.iter().any(|(field, at)| field == key && object::text(child, &[at]) == name)
            };
            named(child)
                || child.as_array().is_some_and(|list| list.iter().any(named))
                || refers(child, references, name)
        }),
        Value::Array(items) => items.iter().any(|item| refers(item, references, name)),
        _ => false,
    }
}
