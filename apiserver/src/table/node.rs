//! Nodes.

use jiff::Timestamp;
use serde_json::Value;

use super::read::{at, flag, list, or};
use super::{Printer, read, text, wide};

pub(super) const PRINTER: Printer = Printer {
    columns: &[
        text("Name"),
        text("Status"),
        text("Roles"),
        text("Age"),
        text("Version"),
        wide("Internal-IP"),
        wide("External-IP"),
        wide("OS-Image"),
        wide("Kernel-Version"),
        wide("Container-Runtime"),
    ],
    cells,
};

fn cells(node: &Value, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| or(at(node, &format!("/status/nodeInfo/{field}")), "<unknown>").into();
    vec![
        read::name(node),
        status(node).into(),
        roles(node).into(),
        read::age(node, now),
        at(node, "/status/nodeInfo/kubeletVersion").into(),
        address(node, "InternalIP").into(),
        address(node, "ExternalIP").into(),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Value) -> String {
    let ready = list(node, "/status/conditions").iter().find(|c| at(c, "/type") == "Ready");
    let mut text = match ready.map(|c| at(c, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if flag(node, "/spec/unschedulable") {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Value) -> String {
    let Some(Value::Object(labels)) = node.pointer("/metadata/labels") else { return "<none>".to_owned() };
    let mut roles: Vec<&str> = labels
        .iter()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

fn address<'a>(node: &'a Value, ty: &str) -> &'a str {
    let found = list(node, "/status/addresses").iter().find(|a| at(a, "/type") == ty);
    found.map_or("<none>", |a| at(a, "/address"))
}
