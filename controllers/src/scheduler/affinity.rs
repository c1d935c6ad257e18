//! [pure] Which nodes a pod accepts by their labels and which taints it tolerates.

use k8s_openapi::api::core::v1::{
    Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};

use crate::object::{labels, name};

/// Node selector and required node affinity.
pub(super) fn accepts(spec: &PodSpec, node: &Node) -> bool {
    let labels = labels(&node.metadata);
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|r| r.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// The weights of the preferred terms that the node satisfies.
pub(super) fn preference(spec: &PodSpec, node: &Node) -> i64 {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let satisfied = preferred.into_iter().flatten().filter(|term| matches(&term.preference, node));
    satisfied.map(|term| i64::from(term.weight)).sum()
}

/// A term without any requirement matches no node.
pub(crate) fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let labels = labels(&node.metadata);
    let field = |key: &str| (key == "metadata.name").then(|| name(&node.metadata));
    expressions.iter().all(|r| holds(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| holds(r, field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, limit)| have > limit),
        "Lt" => numbers().is_some_and(|(have, limit)| have < limit),
        _ => false,
    }
}

/// The first taint that keeps the pod away from the node.
pub(super) fn untolerated<'a>(spec: &PodSpec, node: &'a Node) -> Option<&'a Taint> {
    let hard = taints(node).filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
    hard.into_iter().find(|taint| !is_tolerated(spec, taint))
}

/// How many taints ask the pod to stay away where it can.
pub(super) fn unwelcome(spec: &PodSpec, node: &Node) -> usize {
    let soft = taints(node).filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !is_tolerated(spec, taint)).count()
}

fn taints(node: &Node) -> impl Iterator<Item = &Taint> {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten())
}

fn is_tolerated(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
}

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = given(&toleration.key).is_none_or(|key| key == taint.key);
    let value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => {
            let key_given = given(&toleration.key).is_some();
            key_given
                && toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
        }
    };
    effect && key && value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn check_affinity(pod: &str, node_labels: &str, expected: bool) {
        let node: Node = yaml(&format!("metadata: {{name: n1, labels: {node_labels}}}"));
        let spec: PodSpec = yaml(&format!("{{containers: [], {pod}}}"));
        assert_eq!(accepts(&spec, &node), expected, "{pod} on {node_labels}");
    }

    #[test]
    fn selectors_and_required_terms_must_hold() {
        let required = |term: &str| {
            format!(
                "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{term}]}}}}}}"
            )
        };
        check_affinity("nodeSelector: {disk: ssd}", "{disk: ssd}", true);
        check_affinity("nodeSelector: {disk: ssd}", "{disk: hdd}", false);
        for (term, labels, expected) in [
            ("{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}", "{zone: b}", true),
            ("{matchExpressions: [{key: zone, operator: NotIn, values: [a]}]}", "{}", true),
            ("{matchExpressions: [{key: cores, operator: Gt, values: ['4']}]}", "{cores: '8'}", true),
            ("{matchExpressions: [{key: cores, operator: Lt, values: ['4']}]}", "{cores: '8'}", false),
            ("{matchExpressions: [{key: zone, operator: Exists}]}", "{}", false),
            ("{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}", "{}", true),
            ("{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}", "{}", false),
            ("{}", "{}", false),
            ("{}, {matchExpressions: [{key: a, operator: DoesNotExist}]}", "{}", true),
        ] {
            check_affinity(&required(term), labels, expected);
        }
    }

    #[test]
    fn tolerations_match_as_upstream() {
        for (toleration, taint, expected) in [
            ("{operator: Exists}", "{key: a, value: b, effect: NoExecute}", true),
            ("{key: a, operator: Exists}", "{key: a, value: b, effect: NoSchedule}", true),
            ("{key: a, value: b}", "{key: a, value: b, effect: NoSchedule}", true),
            ("{key: a, value: c}", "{key: a, value: b, effect: NoSchedule}", false),
            ("{key: a, operator: Exists, effect: NoExecute}", "{key: a, effect: NoSchedule}", false),
            ("{key: a}", "{key: a, effect: NoSchedule}", true),
            ("{}", "{key: a, effect: NoSchedule}", false),
        ] {
            assert_eq!(tolerates(&yaml(toleration), &yaml(taint)), expected, "{toleration} on {taint}");
        }
    }
}
