//! Which objects of a list or watch are meant: label and field selectors.

use std::collections::BTreeMap;

use orlop_model::selectors::{FieldSelector, LabelSelector};
use serde_json::Value;

use super::object;
use super::query::Query;
use super::status::Failure;
use crate::kinds::Kind;

/// The selectors of a request.
#[derive(Clone, Debug)]
pub struct Filter {
    kind: &'static Kind,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Filter {
    /// Reads `labelSelector` and `fieldSelector`.
    pub fn parse(kind: &'static Kind, query: &Query) -> Result<Self, Failure> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|e| Failure::bad_request(format!("unable to parse requirement: {e}")))?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(|e| Failure::bad_request(e.to_string()))?;
        for requirement in &fields.requirements {
            let field = requirement.field.as_str();
            let known = ["metadata.name", "metadata.namespace"].contains(&field)
                || kind.selectable.iter().any(|s| s.path == field);
            if !known {
                let text = if kind.selectable.is_empty() {
                    format!(
                        "{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {field}")
                };
                return Err(Failure::bad_request(text));
            }
        }
        Ok(Self { kind, labels, fields })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The only name it can match, if it names one.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether an object is meant.
    pub fn matches(&self, value: &Value) -> bool {
        self.matches_labels(value) && self.matches_fields(value)
    }

    /// Whether serialized JSON is meant; broken bytes are not.
    pub fn matches_bytes(&self, bytes: &[u8]) -> bool {
        self.is_empty() || serde_json::from_slice(bytes).is_ok_and(|value| self.matches(&value))
    }

    fn matches_labels(&self, value: &Value) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let labels = object::at(value, &["metadata", "labels"]).and_then(Value::as_object);
        let labels: BTreeMap<String, String> = labels
            .into_iter()
            .flatten()
            .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
            .collect();
        self.labels.matches(&labels)
    }

    fn matches_fields(&self, value: &Value) -> bool {
        self.fields.requirements.iter().all(|r| (self.field(value, &r.field) == r.value) == r.equal)
    }

    fn field(&self, value: &Value, path: &str) -> String {
        let found = path.split('.').try_fold(value, |value, key| value.get(key));
        match found {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null | Value::Object(_) | Value::Array(_)) | None => {
                // `source` of an event means the component in it.
                if let Some(component) = found.and_then(|f| f.get("component")).and_then(Value::as_str) {
                    return component.to_owned();
                }
                let default = self.kind.selectable.iter().find(|s| s.path == path).map(|s| s.default);
                default.unwrap_or_default().to_owned()
            }
            Some(scalar) => scalar.to_string(),
        }
    }
}
