//! Creating, changing and deleting objects: codes, words and what remains.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use expect_test::expect;
use support::{Server, admin, check};

#[tokio::test]
async fn names_are_checked_and_taken_once() {
    check(
        "
POST /api/v1/namespaces/default/configmaps /metadata/name
  {metadata: {name: a}, data: {k: v}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: a}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: A_b}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {}}
POST /api/v1/namespaces/none/configmaps
  {metadata: {name: a}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: b, namespace: other}}
GET /api/v1/namespaces/default/configmaps/b
GET /api/v1/namespaces/default/nothings/b
GET /api/v1/namespaces/default/configmaps/a /kind /apiVersion /data
",
        expect![[r#"
            201 a
            409 AlreadyExists configmaps "a" already exists
            422 Invalid ConfigMap "A_b" is invalid: metadata.name: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            422 Invalid ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required
            404 NotFound namespaces "none" not found
            400 BadRequest the namespace of the provided object does not match the namespace sent on the request
            404 NotFound configmaps "b" not found
            404 NotFound the server could not find the requested resource
            200 ConfigMap v1 {"k":"v"}
        "#]],
    )
    .await;
}

#[tokio::test]
async fn stale_writes_are_refused() {
    check(
        "
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: a}, data: {k: v}}
PUT /api/v1/namespaces/default/configmaps/a
  {metadata: {name: a, resourceVersion: '1'}, data: {k: w}}
PUT /api/v1/namespaces/default/configmaps/a /data
  {metadata: {name: a}, data: {k: w}}
PUT /api/v1/namespaces/default/configmaps/a
  {metadata: {name: b}, data: {k: w}}
PUT /api/v1/namespaces/default/configmaps/b
  {metadata: {name: b}}
PATCH /api/v1/namespaces/default/configmaps/a type=application/merge-patch+json
  {metadata: {resourceVersion: '1'}, data: {k: x}}
PUT /api/v1/namespaces/default/configmaps/a
  {metadata: {name: a, uid: other}, data: {k: x}}
DELETE /api/v1/namespaces/default/configmaps/a
  {preconditions: {resourceVersion: '1'}}
DELETE /api/v1/namespaces/default/configmaps/a /status /details/name /details/kind
DELETE /api/v1/namespaces/default/configmaps/a
",
        expect![[r#"
            201
            409 Conflict Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again
            200 {"k":"w"}
            400 BadRequest the name of the object (b) does not match the name on the URL (a)
            404 NotFound configmaps "b" not found
            409 Conflict Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again
            409 Conflict Operation cannot be fulfilled on configmaps "a": Precondition failed: UID in precondition: other, UID in object meta: UID
            409 Conflict Operation cannot be fulfilled on configmaps "a": Precondition failed: ResourceVersion in precondition: 1, ResourceVersion in object meta: 11
            200 Success a configmaps
            404 NotFound configmaps "a" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn bodies_may_lack_what_the_path_says() {
    check(
        "
POST /api/v1/namespaces/default/configmaps type=text/plain
  {metadata: {name: a}}
POST /api/v1/namespaces/default/configmaps /kind /metadata/namespace
  {metadata: {name: a}}
POST /api/v1/namespaces/default/configmaps
  {kind: Secret, apiVersion: v1, metadata: {name: a}}
POST /api/v1/namespaces/default/configmaps?fieldValidation=Strict
  {metadata: {name: b, nope: 1}, data: {}, dat: 2}
POST /api/v1/namespaces/default/configmaps?fieldValidation=Ignore /metadata/name
  {metadata: {name: b, nope: 1}, dat: 2}
POST /api/v1/namespaces/default/configmaps
  {metadata: [
POST /api/v1/namespaces/default/configmaps?dryRun=All /metadata/name
  {metadata: {name: c}}
GET /api/v1/namespaces/default/configmaps/c
",
        expect![[r#"
            415 UnsupportedMediaType the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf
            201 ConfigMap default
            400 BadRequest Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (v1.ConfigMap): unknown conversion
            400 BadRequest ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dat", unknown field "metadata.nope"
            201 b
            400 BadRequest the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: invalid character 'm' looking for beginning of object key string ({metadata: [)
            201 c
            404 NotFound configmaps "c" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn patches_of_all_three_kinds() {
    check(
        "
POST /apis/apps/v1/namespaces/default/deployments
  {metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}, {name: s, image: 's:1'}]}}}}
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/strategic-merge-patch+json /spec/template/spec/containers/0/image /spec/template/spec/containers/1/image /metadata/generation
  {spec: {template: {spec: {containers: [{name: s, image: 's:2'}]}}}}
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/merge-patch+json /metadata/labels /metadata/generation
  {metadata: {labels: {x: y}}}
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/json-patch+json /spec/replicas /metadata/generation
  [{op: replace, path: /spec/replicas, value: 4}]
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/json-patch+json
  [{op: test, path: /spec/replicas, value: 5}]
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/merge-patch+json
  {spec: {selector: {matchLabels: {a: c}}}}
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/merge-patch+json
  {spec: {replicas: -1}}
PATCH /apis/apps/v1/namespaces/default/deployments/d type=application/json /code
  {}
PATCH /apis/apps/v1/namespaces/default/deployments/none type=application/merge-patch+json
  {}
",
        expect![[r#"
            201
            200 i:1 s:2 2
            200 {"x":"y"} 2
            200 4 3
            422 Invalid the server rejected our request due to an error in our request
            422 Invalid Deployment.apps "d" is invalid: [spec.template.metadata.labels: Invalid value: {"a":"b"}: `selector` does not match template `labels`, spec.selector: Invalid value: {"matchLabels":{"a":"c"}}: field is immutable]
            422 Invalid Deployment.apps "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0
            415 415
            404 NotFound deployments.apps "none" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    check(
        "
POST /apis/apps/v1/namespaces/default/replicasets /status
  {metadata: {name: r}, spec: {replicas: 2, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}, status: {replicas: 9}}
PATCH /apis/apps/v1/namespaces/default/replicasets/r/status type=application/merge-patch+json /status/replicas /spec/replicas /metadata/generation
  {spec: {replicas: 7}, status: {replicas: 2}}
PATCH /apis/apps/v1/namespaces/default/replicasets/r type=application/merge-patch+json /status/replicas /spec/replicas /metadata/generation
  {spec: {replicas: 3}, status: {replicas: 5}}
GET /apis/apps/v1/namespaces/default/replicasets/r/scale /kind /spec/replicas /status/replicas /status/selector
PATCH /apis/apps/v1/namespaces/default/replicasets/r/scale type=application/merge-patch+json /spec/replicas
  {spec: {replicas: 5}}
PUT /apis/apps/v1/namespaces/default/replicasets/r/scale
  {metadata: {name: r, resourceVersion: '3'}, spec: {replicas: 6}}
PUT /apis/apps/v1/namespaces/default/replicasets/r/scale /spec/replicas
  {metadata: {name: r}, spec: {replicas: 6}}
PATCH /apis/apps/v1/namespaces/default/replicasets/r/scale type=application/merge-patch+json
  {spec: {replicas: -6}}
GET /apis/apps/v1/namespaces/default/replicasets/r /spec/replicas
",
        expect![[r#"
            201 {"replicas":0}
            200 2 2 1
            200 2 3 2
            200 Scale 3 2 a=b
            200 5
            409 Conflict Operation cannot be fulfilled on replicasets.apps "r": the object has been modified; please apply your changes to the latest version and try again
            200 6
            422 Invalid Scale.autoscaling "r" is invalid: spec.replicas: Invalid value: -6: must be greater than or equal to 0
            200 6
        "#]],
    )
    .await;
}

#[tokio::test]
async fn finalizers_hold_an_object_until_they_are_gone() {
    check(
        "
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: a, finalizers: [x.io/hold]}}
DELETE /api/v1/namespaces/default/configmaps/a /metadata/deletionGracePeriodSeconds
PATCH /api/v1/namespaces/default/configmaps/a type=application/merge-patch+json
  {metadata: {finalizers: [x.io/hold, x.io/more]}}
PATCH /api/v1/namespaces/default/configmaps/a type=application/merge-patch+json /metadata/name
  {metadata: {finalizers: null}}
GET /api/v1/namespaces/default/configmaps/a
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: b}}
DELETE /api/v1/namespaces/default/configmaps/b?propagationPolicy=Foreground /metadata/finalizers
DELETE /api/v1/namespaces/default/configmaps/b?propagationPolicy=Sideways
PATCH /api/v1/namespaces/default/configmaps/b type=application/json-patch+json /metadata/name
  [{op: remove, path: /metadata/finalizers}]
GET /api/v1/namespaces/default/configmaps/b
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: c, labels: {app: x}}}
POST /api/v1/namespaces/default/configmaps
  {metadata: {name: d, labels: {app: y}}}
DELETE /api/v1/namespaces/default/configmaps?labelSelector=app%3Dx /items/0/metadata/name
GET /api/v1/namespaces/default/configmaps /items/0/metadata/name /items/1
",
        expect![[r#"
            201
            200 0
            422 Invalid ConfigMap "a" is invalid: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers ["x.io/more"]
            200 a
            404 NotFound configmaps "a" not found
            201
            200 ["foregroundDeletion"]
            422 Invalid DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Sideways": supported values: "Foreground", "Background", "Orphan", "nil"
            200 b
            404 NotFound configmaps "b" not found
            201
            201
            200 c
            200 d null
        "#]],
    )
    .await;
}

#[tokio::test]
async fn namespaces_end_through_finalize() {
    check(
        "
POST /api/v1/namespaces /status/phase /spec/finalizers /metadata/labels
  {metadata: {name: n}}
DELETE /api/v1/namespaces/default
DELETE /api/v1/namespaces/n /status/phase
POST /api/v1/namespaces/n/configmaps
  {metadata: {name: a}}
PUT /api/v1/namespaces/n/finalize /metadata/name
  {metadata: {name: n}, spec: {finalizers: []}}
GET /api/v1/namespaces/n
",
        expect![[r#"
            201 Active ["kubernetes"] {"kubernetes.io/metadata.name":"n"}
            403 Forbidden namespaces "default" is forbidden: this namespace may not be deleted
            200 Terminating
            403 Forbidden configmaps "a" is forbidden: unable to create new content in namespace n because it is being terminated
            200 n
            404 NotFound namespaces "n" not found
        "#]],
    )
    .await;
}

#[tokio::test]
async fn generated_names_and_lists_in_pages() {
    let server = support::Server::start().await;
    for i in 0..7 {
        server
            .post(
                "/api/v1/namespaces/default/configmaps",
                &serde_json::json!({"metadata": {"name": format!("c{i}"), "labels": {"odd": (i % 2).to_string()}}}),
            )
            .await;
    }
    let list = "/api/v1/namespaces/default/configmaps?limit=3";
    let first = server.get(list).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    server.run("DELETE /api/v1/namespaces/default/configmaps/c4").await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = server.get(&format!("{list}&continue={token}")).await;
    // The picture is that of the first page.
    assert_eq!(second["items"][1]["metadata"]["name"], "c4");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{list}&continue={token}")).await;
    assert_eq!(third["items"][0]["metadata"]["name"], "c6");
    assert!(third["metadata"]["continue"].is_null());
    let odd = server.get("/api/v1/configmaps?labelSelector=odd%3D1&fieldSelector=metadata.name!%3Dc3").await;
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
    let made = server
        .post(
            "/api/v1/namespaces/default/configmaps",
            &serde_json::json!({"metadata": {"generateName": "g-"}}),
        )
        .await;
    assert_eq!(made["metadata"]["name"].as_str().unwrap().len(), 7);
    expect![[r#"
        400 BadRequest continue key is not valid: illegal base64 data
        400 BadRequest unable to parse requirement: found '=', expected: !, identifier, or 'end of string'
        400 BadRequest "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"
        400 BadRequest strconv.ParseInt: parsing "x": invalid syntax
        410 Expired The resourceVersion for the provided list is too old: 3 (18)
        504 Timeout Timeout: Too large resource version: 9999, current: 18
    "#]]
    .assert_eq(
        &server
            .run(
                "
GET /api/v1/configmaps?continue=xx
GET /api/v1/configmaps?labelSelector==
GET /api/v1/configmaps?fieldSelector=spec.x=1
GET /api/v1/configmaps?limit=x
GET /api/v1/configmaps?resourceVersion=3&resourceVersionMatch=Exact
GET /api/v1/configmaps?resourceVersion=9999
",
            )
            .await,
    );
}

#[tokio::test]
async fn applied_fields_have_owners() {
    check(
        "
PATCH /api/v1/namespaces/default/configmaps/a type=application/apply-patch+yaml
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=one type=application/apply-patch+yaml /data /metadata/managedFields/0/manager /metadata/managedFields/0/fieldsV1
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v, l: w}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=two type=application/apply-patch+yaml
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: x}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=two&force=true type=application/apply-patch+yaml /data
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: x}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=one type=application/apply-patch+yaml /data
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=three type=application/merge-patch+json /data
  {data: {k: y}}
PATCH /api/v1/namespaces/default/configmaps/a?fieldManager=two type=application/apply-patch+yaml
  {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: x}}
POST /api/v1/namespaces/default/configmaps /metadata/managedFields
  {metadata: {name: plain}, data: {k: v}}
PATCH /api/v1/namespaces/default/configmaps/plain?fieldManager=one type=application/apply-patch+yaml
  {apiVersion: v1, kind: ConfigMap, metadata: {name: plain}, data: {k: x}}
PATCH /apis/apps/v1/namespaces/default/deployments/d?fieldManager=one type=application/apply-patch+yaml /spec/replicas /spec/template/spec/containers/0/imagePullPolicy
  {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:1'}]}}}}
PATCH /apis/apps/v1/namespaces/default/deployments/d/scale?fieldManager=two type=application/merge-patch+json /spec/replicas
  {spec: {replicas: 3}}
PATCH /apis/apps/v1/namespaces/default/deployments/d?fieldManager=one type=application/apply-patch+yaml /spec/replicas /spec/template/spec/containers/0/image
  {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: 'i:2'}]}}}}
",
        expect![[r#"
            422 Invalid PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch
            201 {"k":"v","l":"w"} one {"f:data":{"f:k":{},"f:l":{}}}
            409 Conflict Apply failed with 1 conflict: conflict with "one": .data.k
            200 {"k":"x","l":"w"}
            200 {"k":"x"}
            200 {"k":"y"}
            409 Conflict Apply failed with 1 conflict: conflict with "three" using v1 at TIME .data.k
            201 null
            409 Conflict Apply failed with 1 conflict: conflict with "before-first-apply" using v1 at TIME .data.k
            201 1 IfNotPresent
            200 3
            200 3 i:2
        "#]],
    )
    .await;
}

#[tokio::test]
async fn the_servers_own_service_comes_back() {
    let server = Server::start().await;
    let stop = tokio_util::sync::CancellationToken::new();
    let (api, stopped) = (server.api.clone(), stop.clone());
    let serving = tokio::spawn(async move { api.serve(stopped).await });
    let path = "/api/v1/namespaces/default/services";
    let ip = server.get(&format!("{path}/kubernetes")).await["spec"]["clusterIP"].clone();
    let mut services = server.watch(&format!("{path}?watch=true"), 1).await;
    server.ask("DELETE", &format!("{path}/kubernetes"), &[], String::new(), admin()).await;
    assert_eq!(services.word().await, "DELETED kubernetes");
    assert_eq!(services.word().await, "ADDED kubernetes");
    assert_eq!(server.get(&format!("{path}/kubernetes")).await["spec"]["clusterIP"], ip);
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn people_look_at_the_root_and_at_health() {
    let server = Server::start().await;
    expect![[r#"
        200 /api/v1 /apis /apis/apiextensions.k8s.io
        403 Forbidden forbidden: User "jane" cannot get path "/"
    "#]]
    .assert_eq(&server.run("GET / /paths/1 /paths/2 /paths/3\nGET / as=jane\n").await);
    assert_eq!(server.get("/readyz").await, "ok");
    assert_eq!(server.get("/readyz?verbose").await, "[+]ping ok\nreadyz check passed\n");
    assert_eq!(server.get("/livez/ping?verbose").await, "ok");
}
