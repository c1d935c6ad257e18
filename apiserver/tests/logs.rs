//! pods/log and nodes/proxy: what the kubelet is asked, how its answer streams, and what goes wrong before it is asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use expect_test::expect;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use support::Server;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

/// A kubelet that says what it was asked, then whatever the test sends.
struct Kubelet {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    lines: Arc<Mutex<Option<mpsc::UnboundedReceiver<Bytes>>>>,
}

impl Kubelet {
    async fn start(code: u16, lines: mpsc::UnboundedReceiver<Bytes>) -> Self {
        let made = rcgen::generate_simple_self_signed(["n1".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kubelet = Self {
            port: listener.local_addr().unwrap().port(),
            asked: Arc::default(),
            lines: Arc::new(Mutex::new(Some(lines))),
        };
        let (asked, lines) = (Arc::clone(&kubelet.asked), Arc::clone(&kubelet.lines));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stream = acceptor.accept(stream).await.unwrap();
                let (asked, lines) = (Arc::clone(&asked), Arc::clone(&lines));
                let service = service_fn(move |request: Request<Incoming>| {
                    let asked = Arc::clone(&asked);
                    let lines = lines.lock().unwrap().take();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        let told =
                            ["content-type", "authorization", "impersonate-user", "x-remote-user", "cookie"];
                        let told = told.iter().filter_map(|name| head.headers.get(*name)?.to_str().ok());
                        let more: String = told.map(|value| format!(" {value}")).collect();
                        let method = if head.method == "GET" { "" } else { &format!("{} ", head.method) };
                        let body = String::from_utf8_lossy(&body);
                        let body = if body.is_empty() { String::new() } else { format!(" {body}") };
                        asked.lock().unwrap().push(format!("{method}{}{more}{body}", head.uri));
                        let stream = futures::stream::unfold(lines, |lines| async move {
                            let mut lines = lines?;
                            let line = lines.recv().await?;
                            Some((Ok::<_, Infallible>(Frame::data(line)), Some(lines)))
                        });
                        let body = StreamBody::new(stream.boxed());
                        Ok::<_, Infallible>(Response::builder().status(code).body(body).unwrap())
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
        kubelet
    }
}

async fn with_pod(server: &Server, port: u16) {
    let node = json!({
        "metadata": {"name": "n1"},
        "status": {
            "addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    });
    server.post("/api/v1/nodes", &node).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).await;
    let binding = json!({"target": {"kind": "Node", "name": "n1"}});
    server.post("/api/v1/namespaces/default/pods/p/binding", &binding).await;
}

#[tokio::test]
async fn lines_arrive_while_the_container_runs() {
    let (lines, receiver) = mpsc::unbounded_channel();
    let kubelet = Kubelet::start(200, receiver).await;
    let server = Server::start().await;
    with_pod(&server, kubelet.port).await;
    let path = "/api/v1/namespaces/default/pods/p/log?follow=true&tailLines=5&sinceTime=2026-01-01T00:00:00Z&other=x";
    lines.send(Bytes::from("one\n")).unwrap();
    let answer = server.send("GET", path, &[], String::new(), support::admin()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain");
    let mut body = answer.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one\n");
    lines.send(Bytes::from("two\n")).unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two\n");
    drop(lines);
    assert!(body.frame().await.is_none());
    let asked = kubelet.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        ["/containerLogs/default/p/c?follow=true&sinceTime=2026-01-01T00%3A00%3A00Z&tailLines=5"]
    );
}

#[tokio::test]
async fn the_kubelets_refusal_reaches_the_user() {
    let (lines, receiver) = mpsc::unbounded_channel();
    let text = "container \"c\" in pod \"p\" is waiting to start: ContainerCreating";
    lines.send(Bytes::from(text)).unwrap();
    drop(lines);
    let kubelet = Kubelet::start(400, receiver).await;
    let server = Server::start().await;
    with_pod(&server, kubelet.port).await;
    expect![[r#"
        400 BadRequest container "c" in pod "p" is waiting to start: ContainerCreating
        404 NotFound pods "none" not found
        400 BadRequest container d is not valid for pod p
        201
        400 BadRequest a container name must be specified for pod q, choose one of: [c d] or one of the init containers: [i]
        400 BadRequest pod q does not have a host assigned
    "#]].assert_eq(
        &server
            .run(
                "
GET /api/v1/namespaces/default/pods/p/log
GET /api/v1/namespaces/default/pods/none/log
GET /api/v1/namespaces/default/pods/p/log?container=d
POST /api/v1/namespaces/default/pods
  {metadata: {name: q}, spec: {initContainers: [{name: i, image: i}], containers: [{name: c, image: i}, {name: d, image: i}]}}
GET /api/v1/namespaces/default/pods/q/log
GET /api/v1/namespaces/default/pods/q/log?container=d
",
            )
            .await,
    );
}

#[tokio::test]
async fn a_node_that_is_away_is_named() {
    let server = Server::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    with_pod(&server, free).await;
    let outcome = server.run("GET /api/v1/namespaces/default/pods/p/log").await;
    let wanted = format!(
        "500 InternalError Internal error occurred: Get the log from node n1: connect to 127.0.0.1:{free}"
    );
    assert!(outcome.starts_with(&wanted), "{outcome}");
}

#[tokio::test]
async fn a_nodes_kubelet_is_asked_as_the_api_server() {
    let (lines, receiver) = mpsc::unbounded_channel();
    let kubelet = Kubelet::start(418, receiver).await;
    let server = Server::start().await;
    with_pod(&server, kubelet.port).await;
    lines.send(Bytes::from("as it is")).unwrap();
    drop(lines);
    let path = "/api/v1/nodes/n1/proxy/run/default/p/c/?cmd=a%20b&x";
    let headers = [
        ("content-type", "text/odd"),
        ("authorization", "Bearer secret"),
        ("x-remote-user", "somebody"),
        ("cookie", "secret"),
    ];
    let answer = server.send("POST", path, &headers, "the body".into(), support::admin()).await;
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "as it is");
    let asked = kubelet.asked.lock().unwrap().clone();
    assert_eq!(asked, ["POST /run/default/p/c/?cmd=a%20b&x text/odd the body"]);
    expect![[r#"
        404 NotFound nodes "none" not found
        500 InternalError Internal error occurred: no preferred addresses found for node "bare"
    "#]]
    .assert_eq(&{
        server.post("/api/v1/nodes", &json!({"metadata": {"name": "bare"}})).await;
        server.run("\nGET /api/v1/nodes/none/proxy/pods\nGET /api/v1/nodes/bare/proxy/pods\n").await
    });
}

#[tokio::test]
async fn rights_on_a_proxy_follow_the_method() {
    let server = Server::start().await;
    let jane = orlop_apiserver::Identity::new("jane", Vec::<String>::new());
    for (method, verb) in [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("DELETE", "delete")] {
        let path = "/api/v1/nodes/n1/proxy/exec/default/p/c";
        let answer = server.send(method, path, &[], String::new(), jane.clone()).await;
        assert_eq!(answer.status(), 403, "{method}");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        let words = format!("cannot {verb} resource \\\"nodes/proxy\\\"");
        assert!(String::from_utf8_lossy(&body).contains(&words), "{method}: {body:?}");
    }
}
