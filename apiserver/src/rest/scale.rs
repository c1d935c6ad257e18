//! The `scale` subresource: replicas of a workload as an autoscaling/v1 Scale.

use http::{Response, StatusCode};
use orlop_model::selectors::LabelSelector;
use serde_json::{Map, Value, json};

use super::body::Body;
use super::encode::{self, Encoder};
use super::patching::Patch;
use super::status::Failure;
use super::update::{Intent, Part};
use super::write::parse;
use super::{Api, Call, Target, object};
use crate::kinds::{Gvk, Kind};

const SCALE: Gvk = Gvk { group: "autoscaling", version: "v1", kind: "Scale" };

impl Api {
    pub(super) async fn scale(
        &self,
        call: &Call,
        verb: &str,
        target: Target,
    ) -> Result<Response<Body>, Failure> {
        let kind = target.kind;
        let encoder = Encoder::new(kind, call.form, &call.query)?;
        if verb == "get" {
            let stored =
                self.store.get(&target.key()).ok_or_else(|| Failure::not_found(kind, &target.name))?;
            return Ok(encoder.respond_other(StatusCode::OK, scale_of(&parse(&stored.value)?)));
        }
        let patch = if verb == "patch" { Some(Patch::read(call, SCALE)?) } else { None };
        let (given, mut warnings) = match &patch {
            Some(_) => (Value::Null, Vec::new()),
            None => {
                let decoded = call.decode(SCALE)?;
                (decoded.value, decoded.warnings)
            }
        };
        let stored = self
            .change(&target, &Intent::of(call, Part::Main, "scale")?, |old| {
                let wanted = match &patch {
                    Some(patch) => patch.apply(&scale_of(old))?.value,
                    None => given.clone(),
                };
                with_scale(old, &wanted, kind, &target.name)
            })
            .await?;
        if patch.is_some() {
            warnings.clear();
        }
        Ok(encode::warn(encoder.respond_other(StatusCode::OK, scale_of(&stored)), &warnings))
    }
}

fn with_scale(old: &Value, scale: &Value, kind: &Kind, name: &str) -> Result<Value, Failure> {
    let replicas = object::at(scale, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let mut causes = crate::admission::Causes::default();
        causes.invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
        let scale_kind = Kind { gvk: SCALE, ..*kind };
        return Err(Failure::invalid(&scale_kind, name, &causes));
    }
    let mut new = old.clone();
    for key in ["resourceVersion", "uid"] {
        object::set(object::metadata(&mut new), key, object::at(scale, &["metadata", key]).cloned());
    }
    object::child(&mut new, "spec").insert("replicas".into(), replicas.into());
    Ok(new)
}

fn scale_of(workload: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        object::set(&mut metadata, key, object::at(workload, &["metadata", key]).cloned());
    }
    let replicas = object::at(workload, &["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": object::at(workload, &["status", "replicas"]).and_then(Value::as_i64).unwrap_or(0)});
    if let Some(selector) = selector_text(&workload["spec"]["selector"]) {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": replicas}, "status": status,
    })
}

/// A label selector in its text form.
fn selector_text(selector: &Value) -> Option<String> {
    let labels: Vec<(String, String)> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let expressions = expressions.into_iter().flatten().map(|e| {
        let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
        let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
        (object::text(e, &["key"]), object::text(e, &["operator"]), values)
    });
    LabelSelector::from_match(labels.iter().map(|(k, v)| (k, v)), expressions).ok().map(|s| s.to_string())
}
