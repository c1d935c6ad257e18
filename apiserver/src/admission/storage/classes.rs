//! What claims are made from and by whom: storage classes, CSI drivers, attachments.

use serde_json::{Value, json};

use super::super::causes::Causes;
use super::super::fields::{items, or, or_text, text};
use super::immutable_at;
use crate::rest::object;

const POLICIES: &[&str] = &["Delete", "Retain"];
const BINDING_MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: &[&str] = &["Ephemeral", "Persistent"];

pub(super) fn default(class: &mut Value) {
    let fields = object::map(class);
    or(fields, "reclaimPolicy", "Delete");
    or(fields, "volumeBindingMode", "Immediate");
}

pub(super) fn validate(class: &Value, causes: &mut Causes) {
    if text(class, "provisioner").is_empty() {
        causes.required("provisioner", "");
    }
    one_of(&class["reclaimPolicy"], "reclaimPolicy", POLICIES, causes);
    one_of(&class["volumeBindingMode"], "volumeBindingMode", BINDING_MODES, causes);
}

pub(super) fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if new[key] != old[key] {
            causes.forbidden(key, &format!("updates to {key} are forbidden."));
        }
    }
    immutable_at(&new["volumeBindingMode"], &old["volumeBindingMode"], "volumeBindingMode", causes);
}

pub(super) fn default_driver(driver: &mut Value) {
    let spec = object::child(driver, "spec");
    or(spec, "attachRequired", true);
    or(spec, "podInfoOnMount", false);
    or(spec, "storageCapacity", false);
    or_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    or(spec, "requiresRepublish", false);
    or(spec, "seLinuxMount", false);
    if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

pub(super) fn validate_driver(driver: &Value, causes: &mut Causes) {
    let spec = &driver["spec"];
    one_of(&spec["fsGroupPolicy"], "spec.fsGroupPolicy", GROUP_POLICIES, causes);
    for mode in items(spec, "volumeLifecycleModes") {
        one_of(mode, "spec.volumeLifecycleModes", LIFECYCLES, causes);
    }
}

pub(super) fn validate_driver_update(new: &Value, old: &Value, causes: &mut Causes) {
    for key in ["attachRequired", "volumeLifecycleModes"] {
        immutable_at(&new["spec"][key], &old["spec"][key], &format!("spec.{key}"), causes);
    }
}

pub(super) fn validate_node(node: &Value, causes: &mut Causes) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, driver) in items(&node["spec"], "drivers").iter().enumerate() {
        let at = format!("spec.drivers[{i}]");
        for key in ["name", "nodeID"] {
            if text(driver, key).is_empty() {
                causes.required(format!("{at}.{key}"), "");
            }
        }
        let name = text(driver, "name");
        if seen.contains(&name) {
            causes.duplicate(format!("{at}.name"), &name.into());
        }
        seen.push(name);
        if driver["allocatable"]["count"].as_i64().is_some_and(|count| count < 0) {
            let detail = "must be greater than or equal to 0";
            causes.invalid(format!("{at}.allocatable.count"), &driver["allocatable"]["count"], detail);
        }
    }
}

pub(super) fn validate_attachment(attachment: &Value, causes: &mut Causes) {
    let spec = &attachment["spec"];
    for key in ["attacher", "nodeName"] {
        if text(spec, key).is_empty() {
            causes.required(format!("spec.{key}"), "");
        }
    }
    let source = &spec["source"];
    if source["persistentVolumeName"].is_null() && source["inlineVolumeSpec"].is_null() {
        causes.required("spec.source", "must specify one of inlineVolumeSpec and persistentVolumeName");
    }
}

fn one_of(value: &Value, field: &str, known: &[&str], causes: &mut Causes) {
    if value.as_str().is_some_and(|value| !known.contains(&value)) {
        causes.not_supported(field, value, known);
    }
}
