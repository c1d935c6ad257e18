//! Stored bytes to answers, in the form the client takes.

use bytes::Bytes;
use http::header::{ACCEPT, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{self, Body};
use super::query::Query;
use super::status::Failure;
use crate::codec::media::{self, MetaVersion};
use crate::kinds::Kind;
use crate::store::Object;
use crate::table::{self, IncludeObject};

pub(crate) use crate::codec::media::Form;

/// How single objects of a kind are written for one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub(crate) kind: &'static Kind,
    pub(crate) form: Form,
    pub(crate) include: IncludeObject,
}

/// The form that `Accept` asks for.
pub(super) fn negotiate(headers: &HeaderMap) -> Result<Form, Failure> {
    let mut accept = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    let first = accept.next().map(|first| accept.fold(first.to_owned(), |all, next| format!("{all},{next}")));
    media::negotiate(first.as_deref()).map_err(|_| Failure::not_acceptable())
}

/// What a page of a list says about itself.
#[derive(Clone, Debug, Default)]
pub(super) struct ListMeta {
    pub(super) revision: u64,
    pub(super) continue_token: Option<String>,
    pub(super) remaining: Option<usize>,
}

impl Encoder {
    pub(super) fn new(kind: &'static Kind, form: Form, query: &Query) -> Result<Self, Failure> {
        let include = match query.get("includeObject") {
            None | Some("Metadata") => IncludeObject::Metadata,
            Some("None") => IncludeObject::None,
            Some("Object") => IncludeObject::Object,
            Some(other) => {
                return Err(Failure::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        Ok(Self { kind, form, include })
    }

    /// One object.
    pub(crate) fn one(&self, bytes: &Bytes) -> Result<Bytes, Failure> {
        if self.form == Form::Object && self.kind.convert.is_none() {
            return Ok(bytes.clone());
        }
        Ok(self.value(self.read(bytes)?).to_string().into())
    }

    /// One object as a value.
    pub(crate) fn value(&self, object: Value) -> Value {
        match self.form {
            Form::Object => object,
            Form::Table(version) => self.table(&[object], version, None),
            Form::PartialObjectMetadata(version) | Form::PartialObjectMetadataList(version) => {
                table::partial_object_metadata(&object, version)
            }
        }
    }

    /// One object as the kind that was asked for.
    fn read(&self, bytes: &[u8]) -> Result<Value, Failure> {
        let value = serde_json::from_slice(bytes).map_err(Failure::internal)?;
        Ok(match self.kind.convert {
            Some(convert) => (convert.from_stored)(value),
            None => value,
        })
    }

    /// A list.
    pub(super) fn list(
        &self,
        objects: &[std::sync::Arc<Object>],
        meta: &ListMeta,
    ) -> Result<Vec<u8>, Failure> {
        let read = || objects.iter().map(|o| self.read(&o.value)).collect::<Result<Vec<_>, _>>();
        match self.form {
            Form::PartialObjectMetadata(version) | Form::PartialObjectMetadataList(version) => {
                let items: Vec<Value> =
                    read()?.iter().map(|o| table::partial_object_metadata(o, version)).collect();
                let list = json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": version.api_version(),
                    "metadata": meta.json(), "items": items,
                });
                Ok(list.to_string().into_bytes())
            }
            Form::Table(version) => Ok(self.table(&read()?, version, Some(meta)).to_string().into_bytes()),
            Form::Object => {
                let items = objects.iter().map(|o| self.one(&o.value)).collect::<Result<Vec<_>, _>>()?;
                Ok(self.join(&items, meta))
            }
        }
    }

    /// A list out of serialized items, which are not parsed again.
    fn join(&self, items: &[Bytes], meta: &ListMeta) -> Vec<u8> {
        let size: usize = items.iter().map(|item| item.len() + 1).sum();
        let mut bytes = Vec::with_capacity(size + 200);
        let head = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            self.kind.list_kind(),
            self.kind.gvk.api_version(),
            meta.json()
        );
        bytes.extend_from_slice(head.as_bytes());
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(item);
        }
        bytes.extend_from_slice(b"]}");
        bytes
    }

    fn table(&self, objects: &[Value], version: MetaVersion, meta: Option<&ListMeta>) -> Value {
        let mut table = table::to_table(self.kind, objects, self.include, version, Timestamp::now());
        if let Some(meta) = meta {
            table["metadata"] = meta.json();
        }
        table
    }

    /// An answer with one stored object.
    pub(super) fn respond(&self, status: StatusCode, bytes: &Bytes) -> Result<Response<Body>, Failure> {
        Ok(body::json_bytes(status, self.one(bytes)?))
    }

    /// An answer with one object in stored form.
    pub(super) fn respond_stored(&self, status: StatusCode, value: Value) -> Result<Response<Body>, Failure> {
        let value = match self.kind.convert {
            Some(convert) => (convert.from_stored)(value),
            None => value,
        };
        Ok(body::json(status, &self.value(value)))
    }

    /// An answer with an object of another kind than the encoder's.
    pub(super) fn respond_other(&self, status: StatusCode, value: Value) -> Response<Body> {
        body::json(status, &value)
    }
}

impl ListMeta {
    fn json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            meta["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// Adds `Warning: 299` headers.
pub(super) fn warn(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for warning in warnings {
        let text = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}
