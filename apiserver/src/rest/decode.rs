//! Request bodies as objects of a kind.

use http::header::{CONTENT_TYPE, USER_AGENT};
use serde_json::Value;

use super::Call;
use super::status::Failure;
use crate::codec::{self, Decoded, Expected, FieldValidation};
use crate::kinds::Gvk;
use crate::patch::apply;

impl Call {
    /// `Content-Type`, if it was sent.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok())
    }

    /// The name a change is tracked under: `fieldManager`, or who the client says it is.
    pub(crate) fn manager(&self) -> String {
        let agent = self.headers.get(USER_AGENT).and_then(|v| v.to_str().ok());
        self.query.get("fieldManager").map_or_else(|| apply::default_manager(agent), str::to_owned)
    }

    /// The `fieldValidation` parameter.
    pub(crate) fn validation(&self) -> Result<FieldValidation, Failure> {
        let text = self.query.get("fieldValidation").unwrap_or_default();
        FieldValidation::parse(text).ok_or_else(|| {
            Failure::new(
                422,
                "Invalid",
                format!("fieldValidation: Unsupported value: {text:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""),
            )
        })
    }

    /// Whether nothing is to be written.
    pub(crate) fn dry_run(&self) -> Result<bool, Failure> {
        let values: Vec<&str> = self.query.all("dryRun").filter(|v| !v.is_empty()).collect();
        match values.as_slice() {
            [] => Ok(false),
            all if all.iter().all(|v| *v == "All") => Ok(true),
            other => Err(Failure::new(
                422,
                "Invalid",
                format!("dryRun: Unsupported value: {:?}: supported values: \"All\"", other.join(",")),
            )),
        }
    }

    /// The body as an object of this kind.
    pub(crate) fn decode(&self, gvk: Gvk) -> Result<Decoded, Failure> {
        let api_version = gvk.api_version();
        let expected = Expected { api_version: &api_version, kind: gvk.kind };
        codec::decode(&self.body, self.content_type(), expected, self.validation()?)
            .map_err(|e| Failure::new(e.code(), e.reason(), e.to_string()))
    }

    /// The body as an object of this kind, or nothing when there is no body.
    pub(crate) fn decode_optional(&self, gvk: Gvk) -> Result<Option<Value>, Failure> {
        if self.body.is_empty() { Ok(None) } else { Ok(Some(self.decode(gvk)?.value)) }
    }
}
