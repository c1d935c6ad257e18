//! The `resize` subresource of pods (KEP-1287): which part of what is sent counts, and what may change.
//!
//! Not for: whether a node has the room (its agent decides, and says so in the pod's conditions).

use serde_json::Value;

use super::causes::Causes;
use super::fields::{items, text};
use super::pod::MIRROR;
use super::resources::{is_sidecar, of_pod, qos_class};
use crate::rest::object;

const RESIZABLE: [&str; 2] = ["cpu", "memory"];
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The old pod with what the new one says about resources of its containers, found by their names.
pub(crate) fn merge(new: &Value, old: &Value) -> Value {
    let mut result = old.clone();
    let managed = new["metadata"].get("managedFields").cloned();
    object::set(object::metadata(&mut result), "managedFields", managed);
    for list in LISTS {
        let containers = object::child(&mut result, "spec").get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = text(container, "name").to_owned();
            let Some(wanted) = items(&new["spec"], list).iter().find(|one| text(one, "name") == name) else {
                continue;
            };
            for key in ["resources", "resizePolicy"] {
                object::set(object::map(container), key, wanted.get(key).cloned());
            }
        }
    }
    result
}

/// Rules for the result against the old pod.
pub(crate) fn validate(new: &Value, old: &Value, causes: &mut Causes) {
    if of_pod(&old["spec"]).is_some() {
        return causes.forbidden("", "pods with pod-level resources cannot be resized");
    }
    if old["metadata"]["annotations"].get(MIRROR).is_some() {
        return causes.forbidden("", "static pods cannot be resized");
    }
    let class = match text(&old["status"], "qosClass") {
        "" => qos_class(&old["spec"]),
        class => class,
    };
    let changed = qos_class(&new["spec"]);
    if changed != class {
        let detail = "Pod QOS Class may not change as a result of resizing";
        causes.invalid("spec", &changed.into(), detail);
    }
    let statuses = items(&old["status"], "containerStatuses");
    let running = statuses.iter().find(|status| status["state"]["running"].is_object());
    if running.is_some_and(|status| status.get("resources").is_none()) {
        causes.forbidden("spec", "Pod running on node without support for resize");
    }
    for list in LISTS {
        let both = items(&new["spec"], list).iter().zip(items(&old["spec"], list));
        for (i, (new, old)) in both.enumerate() {
            container(new, old, list, &format!("spec.{list}[{i}].resources"), causes);
        }
    }
}

fn container(new: &Value, old: &Value, list: &str, at: &str, causes: &mut Causes) {
    let sidecar = list == "initContainers" && is_sidecar(old);
    if list == "containers" || sidecar {
        for kind in ["requests", "limits"] {
            let known = old["resources"][kind].as_object().into_iter().flatten();
            let removed = known.into_iter().any(|(name, _)| new["resources"][kind].get(name).is_none());
            if removed {
                causes.forbidden(format!("{at}.{kind}"), &format!("resource {kind} cannot be removed"));
            }
        }
    }
    let same = match (list, sidecar) {
        ("containers", _) | (_, true) => fixed(new) == fixed(old),
        _ => new == old,
    };
    if !same {
        let detail = match (list, sidecar) {
            ("containers", _) => "only cpu and memory resources are mutable",
            (_, true) => "only cpu and memory resources for sidecar containers are mutable",
            _ => "resources for non-sidecar init containers are immutable",
        };
        causes.forbidden("spec", detail);
    }
}

/// A container without what may change. Lists that are empty are the same as none.
fn fixed(container: &Value) -> Value {
    let mut fixed = container.clone();
    let resources = object::child(&mut fixed, "resources");
    for list in ["requests", "limits"] {
        let left = resources.get_mut(list).and_then(Value::as_object_mut).map(|amounts| {
            RESIZABLE.iter().for_each(|name| drop(amounts.remove(*name)));
            amounts.is_empty()
        });
        if left.unwrap_or(true) {
            resources.remove(list);
        }
    }
    fixed
}
