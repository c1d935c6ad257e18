use expect_test::{Expect, expect};
use serde_json::Value;

use super::*;

fn endpoint(text: &str) -> Expected<'_> {
    let (api_version, kind) = text.rsplit_once(' ').unwrap();
    Expected { api_version, kind }
}

fn patch(content_type: &str, kind: &str, object: &str, body: &str) -> String {
    let object: Value = serde_json::from_str(object).unwrap();
    let patched = PatchType::from_content_type(Some(content_type), true)
        .and_then(|ty| apply_patch(&object, body.as_bytes(), ty, endpoint(kind), FieldValidation::Strict));
    match patched {
        Ok(Decoded { value, .. }) => value.to_string(),
        Err(e) => format!("{} {}: {e}", e.code(), e.reason()),
    }
}

/// Strategic merge over the `spec` of a Pod: before, patch → after.
fn check(before: &str, body: &str, expect: Expect) {
    let object = format!(r#"{{"spec":{before}}}"#);
    let after =
        patch("application/strategic-merge-patch+json", "v1 Pod", &object, &format!(r#"{{"spec":{body}}}"#));
    let after =
        after.strip_prefix(r#"{"spec":"#).and_then(|s| s.strip_suffix('}')).unwrap_or(&after).to_owned();
    expect.assert_eq(&after);
}

#[test]
fn lists_of_objects_merge_by_key() {
    let two = r#"{"containers":[{"name":"a","image":"1"},{"name":"b","image":"1"}]}"#;
    check(
        two,
        r#"{"containers":[{"name":"b","image":"2"}]}"#,
        expect![[r#"{"containers":[{"image":"1","name":"a"},{"image":"2","name":"b"}]}"#]],
    );
    check(
        two,
        r#"{"containers":[{"name":"c","image":"3"}]}"#,
        expect![[
            r#"{"containers":[{"image":"3","name":"c"},{"image":"1","name":"a"},{"image":"1","name":"b"}]}"#
        ]],
    );
    check(
        two,
        r#"{"containers":[{"name":"a","$patch":"delete"}]}"#,
        expect![[r#"{"containers":[{"image":"1","name":"b"}]}"#]],
    );
    check(
        two,
        r#"{"containers":[{"$patch":"replace"},{"name":"z"}]}"#,
        expect![[r#"{"containers":[{"name":"z"}]}"#]],
    );
    check(
        two,
        r#"{"containers":[{"image":"2"}]}"#,
        expect!["422 Invalid: the server rejected our request due to an error in our request"],
    );
    check(
        two,
        r#"{"containers":[{"name":"a","$patch":"merge"}]}"#,
        expect!["400 BadRequest: merging lists cannot yet be specified in the patch"],
    );
    check(
        two,
        r#"{"containers":[{"name":"a","$patch":"nonsense"}]}"#,
        expect!["400 BadRequest: unknown patch type: nonsense in map: map[$patch:nonsense name:a]"],
    );
    check(two, r#"{"containers":null}"#, expect!["{}"]);
    check(
        "{}",
        r#"{"containers":[{"name":"a","image":null,"$setElementOrder/env":[]},{"name":"b","$patch":"delete"}]}"#,
        expect![[r#"{"containers":[{"name":"a"}]}"#]],
    );
}

#[test]
fn lists_without_strategy_are_replaced() {
    check(
        r#"{"tolerations":[{"key":"a"}],"containers":[{"name":"a","command":["x","y"]}]}"#,
        r#"{"tolerations":[{"key":"b"}],"containers":[{"name":"a","command":["z"]}]}"#,
        expect![[r#"{"containers":[{"command":["z"],"name":"a"}],"tolerations":[{"key":"b"}]}"#]],
    );
}

#[test]
fn the_patch_orders_what_it_names() {
    let three = r#"{"containers":[{"name":"a"},{"name":"b"},{"name":"c"}]}"#;
    check(
        three,
        r#"{"$setElementOrder/containers":[{"name":"c"},{"name":"a"}]}"#,
        expect![[r#"{"containers":[{"name":"b"},{"name":"c"},{"name":"a"}]}"#]],
    );
    check(
        three,
        r#"{"$setElementOrder/containers":[{"name":"c"},{"name":"n"},{"name":"a"}],"containers":[{"name":"n"}]}"#,
        expect![[r#"{"containers":[{"name":"b"},{"name":"c"},{"name":"n"},{"name":"a"}]}"#]],
    );
    check(
        three,
        r#"{"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"x"}]}"#,
        expect![[r#"
            400 BadRequest: The order in patch list:
            [map[name:x]]
             doesn't match $setElementOrder list:
            [map[name:a]]
        "#]],
    );
    check(
        three,
        r#"{"$setElementOrder/containers":[{"name":"a"},{"name":"c"}],"containers":[{"name":"b","$patch":"delete"}]}"#,
        expect![[r#"{"containers":[{"name":"a"},{"name":"c"}]}"#]],
    );
    check("{}", r#"{"$setElementOrder/containers":[{"name":"a"}]}"#, expect!["{}"]);
    check(
        three,
        r#"{"$setElementOrder/containers":"a"}"#,
        expect!["400 BadRequest: invalid patch format of setElementOrder list"],
    );
}

#[test]
fn equal_merge_keys_neither_vanish_nor_multiply() {
    let ports = r#"{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}]}]}"#;
    check(
        ports,
        r#"{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"name":"c","$setElementOrder/ports":[{"containerPort":80},{"containerPort":80}],"ports":[{"containerPort":80,"name":"web"}]}]}"#,
        expect![[
            r#"{"containers":[{"name":"c","ports":[{"containerPort":80,"name":"web","protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}]}]}"#
        ]],
    );
    check(
        ports,
        r#"{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"UDP","name":"dns"}]}]}"#,
        expect![[
            r#"{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"name":"dns","protocol":"UDP"}]}]}"#
        ]],
    );
    check(
        ports,
        r#"{"containers":[{"name":"c","$setElementOrder/ports":[{"containerPort":80},{"containerPort":80}]}]}"#,
        expect![[
            r#"{"containers":[{"name":"c","ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}]}]}"#
        ]],
    );
}

#[test]
fn retain_keys_removes_what_it_does_not_name() {
    check(
        r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#,
        r#"{"volumes":[{"name":"v","$retainKeys":["hostPath","name"],"hostPath":{"path":"/x"}}]}"#,
        expect![[r#"{"volumes":[{"hostPath":{"path":"/x"},"name":"v"}]}"#]],
    );
    check(
        r#"{"volumes":[{"name":"v","emptyDir":{}}]}"#,
        r#"{"volumes":[{"name":"v","$retainKeys":["name"],"hostPath":{"path":"/x"}}]}"#,
        expect!["400 BadRequest: invalid patch format of retainKeys"],
    );
}

#[test]
fn maps_merge_and_null_deletes() {
    check(
        r#"{"nodeSelector":{"a":"1","b":"2"},"nodeName":"n"}"#,
        r#"{"nodeSelector":{"a":null,"c":"3"},"nodeName":null,"hostname":null}"#,
        expect![[r#"{"nodeSelector":{"b":"2","c":"3"}}"#]],
    );
    check(
        r#"{"nodeSelector":{"a":"1"}}"#,
        r#"{"nodeSelector":{"$patch":"replace","c":"3"}}"#,
        expect![[r#"{"nodeSelector":{"c":"3"}}"#]],
    );
    check(
        r#"{"nodeSelector":{"a":"1"}}"#,
        r#"{"nodeSelector":{"$patch":"delete"}}"#,
        expect![[r#"{"nodeSelector":{}}"#]],
    );
    check(
        r#"{"nodeSelector":{"a":"1"}}"#,
        r#"{"nodeSelector":{"$patch":"x"}}"#,
        expect!["400 BadRequest: unknown patch type: x in map: map[$patch:x]"],
    );
}

#[test]
fn primitive_lists_with_merge_keep_order_without_repeats() {
    let strategic = |object: &str, body: &str, expect: Expect| {
        expect.assert_eq(&patch("application/strategic-merge-patch+json", "v1 Pod", object, body));
    };
    let object = r#"{"metadata":{"finalizers":["a","b"]}}"#;
    strategic(
        object,
        r#"{"metadata":{"finalizers":["c","a"]}}"#,
        expect![[r#"{"metadata":{"finalizers":["c","a","b"]}}"#]],
    );
    strategic(
        object,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#,
        expect![[r#"{"metadata":{"finalizers":["b"]}}"#]],
    );
    strategic(
        object,
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"$setElementOrder/finalizers":["c","b"],"finalizers":["c"]}}"#,
        expect![[r#"{"metadata":{"finalizers":["c","b"]}}"#]],
    );
    strategic(
        "{}",
        r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#,
        expect![[r#"{"metadata":{}}"#]],
    );
}

#[test]
fn the_result_is_read_like_a_body() {
    check(
        "{}",
        r#"{"foo":1}"#,
        expect![[
            r#"422 Invalid:  "" is invalid: patch: Invalid value: "map[spec:map[foo:1]]": strict decoding error: unknown field "spec.foo""#
        ]],
    );
    check(
        "{}",
        r#"{"priority":"high"}"#,
        expect![[
            r#"422 Invalid:  "" is invalid: patch: Invalid value: "map[spec:map[priority:high]]": json: cannot unmarshal string into Go struct field PodSpec.spec.priority of type int32"#
        ]],
    );
    let merge = patch("application/merge-patch+json", "v1 Pod", "{}", r#"{"spec":{"foo":[1,"a",null]}}"#);
    expect![[r#"422 Invalid:  "" is invalid: patch: Invalid value: "{\"spec\":{\"foo\":[1,\"a\",null]}}": strict decoding error: unknown field "spec.foo""#]].assert_eq(&merge);
}

#[test]
fn json_and_merge_patches() {
    let object = r#"{"data":{"a":"1"}}"#;
    let json = |body: &str, expect: Expect| {
        expect.assert_eq(&patch("application/json-patch+json", "v1 ConfigMap", object, body));
    };
    json(
        r#"[{"op":"replace","path":"/data/a","value":"2"},{"op":"add","path":"/data/b~1c","value":"3"}]"#,
        expect![[r#"{"data":{"a":"2","b/c":"3"}}"#]],
    );
    json(
        r#"[{"op":"test","path":"/data/a","value":"2"}]"#,
        expect!["422 Invalid: the server rejected our request due to an error in our request"],
    );
    json(
        r#"[{"op":"remove","path":"/data/z"}]"#,
        expect!["422 Invalid: the server rejected our request due to an error in our request"],
    );
    json(
        r#"{"op":"remove"}"#,
        expect![
            "400 BadRequest: error decoding patch: invalid type: map, expected a sequence at line 1 column 0"
        ],
    );
    json("[", expect!["400 BadRequest: error decoding patch: unexpected end of JSON input"]);
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/data/a","value":"1"}"#; 10_001].join(","));
    json(
        &many,
        expect![
            "413 RequestEntityTooLarge: Request entity is too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
        ],
    );
    let merge = |body: &str, expect: Expect| {
        expect.assert_eq(&patch("application/merge-patch+json", "v1 ConfigMap", object, body));
    };
    merge(r#"{"data":{"a":null,"b":"2"}}"#, expect![[r#"{"data":{"b":"2"}}"#]]);
    merge(r#"{"data":null}"#, expect!["{}"]);
    merge("[]", expect!["400 BadRequest: error decoding patch: Invalid JSON Patch"]);
}

#[test]
fn unknown_media_types_are_told_what_there_is() {
    let say = |content_type, strategic| {
        PatchType::from_content_type(content_type, strategic).map_err(|e| e.to_string())
    };
    expect![[r#"Err("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml")"#]].assert_eq(&format!("{:?}", say(Some("application/json"), true)));
    expect![[r#"Err("the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml")"#]].assert_eq(&format!("{:?}", say(Some("application/strategic-merge-patch+json"), false)));
    expect!["Ok(Apply)"]
        .assert_eq(&format!("{:?}", say(Some("application/apply-patch+yaml; charset=utf-8"), false)));
}

/// Every recorded patch of kubectl is taken; strategic ones are checked for what they promise: names in the order
/// of `$setElementOrder`, no directive left, and a second application changes nothing.
#[test]
fn recorded_patches_apply_and_are_idempotent() {
    let mut tally = std::collections::BTreeMap::new();
    for file in ["apply", "modify", "node", "variants"] {
        let path = format!("{}/testdata/kubectl-1.32/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let content_type = record["headers"]["Content-Type"].as_str().unwrap_or_default();
            let (kind, object) = match record["path"].as_str().unwrap() {
                p if p.ends_with("/scale") => ("autoscaling/v1 Scale", "{}"),
                p if p.contains("/deployments/") => ("apps/v1 Deployment", DEPLOYMENT),
                p if p.contains("/statefulsets/") => ("apps/v1 StatefulSet", "{}"),
                p if p.contains("/configmaps/") => ("v1 ConfigMap", r#"{"data":{"a":"1"}}"#),
                p if p.contains("/nodes/") => ("v1 Node", "{}"),
                p if p.contains("/pods/") => ("v1 Pod", "{}"),
                p if p.contains("/services/") => ("v1 Service", r#"{"spec":{"selector":{"app":"web"}}}"#),
                _ => continue,
            };
            let Ok(ty) = PatchType::from_content_type(Some(content_type), true) else { continue };
            if ty == PatchType::Apply || ty == PatchType::Json {
                continue;
            }
            let body = record["body"].as_str().unwrap();
            let once = patch(content_type, kind, object, body);
            assert!(
                once.starts_with('{')
                    && !["\"$set", "\"$p", "\"$ret", "\"$del"].iter().any(|d| once.contains(d)),
                "{}: {once}",
                record["command"]
            );
            assert_eq!(once, patch(content_type, kind, &once, body), "{}", record["command"]);
            *tally.entry(format!("{ty:?}")).or_insert(0) += 1;
        }
    }
    expect![[r#"{"Merge": 13, "Strategic": 29}"#]].assert_eq(&format!("{tally:?}"));
}

const DEPLOYMENT: &str = r#"{"spec":{"replicas":1,"template":{"spec":{"containers":[
    {"name":"c","image":"nginx:1","env":[{"name":"A","value":"f"},{"name":"B","value":"g"}],
     "ports":[{"containerPort":80,"protocol":"TCP"},{"containerPort":80,"protocol":"UDP"}]}]}}}}"#;

mod properties {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn containers() -> impl Strategy<Value = Value> {
        let env = prop::collection::btree_map("[A-D]", "[xy]", 0..4).prop_map(|vars| {
            vars.into_iter().map(|(n, v)| json!({"name": n, "value": v})).collect::<Value>()
        });
        prop::collection::btree_map("[a-e]", (env, "[12]"), 0..5).prop_map(|named| {
            named
                .into_iter()
                .map(|(name, (env, image))| json!({"name": name, "image": image, "env": env}))
                .collect()
        })
    }

    fn merged(before: &Value, patch: Value) -> Value {
        let set = SchemaSet::builtin();
        strategic_merge(set, set.lookup("v1", "Pod").unwrap(), before.clone(), patch).unwrap()
    }

    fn names(object: &Value) -> Vec<String> {
        let list = object["spec"]["containers"].as_array();
        list.into_iter().flatten().map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    }

    proptest! {
        #[test]
        fn an_empty_patch_changes_nothing(before in containers()) {
            let before = json!({"spec": {"containers": before}});
            prop_assert_eq!(&merged(&before, json!({})), &before);
        }

        #[test]
        fn merging_loses_and_repeats_nothing(before in containers(), patch in containers()) {
            let before = json!({"spec": {"containers": before}});
            let patch = json!({"spec": {"containers": patch}});
            let after = merged(&before, patch.clone());
            let mut expected: Vec<String> = names(&before).into_iter().chain(names(&patch)).collect();
            expected.sort();
            expected.dedup();
            let mut found = names(&after);
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(&merged(&after, patch), &after);
        }

        #[test]
        fn the_order_that_was_asked_for_holds(before in containers(), order in Just(vec!["e", "c", "a", "d", "b"]).prop_shuffle()) {
            let before = json!({"spec": {"containers": before}});
            let order: Vec<&str> = order.into_iter().filter(|n| names(&before).iter().any(|b| b == n)).collect();
            let keys: Vec<Value> = order.iter().map(|n| json!({"name": n})).collect();
            let after = merged(&before, json!({"spec": {"$setElementOrder/containers": keys}}));
            prop_assert_eq!(names(&after), order);
        }

        #[test]
        fn no_patch_text_is_a_panic(text in r#"[\[\]{}:,"$ a-z0-9/]{0,60}"#, which in 0..3usize) {
            let ty = [PatchType::Json, PatchType::Merge, PatchType::Strategic][which];
            let object = json!({"metadata": {"finalizers": ["a"]}, "spec": {"containers": [{"name": "a"}]}});
            let _outcome = apply_patch(&object, text.as_bytes(), ty, endpoint("v1 Pod"), FieldValidation::Strict);
        }
    }
}
