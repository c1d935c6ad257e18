//! Media types: what form of an answer a client takes.
//!
//! Parameters are matched loosely: unknown ones do not disqualify and order does not matter, because clients add
//! some over time. A clause that asks for a form we do not have is passed over, not refused.

/// Version of `meta.k8s.io` that a Table or PartialObjectMetadata is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaVersion {
    /// `meta.k8s.io/v1`.
    V1,
    /// `meta.k8s.io/v1beta1`.
    V1Beta1,
}

impl MetaVersion {
    /// `apiVersion` of the answer.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "meta.k8s.io/v1",
            Self::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// What a resource's answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The object or list itself.
    Object,
    /// A Table.
    Table(MetaVersion),
    /// Metadata of an object.
    PartialObjectMetadata(MetaVersion),
    /// Metadata of the items of a list.
    PartialObjectMetadataList(MetaVersion),
}

/// What `/api` and `/apis` answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiscoveryForm {
    /// `APIVersions`, `APIGroupList`.
    Legacy,
    /// `apidiscovery.k8s.io/v2`.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`.
    V2Beta1,
}

impl DiscoveryForm {
    /// Content-Type that says which form an answer has; clients parse it.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Legacy => "application/json",
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

/// How an OpenAPI document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenApiEncoding {
    /// JSON.
    Json,
    /// gnostic's protobuf; only for v2.
    Protobuf,
}

impl OpenApiEncoding {
    /// Content-Type of the v2 document.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Protobuf => "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        }
    }
}

/// Nothing the client takes can be made. The text is the Status message; code 406, reason `NotAcceptable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("only the following media types are accepted: application/json")]
pub struct NotAcceptable;

/// One alternative of an Accept header.
#[derive(Clone, Debug, Default)]
struct Clause<'a> {
    essence: String,
    quality: f32,
    kind: Option<&'a str>,
    group: Option<&'a str>,
    version: Option<&'a str>,
}

impl Clause<'_> {
    fn is_json(&self) -> bool {
        matches!(self.essence.as_str(), "application/json" | "application/*" | "*/*" | "*")
    }
}

fn clauses(accept: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = accept
        .split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let mut words = part.split(';').map(str::trim);
            let essence = words.next().unwrap_or_default().to_ascii_lowercase();
            let mut clause = Clause { essence, quality: 1.0, ..Clause::default() };
            for (name, value) in words.filter_map(|w| w.split_once('=')) {
                let value = value.trim().trim_matches('"');
                match name.trim() {
                    "as" => clause.kind = Some(value),
                    "g" => clause.group = Some(value),
                    "v" => clause.version = Some(value),
                    "q" => clause.quality = value.parse().unwrap_or(1.0),
                    _ => {}
                }
            }
            clause
        })
        .filter(|clause| clause.quality > 0.0)
        .collect();
    // Stable: equal qualities keep the client's order.
    all.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    all
}

/// Form of a resource's answer. No header means JSON.
pub fn negotiate(accept: Option<&str>) -> Result<Form, NotAcceptable> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(Form::Object) };
    clauses(accept).iter().find_map(form_of).ok_or(NotAcceptable)
}

fn form_of(clause: &Clause<'_>) -> Option<Form> {
    if !clause.is_json() {
        return None;
    }
    let Some(kind) = clause.kind else { return Some(Form::Object) };
    if clause.group != Some("meta.k8s.io") {
        return None;
    }
    let version = match clause.version {
        Some("v1") => MetaVersion::V1,
        Some("v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    match kind {
        "Table" => Some(Form::Table(version)),
        "PartialObjectMetadata" => Some(Form::PartialObjectMetadata(version)),
        "PartialObjectMetadataList" => Some(Form::PartialObjectMetadataList(version)),
        _ => None,
    }
}

/// Form of `/api` and `/apis`.
pub fn negotiate_discovery(accept: Option<&str>) -> Result<DiscoveryForm, NotAcceptable> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(DiscoveryForm::Legacy) };
    let pick = |clause: &Clause<'_>| match (clause.is_json(), clause.kind, clause.group, clause.version) {
        (true, None, _, _) => Some(DiscoveryForm::Legacy),
        (true, Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
            Some(DiscoveryForm::V2)
        }
        (true, Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
            Some(DiscoveryForm::V2Beta1)
        }
        _ => None,
    };
    clauses(accept).iter().find_map(pick).ok_or(NotAcceptable)
}

/// Encoding of `/openapi/v2`.
pub fn negotiate_openapi_v2(accept: Option<&str>) -> Result<OpenApiEncoding, NotAcceptable> {
    let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(OpenApiEncoding::Json) };
    let pick = |clause: &Clause<'_>| match clause.essence.as_str() {
        // Both spellings are in use; upstream's old one has an @, which Go's parser refused later.
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
        | "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" => Some(OpenApiEncoding::Protobuf),
        _ => clause.is_json().then_some(OpenApiEncoding::Json),
    };
    clauses(accept).iter().find_map(pick).ok_or(NotAcceptable)
}
