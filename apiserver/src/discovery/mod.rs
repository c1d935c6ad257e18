//! What the server can do, said to clients: legacy and aggregated discovery, OpenAPI v2 and v3.
//!
//! Everything is derived from the rows of [`crate::kinds`] and the embedded definitions. A document is built when it
//! is first asked for and kept compressed; a change of kinds is a new [`Discovery`].
//!
//! ```text
//! path, Accept ──▶ get ──▶ kept? ──yes──▶ Document (gzip, ETag)
//!                            └──no──▶ groups / openapi ──▶ compress ──▶ keep
//! ```
//!
//! Not here: conditional requests, content encoding and other HTTP (the caller has the ETag and the bytes).

mod groups;
mod openapi;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::Compression;
use sha2::{Digest as _, Sha256};

use crate::codec::media::{self, DiscoveryForm, NotAcceptable, OpenApiEncoding};
use crate::kinds::Kind;

/// An answer, ready to be sent.
#[derive(Clone, Debug)]
pub struct Document {
    /// Content-Type.
    pub content_type: &'static str,
    /// ETag, quotes included. Weak enough to serve both encodings: it names the content.
    pub etag: String,
    /// Compressed content, for clients that accept gzip.
    pub gzip: Arc<[u8]>,
    /// The URL names this very content, so it may be cached for ever (`Cache-Control: public, immutable`).
    pub immutable: bool,
}

impl Document {
    fn new(content_type: &'static str, content: &[u8]) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail.
        let gzip = encoder.write_all(content).and_then(|()| encoder.finish()).unwrap_or_default();
        let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(content)));
        Self { content_type, etag, gzip: gzip.into(), immutable: false }
    }

    /// The content, uncompressed.
    pub fn plain(&self) -> Vec<u8> {
        let mut content = Vec::new();
        // What `new` compressed can be read again.
        let read = flate2::read::GzDecoder::new(&*self.gzip).read_to_end(&mut content);
        debug_assert!(read.is_ok());
        content
    }

    /// The hash in [`Document::etag`], without quotes.
    fn hash(&self) -> &str {
        self.etag.trim_matches('"')
    }
}

/// Why there is no document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// No such path, group or version: 404.
    #[error("the server could not find the requested resource")]
    NotFound,
    /// 406.
    #[error(transparent)]
    NotAcceptable(#[from] NotAcceptable),
}

/// Answers for one set of kinds.
#[derive(Debug)]
pub struct Discovery {
    kinds: Vec<Kind>,
    version: String,
    address: String,
    kept: Mutex<HashMap<String, Document>>,
}

impl Discovery {
    /// `version`: the server's, as in `/version` (`v1.34.0`); `address`: `host:port` that clients reach it at.
    pub fn new(kinds: Vec<Kind>, version: impl Into<String>, address: impl Into<String>) -> Self {
        Self { kinds, version: version.into(), address: address.into(), kept: Mutex::default() }
    }

    /// Answers the list of paths at `/`, `/api`, `/apis` and what is below them, `/openapi/v2`, `/openapi/v3` and what is below it,
    /// `/swagger-2.0.0.pb-v1`. `hash` is the query parameter of that name.
    ///
    /// Answers depend on `Accept`: send `Vary: Accept`.
    pub fn get(
        &self,
        path: &str,
        hash: Option<&str>,
        accept: Option<&str>,
    ) -> Result<Document, DiscoveryError> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        match *parts.as_slice() {
            [] => self.keep("/", JSON, || Some(self.paths().to_string().into_bytes())),
            ["api"] | ["apis"] => {
                let core = parts == ["api"];
                let form = media::negotiate_discovery(accept)?;
                let key = format!("{path} {}", form.content_type());
                self.keep(&key, form.content_type(), || Some(self.root(core, form).to_string().into_bytes()))
            }
            ["api", version] => self.resources("", version),
            ["apis", group] => {
                self.keep(path, JSON, || Some(groups::group(&self.kinds, group)?.to_string().into_bytes()))
            }
            ["apis", group, version] if !group.is_empty() => self.resources(group, version),
            ["openapi", "v2"] => self.v2(media::negotiate_openapi_v2(accept)?),
            ["swagger-2.0.0.pb-v1"] => self.v2(OpenApiEncoding::Protobuf),
            ["openapi", "v3"] => self.v3_index(),
            ["openapi", "v3", "api", version] => self.v3("", version, hash),
            ["openapi", "v3", "apis", group, version] if !group.is_empty() => self.v3(group, version, hash),
            _ => Err(DiscoveryError::NotFound),
        }
    }

    fn keep(
        &self,
        key: &str,
        content_type: &'static str,
        build: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Result<Document, DiscoveryError> {
        if let Some(known) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            return Ok(known.clone());
        }
        // Built outside the lock: two may do the same work once, nobody waits for a slow one.
        let document = Document::new(content_type, &build().ok_or(DiscoveryError::NotFound)?);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), document.clone());
        Ok(document)
    }

    fn paths(&self) -> serde_json::Value {
        let mut paths: Vec<String> =
            ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
                .map(str::to_owned)
                .into();
        for (group, version) in groups::group_versions(&self.kinds) {
            paths.push(format!("/{}", groups::path(group, version)));
            paths.extend((!group.is_empty()).then(|| format!("/apis/{group}")));
        }
        paths.sort();
        paths.dedup();
        serde_json::json!({ "paths": paths })
    }

    fn root(&self, core: bool, form: DiscoveryForm) -> serde_json::Value {
        match form {
            DiscoveryForm::Legacy if core => groups::api_versions(&self.kinds, &self.address),
            DiscoveryForm::Legacy => groups::group_list(&self.kinds),
            DiscoveryForm::V2 => groups::aggregated(&self.kinds, core, "apidiscovery.k8s.io/v2"),
            DiscoveryForm::V2Beta1 => groups::aggregated(&self.kinds, core, "apidiscovery.k8s.io/v2beta1"),
        }
    }

    fn resources(&self, group: &str, version: &str) -> Result<Document, DiscoveryError> {
        self.keep(&format!("resources {group}/{version}"), JSON, || {
            Some(groups::resources(&self.kinds, group, version)?.to_string().into_bytes())
        })
    }

    fn v2(&self, encoding: OpenApiEncoding) -> Result<Document, DiscoveryError> {
        self.keep(&format!("openapi v2 {encoding:?}"), encoding.content_type(), || {
            let document = openapi::v2(&self.kinds, &self.version);
            Some(match encoding {
                OpenApiEncoding::Json => document.to_string().into_bytes(),
                OpenApiEncoding::Protobuf => openapi::gnostic(&document),
            })
        })
    }

    fn v3_index(&self) -> Result<Document, DiscoveryError> {
        self.keep("openapi v3", JSON, || {
            let mut paths = serde_json::Map::new();
            for (group, version) in groups::group_versions(&self.kinds) {
                let path = groups::path(group, version);
                let document = self.v3(group, version, None).ok()?;
                let url = format!("/openapi/v3/{path}?hash={}", document.hash());
                paths.insert(path, serde_json::json!({"serverRelativeURL": url}));
            }
            Some(serde_json::json!({"paths": paths}).to_string().into_bytes())
        })
    }

    fn v3(&self, group: &str, version: &str, hash: Option<&str>) -> Result<Document, DiscoveryError> {
        let mut document = self.keep(&format!("openapi v3 {group}/{version}"), JSON, || {
            Some(openapi::v3(&self.kinds, &self.version, group, version)?.to_string().into_bytes())
        })?;
        document.immutable = hash == Some(document.hash());
        Ok(document)
    }
}

const JSON: &str = "application/json";
