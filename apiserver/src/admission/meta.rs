//! Rules for `metadata`, the same for every kind.

use orlop_model::names;
use serde_json::Value;

use super::Causes;
use crate::kinds::{Kind, NameRule};

const MAX_ANNOTATIONS: usize = 256 << 10;

/// Rules for an object's metadata alone.
pub fn validate(object: &Value, kind: &Kind, causes: &mut Causes) {
    let metadata = &object["metadata"];
    match metadata["name"].as_str() {
        None | Some("") => causes.required("metadata.name", "name or generateName is required"),
        Some(name) => {
            for error in name_errors(kind.name_rule, name) {
                causes.invalid("metadata.name", &name.into(), &error);
            }
        }
    }
    labels(&metadata["labels"], "metadata.labels", causes);
    annotations(&metadata["annotations"], causes);
    for (i, finalizer) in list(&metadata["finalizers"]).enumerate() {
        let text = finalizer.as_str().unwrap_or_default();
        let field = format!("metadata.finalizers[{i}]");
        for error in names::label_key_errors(text) {
            causes.invalid(field.clone(), finalizer, &error);
        }
        if !text.contains('/') && !["orphan", "foregroundDeletion", "kubernetes"].contains(&text) {
            causes.invalid(
                field,
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    owners(&metadata["ownerReferences"], causes);
}

/// Rules for metadata against what it was.
pub fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return;
    }
    let before: Vec<&Value> = list(&old["metadata"]["finalizers"]).collect();
    let added: Vec<&str> = list(&new["metadata"]["finalizers"])
        .filter(|f| !before.contains(f))
        .filter_map(Value::as_str)
        .collect();
    if !added.is_empty() {
        causes.forbidden(
            "metadata.finalizers",
            &format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        );
    }
}

/// What is wrong with a name under a rule.
pub fn name_errors(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => names::dns1123_subdomain_errors(name),
        NameRule::Label => names::dns1123_label_errors(name),
        NameRule::Label1035 => names::dns1035_label_errors(name),
        NameRule::PathSegment => names::path_segment_errors(name),
    }
}

/// Rules for a map of labels at a field.
pub fn labels(labels: &Value, field: &str, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for error in names::label_key_errors(key) {
            causes.invalid(field, &key.as_str().into(), &error);
        }
        for error in names::label_value_errors(value.as_str().unwrap_or_default()) {
            causes.invalid(field, value, &error);
        }
    }
}

fn annotations(annotations: &Value, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for error in names::label_key_errors(&key.to_lowercase()) {
            causes.invalid("metadata.annotations", &key.as_str().into(), &error);
        }
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > MAX_ANNOTATIONS {
        causes.too_long("metadata.annotations", &format!("may not be more than {MAX_ANNOTATIONS} bytes"));
    }
}

fn owners(owners: &Value, causes: &mut Causes) {
    let mut controllers = 0;
    for (i, owner) in list(owners).enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                let detail =
                    if key == "apiVersion" { "version must not be empty" } else { "must not be empty" };
                causes.invalid(format!("metadata.ownerReferences[{i}].{key}"), &"".into(), detail);
            }
        }
        controllers += usize::from(owner["controller"] == true);
    }
    if controllers > 1 {
        causes.invalid(
            "metadata.ownerReferences",
            owners,
            "Only one reference can have Controller set to true",
        );
    }
}

/// Items of a list; nothing for anything else.
pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
