//! The four ways to PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.
//!
//! [`apply_patch`] takes an object, gives an object: it applies the patch and reads the result again against the
//! type table, so that the same strictness holds as for a body. Server-side apply ([`apply`]) has its own entries, because it
//! also needs managed fields.
//!
//! Not here: what the result may be (admission, validation), resourceVersion, retries.

pub mod apply;
mod go_text;
mod strategic;

#[cfg(test)]
mod tests;

use serde_json::Value;

use crate::codec::{self, Decoded, Expected, FieldValidation};
use crate::schema::SchemaSet;

pub use strategic::{StrategicError, strategic_merge};

/// Upstream's limit; a JSON patch can copy and grow without bound.
const MAX_OPERATIONS: usize = 10_000;

/// What the Content-Type of a PATCH asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own merge by list keys; built-in kinds only.
    Strategic,
    /// Server-side apply, written in YAML or JSON.
    Apply,
}

impl PatchType {
    /// Reads a Content-Type. `strategic`: whether the kind has a schema to merge by.
    pub fn from_content_type(content_type: Option<&str>, strategic: bool) -> Result<Self, PatchError> {
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        match essence {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if strategic => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            _ => Err(PatchError::UnsupportedMediaType { strategic }),
        }
    }
}

/// A patch that cannot be applied. The text is the message of the Status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Content-Type is none of ours, or strategic merge for a kind without schema.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, {}application/apply-patch+yaml",
        if *strategic { "application/strategic-merge-patch+json, " } else { "" }
    )]
    UnsupportedMediaType {
        /// Whether strategic merge would have been taken.
        strategic: bool,
    },
    /// The patch itself is malformed.
    #[error("{0}")]
    BadRequest(String),
    /// Too many operations.
    #[error(
        "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}"
    )]
    TooLarge(usize),
    /// A well-formed patch that does not fit the object. Upstream does not tell the client why.
    #[error("the server rejected our request due to an error in our request")]
    Rejected(String),
    /// The patched object cannot be read as its kind.
    #[error(" \"\" is invalid: patch: {}", self.cause_message())]
    Invalid {
        /// The patch as upstream prints it.
        patch: String,
        /// What is wrong with the result.
        cause: String,
    },
}

impl PatchError {
    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::UnsupportedMediaType { .. } => 415,
            Self::BadRequest(_) => 400,
            Self::TooLarge(_) => 413,
            Self::Rejected(_) | Self::Invalid { .. } => 422,
        }
    }

    /// `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType { .. } => "UnsupportedMediaType",
            Self::BadRequest(_) => "BadRequest",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::Rejected(_) | Self::Invalid { .. } => "Invalid",
        }
    }

    /// Message of the one entry of `details.causes` (field `patch`, reason `FieldValueInvalid`); empty for the rest.
    pub fn cause_message(&self) -> String {
        match self {
            Self::Invalid { patch, cause } => format!("Invalid value: {patch:?}: {cause}"),
            _ => String::new(),
        }
    }
}

/// Applies a JSON, merge or strategic merge patch to `current` and reads the result as the expected kind.
///
/// [`PatchType::Apply`] is refused here.
pub fn apply_patch(
    current: &Value,
    body: &[u8],
    patch_type: PatchType,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, PatchError> {
    let (patched, shown) = match patch_type {
        PatchType::Json => (json_patch(current, body)?, String::from_utf8_lossy(body).into_owned()),
        PatchType::Merge => {
            let patch: Value = parse(body)?;
            if !patch.is_object() {
                return Err(PatchError::BadRequest("error decoding patch: Invalid JSON Patch".to_owned()));
            }
            let mut patched = current.clone();
            json_patch::merge(&mut patched, &patch);
            (patched, String::from_utf8_lossy(body).into_owned())
        }
        PatchType::Strategic => {
            let patch: Value = parse(body)?;
            let set = SchemaSet::builtin();
            let Some(id) = set.lookup(expected.api_version, expected.kind) else {
                return Err(PatchError::UnsupportedMediaType { strategic: false });
            };
            let shown = go_text::print(&patch);
            (strategic_merge(set, id, current.clone(), patch).map_err(PatchError::from)?, shown)
        }
        PatchType::Apply => return Err(PatchError::UnsupportedMediaType { strategic: true }),
    };
    let (value, findings) = codec::conform(&patched, expected)
        .map_err(|cause| PatchError::Invalid { patch: shown.clone(), cause })?;
    match validation {
        FieldValidation::Strict if !findings.is_empty() => {
            Err(PatchError::Invalid { patch: shown, cause: codec::strict_error(&findings) })
        }
        FieldValidation::Warn => Ok(Decoded { value, warnings: findings }),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Decoded { value, warnings: Vec::new() }),
    }
}

fn parse(body: &[u8]) -> Result<Value, PatchError> {
    serde_json::from_slice(body).map_err(|e| {
        PatchError::BadRequest(format!("error decoding patch: {}", codec::json_syntax_error(&e, body)))
    })
}

fn json_patch(current: &Value, body: &[u8]) -> Result<Value, PatchError> {
    let patch: json_patch::Patch = serde_json::from_slice(body).map_err(|e| {
        PatchError::BadRequest(format!("error decoding patch: {}", codec::json_syntax_error(&e, body)))
    })?;
    if patch.0.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(patch.0.len()));
    }
    let mut patched = current.clone();
    json_patch::patch(&mut patched, &patch).map_err(|e| PatchError::Rejected(e.to_string()))?;
    Ok(patched)
}
