//! Events are one thing under two groups: stored as core/v1, served as events.k8s.io/v1 too.

use serde_json::{Map, Value};

use super::Convert;

/// Between events.k8s.io/v1 and core/v1.
pub(super) const CONVERT: Convert = Convert { from_stored, to_stored };

/// core/v1 name, events.k8s.io/v1 name.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn from_stored(event: Value) -> Value {
    rename(event, "events.k8s.io/v1", |name| {
        RENAMED.iter().find(|(core, _)| *core == name).map(|(_, new)| *new)
    })
}

fn to_stored(event: Value) -> Value {
    rename(event, "v1", |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
}

fn rename(event: Value, api_version: &str, other: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else { return event };
    let mut renamed: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (other(&name).map_or(name, str::to_owned), value)).collect();
    renamed.insert("apiVersion".into(), api_version.into());
    Value::Object(renamed)
}
