//! Requests and answers: one generic set of handlers for every kind.
//!
//! ```text
//! path → RequestInfo → (identity) → authorization → decoding → hooks of the kind → store → encoding
//! ```
//! Not here: what a kind's rules are (`kinds`, `admission`), who somebody is (`auth`), sockets (`server`).

mod applying;
pub mod body;
mod connect;
mod create;
mod decode;
mod delete;
pub(crate) mod encode;
mod expiry;
pub mod filter;
pub(crate) mod health;
pub mod info;
mod kubelet;
pub mod list;
mod logs;
mod node;
pub mod object;
mod patching;
mod plain;
mod proxy;
pub mod query;
mod reviews;
mod scale;
pub mod status;
mod subresource;
mod tokens;
mod update;
mod watching;
mod world;
mod write;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use hyper::upgrade::OnUpgrade;
use orlop_model::net::IpNet;
use tokio_util::sync::CancellationToken;

use crate::auth::Identity;
use crate::auth::authorize::{self, Attributes, Resource};
use crate::auth::impersonate;
use crate::auth::token::Tokens;
use crate::discovery::Discovery;
use crate::kinds::Kind;
use crate::kubelet::Kubelets;
use crate::store::Store;

use body::{Body, BoxError};
use encode::Form;
use info::{RequestInfo, ResourceInfo};
use query::Query;
use status::Failure;

/// Everything handlers share.
#[derive(Debug)]
pub struct Api {
    /// Objects.
    pub store: Store,
    /// Where service addresses come from, one network of a family, the main one first.
    pub service_cidrs: Vec<IpNet>,
    /// The address of service `kubernetes`, which nobody else gets.
    pub kubernetes_ip: IpAddr,
    /// Cancelled when the server shuts down; ends watches.
    pub closing: CancellationToken,
    /// Serializes writes whose rules look at other objects (service addresses).
    pub allocation: tokio::sync::Mutex<()>,
    /// Signs and checks service-account tokens.
    pub tokens: Tokens,
    /// Discovery and OpenAPI documents.
    pub discovery: Discovery,
    /// For logs.
    pub kubelets: Kubelets,
    /// Snapshots of lists that are read page by page.
    pub pages: list::Pages,
}

/// A request whose body was read.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) identity: Identity,
    pub(crate) form: Form,
    /// The connection itself, for requests that ask for another protocol.
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// The object or collection a request is about.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) kind: &'static Kind,
    /// Empty for cluster scope and for lists over all namespaces.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Target {
    /// Store key of the object.
    pub(crate) fn key(&self) -> String {
        key(self.kind, &self.namespace, &self.name)
    }

    /// Common start of the keys of the collection.
    pub(crate) fn prefix(&self) -> String {
        if self.namespace.is_empty() {
            format!("{}/", self.kind.prefix)
        } else {
            format!("{}/{}/", self.kind.prefix, self.namespace)
        }
    }
}

/// Store key of an object.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> String {
    if kind.namespaced() {
        format!("{}/{namespace}/{name}", kind.prefix)
    } else {
        format!("{}/{name}", kind.prefix)
    }
}

impl Api {
    /// Answers a request of somebody.
    pub async fn handle<B>(self: &Arc<Self>, request: Request<B>, identity: Identity) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        match self.try_handle(request, identity).await {
            Ok(response) => response,
            Err(failure) => body::failure(&failure),
        }
    }

    async fn try_handle<B>(
        self: &Arc<Self>,
        request: Request<B>,
        identity: Identity,
    ) -> Result<Response<Body>, Failure>
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (mut parts, payload) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let query = Query::parse(parts.uri.query());
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), &query);
        if let Some(response) = health::answer(&info.path, query.flag("verbose")) {
            return Ok(response);
        }
        let identity = impersonate::effective(identity, &parts.headers).map_err(|text| Failure {
            details: Some(serde_json::json!({})),
            ..Failure::new(403, "Forbidden", text)
        })?;
        authorize(&identity, &info)?;
        // Discovery, OpenAPI and what is behind a proxy have media types of their own.
        let form = match &info.resource {
            Some(resource) if resource.subresource.as_deref() != Some("proxy") => {
                encode::negotiate(&parts.headers)?
            }
            _ => Form::Object,
        };
        let body = body::collect(payload).await?;
        let (method, uri, headers) = (parts.method, parts.uri, parts.headers);
        let call = Call { method, uri, query, headers, body, identity, form, upgrade };
        match info.resource {
            None => self.plain(&call, &info.path),
            Some(resource) => self.resource(call, info.verb, resource).await,
        }
    }

    async fn resource(
        self: &Arc<Self>,
        call: Call,
        verb: &str,
        info: ResourceInfo,
    ) -> Result<Response<Body>, Failure> {
        let kind = info.kind.ok_or_else(Failure::no_such_path)?;
        if info.namespace.is_some() && !kind.namespaced() {
            return Err(Failure::no_such_path());
        }
        if kind.namespaced() && info.namespace.is_none() && (info.name.is_some() || verb == "create") {
            return Err(Failure::no_such_path());
        }
        let target = Target {
            kind,
            namespace: info.namespace.unwrap_or_default(),
            name: info.name.unwrap_or_default(),
        };
        self.restrict_node(&call, verb, &target, info.subresource.as_deref())?;
        if let Some(sub) = info.subresource {
            return self.subresource(call, verb, target, &sub).await;
        }
        if !kind.allows(verb) || (verb == "create" && !target.name.is_empty()) {
            return Err(Failure::method_not_allowed());
        }
        match verb {
            "create" if kind.storage == crate::kinds::Storage::None => self.review(&call, kind),
            "create" => self.create(&call, target).await,
            "get" => self.get(&call, &target),
            "list" => self.list(&call, &target).await,
            "watch" => self.watch(call, target).await,
            "update" => self.update(&call, target).await,
            "patch" => self.patch(&call, target).await,
            "delete" => self.delete(&call, target).await,
            "deletecollection" => self.delete_collection(&call, &target).await,
            _ => Err(Failure::method_not_allowed()),
        }
    }
}

/// Whether somebody may do something else with a subresource than what the request's method says.
fn authorize_as(
    identity: &Identity,
    verb: &'static str,
    target: &Target,
    subresource: &str,
) -> Result<(), Failure> {
    let Target { kind, namespace, name } = target;
    let resource = ResourceInfo {
        group: kind.gvk.group.to_owned(),
        version: kind.gvk.version.to_owned(),
        resource: kind.resource.to_owned(),
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        subresource: Some(subresource.to_owned()),
        kind: Some(*kind),
    };
    authorize(identity, &RequestInfo { verb, path: String::new(), resource: Some(resource) })
}

fn authorize(identity: &Identity, info: &RequestInfo) -> Result<(), Failure> {
    let resource = info.resource.as_ref().map(|r| Resource {
        group: &r.group,
        resource: &r.resource,
        subresource: r.subresource.as_deref().unwrap_or_default(),
        namespace: r.namespace.as_deref().unwrap_or_default(),
        name: r.name.as_deref().unwrap_or_default(),
    });
    let what = Attributes { verb: info.verb, path: &info.path, resource };
    if authorize::allowed(identity, &what) {
        return Ok(());
    }
    let mut failure = Failure::new(403, "Forbidden", authorize::refusal(identity, &what));
    failure.details = Some(match &info.resource {
        None => serde_json::json!({}),
        Some(r) => serde_json::json!({
            "name": r.name.clone().unwrap_or_default(), "group": r.group, "kind": r.resource,
        }),
    });
    Err(failure)
}
