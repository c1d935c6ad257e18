//! [pure] Conditions of a silent node, and the taints that follow from a node's conditions.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

pub(super) use k8s_openapi::api::core::v1::Taint;

const KINDS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// (condition, status, taint)
const TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_deref()?.iter().find(|condition| condition.type_ == kind)
}

/// When the node last said how it is.
pub(super) fn heartbeat(node: &Node) -> Option<Time> {
    condition(node, "Ready")?.last_heartbeat_time.clone()
}

/// Whether the node is known not to work.
pub(super) fn is_down(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status != "True")
}

/// What to write into the status of a node that is silent; nothing when it is not, or is marked already.
pub(super) fn conditions(node: &Node, silent: bool, now: Timestamp) -> Option<Value> {
    let changed = |kind: &&&str| condition(node, kind).is_none_or(|condition| condition.status != "Unknown");
    if !silent || !KINDS.iter().any(|kind| changed(&kind)) {
        return None;
    }
    let unknown = KINDS.iter().filter(changed).map(|kind| {
        let known = condition(node, kind);
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        json!({
            "type": kind,
            "status": "Unknown",
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": match known {
                Some(known) => known.last_heartbeat_time.clone(),
                None => node.metadata.creation_timestamp.clone(),
            },
            "lastTransitionTime": Time(now),
        })
    });
    Some(unknown.collect())
}

/// The taints that the node should have, if they differ. Taints of others stay as they are.
pub(super) fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let spec = node.spec.as_ref();
    let known = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in TAINTS {
        if condition(node, kind).is_some_and(|condition| condition.status == status) {
            wanted.push((key, "NoSchedule"));
            if kind == "Ready" {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if spec.is_some_and(|spec| spec.unschedulable == Some(true)) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // A node that has not told how it is yet keeps the taint it was made with.
    let unknown = condition(node, "Ready").is_none();
    let ours = |taint: &Taint| {
        let key = |key: &str| taint.key == key && !(unknown && key == TAINTS[0].2);
        taint.effect != "PreferNoSchedule" && (TAINTS.iter().any(|(_, _, k)| key(k)) || key(UNSCHEDULABLE))
    };
    let is = |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let mut taints: Vec<_> =
        known.iter().filter(|t| !ours(t) || wanted.iter().any(|w| is(t, w))).cloned().collect();
    let missing = wanted.iter().filter(|wanted| !known.iter().any(|taint| is(taint, wanted)));
    taints.extend(missing.map(|(key, effect)| Taint {
        key: (*key).to_owned(),
        effect: (*effect).to_owned(),
        time_added: Some(Time(now)),
        value: None,
    }));
    (taints != known).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn node(conditions: &str, spec: &str) -> Node {
        yaml(&format!("{{spec: {{{spec}}}, status: {{conditions: [{conditions}]}}}}"))
    }

    fn check_taints(conditions: &str, spec: &str, expected: Option<&[&str]>) {
        let taints = taints(&node(conditions, spec), Timestamp::UNIX_EPOCH);
        let short = |t: Taint| format!("{}:{}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect);
        let expected = expected.map(|list| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(taints.map(|list| list.into_iter().map(short).collect()), expected, "{conditions} {spec}");
    }

    #[test]
    fn taints_follow_conditions() {
        let ready = "{type: Ready, status: 'True'}";
        check_taints(ready, "", None);
        check_taints(
            "{type: Ready, status: 'False'}",
            "",
            Some(&["not-ready:NoSchedule", "not-ready:NoExecute"]),
        );
        check_taints(
            "{type: Ready, status: Unknown}",
            "taints: [{key: own, effect: NoSchedule}, {key: node.kubernetes.io/not-ready, effect: NoSchedule}]",
            Some(&["own:NoSchedule", "unreachable:NoSchedule", "unreachable:NoExecute"]),
        );
        check_taints(ready, "taints: [{key: node.kubernetes.io/not-ready, effect: NoSchedule}]", Some(&[]));
        check_taints(ready, "unschedulable: true", Some(&["unschedulable:NoSchedule"]));
        check_taints("", "taints: [{key: node.kubernetes.io/not-ready, effect: NoSchedule}]", None);
        check_taints(
            "{type: Ready, status: 'True'}, {type: DiskPressure, status: 'True'}",
            "",
            Some(&["disk-pressure:NoSchedule"]),
        );
    }

    #[test]
    fn a_silent_node_is_unknown_once() {
        let alive = node("{type: Ready, status: 'True'}", "");
        assert_eq!(conditions(&alive, false, Timestamp::UNIX_EPOCH), None);
        let written = conditions(&alive, true, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(written[0]["reason"], "NodeStatusUnknown");
        assert_eq!(written[0]["message"], "Kubelet stopped posting node status.");
        assert_eq!(written[1]["reason"], "NodeStatusNeverUpdated");
        let all = KINDS.map(|kind| format!("{{type: {kind}, status: Unknown}}")).join(", ");
        assert_eq!(conditions(&node(&all, ""), true, Timestamp::UNIX_EPOCH), None);
    }
}
