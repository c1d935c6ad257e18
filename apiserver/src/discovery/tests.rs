use expect_test::{Expect, expect};
use serde_json::Value;

use super::*;
use crate::kinds::{BUILTIN, find};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

fn discovery() -> Discovery {
    Discovery::new(BUILTIN.to_vec(), "v1.34.0", "10.0.0.1:6443")
}

fn few() -> Discovery {
    let kinds = vec![*find("", "v1", "pods").unwrap(), *find("apps", "v1", "deployments").unwrap()];
    Discovery::new(kinds, "v1.34.0", "10.0.0.1:6443")
}

fn json(discovery: &Discovery, path: &str, accept: &str) -> Value {
    serde_json::from_slice(&discovery.get(path, None, Some(accept)).unwrap().plain()).unwrap()
}

/// Path, Accept → content type and the answer, or the error.
fn check(path: &str, accept: &str, expect: Expect) {
    let text = match few().get(path, None, Some(accept)) {
        Ok(document) => format!("{}\n{}", document.content_type, String::from_utf8_lossy(&document.plain())),
        Err(e) => e.to_string(),
    };
    expect.assert_eq(&text);
}

#[test]
fn legacy_discovery() {
    check(
        "/api",
        "",
        expect![[r#"
        application/json
        {"kind":"APIVersions","serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"10.0.0.1:6443"}],"versions":["v1"]}"#]],
    );
    check(
        "/apis",
        "application/json",
        expect![[r#"
        application/json
        {"apiVersion":"v1","groups":[{"name":"apps","preferredVersion":{"groupVersion":"apps/v1","version":"v1"},"versions":[{"groupVersion":"apps/v1","version":"v1"}]}],"kind":"APIGroupList"}"#]],
    );
    check(
        "/apis/apps",
        "",
        expect![[r#"
        application/json
        {"apiVersion":"v1","kind":"APIGroup","name":"apps","preferredVersion":{"groupVersion":"apps/v1","version":"v1"},"versions":[{"groupVersion":"apps/v1","version":"v1"}]}"#]],
    );
    check(
        "/apis/apps/",
        "",
        expect![[r#"
        application/json
        {"apiVersion":"v1","kind":"APIGroup","name":"apps","preferredVersion":{"groupVersion":"apps/v1","version":"v1"},"versions":[{"groupVersion":"apps/v1","version":"v1"}]}"#]],
    );
    check(
        "/apis/apps/v1",
        "",
        expect![[r#"
        application/json
        {"apiVersion":"v1","groupVersion":"apps/v1","kind":"APIResourceList","resources":[{"categories":["all"],"kind":"Deployment","name":"deployments","namespaced":true,"shortNames":["deploy"],"singularName":"deployment","verbs":["create","delete","deletecollection","get","list","patch","update","watch"]},{"group":"autoscaling","kind":"Scale","name":"deployments/scale","namespaced":true,"singularName":"","verbs":["get","patch","update"],"version":"v1"},{"kind":"Deployment","name":"deployments/status","namespaced":true,"singularName":"","verbs":["get","patch","update"]}]}"#]],
    );
    check("/apis/apps/v2", "", expect!["the server could not find the requested resource"]);
    check("/apis/nothing", "", expect!["the server could not find the requested resource"]);
    check(
        "/api/v1",
        "",
        expect![[r#"
            application/json
            {"apiVersion":"v1","groupVersion":"v1","kind":"APIResourceList","resources":[{"categories":["all"],"kind":"Pod","name":"pods","namespaced":true,"shortNames":["po"],"singularName":"pod","verbs":["create","delete","deletecollection","get","list","patch","update","watch"]},{"kind":"PodAttachOptions","name":"pods/attach","namespaced":true,"singularName":"","verbs":["create","get"]},{"kind":"Binding","name":"pods/binding","namespaced":true,"singularName":"","verbs":["create"]},{"kind":"Pod","name":"pods/ephemeralcontainers","namespaced":true,"singularName":"","verbs":["get","patch","update"]},{"group":"policy","kind":"Eviction","name":"pods/eviction","namespaced":true,"singularName":"","verbs":["create"],"version":"v1"},{"kind":"PodExecOptions","name":"pods/exec","namespaced":true,"singularName":"","verbs":["create","get"]},{"kind":"Pod","name":"pods/log","namespaced":true,"singularName":"","verbs":["get"]},{"kind":"PodPortForwardOptions","name":"pods/portforward","namespaced":true,"singularName":"","verbs":["create","get"]},{"kind":"Pod","name":"pods/resize","namespaced":true,"singularName":"","verbs":["get","patch","update"]},{"kind":"Pod","name":"pods/status","namespaced":true,"singularName":"","verbs":["get","patch","update"]}]}"#]],
    );
}

#[test]
fn aggregated_discovery_says_which_form_it_is() {
    check(
        "/apis",
        AGGREGATED,
        expect![[r#"
        application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList
        {"apiVersion":"apidiscovery.k8s.io/v2","items":[{"metadata":{"creationTimestamp":null,"name":"apps"},"versions":[{"freshness":"Current","resources":[{"categories":["all"],"resource":"deployments","responseKind":{"group":"","kind":"Deployment","version":""},"scope":"Namespaced","shortNames":["deploy"],"singularResource":"deployment","subresources":[{"responseKind":{"group":"autoscaling","kind":"Scale","version":"v1"},"subresource":"scale","verbs":["get","patch","update"]},{"responseKind":{"group":"","kind":"Deployment","version":""},"subresource":"status","verbs":["get","patch","update"]}],"verbs":["create","delete","deletecollection","get","list","patch","update","watch"]}],"version":"v1"}]}],"kind":"APIGroupDiscoveryList","metadata":{}}"#]],
    );
    let old = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    assert_eq!(
        few().get("/api", None, Some(old)).unwrap().content_type,
        DiscoveryForm::V2Beta1.content_type()
    );
    assert_eq!(json(&few(), "/api", old)["apiVersion"], "apidiscovery.k8s.io/v2beta1");
    check(
        "/api",
        "application/xml",
        expect!["only the following media types are accepted: application/json"],
    );
}

#[test]
fn a_document_keeps_its_etag_and_its_hash_makes_it_immutable() {
    let discovery = few();
    let index = json(&discovery, "/openapi/v3", "");
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let (path, hash) = url.split_once("?hash=").unwrap();
    let with = discovery.get(path, Some(hash), None).unwrap();
    let without = discovery.get(path, None, None).unwrap();
    assert!(with.immutable && !without.immutable);
    assert_eq!(with.etag, without.etag);
    assert_eq!(with.etag, few().get(path, None, None).unwrap().etag);
    assert!(!discovery.get(path, Some("old"), None).unwrap().immutable);
}

/// An operation of the v3 document: what kubectl looks for before it applies.
fn check_operation(path: &str, method: &str, expect: Expect) {
    let document = json(&few(), "/openapi/v3/apis/apps/v1", "");
    let operation = &document["paths"][path][method];
    let names = |list: &Value| {
        list.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    };
    let types = operation["requestBody"]["content"].as_object().map_or(String::new(), |types| {
        types.iter().map(|(ty, v)| format!("\n  {ty}: {}", v["schema"]["$ref"])).collect()
    });
    expect.assert_eq(&format!(
        "{} {} {}\nin: {} | {}{types}\nout: {}",
        operation["x-kubernetes-action"],
        operation["x-kubernetes-group-version-kind"],
        operation["operationId"],
        names(&document["paths"][path]["parameters"]),
        names(&operation["parameters"]),
        operation["responses"]["200"]["content"],
    ));
}

#[test]
fn v3_operations_carry_what_kubectl_looks_for() {
    let item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    check_operation(
        item,
        "patch",
        expect![[r##"
        "patch" {"group":"apps","kind":"Deployment","version":"v1"} "patchAppsV1NamespacedDeployment"
        in: name namespace pretty | dryRun fieldManager fieldValidation force
          application/apply-patch+yaml: "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
          application/json-patch+json: "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
          application/merge-patch+json: "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
          application/strategic-merge-patch+json: "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.api.apps.v1.Deployment"}}}"##]],
    );
    check_operation(
        item,
        "get",
        expect![[r##"
        "get" {"group":"apps","kind":"Deployment","version":"v1"} "readAppsV1NamespacedDeployment"
        in: name namespace pretty | 
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.api.apps.v1.Deployment"}}}"##]],
    );
    check_operation(
        &format!("{item}/scale"),
        "put",
        expect![[r##"
        "put" {"group":"autoscaling","kind":"Scale","version":"v1"} "replaceAppsV1NamespacedDeploymentScale"
        in: name namespace pretty | dryRun fieldManager fieldValidation
          */*: "#/components/schemas/io.k8s.api.autoscaling.v1.Scale"
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.api.autoscaling.v1.Scale"}}}"##]],
    );
    check_operation(
        "/apis/apps/v1/namespaces/{namespace}/deployments",
        "post",
        expect![[r##"
        "post" {"group":"apps","kind":"Deployment","version":"v1"} "createAppsV1NamespacedDeployment"
        in: namespace pretty | dryRun fieldManager fieldValidation
          */*: "#/components/schemas/io.k8s.api.apps.v1.Deployment"
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.api.apps.v1.Deployment"}}}"##]],
    );
    check_operation(
        "/apis/apps/v1/namespaces/{namespace}/deployments",
        "delete",
        expect![[r##"
        "deletecollection" {"group":"apps","kind":"Deployment","version":"v1"} "deleteAppsV1CollectionNamespacedDeployment"
        in: namespace pretty | dryRun gracePeriodSeconds orphanDependents propagationPolicy continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch sendInitialEvents timeoutSeconds
          */*: "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.Status"}}}"##]],
    );
    check_operation(
        "/apis/apps/v1/deployments",
        "get",
        expect![[r##"
        "list" {"group":"apps","kind":"Deployment","version":"v1"} "listAppsV1DeploymentForAllNamespaces"
        in: pretty | allowWatchBookmarks continue fieldSelector labelSelector limit resourceVersion resourceVersionMatch sendInitialEvents timeoutSeconds watch
        out: {"application/json":{"schema":{"$ref":"#/components/schemas/io.k8s.api.apps.v1.DeploymentList"}}}"##]],
    );
}

#[test]
fn v3_schemas_have_single_types_and_no_siblings_of_references() {
    let discovery = discovery();
    let index = json(&discovery, "/openapi/v3", "");
    for (path, _) in index["paths"].as_object().unwrap() {
        let document = json(&discovery, &format!("/openapi/v3/{path}"), "");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        assert_eq!(map.len(), 1, "{path} {map:?}");
                        assert!(
                            schemas.contains_key(target.trim_start_matches("#/components/schemas/")),
                            "{target}"
                        );
                    }
                    assert!(!map.get("type").is_some_and(Value::is_array));
                    open.extend(map.values());
                }
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
    }
    let apps = json(&discovery, "/openapi/v3/apis/apps/v1", "");
    let schemas = &apps["components"]["schemas"];
    expect![[r##"{"allOf":[{"$ref":"#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy"}],"x-kubernetes-patch-strategy":"retainKeys"}"##]].assert_eq(&schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["strategy"].to_string());
    expect![[r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#]]
        .assert_eq(&schemas["io.k8s.apimachinery.pkg.util.intstr.IntOrString"].to_string());
}

#[test]
fn v2_is_one_document_with_every_kind() {
    let document = json(&discovery(), "/openapi/v2", "application/json");
    let definitions = document["definitions"].as_object().unwrap();
    for kind in BUILTIN {
        let wanted =
            serde_json::json!({"group": kind.gvk.group, "version": kind.gvk.version, "kind": kind.gvk.kind});
        let found = definitions.values().any(|d| {
            d["x-kubernetes-group-version-kind"].as_array().is_some_and(|gvks| gvks.contains(&wanted))
        });
        assert!(found, "{wanted}");
    }
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    expect![[r##"{"consumes":["application/apply-patch+yaml","application/json-patch+json","application/merge-patch+json","application/strategic-merge-patch+json"],"description":"patch Pod","operationId":"patchCoreV1NamespacedPod","parameters":[{"description":"All: process everything, persist nothing.","in":"query","name":"dryRun","type":"string","uniqueItems":true},{"description":"Name of the actor that makes the change.","in":"query","name":"fieldManager","type":"string","uniqueItems":true},{"description":"What becomes of unknown or repeated fields: Ignore, Warn, Strict.","in":"query","name":"fieldValidation","type":"string","uniqueItems":true},{"description":"Take over fields that others own; server-side apply only.","in":"query","name":"force","type":"boolean","uniqueItems":true},{"in":"body","name":"body","required":true,"schema":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Patch"}}],"produces":["application/json"],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/io.k8s.api.core.v1.Pod"}},"201":{"description":"Created","schema":{"$ref":"#/definitions/io.k8s.api.core.v1.Pod"}},"401":{"description":"Unauthorized"}},"schemes":["https"],"tags":["core_v1"],"x-kubernetes-action":"patch","x-kubernetes-group-version-kind":{"group":"","kind":"Pod","version":"v1"}}"##]].assert_eq(&patch.to_string());
}

/// Length-delimited fields of a message, read by other code than wrote them.
fn fields(mut rest: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(rest: &mut &[u8]) -> u64 {
        let end = rest.iter().position(|b| b & 0x80 == 0).unwrap();
        let (head, tail) = rest.split_at(end + 1);
        *rest = tail;
        head.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut found = Vec::new();
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let len = varint(&mut rest);
        if tag & 7 == 2 {
            let (value, tail) = rest.split_at(usize::try_from(len).unwrap());
            found.push((tag >> 3, value));
            rest = tail;
        }
    }
    found
}

fn field(bytes: &[u8], number: u64) -> &[u8] {
    fields(bytes).into_iter().find(|(n, _)| *n == number).map(|(_, v)| v).unwrap()
}

fn named<'a>(bytes: &'a [u8], number: u64, name: &str) -> &'a [u8] {
    let entries = fields(bytes).into_iter().filter(|(n, _)| *n == number);
    let entry = entries.map(|(_, e)| e).find(|e| field(e, 1) == name.as_bytes()).unwrap();
    field(entry, 2)
}

#[test]
fn gnostic_protobuf_holds_the_same_definitions() {
    let discovery = few();
    let document = discovery.get("/openapi/v2", None, Some(PROTOBUF)).unwrap();
    assert_eq!(document.content_type, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    let bytes = document.plain();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let definitions = field(&bytes, 9);
    assert_eq!(
        fields(definitions).len(),
        json(&discovery, "/openapi/v2", "")["definitions"].as_object().unwrap().len()
    );
    let spec = named(definitions, 1, "io.k8s.api.core.v1.PodSpec");
    let containers = named(field(spec, 25), 1, "containers");
    let item = field(field(containers, 23), 1);
    let merge_key = named(containers, 31, "x-kubernetes-patch-merge-key");
    let pods = named(field(&bytes, 8), 2, "/api/v1/namespaces/{namespace}/pods/{name}");
    let gvk = named(field(pods, 8), 13, "x-kubernetes-group-version-kind");
    expect![[r#"2.0 v1.34.0 | containers | #/definitions/io.k8s.api.core.v1.Container "name" | {"group":"","kind":"Pod","version":"v1"}"#]].assert_eq(&format!(
        "{} {} | {} | {} {} | {}",
        text(field(&bytes, 1)),
        text(field(field(&bytes, 2), 2)),
        text(field(spec, 19)),
        text(field(item, 1)),
        text(field(merge_key, 2)),
        text(field(gvk, 2)),
    ));
    assert_eq!(discovery.get("/swagger-2.0.0.pb-v1", None, None).unwrap().etag, document.etag);
}
