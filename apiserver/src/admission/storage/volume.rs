//! PersistentVolumes.

use serde_json::{Value, json};

use super::super::Surroundings;
use super::super::causes::Causes;
use super::super::fields::{or, or_text, text, with};
use super::{access_modes, add_finalizer, immutable_at, mode_filesystem, positive, volume_mode};
use crate::kinds::Hooks;
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of volumes.
pub const VOLUME: Hooks = Hooks { default, prepare_create, validate, validate_update, ..Hooks::NONE };

/// What is in a spec besides the source of the volume.
const COMMON: &[&str] = &[
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];
const RECLAIM_POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];

fn default(volume: &mut Value) {
    let spec = object::child(volume, "spec");
    or_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    mode_filesystem(spec);
    with(spec, "hostPath", |path| or(path, "type", ""));
    or_text(object::child(volume, "status"), "phase", "Pending");
}

fn prepare_create(volume: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    volume["status"] = json!({"phase": "Pending", "lastPhaseTransitionTime": world.now()});
    add_finalizer(volume, "kubernetes.io/pv-protection");
    Ok(())
}

fn source(spec: &Value) -> Vec<(&String, &Value)> {
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(key, value)| !COMMON.contains(&key.as_str()) && !value.is_null()).collect()
}

fn validate(volume: &Value, causes: &mut Causes) {
    let spec = &volume["spec"];
    access_modes(spec, "spec", "", causes);
    let capacity = &spec["capacity"];
    if capacity.as_object().is_none_or(serde_json::Map::is_empty) {
        causes.required("spec.capacity", "");
    } else if capacity["storage"].is_null() || capacity.as_object().is_some_and(|map| map.len() > 1) {
        causes.not_supported("spec.capacity", capacity, &["storage"]);
    }
    positive(&capacity["storage"], "spec.capacity[storage]", causes);
    let policy = &spec["persistentVolumeReclaimPolicy"];
    if !RECLAIM_POLICIES.contains(&policy.as_str().unwrap_or_default()) {
        causes.not_supported("spec.persistentVolumeReclaimPolicy", policy, RECLAIM_POLICIES);
    }
    let sources = source(spec);
    for (key, _) in sources.iter().skip(1) {
        causes.forbidden(format!("spec.{key}"), "may not specify more than 1 volume type");
    }
    match sources.first() {
        None => causes.required("spec", "must specify a volume type"),
        Some((key, given)) => of_source(key, given, spec, causes),
    }
    if policy == "Recycle" && text(&spec["hostPath"], "path") == "/" {
        causes.forbidden(
            "spec.persistentVolumeReclaimPolicy",
            "may not be 'recycle' for a hostPath mount of '/'",
        );
    }
    if let Some(affinity) = spec.get("nodeAffinity").filter(|affinity| !affinity.is_null()) {
        let terms = affinity["required"]["nodeSelectorTerms"].as_array();
        if affinity["required"].is_null() {
            causes.required("spec.nodeAffinity.required", "must specify required node constraints");
        } else if terms.is_none_or(Vec::is_empty) {
            let field = "spec.nodeAffinity.required.nodeSelectorTerms";
            causes.required(field, "must have at least one node selector term");
        }
    }
    volume_mode(spec, "spec", causes);
}

fn of_source(kind: &str, source: &Value, spec: &Value, causes: &mut Causes) {
    let require = |key: &str, causes: &mut Causes| {
        if text(source, key).is_empty() {
            causes.required(format!("spec.{kind}.{key}"), "");
        }
    };
    let no_backsteps = |causes: &mut Causes| {
        let path = text(source, "path");
        if path.split('/').any(|part| part == "..") {
            causes.invalid(format!("spec.{kind}.path"), &path.into(), "must not contain '..'");
        }
    };
    match kind {
        "hostPath" => {
            require("path", causes);
            no_backsteps(causes);
        }
        "local" => {
            require("path", causes);
            no_backsteps(causes);
            if spec["nodeAffinity"].is_null() {
                causes.required("spec.nodeAffinity", "Local volume requires node affinity");
            }
        }
        "csi" => {
            require("driver", causes);
            require("volumeHandle", causes);
        }
        _ => {}
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (was, is) = (&old["spec"], &new["spec"]);
    if source(was) != source(is) {
        let field = "spec.persistentvolumesource";
        causes.forbidden(field, "spec.persistentvolumesource is immutable after creation");
    }
    immutable_at(&is["volumeMode"], &was["volumeMode"], "spec.volumeMode", causes);
    if !was["nodeAffinity"].is_null() && was["nodeAffinity"] != is["nodeAffinity"] {
        let detail = "field is immutable, except for updating from beta label to GA";
        causes.invalid("spec.nodeAffinity", &is["nodeAffinity"], detail);
    }
}
