//! The `ephemeralcontainers` subresource of pods (KEP-277): which part of what is sent counts, and what may change.
//!
//! Not for: what one such container may have (`podrules`).

use serde_json::Value;

use super::causes::Causes;
use super::fields::{items, text};
use super::pod::MIRROR;
use crate::rest::object;

const LIST: &str = "ephemeralContainers";

/// The old pod with the ephemeral containers of the new one.
pub(crate) fn merge(new: &Value, old: &Value) -> Value {
    let mut result = old.clone();
    let managed = new["metadata"].get("managedFields").cloned();
    object::set(object::metadata(&mut result), "managedFields", managed);
    object::set(object::child(&mut result, "spec"), LIST, new["spec"].get(LIST).cloned());
    result
}

/// They come, and stay as they are. A patch may change their order.
pub(crate) fn validate(new: &Value, old: &Value, causes: &mut Causes) {
    if old["metadata"]["annotations"].get(MIRROR).is_some() {
        return causes.forbidden("", "static pods do not support ephemeral containers");
    }
    for before in items(&old["spec"], LIST) {
        let name = text(before, "name");
        let after = items(&new["spec"], LIST).iter().find(|one| text(one, "name") == name);
        let happened = match after {
            None => "removed",
            Some(after) if after != before => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {happened}");
        causes.forbidden(format!("spec.{LIST}"), &detail);
    }
}
