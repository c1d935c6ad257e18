//! An API server in a temporary directory, asked through its in-process service, and scripts as tests.
//!
//! A script is a list of requests. Each starts with `METHOD path`, then words: `as=USER[/GROUP]`, `type=CONTENT-TYPE`,
//! `accept=TYPE`, `impersonate=USER`, and pointers (`/spec/replicas`) of what to show; indented lines below it are the body in YAML,
//! sent as JSON. The outcome is one line per request: the code and what was asked for, or a Status' message.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use expect_test::Expect;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use orlop_apiserver::rest::body::Body;
use orlop_apiserver::{ApiServer, Config, Identity};
use orlop_model::net::{Family, IpNet};
use serde_json::Value;
use tower::ServiceExt;

pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) fn config(dir: &std::path::Path) -> Config {
    Config {
        data_dir: dir.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        advertise_address: Ipv4Addr::LOCALHOST.into(),
        service_cidrs: vec![IpNet::parse("10.96.0.0/16").unwrap()],
        names: vec!["api.example".into()],
    }
}

pub(crate) fn admin() -> Identity {
    Identity::new("admin", ["system:masters"])
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        Self::open(dir, config).await
    }

    /// With other addresses of services.
    pub(crate) async fn of(cidrs: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service_cidrs: Vec<_> = cidrs.iter().map(|cidr| IpNet::parse(cidr).unwrap()).collect();
        let advertise_address = match service_cidrs[0].family() {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        };
        let config = Config { service_cidrs, advertise_address, ..config(dir.path()) };
        Self::open(dir, config).await
    }

    async fn open(dir: tempfile::TempDir, config: Config) -> Self {
        let api = ApiServer::open(config).await.unwrap();
        let server = Self { api, dir };
        let account = serde_json::json!({"metadata": {"name": "default"}});
        server.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        server
    }

    pub(crate) async fn post(&self, path: &str, object: &Value) -> Value {
        let (code, answer) = self.ask("POST", path, &[], object.to_string(), admin()).await;
        assert_eq!(code, 201, "{answer}");
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &[], String::new(), admin()).await.1
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
        who: Identity,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        self.api.client_service(who).oneshot(request).await.unwrap()
    }

    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
        who: Identity,
    ) -> (u16, Value) {
        let answer = self.send(method, path, headers, body, who).await;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let text = || String::from_utf8_lossy(&bytes).into_owned().into();
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    /// The first `count` lines of a watch.
    pub(crate) async fn watch(&self, path: &str, count: usize) -> Watched {
        let answer = self.send("GET", path, &[], String::new(), admin()).await;
        let mut watched = Watched { body: answer.into_body(), buffer: Vec::new() };
        for _ in 0..count {
            watched.next().await;
        }
        watched
    }

    pub(crate) async fn run(&self, script: &str) -> String {
        let mut outcome = String::new();
        let mut lines = script.lines().filter(|line| !line.trim().is_empty()).peekable();
        while let Some(line) = lines.next() {
            let mut body = String::new();
            while let Some(more) = lines.next_if(|next| next.starts_with([' ', '\t'])) {
                body.push_str(more);
                body.push('\n');
            }
            outcome.push_str(&self.step(line, &body).await);
            outcome.push('\n');
        }
        outcome
    }

    async fn step(&self, line: &str, body: &str) -> String {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let (mut who, mut headers, mut shown) = (admin(), Vec::new(), Vec::new());
        for word in words {
            match word.split_once('=') {
                Some(("as", user)) => {
                    let (user, group) = user.split_once('/').unwrap_or((user, "people"));
                    who = Identity::new(user, [group]);
                }
                Some(("impersonate", user)) => headers.push(("impersonate-user", user)),
                Some(("type", kind)) => headers.push(("content-type", kind)),
                Some(("accept", kind)) => headers.push(("accept", kind)),
                _ => shown.push(word),
            }
        }
        let body = match serde_norway::from_str::<Value>(body) {
            Ok(Value::Null) | Err(_) => body.trim().to_owned(),
            Ok(value) => value.to_string(),
        };
        let (code, answer) = self.ask(method, path, &headers, body, who).await;
        let shown: Vec<String> = if answer["kind"] == "Status" && shown.is_empty() {
            vec![answer["reason"].as_str().unwrap_or("Success").into(), text(&answer["message"])]
        } else {
            shown.iter().map(|at| text(answer.pointer(at).unwrap_or(&Value::Null))).collect()
        };
        let line = format!("{code} {}", shown.join(" "));
        line.split(' ')
            .map(|word| {
                if is_uid(word) {
                    "UID"
                } else if is_time(word) {
                    "TIME"
                } else {
                    word
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
            .trim_end()
            .to_owned()
    }
}

/// `2026-01-01T00:00:00Z`, perhaps with punctuation after it.
fn is_time(word: &str) -> bool {
    word.len() >= 20
        && word.as_bytes()[4] == b'-'
        && word.as_bytes()[10] == b'T'
        && word.as_bytes()[19] == b'Z'
}

/// Identifiers are random.
fn is_uid(word: &str) -> bool {
    word.len() == 36 && word.bytes().filter(|b| *b == b'-').count() == 4
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Runs a script on a fresh server.
pub(crate) async fn check(script: &str, expected: Expect) {
    let server = Server::start().await;
    expected.assert_eq(&server.run(script).await);
}

/// A watch's lines as they arrive.
pub(crate) struct Watched {
    body: Body,
    buffer: Vec<u8>,
}

impl Watched {
    /// The next line; `Null` at the end.
    pub(crate) async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), self.body.frame());
            match frame.await.expect("a watch says something in time") {
                Some(frame) => self.buffer.extend_from_slice(&frame.unwrap().into_data().unwrap()),
                None => return Value::Null,
            }
        }
    }

    /// `ADDED name` of the next line.
    pub(crate) async fn word(&mut self) -> String {
        let line = self.next().await;
        let name = text(&line["object"]["metadata"]["name"]);
        format!("{} {name}", text(&line["type"]))
    }
}
