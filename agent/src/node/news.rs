//! Events about the node itself, in the kubelet's words. Pure: what is sent, and when, is the caller's business.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, NodeCondition, ObjectReference};

use crate::events::build::{KUBELET, Said};

/// The first thing a kubelet says.
pub fn starting(node: &str, at: Timestamp) -> Event {
    event(node, false, "Starting", "Starting kubelet.", at)
}

/// What changed from one report to the next. A node that never was ready is not told to have become not ready.
pub fn changes(node: &str, before: &[NodeCondition], after: &[NodeCondition], at: Timestamp) -> Vec<Event> {
    let was = |kind: &str| before.iter().find(|condition| condition.type_ == kind);
    let moved = after.iter().filter(|condition| {
        was(&condition.type_).map_or(!is_first_not_ready(condition), |was| was.status != condition.status)
    });
    let reasons = moved.filter_map(|condition| reason(&condition.type_, &condition.status));
    reasons
        .enumerate()
        .map(|(order, reason)| {
            // Names carry the time: those of one moment must differ.
            let apart = SignedDuration::from_nanos(i64::try_from(order + 1).unwrap_or_default());
            let at = at.saturating_add(apart).unwrap_or(at);
            event(node, false, reason, &format!("Node {node} status is now: {reason}"), at)
        })
        .collect()
}

fn is_first_not_ready(condition: &NodeCondition) -> bool {
    condition.type_ == "Ready" && condition.status != "True"
}

fn reason(kind: &str, status: &str) -> Option<&'static str> {
    Some(match (kind, status) {
        ("Ready", "True") => "NodeReady",
        ("Ready", "False") => "NodeNotReady",
        ("MemoryPressure", "False") => "NodeHasSufficientMemory",
        ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
        ("DiskPressure", "False") => "NodeHasNoDiskPressure",
        ("DiskPressure", "True") => "NodeHasDiskPressure",
        ("PIDPressure", "False") => "NodeHasSufficientPID",
        ("PIDPressure", "True") => "NodeHasInsufficientPID",
        _ => return None,
    })
}

/// An event about the node.
pub fn event(node: &str, warning: bool, reason: &str, message: &str, at: Timestamp) -> Event {
    // A kubelet takes the name for the UID, and `kubectl describe node` looks for that.
    let (kind, name, uid) = (Some("Node".to_owned()), Some(node.to_owned()), Some(node.to_owned()));
    let object = ObjectReference { kind, name, uid, ..ObjectReference::default() };
    Said { component: KUBELET, node, warning, reason, message, at }.about(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(text: &str) -> Vec<NodeCondition> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(kind, status)| NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                ..NodeCondition::default()
            })
            .collect()
    }

    fn check(before: &str, after: &str, expected: &str) {
        let told = changes("n1", &conditions(before), &conditions(after), Timestamp::UNIX_EPOCH);
        let reasons: Vec<_> = told.iter().filter_map(|event| event.reason.as_deref()).collect();
        assert_eq!(reasons.join(" "), expected, "{before} -> {after}");
        let mut names: Vec<_> = told.iter().map(|event| event.metadata.name.clone()).collect();
        names.dedup();
        assert_eq!(names.len(), told.len());
    }

    #[test]
    fn what_moved_is_told() {
        check(
            "",
            "MemoryPressure=False DiskPressure=False PIDPressure=False Ready=False",
            "NodeHasSufficientMemory NodeHasNoDiskPressure NodeHasSufficientPID",
        );
        check("Ready=False", "Ready=True", "NodeReady");
        check("", "Ready=True", "NodeReady");
        check("Ready=True", "Ready=True", "");
        check(
            "Ready=True DiskPressure=False",
            "Ready=False DiskPressure=True",
            "NodeNotReady NodeHasDiskPressure",
        );
        check("Ready=Unknown", "Ready=True", "NodeReady");
    }

    #[test]
    fn as_upstream_writes_it() {
        let event = starting("n1", Timestamp::from_second(7).unwrap());
        assert_eq!(event.message.as_deref(), Some("Starting kubelet."));
        assert_eq!(event.involved_object.uid.as_deref(), Some("n1"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }
}
