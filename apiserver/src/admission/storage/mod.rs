//! Volumes that outlive pods: claims, persistent volumes, storage classes and what CSI drivers register.

mod claim;
mod classes;
mod volume;

use orlop_model::quantities::Quantity;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{Fields, items, or};
use crate::kinds::Hooks;

pub use claim::CLAIM;
pub use volume::VOLUME;

pub(super) use claim::spec as claim_spec;

/// Code of storage classes.
pub const STORAGE_CLASS: Hooks = Hooks {
    default: classes::default,
    validate: classes::validate,
    validate_update: classes::validate_update,
    ..Hooks::NONE
};

/// Code of CSI drivers.
pub const CSI_DRIVER: Hooks = Hooks {
    default: classes::default_driver,
    validate: classes::validate_driver,
    validate_update: classes::validate_driver_update,
    ..Hooks::NONE
};

/// Code of what a node says of its CSI drivers.
pub const CSI_NODE: Hooks = Hooks { validate: classes::validate_node, ..Hooks::NONE };

/// Code of volume attachments.
pub const VOLUME_ATTACHMENT: Hooks = Hooks {
    prepare_create: |attachment, _| {
        attachment["status"] = json!({"attached": false});
        Ok(())
    },
    validate: classes::validate_attachment,
    validate_update: |new, old, causes| immutable_field(new, old, &["spec"], causes),
    ..Hooks::NONE
};

/// Code of storage capacities.
pub const CSI_STORAGE_CAPACITY: Hooks = Hooks {
    validate: |capacity, causes| {
        if super::fields::text(capacity, "storageClassName").is_empty() {
            causes.required("storageClassName", "");
        }
    },
    validate_update: |new, old, causes| {
        for key in ["storageClassName", "nodeTopology"] {
            immutable_at(&new[key], &old[key], key, causes);
        }
    },
    ..Hooks::NONE
};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const ALONE: &str = "may not use ReadWriteOncePod with other access modes";

/// Access modes of a claim or a volume.
fn access_modes(spec: &Value, at: &str, missing: &str, causes: &mut Causes) {
    let field = format!("{at}.accessModes");
    let modes = items(spec, "accessModes");
    if modes.is_empty() {
        causes.required(field, missing);
        return;
    }
    for mode in modes.iter().filter(|mode| !ACCESS_MODES.contains(&mode.as_str().unwrap_or_default())) {
        causes.not_supported(field.clone(), mode, ACCESS_MODES);
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        causes.forbidden(field, ALONE);
    }
}

fn volume_mode(spec: &Value, at: &str, causes: &mut Causes) {
    let mode = &spec["volumeMode"];
    if mode.as_str().is_some_and(|mode| !VOLUME_MODES.contains(&mode)) {
        causes.not_supported(format!("{at}.volumeMode"), mode, VOLUME_MODES);
    }
}

/// A quantity, where there is one, is more than nothing.
fn positive(value: &Value, field: &str, causes: &mut Causes) {
    let Some(text) = value.as_str() else { return };
    if Quantity::parse(text).is_ok_and(|quantity| quantity.milli() <= 0) {
        causes.invalid(field, value, "must be greater than zero");
    }
}

fn immutable_field(new: &Value, old: &Value, keys: &[&str], causes: &mut Causes) {
    for key in keys {
        immutable_at(&new[*key], &old[*key], key, causes);
    }
}

fn immutable_at(new: &Value, old: &Value, field: &str, causes: &mut Causes) {
    if new != old {
        causes.invalid(field, new, "field is immutable");
    }
}

/// Keeps an object until its protector lets it go (StorageObjectInUseProtection).
fn add_finalizer(object: &mut Value, finalizer: &str) {
    let metadata = crate::rest::object::metadata(object);
    or(metadata, "finalizers", json!([]));
    let Some(list) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) else { return };
    if !list.iter().any(|known| known == finalizer) {
        list.push(finalizer.into());
    }
}

fn mode_filesystem(spec: &mut Fields) {
    or(spec, "volumeMode", "Filesystem");
}
