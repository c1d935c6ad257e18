//! A container's own restart policy and its rules for exit codes (KEP-5307).
//!
//! Not for: the pod's policy, nor what a controller's template must have.

use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};

const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const MAX_RULES: usize = 20;
const MAX_VALUES: usize = 255;

/// Checks the container found at `at`.
pub(super) fn validate(container: &Value, at: &str, causes: &mut Causes) {
    let policy = container.get("restartPolicy").filter(|policy| !policy.is_null());
    let field = format!("{at}.restartPolicy");
    if let Some(policy) =
        policy.filter(|policy| !policy.as_str().is_some_and(|text| POLICIES.contains(&text)))
    {
        causes.not_supported(field.clone(), policy, POLICIES);
    }
    let rules = items(container, "restartPolicyRules");
    if policy.is_none() && !rules.is_empty() {
        causes.required(field, "must specify restartPolicy when restart rules are used");
    }
    let field = format!("{at}.restartPolicyRules");
    if rules.len() > MAX_RULES {
        causes.too_many(field.clone(), rules.len(), MAX_RULES);
    }
    for (i, of) in rules.iter().enumerate() {
        rule(of, &format!("{field}[{i}]"), causes);
    }
}

fn rule(rule: &Value, at: &str, causes: &mut Causes) {
    if text(rule, "action") != "Restart" {
        causes.not_supported(format!("{at}.action"), &text(rule, "action").into(), &["Restart"]);
    }
    let field = format!("{at}.exitCodes");
    let Some(codes) = rule.get("exitCodes").filter(|codes| !codes.is_null()) else {
        return causes.required(field, "must be specified");
    };
    let operator = text(codes, "operator");
    if !OPERATORS.contains(&operator) {
        causes.not_supported(format!("{field}.operator"), &operator.into(), OPERATORS);
    }
    let values = items(codes, "values").len();
    if values > MAX_VALUES {
        causes.too_many(format!("{field}.values"), values, MAX_VALUES);
    }
}
