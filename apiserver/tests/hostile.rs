//! Input that nobody sane sends: every answer is an answer, nothing panics and the server goes on.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use support::{Server, admin};

/// One good object per kind that has code, under its path.
fn good() -> Vec<(&'static str, Value)> {
    let pod = json!({
        "restartPolicy": "Always", "hostNetwork": true, "nodeSelector": {"a": "b"}, "terminationGracePeriodSeconds": 3,
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        "volumes": [{"name": "v", "configMap": {"name": "c", "defaultMode": 420}}, {"name": "e"}],
        "containers": [{
            "name": "c", "image": "i:1", "command": ["a"], "env": [{"name": "A", "value": "b"}],
            "ports": [{"name": "web", "containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m"}},
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
        }],
    });
    let meta =
        json!({"name": "x", "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["x.io/y"]});
    let workload = json!({
        "metadata": meta,
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "30%", "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod},
        },
        "status": {"replicas": 2, "conditions": [{"type": "Available", "status": "True"}]},
    });
    vec![
        (
            "/api/v1/namespaces/default/pods",
            json!({"metadata": meta, "spec": pod, "status": {"phase": "Running"}}),
        ),
        ("/apis/apps/v1/namespaces/default/deployments", workload.clone()),
        ("/apis/apps/v1/namespaces/default/replicasets", workload),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": meta, "spec": {
                "type": "NodePort", "clusterIP": "10.96.7.7", "selector": {"a": "b"}, "sessionAffinity": "ClientIP",
                "ports": [{"name": "a", "port": 80, "targetPort": "web", "nodePort": 30001}],
            }}),
        ),
        (
            "/api/v1/namespaces/default/secrets",
            json!({"metadata": meta, "stringData": {"k": "v"}, "data": {"l": "dg=="}}),
        ),
        (
            "/api/v1/namespaces/default/configmaps",
            json!({"metadata": meta, "data": {"k": "v"}, "immutable": true}),
        ),
        (
            "/api/v1/nodes",
            json!({"metadata": meta, "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "a", "effect": "NoSchedule"}]},
                "status": {"capacity": {"cpu": "4"}, "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}],
                    "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}),
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events",
            json!({"metadata": meta, "regarding": {"kind": "Pod", "name": "p"}, "note": "n", "reason": "R",
                "eventTime": "2026-01-01T00:00:00.000000Z", "deprecatedCount": 3, "type": "Normal"}),
        ),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"metadata": meta, "addressType": "IPv4", "ports": [{"port": 1}], "endpoints": [{"addresses": ["1.2.3.4"]}]}),
        ),
        ("/api/v1/namespaces", json!({"metadata": meta, "spec": {"finalizers": ["kubernetes"]}})),
    ]
}

fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!({})),
        Just(json!([])),
        Just(json!([null, {}, [], "x", 1])),
        Just(json!({"a": null, "": {}})),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("-1"),
            Just("9999999999999999999999"),
            Just("1e400"),
            Just("%"),
            Just("é%"),
            Just("/"),
            Just("0001-01-01T00:00:00Z"),
            Just("10.96.0.1")
        ]
        .prop_map(Value::from),
    ]
}

/// Puts `odd` somewhere into `value`; `path` says where by taking turns at every level.
fn mutate(value: &mut Value, path: &[usize], odd: Value) {
    let Some((turn, rest)) = path.split_first() else {
        *value = odd;
        return;
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let at = turn % map.len();
            if let Some(child) = map.values_mut().nth(at) {
                mutate(child, rest, odd);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = turn % list.len();
            mutate(&mut list[at], rest, odd);
        }
        _ => *value = odd,
    }
}

fn run<S: Strategy>(cases: u32, strategy: S, test: impl AsyncFn(&Server, S::Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start());
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&strategy, |input| {
        runtime.block_on(test(&server, input));
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

const TABLE: (&str, &str) = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");

#[test]
fn twisted_objects_are_created_refused_patched_shown_and_deleted() {
    let kinds = good();
    let strategy = (0..kinds.len(), prop::collection::vec(0..8_usize, 1..9), odd(), 0..4_usize);
    run(1500, strategy, async |server, (kind, path, odd, way)| {
        let (collection, object) = &kinds[kind];
        let mut twisted = object.clone();
        mutate(&mut twisted, &path, odd);
        let one = format!("{collection}/x");
        let ask = async |method: &str, path: &str, headers: &[(&str, &str)], body: &Value| {
            let (code, answer) = server.ask(method, path, headers, body.to_string(), admin()).await;
            assert!(code < 500, "{method} {path} {body}: {code} {answer}");
            code
        };
        if way == 0 {
            ask("POST", collection, &[], &twisted).await;
        } else {
            ask("POST", collection, &[], object).await;
            match way {
                1 => ask("PUT", &one, &[], &twisted).await,
                2 => {
                    ask(
                        "PATCH",
                        &one,
                        &[("content-type", "application/strategic-merge-patch+json")],
                        &twisted,
                    )
                    .await
                }
                _ => ask("PATCH", &one, &[("content-type", "application/merge-patch+json")], &twisted).await,
            };
            ask(
                "PATCH",
                &format!("{one}/status"),
                &[("content-type", "application/merge-patch+json")],
                &twisted,
            )
            .await;
        }
        ask("GET", collection, &[TABLE], &Value::Null).await;
        ask("DELETE", &format!("{one}?gracePeriodSeconds=0"), &[], &json!({})).await;
        let clear = json!({"metadata": {"finalizers": null}});
        ask("PATCH", &one, &[("content-type", "application/merge-patch+json")], &clear).await;
        if collection.ends_with("namespaces") {
            ask("PUT", &format!("{one}/finalize"), &[], &json!({"metadata": {"name": "x"}, "spec": {}}))
                .await;
        }
    });
}

#[test]
fn odd_queries_and_paths_get_answers() {
    let names = prop_oneof![
        Just("limit"),
        Just("continue"),
        Just("labelSelector"),
        Just("fieldSelector"),
        Just("resourceVersionMatch"),
        Just("gracePeriodSeconds"),
        Just("propagationPolicy"),
        Just("dryRun"),
        Just("fieldValidation"),
        Just("includeObject"),
        Just("fieldManager"),
        Just("force"),
    ];
    let value = prop_oneof![
        "\\PC{0,10}",
        any::<i64>().prop_map(|n| n.to_string()),
        Just("a in (".to_owned()),
        Just("a=b,!c,d notin (e,f)".to_owned()),
        Just("metadata.name=x,spec.nodeName!=".to_owned()),
        Just("eyJmcm9tIjoiIn0".to_owned()),
    ];
    let path = prop_oneof![
        Just("/api/v1/namespaces/default/pods".to_owned()),
        Just("/api/v1/nodes/x".to_owned()),
        Just("/apis/apps/v1/deployments".to_owned()),
        "/(api|apis|openapi)(/[a-z0-9.%]{0,8}){0,6}",
    ];
    let method = prop_oneof![
        Just("GET"),
        Just("POST"),
        Just("PUT"),
        Just("PATCH"),
        Just("DELETE"),
        Just("HEAD"),
        Just("OPTIONS")
    ];
    let strategy = (method, path, prop::collection::vec((names, value), 0..4), "\\PC{0,20}");
    run(1500, strategy, async |server, (method, path, pairs, body)| {
        let query: Vec<String> = pairs
            .iter()
            .map(|(name, value)| {
                format!("{name}={}", value.bytes().map(|b| format!("%{b:02X}")).collect::<String>())
            })
            .collect();
        let uri = format!("{path}?{}", query.join("&"));
        if uri.parse::<http::Uri>().is_err() {
            return;
        }
        let (code, answer) = server.ask(method, &uri, &[], body, admin()).await;
        assert!(code < 500, "{method} {uri}: {code} {answer}");
    });
}

#[tokio::test]
async fn numbers_at_the_edge_are_no_problem() {
    let server = Server::start().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}});
    server.post("/api/v1/namespaces/default/pods", &pod).await;
    let max = i64::MAX;
    let outcome = server
        .run(&format!(
            "
DELETE /api/v1/namespaces/default/pods/p?gracePeriodSeconds={max} /metadata/deletionGracePeriodSeconds
DELETE /api/v1/namespaces/default/pods/p?gracePeriodSeconds=-1 /metadata/deletionGracePeriodSeconds
GET /api/v1/pods?limit={max} /kind
"
        ))
        .await;
    expect_test::expect![[r#"
        200 9223372036854775807
        200 1
        200 PodList
    "#]]
    .assert_eq(&outcome);
    let path = format!("/api/v1/pods?watch=1&timeoutSeconds={}", u64::MAX);
    server.watch(&path, 1).await;
}
