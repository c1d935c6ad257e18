use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

const DEPLOYMENT: Expected<'_> = Expected { api_version: "apps/v1", kind: "Deployment" };
const POD: Expected<'_> = Expected { api_version: "v1", kind: "Pod" };
const CONFIG_MAP: Expected<'_> = Expected { api_version: "v1", kind: "ConfigMap" };

fn describe(outcome: &Value) -> String {
    let managed = Managed::decode(&outcome["metadata"]["managedFields"]).unwrap_or_default();
    let mut object = outcome.clone();
    let root = object.as_object_mut().unwrap();
    root.remove("apiVersion");
    root.remove("kind");
    if let Some(metadata) = root.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["name", "managedFields", "resourceVersion", "uid"] {
            metadata.remove(key);
        }
        if metadata.is_empty() {
            root.remove("metadata");
        }
    }
    let mut lines = vec![object.to_string()];
    for (owner, owned) in &managed.0 {
        let sub =
            if owner.subresource.is_empty() { String::new() } else { format!("/{}", owner.subresource) };
        let time = owned.time.as_deref().unwrap_or("-").rsplit(':').next().unwrap_or_default().to_owned();
        let paths = owned.fields.paths().join(" ");
        lines.push(format!("{} {:?}{sub} @{time}: {paths}", owner.manager, owner.operation));
    }
    lines.join("\n")
}

/// Lines of `apply|force|update|status|raw MANAGER JSON`, one per second, on one object; an update is a merge patch,
/// raw is an object that nobody tracked. The result is the object, its owners with the second of their entry and their fields; or the first error.
fn check(expected: Expected<'_>, script: &str, expect: Expect) {
    let mut live: Option<Value> = None;
    let mut failed = None;
    for (second, line) in script.lines().map(str::trim).filter(|l| !l.is_empty()).enumerate() {
        let mut words = line.splitn(3, ' ');
        let (verb, manager) = (words.next().unwrap(), words.next().unwrap());
        let body: Value = serde_json::from_str(words.next().unwrap()).unwrap();
        let now = format!("2024-01-01T00:00:{:02}Z", second + 1);
        let status = verb == "status";
        let writer = Writer {
            expected,
            manager,
            subresource: if status { "status" } else { "" },
            reset: if status { &["spec"] } else { &["status"] },
            now: &now,
        };
        match verb {
            "apply" | "force" => {
                let mut config = json!({"apiVersion": expected.api_version, "kind": expected.kind, "metadata": {"name": "x"}});
                json_patch::merge(&mut config, &body);
                match apply(live.as_ref(), &config, verb == "force", &writer) {
                    Ok(applied) => live = Some(applied),
                    Err(e) => failed = Some(format!("{} {}: {e}", e.code(), e.reason())),
                }
            }
            "raw" => live = Some(body),
            _ => {
                let mut new = live.clone().unwrap_or_else(|| json!({"metadata": {"name": "x"}}));
                json_patch::merge(&mut new, &body);
                track_update(live.as_ref(), &mut new, &writer);
                live = Some(new);
            }
        }
        if failed.is_some() {
            break;
        }
    }
    expect.assert_eq(&failed.unwrap_or_else(|| describe(&live.unwrap())));
}

#[test]
fn the_applier_owns_what_it_names() {
    check(
        CONFIG_MAP,
        r#"apply a {"data":{"x":"1"},"metadata":{"labels":{"l":"m"}}}"#,
        expect![[r#"
        {"data":{"x":"1"},"metadata":{"labels":{"l":"m"}}}
        a Apply @01Z: .data.x .metadata.labels.l"#]],
    );
    check(
        POD,
        r#"apply a {"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"command":["x"]}],
            "nodeSelector":{"a":"b"},"volumes":[{"name":"v","emptyDir":{}}]}}"#
            .replace('\n', "")
            .as_str(),
        expect![[r#"
            {"spec":{"containers":[{"command":["x"],"image":"i","name":"c","ports":[{"containerPort":80}]}],"nodeSelector":{"a":"b"},"volumes":[{"emptyDir":{},"name":"v"}]}}
            a Apply @01Z: .spec.nodeSelector .spec.containers[name="c"] .spec.containers[name="c"].command .spec.containers[name="c"].image .spec.containers[name="c"].name .spec.containers[name="c"].ports[containerPort=80,protocol="TCP"] .spec.containers[name="c"].ports[containerPort=80,protocol="TCP"].containerPort .spec.volumes[name="v"] .spec.volumes[name="v"].emptyDir .spec.volumes[name="v"].name"#]],
    );
}

#[test]
fn what_is_no_longer_named_goes_away() {
    check(
        CONFIG_MAP,
        r#"apply a {"data":{"x":"1","y":"2"}}
           apply a {"data":{"x":"1"}}"#,
        expect![[r#"
            {"data":{"x":"1"}}
            a Apply @02Z: .data.x"#]],
    );
    // Unless somebody else owns it …
    check(
        CONFIG_MAP,
        r#"apply a {"data":{"x":"1","y":"2"}}
           apply b {"data":{"y":"2"}}
           apply a {"data":{"x":"1"}}"#,
        expect![[r#"
            {"data":{"x":"1","y":"2"}}
            a Apply @03Z: .data.x
            b Apply @02Z: .data.y"#]],
    );
    // … and what others added in between stays.
    check(
        POD,
        r#"apply a {"spec":{"containers":[{"name":"c","image":"1"},{"name":"d","image":"1"}]}}
           update u {"metadata":{"annotations":{"n":"1"}}}
           apply a {"spec":{"containers":[{"name":"c","image":"2"}]}}"#,
        expect![[r#"
            {"metadata":{"annotations":{"n":"1"}},"spec":{"containers":[{"image":"2","name":"c"}]}}
            a Apply @03Z: .spec.containers[name="c"] .spec.containers[name="c"].image .spec.containers[name="c"].name
            u Update @02Z: .metadata.annotations .metadata.annotations.n"#]],
    );
    check(
        POD,
        r#"apply a {"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"1"}]}]}}
           apply b {"spec":{"containers":[{"name":"c","env":[{"name":"B","value":"2"}]}]}}
           apply a {"spec":{"nodeName":"n"}}"#,
        expect![[r#"
            {"spec":{"containers":[{"env":[{"name":"B","value":"2"}],"name":"c"}],"nodeName":"n"}}
            a Apply @03Z: .spec.nodeName
            b Apply @02Z: .spec.containers[name="c"] .spec.containers[name="c"].name .spec.containers[name="c"].env[name="B"] .spec.containers[name="c"].env[name="B"].name .spec.containers[name="c"].env[name="B"].value"#]],
    );
    check(
        CONFIG_MAP,
        r#"apply a {"data":{"x":"1"}}
           apply a {}"#,
        expect!["{}"],
    );
}

#[test]
fn changing_what_others_own_is_a_conflict() {
    check(
        DEPLOYMENT,
        r#"update kubectl {"spec":{"replicas":1}}
           apply me {"spec":{"replicas":2}}"#,
        expect![[
            r#"409 Conflict: Apply failed with 1 conflict: conflict with "kubectl" using apps/v1 at 2024-01-01T00:00:01Z: .spec.replicas"#
        ]],
    );
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":1,"paused":true}}
           status c {"status":{"replicas":1}}
           apply me {"spec":{"replicas":2,"paused":false},"metadata":{"labels":{"x":"y"}}}"#,
        expect![[r#"
            409 Conflict: Apply failed with 2 conflicts: conflicts with "a":
            - .spec.paused
            - .spec.replicas"#]],
    );
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":1,"paused":true}}
           force b {"spec":{"replicas":2,"paused":true}}"#,
        expect![[r#"
            {"spec":{"paused":true,"replicas":2}}
            a Apply @01Z: .spec.paused
            b Apply @02Z: .spec.paused .spec.replicas"#]],
    );
    // The same value is shared, not fought over.
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":1}}
           apply b {"spec":{"replicas":1}}
           apply b {"spec":{"replicas":2}}"#,
        expect![[r#"409 Conflict: Apply failed with 1 conflict: conflict with "a": .spec.replicas"#]],
    );
}

#[test]
fn updates_take_what_they_change() {
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":1,"paused":true}}
           update u {"spec":{"replicas":5}}
           update v {"spec":{"paused":null}}"#,
        expect![[r#"
            {"spec":{"replicas":5}}
            u Update @02Z: .spec.replicas"#]],
    );
    check(
        DEPLOYMENT,
        r#"update u {"spec":{"replicas":5},"status":{"replicas":1}}
           status s {"status":{"replicas":3},"spec":{"replicas":9}}"#,
        expect![[r#"
            {"spec":{"replicas":9},"status":{"replicas":3}}
            s Update/status @02Z: .status.replicas
            u Update @01Z: .spec.replicas"#]],
    );
    // No entry moves when nothing changes.
    check(
        CONFIG_MAP,
        r#"update u {"data":{"a":"1"}}
           update u {"data":{"a":"1"}}"#,
        expect![[r#"
            {"data":{"a":"1"}}
            u Update @01Z: .data .data.a"#]],
    );
}

#[test]
fn an_apply_that_changes_nothing_keeps_its_time() {
    check(
        CONFIG_MAP,
        r#"apply a {"data":{"x":"1"}}
           apply a {"data":{"x":"1"}}"#,
        expect![[r#"
            {"data":{"x":"1"}}
            a Apply @01Z: .data.x"#]],
    );
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":1}}
           status c {"status":{"replicas":1}}
           apply a {"spec":{"replicas":1}}"#,
        expect![[r#"
            {"spec":{"replicas":1},"status":{"replicas":1}}
            a Apply @01Z: .spec.replicas
            c Update/status @02Z: .status.replicas"#]],
    );
}

#[test]
fn ports_of_one_number_are_told_apart_by_protocol() {
    check(
        POD,
        r#"apply a {"spec":{"containers":[{"name":"c","ports":[{"containerPort":53},{"containerPort":53,"protocol":"UDP"}]}]}}
           apply b {"spec":{"containers":[{"name":"c","ports":[{"containerPort":53,"protocol":"UDP","name":"dns"}]}]}}"#,
        expect![[r#"
            {"spec":{"containers":[{"name":"c","ports":[{"containerPort":53},{"containerPort":53,"name":"dns","protocol":"UDP"}]}]}}
            a Apply @01Z: .spec.containers[name="c"] .spec.containers[name="c"].name .spec.containers[name="c"].ports[containerPort=53,protocol="TCP"] .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"] .spec.containers[name="c"].ports[containerPort=53,protocol="TCP"].containerPort .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"].containerPort .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"].protocol
            b Apply @02Z: .spec.containers[name="c"] .spec.containers[name="c"].name .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"] .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"].containerPort .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"].name .spec.containers[name="c"].ports[containerPort=53,protocol="UDP"].protocol"#]],
    );
}

#[test]
fn shared_items_take_the_order_of_the_configuration() {
    let order = |live: &str, config: &str, expect: Expect| {
        let list = |names: &str| {
            let items: Vec<Value> = names.chars().map(|c| json!({"name": c.to_string()})).collect();
            json!({"spec": {"containers": items}})
        };
        let set = SchemaSet::builtin();
        let ty = Ty::Known(set.lookup("v1", "Pod").unwrap());
        let merged = merge::merge(set, ty, &list(live), &list(config));
        let names = merged["spec"]["containers"].as_array().unwrap().iter();
        expect.assert_eq(&names.map(|c| c["name"].as_str().unwrap()).collect::<String>());
    };
    order("abc", "cb", expect!["acb"]);
    order("abc", "ca", expect!["bca"]);
    order("abc", "x", expect!["abcx"]);
    order("abc", "xb", expect!["axbc"]);
    order("abcde", "bxd", expect!["abcxde"]);
    order("aba", "ab", expect!["ab"]);
    order("", "ab", expect!["ab"]);
    order("ab", "", expect!["ab"]);
}

#[test]
fn an_untracked_object_gets_an_owner_at_first_apply() {
    let untracked = |script: &str, expect: Expect| {
        let raw = r#"raw - {"data":{"x":"1"},"metadata":{"name":"x"}}"#;
        check(CONFIG_MAP, &format!("{raw}\n{script}"), expect);
    };
    untracked(
        r#"apply a {"data":{"x":"1","y":"1"}}"#,
        expect![[r#"
        {"data":{"x":"1","y":"1"}}
        a Apply @02Z: .data.x .data.y
        before-first-apply Update @02Z: .data .data.x"#]],
    );
    untracked(
        r#"apply a {"data":{"x":"2"}}"#,
        expect![[
            r#"409 Conflict: Apply failed with 1 conflict: conflict with "before-first-apply" using v1 at 2024-01-01T00:00:02Z: .data.x"#
        ]],
    );
    untracked(r#"update u {"data":{"x":"2"}}"#, expect![[r#"{"data":{"x":"2"}}"#]]);
}

#[test]
fn an_untracked_object_of_client_side_apply_leaves_to_others_what_it_did_not_name() {
    let raw = r#"raw - {"data":{"a":"1","filled":"in"},"metadata":{"name":"x","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"a\":\"1\"}}"}}}"#;
    check(
        CONFIG_MAP,
        &format!("{raw}\napply kubectl {{\"data\":{{\"a\":\"1\"}}}}"),
        expect![[r#"
            {"data":{"a":"1","filled":"in"},"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"apiVersion\":\"v1\",\"data\":{\"a\":\"1\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}}\n"}}}
            kubectl Apply @02Z: .data.a
            before-first-apply Update @02Z: .data .data.filled .metadata.annotations
            kubectl-client-side-apply Update @02Z: .data.a .metadata.annotations.kubectl.kubernetes.io/last-applied-configuration"#]],
    );
    check(
        CONFIG_MAP,
        &format!("{raw}\napply other {{\"data\":{{\"a\":\"2\"}}}}"),
        expect![[
            r#"409 Conflict: Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1 at 2024-01-01T00:00:02Z: .data.a"#
        ]],
    );
}

#[test]
fn managed_fields_that_a_client_sends() {
    let sent = r#"[{"manager":"z","operation":"Update","apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:data":{"f:a":{}}}}]"#;
    check(
        CONFIG_MAP,
        &format!(
            "update u {{\"data\":{{\"a\":\"1\"}}}}\nupdate u {{\"metadata\":{{\"managedFields\":{sent}}}}}"
        ),
        expect![[r#"
            {"data":{"a":"1"}}
            z Update @-: .data.a"#]],
    );
    check(
        CONFIG_MAP,
        "update u {\"data\":{\"a\":\"1\"}}\nupdate u {\"metadata\":{\"managedFields\":[{}]}}",
        expect![[r#"{"data":{"a":"1"}}"#]],
    );
    check(
        CONFIG_MAP,
        "update u {\"data\":{\"a\":\"1\"}}\nupdate u {\"metadata\":{\"managedFields\":[{\"operation\":\"x\"}]}}",
        expect![[r#"
            {"data":{"a":"1"}}
            u Update @01Z: .data .data.a"#]],
    );
}

#[test]
fn kubectl_may_take_what_its_annotation_remembers() {
    let before = r#"{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"data\":{\"a\":\"1\"}}"}},"data":{"a":"1","b":"1"}}"#;
    let script = |manager: &str, config: &str| {
        format!("update kubectl-client-side-apply {before}\napply {manager} {config}")
    };
    check(
        CONFIG_MAP,
        &script("kubectl", r#"{"data":{"a":"2"}}"#),
        expect![[r#"
        {"data":{"a":"2","b":"1"},"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{\"apiVersion\":\"v1\",\"data\":{\"a\":\"2\"},\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}}\n"}}}
        kubectl Apply @02Z: .data.a
        kubectl-client-side-apply Update @01Z: .data .data.b .metadata.annotations .metadata.annotations.kubectl.kubernetes.io/last-applied-configuration"#]],
    );
    check(
        CONFIG_MAP,
        &script("kubectl", r#"{"data":{"a":"2","b":"2"}}"#),
        expect![[
            r#"409 Conflict: Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1 at 2024-01-01T00:00:01Z: .data.b"#
        ]],
    );
    check(
        CONFIG_MAP,
        &script("other", r#"{"data":{"a":"2"}}"#),
        expect![[
            r#"409 Conflict: Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1 at 2024-01-01T00:00:01Z: .data.a"#
        ]],
    );
}

#[test]
fn a_configuration_must_fit_the_schema() {
    check(
        POD,
        r#"apply a {"spec":{"foo":1}}"#,
        expect![
            "500 : failed to create typed patch object (/x; v1, Kind=Pod): .spec.foo: field not declared in schema"
        ],
    );
    check(
        POD,
        r#"apply a {"spec":{"foo":1,"containers":[{"name":"c","bar":1},{"name":"c"},{"image":"i"}]}}"#,
        expect![[r#"
        500 : failed to create typed patch object (/x; v1, Kind=Pod): errors:
          .spec.containers[name="c"].bar: field not declared in schema
          .spec.containers: duplicate entries for key [name="c"]
          .spec.containers: element 2: associative list with keys has an element that omits key field "name" (and doesn't have default value)
          .spec.foo: field not declared in schema"#]],
    );
    check(
        DEPLOYMENT,
        r#"apply a {"spec":{"replicas":"many"}}"#,
        expect![
            "500 : failed to create typed patch object (/x; apps/v1, Kind=Deployment): json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        ],
    );
}

#[test]
fn a_crowd_of_updaters_is_merged() {
    let script: Vec<String> =
        (0..13).map(|i| format!("update m{i:02} {{\"data\":{{\"k{i:02}\":\"1\"}}}}")).collect();
    check(
        CONFIG_MAP,
        &script.join("\n"),
        expect![[r#"
        {"data":{"k00":"1","k01":"1","k02":"1","k03":"1","k04":"1","k05":"1","k06":"1","k07":"1","k08":"1","k09":"1","k10":"1","k11":"1","k12":"1"}}
        ancient-changes Update @04Z: .data .data.k00 .data.k01 .data.k02 .data.k03
        m04 Update @05Z: .data.k04
        m05 Update @06Z: .data.k05
        m06 Update @07Z: .data.k06
        m07 Update @08Z: .data.k07
        m08 Update @09Z: .data.k08
        m09 Update @10Z: .data.k09
        m10 Update @11Z: .data.k10
        m11 Update @12Z: .data.k11
        m12 Update @13Z: .data.k12"#]],
    );
}

#[test]
fn objects_without_schema_merge_by_deduction() {
    let widget = Expected { api_version: "example.com/v1", kind: "Widget" };
    check(
        widget,
        r#"apply a {"spec":{"size":1,"list":["a"],"deep":{"x":1}}}
           apply b {"spec":{"color":"red"}}
           apply a {"spec":{"size":2,"list":["b","c"]}}"#,
        expect![[r#"
            {"spec":{"color":"red","list":["b","c"],"size":2}}
            a Apply @03Z: .spec .spec.list .spec.size
            b Apply @02Z: .spec .spec.color"#]],
    );
}

#[test]
fn fields_are_written_as_upstream_writes_them() {
    let mut object = json!({"metadata": {"name": "x", "labels": {"app": "web"}}, "spec": {"replicas": 1,
        "template": {"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}}}});
    let writer = Writer {
        expected: DEPLOYMENT,
        manager: "m",
        subresource: "",
        reset: &["status"],
        now: "2024-01-01T00:00:00Z",
    };
    track_update(None, &mut object, &writer);
    expect![[r#"[{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:replicas":{},"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}}}}}}}},"manager":"m","operation":"Update","time":"2024-01-01T00:00:00Z"}]"#]].assert_eq(&object["metadata"]["managedFields"].to_string());
    let again = Managed::decode(&object["metadata"]["managedFields"]).unwrap();
    assert_eq!(again.encode(), object["metadata"]["managedFields"]);
}

#[test]
fn fields_v1_reads_what_it_does_not_know() {
    let decode = |text: &str, expect: Expect| {
        let set = FieldSet::decode(&serde_json::from_str(text).unwrap());
        expect.assert_eq(
            &set.map_or("broken".to_owned(), |set| format!("{} {}", set.paths().join(" "), set.encode())),
        );
    };
    decode(
        r#"{"f:a":{".":{},"f:b":{},"k:{\"name\":\"x\",\"a\":1}":{"f:c":{}},"v:\"s\"":{},"i:3":{},"z:9":{}}}"#,
        expect![[
            r#".a .a.b .a[="s"] .a[3] .a[a=1,name="x"].c {"f:a":{".":{},"f:b":{},"i:3":{},"k:{\"a\":1,\"name\":\"x\"}":{"f:c":{}},"v:\"s\"":{}}}"#
        ]],
    );
    decode(r#"{"f:a":3}"#, expect!["broken"]);
    decode("[]", expect!["broken"]);
}

#[test]
fn only_times_differ() {
    let object = |time: &str, value: &str| json!({"metadata": {"resourceVersion": time, "managedFields": [{"manager": "m", "time": time}]}, "data": {"a": value}});
    assert!(same_but_times(&object("1", "x"), &object("2", "x")));
    assert!(!same_but_times(&object("1", "x"), &object("1", "y")));
}

#[test]
fn bodies_of_apply_requests() {
    let writer = Writer { expected: CONFIG_MAP, manager: "m", subresource: "", reset: &[], now: "" };
    let read = |body: &str, expect: Expect| {
        let text = match read_config(body.as_bytes(), &writer, FieldValidation::Strict) {
            Ok((value, _)) => value.to_string(),
            Err(e) => format!("{}: {e}", e.code()),
        };
        expect.assert_eq(&text);
    };
    read(
        "apiVersion: v1\nkind: ConfigMap\ndata: {a: b}\n",
        expect![[r#"{"apiVersion":"v1","data":{"a":"b"},"kind":"ConfigMap"}"#]],
    );
    read(
        r#"{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"b","a":"c"}}"#,
        expect![[r#"400: error strict decoding YAML: duplicate field "data.a""#]],
    );
    read(
        "apiVersion: v2\nkind: ConfigMap\n",
        expect!["400: Incorrect version specified in apply patch. Specified patch version: v2, expected: v1"],
    );
    read(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {managedFields: []}\n",
        expect!["400: metadata.managedFields must be nil"],
    );
    read("- a\n", expect!["400: error decoding YAML: not an object"]);
    read(
        "a: [",
        expect![
            "400: error decoding YAML: yaml: did not find expected node content at line 2 column 1, while parsing a flow node"
        ],
    );
}

#[test]
fn managers_have_names() {
    let name = |agent: Option<&str>| default_manager(agent);
    assert_eq!(name(Some("kubectl/v1.32 (linux/amd64)")), "kubectl");
    assert_eq!(name(Some("curl")), "curl");
    assert_eq!(name(None), "unknown");
    assert_eq!(name(Some(&"x".repeat(200))).len(), 128);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Pods with a few containers, ports and environment variables, by small alphabets so that they meet.
    fn pod() -> impl Strategy<Value = Value> {
        let env = prop::collection::btree_map("[A-C]", "[xy]", 0..3).prop_map(|vars| {
            vars.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect::<Vec<_>>()
        });
        let ports = prop::collection::btree_set((80..83i64, prop::sample::select(vec!["TCP", "UDP"])), 0..3)
            .prop_map(|all| {
                all.into_iter().map(|(n, p)| json!({"containerPort": n, "protocol": p})).collect::<Vec<_>>()
            });
        let container = (env, ports, "[12]").prop_map(|(env, ports, image)| {
            let mut container = json!({"image": image});
            if !env.is_empty() {
                container["env"] = env.into();
            }
            if !ports.is_empty() {
                container["ports"] = ports.into();
            }
            container
        });
        let containers = prop::collection::btree_map("[a-c]", container, 1..3).prop_map(|named| {
            named
                .into_iter()
                .map(|(name, mut container)| {
                    container["name"] = name.into();
                    container
                })
                .collect::<Vec<_>>()
        });
        let labels = prop::collection::btree_map("[k-m]", "[12]", 1..3);
        (containers, labels).prop_map(|(containers, labels)| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": labels},
                   "spec": {"containers": containers}})
        })
    }

    fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
        Writer { expected: POD, manager, subresource: "", reset: &["status"], now }
    }

    fn bare(object: &Value) -> Value {
        split(object).0
    }

    proptest! {
        #[test]
        fn applying_twice_changes_nothing(a in pod(), b in pod()) {
            let first = apply(None, &a, false, &writer("a", "1")).unwrap();
            prop_assert_eq!(&bare(&first), &a);
            let both = apply(Some(&first), &b, true, &writer("b", "2")).unwrap();
            prop_assert_eq!(&apply(Some(&both), &b, false, &writer("b", "3")).unwrap(), &both);
        }

        #[test]
        fn a_single_applier_gets_what_it_last_said(a in pod(), b in pod()) {
            let first = apply(None, &a, false, &writer("a", "1")).unwrap();
            let second = apply(Some(&first), &b, false, &writer("a", "2")).unwrap();
            let sorted = |object: &Value| {
                let mut object = bare(object);
                let list = object["spec"]["containers"].as_array_mut().unwrap();
                list.sort_by_key(|c| c["name"].to_string());
                object
            };
            prop_assert_eq!(sorted(&second), sorted(&b));
        }

        #[test]
        fn what_one_applies_survives_what_others_drop(a in pod(), b in pod(), c in pod()) {
            let first = apply(None, &a, false, &writer("a", "1")).unwrap();
            let second = apply(Some(&first), &b, true, &writer("b", "2")).unwrap();
            let third = apply(Some(&second), &c, true, &writer("a", "3")).unwrap();
            // Whatever b still owns is there.
            let set = SchemaSet::builtin();
            let ty = Ty::Known(set.lookup("v1", "Pod").unwrap());
            let there = walk::to_field_set(set, ty, &bare(&third));
            for owned in split(&third).1.0.values() {
                prop_assert!(owned.fields.difference(&there).is_empty(), "{:?}", owned.fields.paths());
            }
        }

        #[test]
        fn field_sets_survive_being_written(a in pod()) {
            let set = SchemaSet::builtin();
            let fields = walk::to_field_set(set, Ty::Known(set.lookup("v1", "Pod").unwrap()), &a);
            prop_assert_eq!(FieldSet::decode(&fields.encode()), Some(fields));
        }
    }
}
