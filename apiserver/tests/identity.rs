//! Who may do what, over TLS and inside the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use expect_test::expect;
use http_body_util::{BodyExt, Empty};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use orlop_apiserver::Identity;
use serde_json::json;
use support::{Server, admin, check};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn refusals_name_user_verb_and_resource() {
    check(
        "
GET /api/v1/namespaces/default/pods as=jane
GET /api/v1/nodes/n1 as=jane
DELETE /apis/apps/v1/namespaces/default/deployments/d as=jane
GET /metrics as=jane
GET /api as=jane /kind
GET /version/ as=system:anonymous/system:unauthenticated /major
POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews as=jane /status/allowed
  {spec: {resourceAttributes: {verb: list, resource: pods}}}
POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews /status/allowed
  {spec: {resourceAttributes: {verb: list, resource: pods}}}
POST /apis/authentication.k8s.io/v1/selfsubjectreviews as=jane /status/userInfo
  {}
GET /api/v1/pods as=system:node:n1/system:nodes /kind
POST /apis/apps/v1/namespaces/default/deployments as=system:node:n1/system:nodes
  {}
",
        expect![[r#"
            403 Forbidden pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"
            403 Forbidden nodes "n1" is forbidden: User "jane" cannot get resource "nodes" in API group "" at the cluster scope
            403 Forbidden deployments.apps "d" is forbidden: User "jane" cannot delete resource "deployments" in API group "apps" in the namespace "default"
            403 Forbidden forbidden: User "jane" cannot get path "/metrics"
            200 APIVersions
            200 1
            201 false
            201 true
            201 {"groups":["people","system:authenticated"],"username":"jane"}
            200 PodList
            403 Forbidden deployments.apps is forbidden: User "system:node:n1" cannot create resource "deployments" in API group "apps" in the namespace "default"
        "#]],
    )
    .await;
}

#[tokio::test]
async fn kube_clients_work_inside_the_process() {
    let server = Server::start().await;
    let client = Client::new(server.api.client_service(admin()), "default");
    exercise(client).await;
}

/// Create, list and watch with a typed client.
async fn exercise(client: Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    let list = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let version = list.metadata.resource_version.unwrap();
    let stream = maps.watch(&WatchParams::default(), &version).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    maps.delete("m", &Default::default()).await.unwrap();
    let event = futures::StreamExt::next(&mut stream).await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Deleted(gone) if gone.metadata.uid == made.metadata.uid));
    let pods: Api<Pod> = Api::all(client);
    let missing = pods.list(&ListParams::default().fields("spec.nodeName=n1")).await.unwrap();
    assert!(missing.items.is_empty());
}

#[tokio::test]
async fn kubeconfigs_work_over_tls_and_stopping_ends_watches() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let server = Server::start().await;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (api, stop) = (server.api.clone(), stop.clone());
        async move { api.serve(stop).await }
    });
    let url = format!("https://{}", server.api.address());
    let groups = ["system:masters".to_owned()];
    let client = tls_client(&server.api.issue_kubeconfig("someone", &groups, &url).unwrap()).await;
    exercise(client.clone()).await;
    let weak =
        tls_client(&server.api.issue_kubeconfig("jane", &["a".into(), "b".into()], &url).unwrap()).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(weak);
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(refused.to_string().contains("User \"jane\" cannot list resource \"configmaps\""), "{refused}");

    let all: Api<ConfigMap> = Api::all(client);
    let stream = all.watch(&WatchParams::default(), "0").await.unwrap();
    stop.cancel();
    let begin = std::time::Instant::now();
    let drained = tokio::time::timeout(Duration::from_secs(5), futures::StreamExt::collect::<Vec<_>>(stream));
    drained.await.expect("watches end at shutdown");
    serving.await.unwrap().unwrap();
    // Idle connections are told to go; nobody waits for them.
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

async fn tls_client(kubeconfig: &str) -> Client {
    let config = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

#[tokio::test]
async fn tokens_die_with_what_they_are_bound_to() {
    let server = Server::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let free = server.post(path, &json!({"spec": {}})).await;
    let request = json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
    let bound = server.post(path, &request).await;
    let review = |token: &serde_json::Value| json!({"spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let found = server.post(reviews, &review(&bound["status"]["token"])).await;
    assert_eq!(found["status"]["user"]["username"], "system:serviceaccount:default:default");
    assert_eq!(found["status"]["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    server.run("DELETE /api/v1/namespaces/default/pods/p").await;
    let gone = server.post(reviews, &review(&bound["status"]["token"])).await;
    assert!(gone["status"]["authenticated"].is_null());
    let still = server.post(reviews, &review(&free["status"]["token"])).await;
    assert_eq!(still["status"]["authenticated"], true);
    server.run("DELETE /api/v1/namespaces/default/serviceaccounts/default").await;
    let gone = server.post(reviews, &review(&free["status"]["token"])).await;
    assert!(gone["status"]["authenticated"].is_null());
    let forged = server.post(reviews, &review(&json!("a.b.c"))).await;
    assert!(forged["status"]["authenticated"].is_null());
}

/// What a token claims: how many seconds it counts, and after how many its holder should have asked for a new one.
fn seconds(answer: &serde_json::Value) -> (i64, Option<i64>) {
    use base64::Engine as _;
    let token = answer["status"]["token"].as_str().unwrap();
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    let begin = claims["iat"].as_i64().unwrap();
    let warned = claims["kubernetes.io"]["warnafter"].as_i64().map(|at| at - begin);
    (claims["exp"].as_i64().unwrap() - begin, warned)
}

#[tokio::test]
async fn tokens_that_every_pod_gets_count_for_a_year() {
    let server = Server::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let pod = json!({"kind": "Pod", "apiVersion": "v1", "name": "p"});
    let of_pod =
        server.post(path, &json!({"spec": {"boundObjectRef": pod, "expirationSeconds": 3607}})).await;
    assert_eq!(seconds(&of_pod), (365 * 24 * 3600, Some(3607)));
    for spec in [
        json!({"expirationSeconds": 3607}),
        json!({"boundObjectRef": pod, "expirationSeconds": 3600}),
        json!({"boundObjectRef": pod, "expirationSeconds": 3607, "audiences": ["vault"]}),
    ] {
        let asked = spec["expirationSeconds"].as_i64().unwrap();
        assert_eq!(seconds(&server.post(path, &json!({"spec": spec})).await), (asked, None));
    }
}

#[tokio::test]
async fn a_taken_port_is_one_clear_error() {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = orlop_apiserver::Config { listen: server.api.address(), ..support::config(dir.path()) };
    let error = orlop_apiserver::ApiServer::open(config).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.to_string(), format!("listen on {}", server.api.address()));
    assert!(cause.contains("Address already in use"), "{cause}");
}

#[tokio::test]
async fn keys_are_for_the_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let server = Server::start().await;
    for file in ["pki/ca.key", "pki/sa.key"] {
        let mode = std::fs::metadata(server.dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    for dir in ["pki", "store"] {
        let mode = std::fs::metadata(server.dir.path().join(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
    // An identity inside the process is not taken from headers.
    let request = http::Request::get("/api/v1/pods")
        .header("Authorization", "Bearer x")
        .header("X-Remote-User", "admin")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let jane = Identity::new("jane", ["people"]);
    let answer = tower::ServiceExt::oneshot(server.api.client_service(jane), request).await.unwrap();
    assert_eq!(answer.status(), 403);
    drop(answer.into_body().collect().await);
}

#[tokio::test]
async fn a_node_sees_what_its_own_pods_name() {
    check(
        "
POST /api/v1/namespaces/default/pods
  {metadata: {name: mine}, spec: {nodeName: n1, volumes: [{name: v, secret: {secretName: one}}, {name: c, configMap: {name: settings}}], containers: [{name: c, image: i, envFrom: [{secretRef: {name: two}}]}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: other}, spec: {nodeName: n2, imagePullSecrets: [{name: three}], containers: [{name: c, image: i}]}}
GET /api/v1/namespaces/default/secrets/one as=system:node:n1/system:nodes
GET /api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Dtwo as=system:node:n1/system:nodes /kind
GET /api/v1/namespaces/default/configmaps/settings as=system:node:n1/system:nodes
GET /api/v1/namespaces/default/configmaps/kube-root-ca.crt as=system:node:n1/system:nodes
GET /api/v1/namespaces/default/secrets/three as=system:node:n1/system:nodes
GET /api/v1/namespaces/default/secrets as=system:node:n1/system:nodes
GET /api/v1/secrets as=system:node:n1/system:nodes
PATCH /api/v1/namespaces/default/pods/mine/status as=system:node:n1/system:nodes type=application/merge-patch+json /status/phase
  {status: {phase: Running}}
PATCH /api/v1/namespaces/default/pods/other/status as=system:node:n1/system:nodes type=application/merge-patch+json
  {status: {phase: Running}}
DELETE /api/v1/namespaces/default/pods/other as=system:node:n1/system:nodes
POST /api/v1/namespaces/default/pods as=system:node:n1/system:nodes
  {metadata: {name: free}, spec: {containers: [{name: c, image: i}]}}
POST /api/v1/nodes as=system:node:n1/system:nodes
  {metadata: {name: n2}}
POST /api/v1/nodes as=system:node:n1/system:nodes /metadata/name
  {metadata: {name: n1}}
POST /api/v1/namespaces/default/serviceaccounts/default/token as=system:node:n1/system:nodes
  {spec: {}}
POST /api/v1/namespaces/default/serviceaccounts/default/token as=system:node:n1/system:nodes
  {spec: {boundObjectRef: {kind: Pod, apiVersion: v1, name: other}}}
POST /api/v1/namespaces/default/serviceaccounts/default/token as=system:node:n1/system:nodes /kind
  {spec: {boundObjectRef: {kind: Pod, apiVersion: v1, name: mine}}}
",
        expect![[r#"
            201
            201
            404 NotFound secrets "one" not found
            200 SecretList
            404 NotFound configmaps "settings" not found
            404 NotFound configmaps "kube-root-ca.crt" not found
            403 Forbidden secrets "three" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "default": no relationship found between node 'n1' and this object
            403 Forbidden secrets is forbidden: User "system:node:n1" cannot list resource "secrets" in API group "" in the namespace "default": can only get, list or watch individual resources of this type
            403 Forbidden secrets is forbidden: User "system:node:n1" cannot list resource "secrets" in API group "" at the cluster scope: can only get, list or watch individual resources of this type
            200 Running
            403 Forbidden pods "other" is forbidden: node "n1" can only update pod status for pods with spec.nodeName set to itself
            403 Forbidden pods "other" is forbidden: node "n1" can only delete pods with spec.nodeName set to itself
            403 Forbidden pods "free" is forbidden: pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods
            403 Forbidden nodes "n2" is forbidden: node "n1" is not allowed to modify node "n2"
            201 n1
            403 Forbidden serviceaccounts "default" is forbidden: node requested token not bound to a pod
            403 Forbidden serviceaccounts "default" is forbidden: node requested token bound to a pod scheduled on a different node
            201 TokenRequest
        "#]],
    )
    .await;
}

#[tokio::test]
async fn only_administrators_act_as_others() {
    check(
        "
GET /api/v1/namespaces/default/pods impersonate=jane
POST /apis/authentication.k8s.io/v1/selfsubjectreviews impersonate=jane /status/userInfo
  {}
POST /apis/authentication.k8s.io/v1/selfsubjectreviews impersonate=system:serviceaccount:default:x /status/userInfo/groups
  {}
GET /api/v1/namespaces/default/pods as=jane impersonate=admin
",
        expect![[r#"
            403 Forbidden pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default"
            201 {"groups":["system:authenticated"],"username":"jane"}
            201 ["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]
            403 Forbidden users "admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope
        "#]],
    )
    .await;
}
