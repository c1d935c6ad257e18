//! Field errors in upstream's wording, collected by validation.

use serde_json::{Value, json};

/// One finding about one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Upstream's reason, e.g. `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path, e.g. `spec.containers[0].name`.
    pub field: String,
    /// What is wrong, without the path.
    pub message: String,
}

/// All findings about one object.
#[derive(Clone, Debug, Default)]
pub struct Causes {
    list: Vec<Cause>,
}

impl Causes {
    /// Nothing found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What was found.
    pub fn list(&self) -> &[Cause] {
        &self.list
    }

    fn push(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        self.list.push(Cause { reason, field: field.into(), message });
    }

    /// A value must be given.
    pub fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueRequired", field, with_detail("Required value".into(), detail));
    }

    /// A value breaks a rule.
    pub fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.push("FieldValueInvalid", field, with_detail(format!("Invalid value: {}", show(value)), detail));
    }

    /// A value of the wrong type.
    pub fn type_invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.push(
            "FieldValueTypeInvalid",
            field,
            with_detail(format!("Invalid value: {}", show(value)), detail),
        );
    }

    /// A value outside an enumeration.
    pub fn not_supported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        self.push("FieldValueNotSupported", field, format!("Unsupported value: {}: {detail}", show(value)));
    }

    /// A field that must not be set or changed.
    pub fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueForbidden", field, with_detail("Forbidden".into(), detail));
    }

    /// A value that occurs twice.
    pub fn duplicate(&mut self, field: impl Into<String>, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {}", show(value)));
    }

    /// A reference to nothing.
    pub fn not_found(&mut self, field: impl Into<String>, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {}", show(value)));
    }

    /// A value longer than allowed.
    pub fn too_long(&mut self, field: impl Into<String>, detail: &str) {
        self.push("FieldValueTooLong", field, with_detail("Too long".into(), detail));
    }

    /// A list longer than allowed.
    pub fn too_many(&mut self, field: impl Into<String>, count: usize, most: usize) {
        let detail = format!("must have at most {most} items");
        self.push("FieldValueTooMany", field, with_detail(format!("Too many: {count}"), &detail));
    }

    /// All findings as one text: `a: x`, or `[a: x, b: y]`.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for Cause { field, message, .. } in &self.list {
            let line = format!("{field}: {message}");
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        if lines.len() == 1 { lines.remove(0) } else { format!("[{}]", lines.join(", ")) }
    }

    /// `details.causes` of a Status.
    pub fn json(&self) -> Value {
        self.list
            .iter()
            .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
            .collect()
    }
}

fn with_detail(text: String, detail: &str) -> String {
    if detail.is_empty() { text } else { format!("{text}: {detail}") }
}

/// Strings quoted, everything else as JSON.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}
