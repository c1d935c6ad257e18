//! Namespaces: the label with their name, and their end through finalizers in spec.

use serde_json::{Value, json};

use super::Surroundings;
use crate::kinds::{self, Hooks};
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of namespaces.
pub const NAMESPACE: Hooks = Hooks { default, prepare_create, prepare_update, prepare_delete, ..Hooks::NONE };

/// Upstream's admission keeps these from being deleted.
const IMMORTAL: &[&str] = &["default", "kube-public", "kube-system"];

fn default(namespace: &mut Value) {
    let name = object::name(namespace).to_owned();
    if name.is_empty() {
        return;
    }
    let metadata = object::metadata(namespace);
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    object::map(labels).insert("kubernetes.io/metadata.name".into(), name.into());
}

fn prepare_create(namespace: &mut Value, _: &dyn Surroundings) -> Result<(), Failure> {
    let mut finalizers = super::fields::items(&namespace["spec"], "finalizers").to_vec();
    if !finalizers.iter().any(|f| f == "kubernetes") {
        finalizers.push("kubernetes".into());
    }
    namespace["spec"] = json!({"finalizers": finalizers});
    namespace["status"] = json!({"phase": "Active"});
    Ok(())
}

/// Finalizers in spec change through `finalize` only.
fn prepare_update(new: &mut Value, old: &Value, _: &dyn Surroundings) -> Result<(), Failure> {
    object::set(object::map(new), "spec", old.get("spec").cloned());
    Ok(())
}

fn prepare_delete(namespace: &Value) -> Result<(), Failure> {
    let name = object::name(namespace);
    match kinds::find("", "v1", "namespaces").filter(|_| IMMORTAL.contains(&name)) {
        Some(kind) => Err(Failure::forbidden(kind, name, "this namespace may not be deleted")),
        None => Ok(()),
    }
}
