//! What a request is about, read from method, path and query alone.

use http::Method;

use super::query::{self, Query};
use crate::kinds::{self, Kind};

/// What is asked for, in the words of authorization.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// `get`, `list`, `create` … for resources, the lower-case method elsewhere.
    pub verb: &'static str,
    /// The path, without query and trailing slash.
    pub path: String,
    /// The resource meant, if the path has the form of one.
    pub resource: Option<ResourceInfo>,
}

/// A path below `/api/v1` or `/apis/GROUP/VERSION`.
#[derive(Clone, Debug)]
pub struct ResourceInfo {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
    /// Namespace, if the path has one.
    pub namespace: Option<String>,
    /// Object name, if the path has one.
    pub name: Option<String>,
    /// Everything after the name, joined by `/`.
    pub subresource: Option<String>,
    /// The row, if there is one.
    pub kind: Option<&'static Kind>,
}

impl RequestInfo {
    /// Reads a request line.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let resource = ResourceInfo::parse(path);
        let verb = match &resource {
            Some(resource) => resource_verb(method, resource.name.is_some(), query),
            None => plain_verb(method),
        };
        Self { verb, path: path.to_owned(), resource }
    }
}

impl ResourceInfo {
    fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> =
            path.split('/').filter(|part| !part.is_empty()).map(|part| query::decode(part, false)).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // `namespaces/x` and its own subresources are the namespace itself, longer paths lie in it.
            ["namespaces", _] | ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (resource, rest) = rest.split_first()?;
        let (name, sub) = match rest {
            [] => (None, None),
            [name] => (Some((*name).to_owned()), None),
            // What follows is not our path.
            [name, sub @ "proxy", ..] => (Some((*name).to_owned()), Some((*sub).to_owned())),
            [name, sub @ ..] => (Some((*name).to_owned()), Some(sub.join("/"))),
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            resource: (*resource).to_owned(),
            namespace,
            name,
            subresource: sub,
            kind: kinds::find(group, version, resource),
        })
    }
}

fn resource_verb(method: &Method, named: bool, query: &Query) -> &'static str {
    match (method.as_str(), named) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) if query.flag("watch") => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    }
}

fn plain_verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "HEAD" => "head",
        "POST" => "post",
        "PUT" => "put",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "OPTIONS" => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, path: &str, expected: &str) {
        let (path, raw) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let info = RequestInfo::parse(&method, path, &Query::parse(raw));
        let text = match info.resource {
            None => format!("{} {}", info.verb, info.path),
            Some(r) => format!(
                "{} {}/{} {} ns={} name={} sub={} known={}",
                info.verb,
                r.group,
                r.version,
                r.resource,
                r.namespace.unwrap_or_default(),
                r.name.unwrap_or_default(),
                r.subresource.unwrap_or_default(),
                r.kind.is_some()
            ),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn paths_of_real_clients() {
        check(Method::GET, "/version/", "get /version");
        check(Method::GET, "/apis/apps", "get /apis/apps");
        check(Method::GET, "/apis/apps/v1", "get /apis/apps/v1");
        check(Method::GET, "/api/v1/pods?watch=true", "watch /v1 pods ns= name= sub= known=true");
        check(Method::GET, "/api/v1/namespaces/a/pods", "list /v1 pods ns=a name= sub= known=true");
        check(
            Method::PUT,
            "/api/v1/namespaces/a/finalize",
            "update /v1 namespaces ns= name=a sub=finalize known=true",
        );
        check(Method::GET, "/api/v1/namespaces", "list /v1 namespaces ns= name= sub= known=true");
        check(
            Method::PATCH,
            "/apis/apps/v1/namespaces/a/deployments/w/scale",
            "patch apps/v1 deployments ns=a name=w sub=scale known=true",
        );
        check(
            Method::DELETE,
            "/api/v1/namespaces/a/pods",
            "deletecollection /v1 pods ns=a name= sub= known=true",
        );
        check(
            Method::GET,
            "/api/v1/nodes/n/proxy/stats/summary",
            "get /v1 nodes ns= name=n sub=proxy known=true",
        );
        check(Method::GET, "/apis/x.io/v1/things", "list x.io/v1 things ns= name= sub= known=false");
    }
}
