//! PersistentVolumeClaims.

use orlop_model::names;
use orlop_model::quantities::Quantity;
use serde_json::{Value, json};

use super::super::Surroundings;
use super::super::causes::Causes;
use super::super::fields::{or_text, text};
use super::{access_modes, add_finalizer, mode_filesystem, positive, volume_mode};
use crate::kinds::{self, Hooks};
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of claims.
pub const CLAIM: Hooks = Hooks {
    default: |claim| {
        mode_filesystem(object::child(claim, "spec"));
        or_text(object::child(claim, "status"), "phase", "Pending");
    },
    prepare_create,
    prepare_update,
    validate: |claim, causes| spec(&claim["spec"], "spec", causes),
    validate_update,
    ..Hooks::NONE
};

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const IMMUTABLE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName \
     for bound claims";

/// Upstream's admission plugins DefaultStorageClass and StorageObjectInUseProtection.
fn prepare_create(claim: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    claim["status"] = json!({"phase": "Pending"});
    add_finalizer(claim, "kubernetes.io/pvc-protection");
    let named = claim["spec"]["storageClassName"].is_string()
        || claim["metadata"]["annotations"].get(OLD_CLASS).is_some();
    if named {
        return Ok(());
    }
    let classes = world.all("storageclasses");
    let is_default = |class: &&Value| {
        let annotations = &class["metadata"]["annotations"];
        annotations[DEFAULT_CLASS] == "true" || annotations[OLD_DEFAULT_CLASS] == "true"
    };
    // The newest wins, then the first by name.
    let rank = |class: &&Value| {
        let created = text(&class["metadata"], "creationTimestamp").to_owned();
        (created, std::cmp::Reverse(object::name(class).to_owned()))
    };
    if let Some(class) = classes.iter().filter(is_default).max_by_key(rank) {
        object::child(claim, "spec").insert("storageClassName".into(), object::name(class).into());
    }
    Ok(())
}

fn storage(claim: &Value) -> i128 {
    let text = claim["spec"]["resources"]["requests"]["storage"].as_str().unwrap_or_default();
    Quantity::parse(text).map_or(0, |quantity| quantity.milli())
}

/// Upstream's admission plugin PersistentVolumeClaimResize.
fn prepare_update(new: &mut Value, old: &Value, world: &dyn Surroundings) -> Result<(), Failure> {
    if old["status"]["phase"] != "Bound" || storage(new) <= storage(old) {
        return Ok(());
    }
    let class = world.get("storageclasses", "", text(&old["spec"], "storageClassName"));
    if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
        return Ok(());
    }
    let detail = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
        support resize";
    match kinds::find("", "v1", "persistentvolumeclaims") {
        Some(kind) => Err(Failure::forbidden(kind, object::name(new), detail)),
        None => Ok(()),
    }
}

/// The spec of a claim, or of a template for one.
pub(in super::super) fn spec(spec: &Value, at: &str, causes: &mut Causes) {
    access_modes(spec, at, "at least 1 access mode is required", causes);
    let storage = &spec["resources"]["requests"]["storage"];
    let field = format!("{at}.resources[storage]");
    if storage.is_null() {
        causes.required(field, "");
    } else {
        positive(storage, &field, causes);
    }
    if let Some(class) = spec["storageClassName"].as_str().filter(|class| !class.is_empty()) {
        for error in names::dns1123_subdomain_errors(class) {
            causes.invalid(format!("{at}.storageClassName"), &class.into(), &error);
        }
    }
    volume_mode(spec, at, causes);
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (mut was, mut is) = (old["spec"].clone(), new["spec"].clone());
    // The binder names the volume, once.
    if text(&was, "volumeName").is_empty() {
        object::map(&mut was).remove("volumeName");
        object::map(&mut is).remove("volumeName");
    }
    // A class may be given to a claim that has none yet (RetroactiveDefaultStorageClass).
    if was["storageClassName"].is_null() && text(&old["spec"], "volumeName").is_empty() {
        object::map(&mut is).remove("storageClassName");
    }
    let bound = old["status"]["phase"] == "Bound";
    if bound {
        for spec in [&mut was, &mut is] {
            let spec = object::map(spec);
            spec.remove("volumeAttributesClassName");
            super::super::fields::with(spec, "resources", |resources| drop(resources.remove("requests")));
        }
    }
    if was != is {
        causes.forbidden("spec", IMMUTABLE);
    }
    let given = Quantity::parse(new["status"]["capacity"]["storage"].as_str().unwrap_or_default());
    if bound && storage(new) < storage(old) && given.is_ok_and(|given| storage(new) < given.milli()) {
        causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
    }
}
