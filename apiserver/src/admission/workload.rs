//! Deployments and ReplicaSets: defaults, and selectors that fit their template and never change.

use std::collections::BTreeMap;

use orlop_model::selectors::LabelSelector;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{items, or, or_text, text};
use super::{Surroundings, meta, podrules, podspec};
use crate::kinds::Hooks;
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of deployments.
pub const DEPLOYMENT: Hooks = Hooks {
    default: default_deployment,
    prepare_create: reset_status,
    validate: validate_deployment,
    validate_update: immutable_selector,
    ..Hooks::NONE
};

/// Code of replica sets.
pub const REPLICA_SET: Hooks = Hooks {
    default: default_replica_set,
    prepare_create: reset_replica_set_status,
    validate: |set, causes| validate_template(set, "replicaset", causes),
    validate_update: immutable_selector,
    ..Hooks::NONE
};

fn reset_status(object: &mut Value, _: &dyn Surroundings) -> Result<(), Failure> {
    object["status"] = json!({});
    Ok(())
}

fn reset_replica_set_status(object: &mut Value, _: &dyn Surroundings) -> Result<(), Failure> {
    object["status"] = json!({"replicas": 0});
    Ok(())
}

fn default_replica_set(set: &mut Value) {
    let spec = object::child(set, "spec");
    or(spec, "replicas", 1);
    if let Some(template) = spec.get_mut("template") {
        podspec::default(object::child(template, "spec"));
    }
}

fn default_deployment(deployment: &mut Value) {
    default_replica_set(deployment);
    let spec = object::child(deployment, "spec");
    or(spec, "revisionHistoryLimit", 10);
    or(spec, "progressDeadlineSeconds", 600);
    or(spec, "strategy", json!({}));
    let Some(strategy) = spec.get_mut("strategy") else { return };
    or_text(object::map(strategy), "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object::child(strategy, "rollingUpdate");
        or(rolling, "maxUnavailable", "25%");
        or(rolling, "maxSurge", "25%");
    }
}

fn validate_deployment(deployment: &Value, causes: &mut Causes) {
    validate_template(deployment, "deployment", causes);
    let spec = &deployment["spec"];
    let strategy = &spec["strategy"];
    let at = "spec.strategy";
    match text(strategy, "type") {
        "RollingUpdate" => {
            let rolling = &strategy["rollingUpdate"];
            let (unavailable, surge) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            amount(unavailable, &format!("{at}.rollingUpdate.maxUnavailable"), causes);
            amount(surge, &format!("{at}.rollingUpdate.maxSurge"), causes);
            let percent = unavailable.as_str().and_then(|text| text.strip_suffix('%')?.parse::<u64>().ok());
            if percent.is_some_and(|percent| percent > 100) {
                let field = format!("{at}.rollingUpdate.maxUnavailable");
                causes.invalid(field, unavailable, "must not be greater than 100%");
            }
            if is_zero(unavailable) && is_zero(surge) {
                let field = format!("{at}.rollingUpdate.maxUnavailable");
                causes.invalid(field, unavailable, "may not be 0 when `maxSurge` is 0");
            }
        }
        "Recreate" => {
            if strategy.get("rollingUpdate").is_some_and(|r| !r.is_null()) {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                causes.forbidden(format!("{at}.rollingUpdate"), detail);
            }
        }
        other => causes.not_supported(format!("{at}.type"), &other.into(), &["Recreate", "RollingUpdate"]),
    }
    for key in ["revisionHistoryLimit", "progressDeadlineSeconds", "minReadySeconds"] {
        if let Some(number) = spec[key].as_i64().filter(|n| *n < 0) {
            causes.invalid(format!("spec.{key}"), &number.into(), podrules::NOT_NEGATIVE);
        }
    }
    let (deadline, ready) = (&spec["progressDeadlineSeconds"], spec["minReadySeconds"].as_i64().unwrap_or(0));
    if deadline.as_i64().is_some_and(|d| d <= ready) {
        causes.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
    }
}

fn validate_template(workload: &Value, kind: &str, causes: &mut Causes) {
    let spec = &workload["spec"];
    if let Some(replicas) = spec["replicas"].as_i64().filter(|n| *n < 0) {
        causes.invalid("spec.replicas", &replicas.into(), podrules::NOT_NEGATIVE);
    }
    let selector = selector(&spec["selector"], kind, causes);
    let labels = &spec["template"]["metadata"]["labels"];
    if let Some(selector) = selector {
        let map: BTreeMap<String, String> = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect();
        if !selector.matches(&map) {
            let shown = if labels.is_null() { json!({}) } else { labels.clone() };
            let detail = "`selector` does not match template `labels`";
            causes.invalid("spec.template.metadata.labels", &shown, detail);
        }
    }
    meta::labels(labels, "spec.template.metadata.labels", causes);
    let pod = &spec["template"]["spec"];
    podrules::validate(pod, "spec.template.spec", causes);
    let policy = text(pod, "restartPolicy");
    if !matches!(policy, "" | "Always") {
        causes.not_supported("spec.template.spec.restartPolicy", &policy.into(), &["Always"]);
    }
    if !pod["activeDeadlineSeconds"].is_null() {
        causes.forbidden(
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        );
    }
}

fn selector(selector: &Value, kind: &str, causes: &mut Causes) -> Option<LabelSelector> {
    if selector.is_null() {
        causes.required("spec.selector", "");
        return None;
    }
    let labels: Vec<(String, String)> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
        .collect();
    let expressions = items(selector, "matchExpressions");
    if labels.is_empty() && expressions.is_empty() {
        causes.invalid("spec.selector", selector, &format!("empty selector is invalid for {kind}"));
        return None;
    }
    let expressions = expressions.iter().map(|e| {
        let values = items(e, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        (text(e, "key"), text(e, "operator"), values)
    });
    match LabelSelector::from_match(labels.iter().map(|(k, v)| (k, v)), expressions) {
        Ok(selector) => Some(selector),
        Err(error) => {
            causes.invalid("spec.selector", selector, &error.to_string());
            None
        }
    }
}

fn immutable_selector(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    if new != old {
        causes.invalid("spec.selector", new, "field is immutable");
    }
}

/// A number or a percentage, not negative.
fn amount(value: &Value, field: &str, causes: &mut Causes) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|n| n >= 0) => {}
        Value::Number(_) => causes.invalid(field, value, podrules::NOT_NEGATIVE),
        Value::String(text) => {
            let digits = text.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                let detail = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
                causes.invalid(field, value, detail);
            }
        }
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || value.as_str().is_some_and(|t| t.trim_end_matches('%').parse() == Ok(0))
}
