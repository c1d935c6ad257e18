//! Requests that kubectl 1.32 really sent, played against the server: every one about a kind there is must be
//! understood, whatever it finds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use orlop_apiserver::kinds;
use orlop_apiserver::rest::info::RequestInfo;
use orlop_apiserver::rest::query::Query;
use serde::Deserialize;
use serde_json::{Value, json};
use support::Server;
use tower::ServiceExt;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    command: String,
    method: String,
    path: String,
    #[serde(default)]
    query: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    #[serde(default)]
    body: String,
    #[serde(default)]
    body_encoding: String,
    #[serde(default)]
    status: u16,
}

/// What the recordings call by name.
async fn world() -> Server {
    let server = Server::start().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
    let workload = |name: &str| {
        json!({
            "metadata": {"name": name, "labels": {"app": "web"}, "annotations": {"deployment.kubernetes.io/revision": "2"}},
            "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template},
        })
    };
    server.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let pod = json!({"metadata": {"name": "p1", "labels": {"app": "web"}}, "spec": template["spec"]});
    server.post("/api/v1/namespaces/default/pods", &pod).await;
    server.post("/apis/apps/v1/namespaces/default/deployments", &workload("web")).await;
    for set in ["web-h1", "web-h2"] {
        server.post("/apis/apps/v1/namespaces/default/replicasets", &workload(set)).await;
    }
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    server.post("/api/v1/namespaces/default/services", &service).await;
    server
}

fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

impl Record {
    fn query(&self) -> String {
        let pairs = self.query.iter().flat_map(|(name, values)| values.iter().map(move |v| (name, v)));
        pairs
            .map(|(n, v)| format!("{n}={}", escape(&v.replace("${resourceVersion}", "0"))))
            .collect::<Vec<_>>()
            .join("&")
    }

    fn body(&self) -> Bytes {
        if self.body_encoding == "base64" {
            return base64::engine::general_purpose::STANDARD.decode(&self.body).unwrap().into();
        }
        // A number that was true once is a conflict now; that is an answer too.
        self.body.replace("${resourceVersion}", "1").replace("${uid}", "uid").into()
    }

    /// Whether the server has the kind and subresource at all.
    fn is_ours(&self) -> bool {
        let info = RequestInfo::parse(&self.method.parse().unwrap(), &self.path, &Query::default());
        match info.resource {
            None => !self.path.contains("metrics") && !self.path.contains("example.com"),
            Some(resource) => kinds::find(&resource.group, &resource.version, &resource.resource)
                .is_some_and(|kind| resource.subresource.is_none_or(|sub| kind.subresource(&sub).is_some())),
        }
    }

    async fn play(&self, server: &Server) -> Result<(), String> {
        let uri = format!("{}?{}", self.path, self.query());
        let mut request = Request::builder().method(self.method.as_str()).uri(&uri);
        for (name, value) in &self.headers {
            if let Some(value) = value.as_str() {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(self.body())).unwrap();
        let answer = server.api.client_service(support::admin()).oneshot(request).await.unwrap();
        let code = answer.status().as_u16();
        let content_type = answer.headers().get("content-type").map(|v| v.to_str().unwrap().to_owned());
        if self.query.contains_key("watch") {
            return if code == 200 { Ok(()) } else { Err(format!("{uri}: {code}")) };
        }
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text);
        let understood = match code {
            200 | 201 | 304 | 409 => true,
            // The recordings delete namespace `default`, which the stub allowed.
            403 if text.contains("this namespace may not be deleted") => true,
            // Whoever kubectl acts as here may do nothing.
            403 => self.headers.keys().any(|name| name.starts_with("Impersonate-")),
            404 => !text.contains("could not find the requested resource"),
            // The stub did not check what it was sent.
            422 => text.contains("is invalid"),
            400 => self.path.ends_with("/log") || text.contains("strict decoding error"),
            _ => false,
        };
        let typed = code == 304
            || content_type.is_some_and(|t| t.starts_with("application/") || t.starts_with("text/plain"));
        if understood && typed {
            Ok(())
        } else {
            Err(format!("{}: {} {uri}: {code} {text}", self.command, self.method))
        }
    }
}

#[tokio::test]
async fn every_recorded_request_is_understood() {
    let folder = format!("{}/testdata/kubectl-1.32", env!("CARGO_MANIFEST_DIR"));
    let (mut played, mut wrong) = (0, Vec::new());
    for file in [
        "discovery",
        "get",
        "describe",
        "watch",
        "apply",
        "create",
        "modify",
        "node",
        "logs",
        "auth",
        "delete",
    ] {
        let server = world().await;
        let text = std::fs::read_to_string(format!("{folder}/{file}.jsonl")).unwrap();
        for line in text.lines() {
            let record: Record = serde_json::from_str(line).unwrap();
            // `/api` without Accept and the like were answered 404 by stubs that lacked them.
            if !(200..400).contains(&record.status) || !record.is_ours() || record.path.contains("${") {
                continue;
            }
            played += 1;
            if let Err(error) = record.play(&server).await {
                wrong.push(error);
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(played > 150, "only {played} requests");
}
