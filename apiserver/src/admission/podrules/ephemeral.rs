//! What an ephemeral container may have: less than others, for a pod must not depend on it.

use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};

const NOT_ALLOWED: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

const WHY: &str = "cannot be set for an Ephemeral Container";

/// `others` are the names of the containers that the pod was made with.
pub(super) fn validate(container: &Value, at: &str, others: &[&str], causes: &mut Causes) {
    let target = text(container, "targetContainerName");
    if !target.is_empty() && !others.contains(&target) {
        causes.not_found(format!("{at}.targetContainerName"), &target.into());
    }
    for key in NOT_ALLOWED.into_iter().filter(|key| container.get(*key).is_some_and(is_set)) {
        causes.forbidden(format!("{at}.{key}"), WHY);
    }
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        for key in ["subPath", "subPathExpr"].into_iter().filter(|key| !text(mount, key).is_empty()) {
            causes.forbidden(format!("{at}.volumeMounts[{i}].{key}"), WHY);
        }
    }
}

/// Lists and resources are there without saying anything.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    }
}
