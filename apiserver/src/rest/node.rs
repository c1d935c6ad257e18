//! What one node may see and touch of the others' things: nothing. Upstream's node authorizer and its admission
//! plugin NodeRestriction, for the kinds there are.

use serde_json::Value;

use super::filter::Filter;
use super::status::Failure;
use super::{Api, Call, Target, object};
use crate::admission::Surroundings;
use crate::auth::authorize::{self, Attributes, Resource};
use crate::kinds;

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
        let why = if name.is_empty() || target.namespace.is_empty() {
            "can only get, list or watch individual resources of this type".to_owned()
        } else if self.names(target, name, node) {
            return Ok(());
        } else {
            format!("no relationship found between node '{node}' and this object")
        };
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
        let pods = self.store.list(&format!("pods/{}/", target.namespace)).1;
        pods.iter().filter_map(|stored| serde_json::from_slice::<Value>(&stored.value).ok()).any(|pod| {
            object::text(&pod, &["spec", "nodeName"]) == node
                && if target.kind.resource == "secrets" {
                    refers(&pod["spec"], &SECRETS, name)
                } else {
                    refers(&pod["spec"], &CONFIG_MAPS, name)
                }
        })
    }
}

/// Field that holds a reference, and the key of the name in it.
type References = [(&'static str, &'static str)];
const SECRETS: [(&str, &str); 5] = [
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
