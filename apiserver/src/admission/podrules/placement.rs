//! Where a pod may run: node name and affinity, tolerations, spreading, gates.

use orlop_model::names;
use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const WHEN: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];

/// Everything about placement in a spec at `at`.
pub(super) fn validate(spec: &Value, at: &str, causes: &mut Causes) {
    let node = text(spec, "nodeName");
    for error in (!node.is_empty()).then(|| names::dns1123_subdomain_errors(node)).into_iter().flatten() {
        causes.invalid(format!("{at}.nodeName"), &node.into(), &error);
    }
    for (i, toleration) in items(spec, "tolerations").iter().enumerate() {
        self::toleration(toleration, &format!("{at}.tolerations[{i}]"), causes);
    }
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        for error in names::label_key_errors(text(gate, "conditionType")) {
            let field = format!("{at}.readinessGates[{i}].conditionType");
            causes.invalid(field, &gate["conditionType"], &error);
        }
    }
    node_affinity(&spec["affinity"]["nodeAffinity"], &format!("{at}.affinity.nodeAffinity"), causes);
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let field = format!("{at}.topologySpreadConstraints[{i}]");
        let (key, when) = (text(constraint, "topologyKey"), text(constraint, "whenUnsatisfiable"));
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            causes.invalid(format!("{field}.maxSkew"), &skew.into(), "must be greater than zero");
        }
        if key.is_empty() {
            causes.required(format!("{field}.topologyKey"), "can not be empty");
        }
        if !WHEN.contains(&when) {
            causes.not_supported(format!("{field}.whenUnsatisfiable"), &when.into(), WHEN);
        }
        if seen.contains(&(key, when)) {
            let pair = format!("{{{key}, {when}}}");
            causes.duplicate(format!("{field}.{{topologyKey, whenUnsatisfiable}}"), &pair.into());
        }
        seen.push((key, when));
    }
}

fn toleration(toleration: &Value, at: &str, causes: &mut Causes) {
    let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
    let (value, effect) = (text(toleration, "value"), text(toleration, "effect"));
    for error in (!key.is_empty()).then(|| names::label_key_errors(key)).into_iter().flatten() {
        causes.invalid(format!("{at}.key"), &key.into(), &error);
    }
    let at_operator = format!("{at}.operator");
    if key.is_empty() && operator != "Exists" {
        let detail =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        causes.invalid(at_operator.clone(), &operator.into(), detail);
    }
    if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        causes.invalid(format!("{at}.effect"), &effect.into(), detail);
    }
    match operator {
        "" | "Equal" => {
            let errors = names::label_value_errors(value);
            if !errors.is_empty() {
                causes.invalid(at_operator, &value.into(), &errors.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            causes.invalid(at_operator, toleration, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        other => causes.not_supported(at_operator, &other.into(), &["Equal", "Exists"]),
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        causes.not_supported(format!("{at}.effect"), &effect.into(), EFFECTS);
    }
}

fn node_affinity(affinity: &Value, at: &str, causes: &mut Causes) {
    let required = &affinity["requiredDuringSchedulingIgnoredDuringExecution"];
    if !required.is_null() {
        let field = format!("{at}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms");
        let terms = items(required, "nodeSelectorTerms");
        if terms.is_empty() {
            causes.required(field.clone(), "must have at least one node selector term");
        }
        for (i, term) in terms.iter().enumerate() {
            requirements(term, &format!("{field}[{i}]"), causes);
        }
    }
    for (i, preferred) in
        items(affinity, "preferredDuringSchedulingIgnoredDuringExecution").iter().enumerate()
    {
        let field = format!("{at}.preferredDuringSchedulingIgnoredDuringExecution[{i}]");
        let weight = preferred["weight"].as_i64().unwrap_or(0);
        if !(1..=100).contains(&weight) {
            causes.invalid(format!("{field}.weight"), &weight.into(), "must be in the range 1-100");
        }
        requirements(&preferred["preference"], &format!("{field}.preference"), causes);
    }
}

fn requirements(term: &Value, at: &str, causes: &mut Causes) {
    for (i, requirement) in items(term, "matchExpressions").iter().enumerate() {
        let field = format!("{at}.matchExpressions[{i}]");
        let (operator, count) = (text(requirement, "operator"), items(requirement, "values").len());
        let values = format!("{field}.values");
        match operator {
            "In" | "NotIn" if count == 0 => {
                causes.required(values, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if count > 0 => {
                causes
                    .forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if count != 1 => {
                causes.required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                causes.invalid(format!("{field}.operator"), &other.into(), "not a valid selector operator");
            }
        }
        for error in names::label_key_errors(text(requirement, "key")) {
            causes.invalid(format!("{field}.key"), &requirement["key"], &error);
        }
    }
}
