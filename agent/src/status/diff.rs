//! The smallest strategic merge patch that turns one status into another.
//!
//! Whole fields are compared; conditions are sent one by one, so that those of other owners stay untouched.

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use crate::pod::status::{OUR_CONDITIONS, RESIZE_CONDITIONS};

/// Lists that merge by a key in a strategic patch; a changed one has to be replaced as a whole.
const MERGED: [&str; 3] = ["podIPs", "hostIPs", "resourceClaimStatuses"];

/// The patch, or nothing if there is nothing to say.
pub fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (old, new) = (fields(old), fields(new));
    let mut changes = Map::new();
    for (field, value) in &new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        let change = match field.as_str() {
            "conditions" => changed_conditions(before, value),
            field if MERGED.contains(&field) && before.is_some() => replaced(value),
            _ => value.clone(),
        };
        changes.insert(field.clone(), change);
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        changes.insert(field.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": changes }))
}

/// Whether the API server says something else than it was told about the phase or one of our conditions. The node
/// controller does so for the pods of a node that it took for dead.
pub fn contradicts(api: &PodStatus, told: &PodStatus) -> bool {
    let says = |status: &PodStatus, kind: &str| {
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == kind);
        condition.map(|condition| condition.status.clone())
    };
    let differs = |kind: &str| says(told, kind).is_some() && says(api, kind) != says(told, kind);
    (told.phase.is_some() && api.phase != told.phase) || OUR_CONDITIONS.iter().any(|kind| differs(kind))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn changed_conditions(before: Option<&Value>, now: &Value) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list(before);
    let mut changed: Vec<_> = list(Some(now)).into_iter().filter(|c| !before.contains(c)).collect();
    for condition in &mut changed {
        let known = before.iter().find(|known| known["type"] == condition["type"]);
        // What a condition no longer says has to be taken back: a strategic merge keeps absent fields.
        let gone = known.and_then(Value::as_object).into_iter().flat_map(|known| known.keys());
        for field in gone {
            if condition.get(field).is_none() {
                condition[field] = Value::Null;
            }
        }
    }
    // Only ours: those of other owners are not in what we say by chance.
    let ended = before.iter().filter(|known| {
        let kind = known["type"].as_str().unwrap_or_default();
        RESIZE_CONDITIONS.contains(&kind) && !list(Some(now)).iter().any(|c| c["type"] == known["type"])
    });
    changed.extend(ended.map(|known| json!({ "$patch": "delete", "type": known["type"] })));
    Value::Array(changed)
}

fn replaced(value: &Value) -> Value {
    let mut list = vec![json!({ "$patch": "replace" })];
    list.extend(value.as_array().cloned().unwrap_or_default());
    Value::Array(list)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(old: &str, new: &str, expect: Expect) {
        let parse = |text: &str| serde_norway::from_str::<PodStatus>(text).unwrap();
        let patch = patch("u", &parse(old), &parse(new));
        expect.assert_eq(&patch.map_or("nothing".into(), |patch| patch["status"].to_string()));
    }

    #[test]
    fn nothing_new_is_nothing_to_say() {
        check("{phase: Running}", "{phase: Running}", expect!["nothing"]);
    }

    #[test]
    fn changed_and_vanished_fields() {
        check(
            "{phase: Running, reason: Evicted}",
            "{phase: Failed}",
            expect![[r#"{"phase":"Failed","reason":null}"#]],
        );
    }

    #[test]
    fn only_changed_conditions() {
        check(
            "{conditions: [{type: A, status: 'True'}, {type: B, status: 'False', reason: R}]}",
            "{conditions: [{type: A, status: 'True'}, {type: B, status: 'True'}]}",
            expect![[r#"{"conditions":[{"reason":null,"status":"True","type":"B"}]}"#]],
        );
    }

    #[test]
    fn only_what_is_ours_can_be_contradicted() {
        let parse = |text: &str| serde_norway::from_str::<PodStatus>(text).unwrap();
        let told = parse("{phase: Running, conditions: [{type: Ready, status: 'True'}]}");
        let by_others =
            "{phase: Running, conditions: [{type: Ready, status: 'True'}, {type: X, status: 'True'}]}";
        assert!(!contradicts(&parse(by_others), &told));
        assert!(contradicts(&parse("{phase: Running, conditions: [{type: Ready, status: 'False'}]}"), &told));
    }

    #[test]
    fn another_address_replaces_the_list() {
        check(
            "{podIPs: [{ip: 10.0.0.1}]}",
            "{podIPs: [{ip: 10.0.0.2}]}",
            expect![[r#"{"podIPs":[{"$patch":"replace"},{"ip":"10.0.0.2"}]}"#]],
        );
    }
}
