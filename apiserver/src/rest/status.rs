//! Failures as upstream words them: the `Status` object, its code, reason and message.

use serde_json::{Map, Value, json};

use crate::admission::Causes;
use crate::kinds::Kind;

/// A request that ends in a Status of `Failure`.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, empty for none.
    pub reason: &'static str,
    /// Message for people.
    pub message: String,
    /// `details`, if any.
    pub details: Option<Value>,
    /// `metadata.continue`, for expired pages.
    pub continue_token: Option<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// A failure without details.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None, continue_token: None }
    }

    fn of(mut self, kind: &Kind, name: &str) -> Self {
        self.details = Some(details(kind.gvk.group, kind.resource, name));
        self
    }

    /// 404 for an object.
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", kind.qualified_resource())).of(kind, name)
    }

    /// 404 for a path.
    pub fn no_such_path() -> Self {
        let mut failure = Self::new(404, "NotFound", "the server could not find the requested resource");
        failure.details = Some(json!({}));
        failure
    }

    /// 409 for a name that is taken.
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        let text = format!("{} {name:?} already exists", kind.qualified_resource());
        Self::new(409, "AlreadyExists", text).of(kind, name)
    }

    /// 409 with a detail.
    pub fn conflict(kind: &Kind, name: &str, detail: &str) -> Self {
        let text =
            format!("Operation cannot be fulfilled on {} {name:?}: {detail}", kind.qualified_resource());
        Self::new(409, "Conflict", text).of(kind, name)
    }

    /// 409 for a stale resourceVersion.
    pub fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with the findings of validation.
    pub fn invalid(kind: &Kind, name: &str, causes: &Causes) -> Self {
        let text = format!("{} {name:?} is invalid: {}", kind.qualified_kind(), causes.text());
        Self::invalid_text(kind, name, text, causes)
    }

    fn invalid_text(kind: &Kind, name: &str, text: String, causes: &Causes) -> Self {
        let mut failure = Self::new(422, "Invalid", text);
        let mut details = details(kind.gvk.group, kind.gvk.kind, name);
        details["causes"] = causes.json();
        failure.details = Some(details);
        failure
    }

    /// 403 about an object.
    pub fn forbidden(kind: &Kind, name: &str, detail: &str) -> Self {
        let text = format!("{} {name:?} is forbidden: {detail}", kind.qualified_resource());
        Self::new(403, "Forbidden", text).of(kind, name)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        let mut failure = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        failure.details = Some(json!({}));
        failure
    }

    /// 410: too old a resourceVersion.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 415 with the list of what would do.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let text = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", text)
    }

    /// 406.
    pub fn not_acceptable() -> Self {
        let text = "only the following media types are accepted: application/json";
        Self::new(406, "NotAcceptable", text)
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
    }

    /// 429: try later.
    pub fn too_many(message: impl Into<String>, seconds: u32) -> Self {
        let mut failure = Self::new(429, "TooManyRequests", message);
        failure.details = Some(json!({"retryAfterSeconds": seconds}));
        failure
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let mut failure = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        failure.details = Some(json!({"causes": [{"message": message.to_string()}]}));
        failure
    }

    /// 504: the resourceVersion lies in the future.
    pub fn too_large_version(wanted: u64, current: u64) -> Self {
        let text = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut failure = Self::new(504, "Timeout", text);
        failure.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        failure
    }

    /// The Status object.
    pub fn to_json(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.clone().into());
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata,
            "status": "Failure", "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }

    /// `Retry-After`, where upstream sends one.
    pub fn retry_after(&self) -> Option<u64> {
        self.details.as_ref()?.get("retryAfterSeconds")?.as_u64()
    }
}

fn details(group: &str, kind: &str, name: &str) -> Value {
    let mut details = Map::new();
    if !name.is_empty() {
        details.insert("name".into(), name.into());
    }
    if !group.is_empty() {
        details.insert("group".into(), group.into());
    }
    details.insert("kind".into(), kind.into());
    Value::Object(details)
}
