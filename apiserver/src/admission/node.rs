//! Nodes: heartbeats need not reach the disk, the pod network never changes.

use serde_json::Value;

use super::causes::Causes;
use super::fields::each;
use crate::kinds::Hooks;
use crate::rest::object;

/// Code of nodes.
pub const NODE: Hooks = Hooks { default, validate_update, lazy: is_heartbeat, ..Hooks::NONE };

fn default(node: &mut Value) {
    let status = object::child(node, "status");
    if let (None, Some(capacity)) = (status.get("allocatable"), status.get("capacity").cloned()) {
        status.insert("allocatable".into(), capacity);
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let cidr = |node: &Value| node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
    let (was, is) = (cidr(old), cidr(new));
    if !was.is_empty() && was != is {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        causes.forbidden("spec.podCIDRs", detail);
    }
    let provider = |node: &Value| node["spec"]["providerID"].as_str().unwrap_or_default().to_owned();
    if !provider(old).is_empty() && provider(old) != provider(new) {
        causes
            .forbidden("spec.providerID", "node updates may not change providerID except from \"\" to valid");
    }
}

/// Whether nothing but the times of heartbeats differs.
fn is_heartbeat(new: &Value, old: &Value) -> bool {
    without_heartbeat(new) == without_heartbeat(old)
}

fn without_heartbeat(node: &Value) -> Value {
    let mut node = node.clone();
    object::metadata(&mut node).remove("resourceVersion");
    each(object::child(&mut node, "status"), "conditions", |condition| {
        condition.remove("lastHeartbeatTime");
    });
    node
}
