//! Request bodies to JSON values, and what form an answer takes.
//!
//! Every body is read against the type table, so unknown fields, repeated fields and wrong types are found where
//! they stand and worded as upstream words them. Answers are always JSON text; [`media`] decides which object that
//! text holds (the thing itself, a Table, metadata only).
//!
//! Not here: the Table itself ([`crate::table`]), patches ([`crate::patch`]), validation of values.

mod base64_go;
pub mod media;
mod protobuf;
mod scalar;
mod strict;
mod syntax;

#[cfg(test)]
mod tests;
mod wire;

use serde_json::Value;

use crate::schema::{SchemaSet, TypeId};

/// What becomes of fields that the schema does not know and of fields given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped, with a warning each.
    #[default]
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter `fieldValidation`; `None` for a value upstream refuses.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// The kind an endpoint takes; also stands in for `apiVersion` and `kind` a body leaves out.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// As in objects: `v1`, `apps/v1`.
    pub api_version: &'a str,
    /// Kind.
    pub kind: &'a str,
}

/// A body that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object: known fields only, nulls dropped, times and quantities in canonical form, `apiVersion` and
    /// `kind` filled in.
    pub value: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// A body that cannot be taken. The text is the message of the Status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Content-Type is none of ours.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf"
    )]
    UnsupportedMediaType,
    /// Not even apiVersion and kind can be read.
    #[error("the object provided is unrecognized (must be of type {expected}): {cause} ({summary})")]
    Unrecognized {
        /// Kind of the endpoint.
        expected: String,
        /// What is wrong.
        cause: String,
        /// First bytes of the body.
        summary: String,
    },
    /// The object is of a kind or has content that this endpoint cannot take.
    #[error("{kind} in version {version:?} cannot be handled as a {expected}: {cause}")]
    CannotBeHandled {
        /// Kind in the body.
        kind: String,
        /// Version in the body, without group.
        version: String,
        /// Kind of the endpoint.
        expected: String,
        /// What is wrong.
        cause: String,
    },
    /// Right kind, another version than the path's.
    #[error("the API version in the data ({found}) does not match the expected API version ({expected})")]
    VersionMismatch {
        /// In the body.
        found: String,
        /// In the path.
        expected: String,
    },
}

impl DecodeError {
    /// HTTP status code.
    pub fn code(&self) -> u16 {
        match self {
            Self::UnsupportedMediaType => 415,
            Self::Unrecognized { .. } | Self::CannotBeHandled { .. } | Self::VersionMismatch { .. } => 400,
        }
    }

    /// `reason` of the Status.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Unrecognized { .. } | Self::CannotBeHandled { .. } | Self::VersionMismatch { .. } => {
                "BadRequest"
            }
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

fn body_format(content_type: Option<&str>) -> Option<BodyFormat> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        // kubectl itself leaves the header out in places; so does the Python client.
        "" | "application/json" => Some(BodyFormat::Json),
        "application/yaml" => Some(BodyFormat::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(BodyFormat::Protobuf),
        _ => None,
    }
}

/// Reads a request body.
pub fn decode(
    body: &[u8],
    content_type: Option<&str>,
    expected: Expected<'_>,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let format = body_format(content_type).ok_or(DecodeError::UnsupportedMediaType)?;
    let unrecognized = |cause: String| DecodeError::Unrecognized {
        expected: expected.kind.to_owned(),
        cause,
        summary: summary(body),
    };
    let unknown = match format {
        BodyFormat::Protobuf => {
            Some(protobuf::Envelope::parse(body).map_err(|e| unrecognized(e.to_string()))?)
        }
        BodyFormat::Json | BodyFormat::Yaml => None,
    };
    let (api_version, kind) = match (&unknown, format) {
        (Some(envelope), _) => (envelope.api_version.clone(), envelope.kind.clone()),
        (None, BodyFormat::Yaml) => strict::type_meta_yaml(body).map_err(&unrecognized)?,
        (None, _) => strict::type_meta_json(body).map_err(&unrecognized)?,
    };
    let or = |found: String, default: &str| if found.is_empty() { default.to_owned() } else { found };
    let (api_version, kind) = (or(api_version, expected.api_version), or(kind, expected.kind));
    let handled = |cause: String| DecodeError::CannotBeHandled {
        kind: kind.clone(),
        version: version_of(&api_version).to_owned(),
        expected: expected.kind.to_owned(),
        cause,
    };
    let shape = expected_shape(&api_version, &kind, expected, &handled)?;

    let set = SchemaSet::builtin();
    let (mut value, findings) = match (&unknown, format) {
        (Some(envelope), _) => {
            let Some(id) = shape else {
                return Err(handled(format!("{kind} has no protobuf encoding")));
            };
            let value = protobuf::decode(set, id, envelope.raw).map_err(|e| handled(e.to_string()))?;
            (value, Vec::new())
        }
        (None, BodyFormat::Yaml) => strict::read_yaml(body, set, shape).map_err(&handled)?,
        (None, _) => strict::read_json(body, set, shape).map_err(&handled)?,
    };
    if validation == FieldValidation::Strict && !findings.is_empty() {
        return Err(handled(strict_error(&findings)));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".into(), api_version.into());
        object.insert("kind".into(), kind.into());
    }
    let warnings = if validation == FieldValidation::Warn { findings } else { Vec::new() };
    Ok(Decoded { value, warnings })
}

/// Reads an object again that a patch has changed: the same checks as [`decode`] for a value in memory.
///
/// Returns the object in canonical form and what strict decoding found; the error is a type that does not fit.
pub fn conform(value: &Value, expected: Expected<'_>) -> Result<(Value, Vec<String>), String> {
    let set = SchemaSet::builtin();
    strict::read_value(value, set, set.lookup(expected.api_version, expected.kind))
}

/// Reads YAML or JSON text without a schema; the second value says which keys were given twice.
pub(crate) fn read_yaml_object(body: &[u8]) -> Result<(Value, Vec<String>), String> {
    strict::read_free(body)
}

/// A JSON syntax error in Go's words.
pub(crate) fn json_syntax_error(error: &serde_json::Error, body: &[u8]) -> String {
    syntax::describe(error, body)
}

/// `strict decoding error: …`, all findings in one text.
pub fn strict_error(findings: &[String]) -> String {
    format!("strict decoding error: {}", findings.join(", "))
}

/// The type to read against; `None` = a kind without schema. Refuses what the endpoint does not take.
fn expected_shape(
    api_version: &str,
    kind: &str,
    expected: Expected<'_>,
    handled: &impl Fn(String) -> DecodeError,
) -> Result<Option<TypeId>, DecodeError> {
    let set = SchemaSet::builtin();
    let wanted = set.lookup(expected.api_version, expected.kind);
    let found = set.lookup(api_version, kind);
    // DeleteOptions and the like are one type under many groups.
    if (api_version == expected.api_version && kind == expected.kind) || (wanted.is_some() && wanted == found)
    {
        return Ok(wanted);
    }
    if kind == expected.kind {
        return Err(DecodeError::VersionMismatch {
            found: api_version.to_owned(),
            expected: expected.api_version.to_owned(),
        });
    }
    let cause = match found {
        Some(_) => {
            let (version, wanted) = (version_of(api_version), version_of(expected.api_version));
            format!("converting ({version}.{kind}) to ({wanted}.{}): unknown conversion", expected.kind)
        }
        None => format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\""
        ),
    };
    Err(handled(cause))
}

fn version_of(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or(api_version)
}

/// The start of a body that could not be read, as upstream shows it.
fn summary(body: &[u8]) -> String {
    const MAX: usize = 30;
    let head = body.get(..MAX).unwrap_or(body);
    let more = if body.len() > MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", hex::encode(head)),
    }
}
