//! Paths that are no resources: discovery and OpenAPI, with what HTTP adds to their documents.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue,
    IF_NONE_MATCH, VARY,
};
use http::{Method, Response, StatusCode};

use super::body::{self, Body};
use super::status::Failure;
use super::{Api, Call};
use crate::discovery::{DiscoveryError, Document};

impl Api {
    /// Answers discovery and OpenAPI; `Accept` was not looked at before because these have types of their own.
    pub(super) fn plain(&self, call: &Call, path: &str) -> Result<Response<Body>, Failure> {
        let accept = joined(&call.headers, ACCEPT);
        let document =
            self.discovery.get(path, call.query.get("hash"), accept.as_deref()).map_err(|e| match e {
                DiscoveryError::NotFound => Failure::no_such_path(),
                DiscoveryError::NotAcceptable(_) => Failure::not_acceptable(),
            })?;
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(Failure::method_not_allowed());
        }
        Ok(respond(&call.headers, document))
    }
}

fn respond(headers: &HeaderMap, document: Document) -> Response<Body> {
    let known = joined(headers, IF_NONE_MATCH).is_some_and(|tags| tags.contains(&document.etag));
    let gzip = joined(headers, ACCEPT_ENCODING).is_some_and(|accepted| accepted.contains("gzip"));
    let mut response = match (known, gzip) {
        (true, _) => Response::new(body::full("")),
        (false, true) => Response::new(body::full(document.gzip.to_vec())),
        (false, false) => Response::new(body::full(document.plain())),
    };
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(document.content_type));
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(ETAG, etag);
    }
    if gzip && !known {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let caching = if document.immutable { "public, immutable" } else { "no-cache, private" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    response
}

/// All values of a header as one.
fn joined(headers: &HeaderMap, name: http::HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}
