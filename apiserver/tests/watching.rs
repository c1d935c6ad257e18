//! Watches: order, transitions, bookmarks, initial events and the end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use expect_test::expect;
use serde_json::{Value, json};
use support::Server;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn create(server: &Server, name: &str, app: &str) -> Value {
    server.post(MAPS, &json!({"metadata": {"name": name, "labels": {"app": app}}})).await
}

async fn relabel(server: &Server, name: &str, app: &str) {
    let script = format!(
        "PATCH {MAPS}/{name} type=application/merge-patch+json\n  {{metadata: {{labels: {{app: {app}}}}}}}"
    );
    assert!(server.run(&script).await.starts_with("200"));
}

#[tokio::test]
async fn replays_from_a_revision_then_goes_live() {
    let server = Server::start().await;
    let first = create(&server, "a", "x").await;
    create(&server, "b", "x").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion={version}"), 0).await;
    assert_eq!(watch.word().await, "ADDED b");
    create(&server, "c", "x").await;
    assert_eq!(watch.word().await, "ADDED c");
    relabel(&server, "a", "y").await;
    assert_eq!(watch.word().await, "MODIFIED a");
    server.run(&format!("DELETE {MAPS}/a")).await;
    let gone = watch.next().await;
    assert_eq!(gone["type"], "DELETED");
    // The deletion has a revision of its own.
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], server_revision(&server).await);
}

async fn server_revision(server: &Server) -> Value {
    server.get(MAPS).await["metadata"]["resourceVersion"].clone()
}

#[tokio::test]
async fn selectors_turn_changes_into_additions_and_deletions() {
    let server = Server::start().await;
    create(&server, "a", "x").await;
    let path = format!("{MAPS}?watch=true&labelSelector=app%3Dx");
    let mut watch = server.watch(&path, 0).await;
    assert_eq!(watch.word().await, "ADDED a");
    relabel(&server, "a", "y").await;
    let left = watch.next().await;
    assert_eq!(
        (&left["type"], &left["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("x"))
    );
    assert_eq!(left["object"]["metadata"]["resourceVersion"], server_revision(&server).await);
    relabel(&server, "a", "z").await;
    relabel(&server, "a", "x").await;
    assert_eq!(watch.word().await, "ADDED a");
    server.run(&format!("DELETE {MAPS}/a")).await;
    assert_eq!(watch.word().await, "DELETED a");
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let server = Server::start().await;
    create(&server, "a", "x").await;
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = server.watch(&path, 0).await;
    assert_eq!(watch.word().await, "ADDED a");
    let bookmark = watch.next().await;
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], server_revision(&server).await);
    create(&server, "b", "x").await;
    assert_eq!(watch.word().await, "ADDED b");
    expect![[r#"
        422 Invalid ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan
        422 Invalid ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: sendInitialEvents requires setting allowWatchBookmarks to true
    "#]]
    .assert_eq(
        &server
            .run(&format!(
                "GET {MAPS}?watch=1&sendInitialEvents=true\n\
                 GET {MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
            ))
            .await,
    );
}

#[tokio::test]
async fn too_old_a_revision_is_an_error_in_the_stream() {
    let server = Server::start().await;
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion=1"), 0).await;
    // Revision 1 is where an empty store starts: everything is still there.
    create(&server, "a", "x").await;
    assert_eq!(watch.word().await, "ADDED a");
    let dir = server.dir;
    drop(server.api);
    let api = reopen(dir.path()).await;
    let server = Server { api, dir };
    let mut watch = server.watch(&format!("{MAPS}?watch=true&resourceVersion=1"), 0).await;
    let error = watch.next().await;
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, Value::Null);
}

/// The engine's lock is let go a moment after the last handle.
async fn reopen(dir: &std::path::Path) -> orlop_apiserver::ApiServer {
    for _ in 0..100 {
        match orlop_apiserver::ApiServer::open(support::config(dir)).await {
            Ok(api) => return api,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
    panic!("the store stays locked");
}

#[tokio::test(start_paused = true)]
async fn timeouts_end_watches_after_a_last_bookmark() {
    let server = Server::start().await;
    let path = format!("{MAPS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=70&resourceVersion=0");
    let answer = server.send("GET", &path, &[], String::new(), support::admin()).await;
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let words: Vec<Value> = body
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["type"].clone())
        .collect();
    // One after a minute, one shortly before the end.
    assert_eq!(words, ["BOOKMARK", "BOOKMARK"]);
}

#[tokio::test]
async fn watches_of_one_object_do_not_see_its_neighbours() {
    let server = Server::start().await;
    create(&server, "ab", "x").await;
    let path = format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da&resourceVersion=0");
    let mut watch = server.watch(&path, 0).await;
    create(&server, "abc", "x").await;
    create(&server, "a", "x").await;
    assert_eq!(watch.word().await, "ADDED a");
}

#[tokio::test]
async fn tables_and_metadata_stream_too() {
    let server = Server::start().await;
    create(&server, "a", "x").await;
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "Table"),
        ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", "PartialObjectMetadata"),
    ] {
        let path = format!("{MAPS}?watch=true");
        let answer = server.send("GET", &path, &[("accept", accept)], String::new(), support::admin()).await;
        let mut body = answer.into_body();
        let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
        let event: Value = serde_json::from_slice(frame.trim_ascii_end()).unwrap();
        assert_eq!(event["object"]["kind"], kind);
    }
}
