use base64::Engine as _;
use expect_test::{Expect, expect};
use serde_json::Value;

use super::media::{negotiate, negotiate_discovery, negotiate_openapi_v2};
use super::*;

/// `apiVersion/Kind of the endpoint`, body → object, warnings or error.
fn check_as(content_type: &str, validation: FieldValidation, endpoint: &str, body: &str, expect: Expect) {
    let (api_version, kind) = endpoint.rsplit_once(' ').unwrap();
    let text = match decode(body.as_bytes(), Some(content_type), Expected { api_version, kind }, validation) {
        Ok(Decoded { value, warnings }) => {
            let mut lines = vec![value.to_string()];
            lines.extend(warnings.iter().map(|w| format!("warning: {w}")));
            lines.join("\n")
        }
        Err(e) => format!("{} {}: {e}", e.code(), e.reason()),
    };
    expect.assert_eq(&text);
}

fn check(body: &str, expect: Expect) {
    check_as("application/json", FieldValidation::Warn, "v1 Pod", body, expect);
}

fn check_strict(endpoint: &str, body: &str, expect: Expect) {
    check_as("application/json", FieldValidation::Strict, endpoint, body, expect);
}

fn check_yaml(body: &str, expect: Expect) {
    check_as("application/yaml", FieldValidation::Strict, "v1 Pod", body, expect);
}

#[test]
fn unknown_and_repeated_fields_are_found_where_they_stand() {
    let body = r#"{"spec":{"foo":1,"nodeName":"a","containers":[{"name":"c","imagee":"x","image":"y","image":"z"}],"nodeName":"b"},"bar":{}}"#;
    check(
        body,
        expect![[r#"
        {"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"z","name":"c"}],"nodeName":"b"}}
        warning: unknown field "spec.foo"
        warning: unknown field "spec.containers[0].imagee"
        warning: duplicate field "spec.containers[0].image"
        warning: duplicate field "spec.nodeName"
        warning: unknown field "bar""#]],
    );
    check_strict(
        "v1 Pod",
        body,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo", unknown field "spec.containers[0].imagee", duplicate field "spec.containers[0].image", duplicate field "spec.nodeName", unknown field "bar""#
        ]],
    );
    check_as(
        "application/json",
        FieldValidation::Ignore,
        "v1 Pod",
        body,
        expect![[
            r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"image":"z","name":"c"}],"nodeName":"b"}}"#
        ]],
    );
    check(
        r#"{"metadata":{"labels":{"a":"1","a":"2"}}}"#,
        expect![[r#"
        {"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"a":"2"}}}
        warning: duplicate field "metadata.labels.a""#]],
    );
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    check_strict(
        "apps/v1 Deployment",
        r#"{"spec":{"replicas":"3"}}"#,
        expect![[
            r#"400 BadRequest: Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"#
        ]],
    );
    check(
        r#"{"spec":{"containers":[{"env":[{"name":"A","value":1}]}]}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"#
        ]],
    );
    check(
        r#"{"spec":{"containers":{"name":"a"}}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"#
        ]],
    );
    check(
        r#"{"spec":"x"}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"#
        ]],
    );
    check(
        r#"{"metadata":{"labels":{"a":true}}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels.a of type string"#
        ]],
    );
    check(
        r#"{"spec":{"terminationGracePeriodSeconds":1.5}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.terminationGracePeriodSeconds of type int64"#
        ]],
    );
    check(
        r#"{"spec":{"priority":3000000000}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32"#
        ]],
    );
    check(
        r#"{"metadata":{"creationTimestamp":"yesterday"}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#
        ]],
    );
    check(
        r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"one"}}}]}}"#,
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"#
        ]],
    );
    check_strict(
        "v1 Secret",
        r#"{"data":{"a":"!!!"}}"#,
        expect![[
            r#"400 BadRequest: Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0"#
        ]],
    );
}

#[test]
fn broken_json_is_described_as_go_would() {
    check(
        "",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input (<empty>)"
        ],
    );
    check(
        "{",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: unexpected end of JSON input ({)"
        ],
    );
    check(
        "{\"a\":1,}",
        expect![[
            r#"400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '}' looking for beginning of object key string ({"a":1,})"#
        ]],
    );
    check(
        "{\"a\" 1}",
        expect![[
            r#"400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '1' after object key ({"a" 1})"#
        ]],
    );
    check(
        "{\"a\":1 \"b\":2}",
        expect![[
            r#"400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '"' after object key:value pair ({"a":1 "b":2})"#
        ]],
    );
    check(
        "{\"a\":x}",
        expect![[
            r#"400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'x' looking for beginning of value ({"a":x})"#
        ]],
    );
    check(
        "[1]",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid type: sequence, expected an object at line 1 column 1 (5b315d)"
        ],
    );
    check(
        "kind: Pod",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character 'k' looking for beginning of value (6b696e643a20506f64)"
        ],
    );
    check(
        "{} {}",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: invalid character '{' after top-level value ({} {})"
        ],
    );
}

#[test]
fn the_path_stands_in_for_api_version_and_kind() {
    check(
        r#"{"metadata":{"name":"a"}}"#,
        expect![[r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#]],
    );
    check_as(
        "",
        FieldValidation::Strict,
        "apps/v1 Deployment",
        r#"{"kind":"Deployment"}"#,
        expect![[r#"{"apiVersion":"apps/v1","kind":"Deployment"}"#]],
    );
    check(
        r#"{"apiVersion":"v2","kind":"Pod"}"#,
        expect![
            "400 BadRequest: the API version in the data (v2) does not match the expected API version (v1)"
        ],
    );
    check(
        r#"{"apiVersion":"v1","kind":"Service"}"#,
        expect![[
            r#"400 BadRequest: Service in version "v1" cannot be handled as a Pod: converting (v1.Service) to (v1.Pod): unknown conversion"#
        ]],
    );
    check(
        r#"{"apiVersion":"example.com/v1","kind":"Widget"}"#,
        expect![[
            r#"400 BadRequest: Widget in version "v1" cannot be handled as a Pod: no kind "Widget" is registered for version "example.com/v1" in scheme "pkg/api/legacyscheme/scheme.go:30""#
        ]],
    );
    check_strict(
        "v1 DeleteOptions",
        r#"{"apiVersion":"policy/v1","kind":"DeleteOptions"}"#,
        expect![[r#"{"apiVersion":"policy/v1","kind":"DeleteOptions"}"#]],
    );
    check_as(
        "text/plain",
        FieldValidation::Strict,
        "v1 Pod",
        "{}",
        expect![
            "415 UnsupportedMediaType: the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
        ],
    );
}

#[test]
fn values_take_their_canonical_form() {
    check(
        r#"{"metadata":{"creationTimestamp":"2024-01-02T03:04:05.9+01:00","deletionTimestamp":null},
            "spec":{"containers":[{"resources":{"limits":{"cpu":"1000m","memory":1048576,"x":"1024Mi"}}}]}}"#,
        expect![[
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"creationTimestamp":"2024-01-02T02:04:05Z"},"spec":{"containers":[{"resources":{"limits":{"cpu":"1","memory":"1048576","x":"1Gi"}}}]}}"#
        ]],
    );
    check_strict(
        "coordination.k8s.io/v1 Lease",
        r#"{"spec":{"renewTime":"2024-01-02T03:04:05Z"}}"#,
        expect![[
            r#"{"apiVersion":"coordination.k8s.io/v1","kind":"Lease","spec":{"renewTime":"2024-01-02T03:04:05.000000Z"}}"#
        ]],
    );
    check_strict(
        "v1 Secret",
        r#"{"data":{"a":"QUJD\nREVG","b":null}}"#,
        expect![[r#"{"apiVersion":"v1","data":{"a":"QUJDREVG","b":""},"kind":"Secret"}"#]],
    );
    check_strict(
        "v1 Service",
        r#"{"spec":{"ports":[{"port":80,"targetPort":"web"},null]}}"#,
        expect![[
            r#"{"apiVersion":"v1","kind":"Service","spec":{"ports":[{"port":80,"targetPort":"web"},{}]}}"#
        ]],
    );
}

#[test]
fn kinds_without_schema_keep_everything_but_odd_metadata() {
    check_strict(
        "example.com/v1 Widget",
        r#"{"metadata":{"name":"a"},"spec":{"any":null,"n":[1,{}]}}"#,
        expect![[
            r#"{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"any":null,"n":[1,{}]}}"#
        ]],
    );
    check_strict(
        "example.com/v1 Widget",
        r#"{"metadata":{"nom":"a"},"spec":{}}"#,
        expect![[
            r#"400 BadRequest: Widget in version "v1" cannot be handled as a Widget: strict decoding error: unknown field "metadata.nom""#
        ]],
    );
}

#[test]
fn yaml_is_read_by_the_same_rules() {
    check_yaml(
        "kind: Pod\nspec:\n  nodeName: n\n  containers:\n  - name: c\n    ports: [{containerPort: 80}]\n",
        expect![[
            r#"{"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]}],"nodeName":"n"}}"#
        ]],
    );
    check_yaml(
        "spec:\n  nodeName: a\n  nodeName: b\n  foo: 1\n",
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "spec.nodeName", unknown field "spec.foo""#
        ]],
    );
    check_yaml(
        "metadata:\n  labels: {a: 1}\n",
        expect![[
            r#"400 BadRequest: Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string"#
        ]],
    );
    check_yaml(
        "a: [",
        expect![
            "400 BadRequest: the object provided is unrecognized (must be of type Pod): error converting YAML to JSON: yaml: did not find expected node content at line 2 column 1, while parsing a flow node (613a205b)"
        ],
    );
}

#[test]
fn a_patched_object_is_checked_again() {
    let value: Value = serde_json::from_str(r#"{"spec":{"foo":1,"nodeName":null}}"#).unwrap();
    let (value, findings) = conform(&value, Expected { api_version: "v1", kind: "Pod" }).unwrap();
    expect![[r#"{"spec":{}} strict decoding error: unknown field "spec.foo""#]]
        .assert_eq(&format!("{value} {}", strict_error(&findings)));
}

fn check_media(accept: &str, expect: Expect) {
    let word = |r: Result<String, media::NotAcceptable>| r.unwrap_or_else(|e| e.to_string());
    expect.assert_eq(&format!(
        "{} | {} | {}",
        word(negotiate(Some(accept)).map(|f| format!("{f:?}"))),
        word(negotiate_discovery(Some(accept)).map(|f| format!("{f:?}"))),
        word(negotiate_openapi_v2(Some(accept)).map(|f| format!("{f:?}"))),
    ));
}

#[test]
fn accept_headers_are_matched_loosely() {
    check_media("", expect!["Object | Legacy | Json"]);
    check_media("application/json, */*", expect!["Object | Legacy | Json"]);
    check_media("application/vnd.kubernetes.protobuf,application/json", expect!["Object | Legacy | Json"]);
    check_media("application/vnd.kubernetes.protobuf, */*", expect!["Object | Legacy | Json"]);
    check_media(
        "application/vnd.kubernetes.protobuf",
        expect![
            "only the following media types are accepted: application/json | only the following media types are accepted: application/json | only the following media types are accepted: application/json"
        ],
    );
    check_media(
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
        expect!["Table(V1) | Legacy | Json"],
    );
    check_media(
        "application/json;g=meta.k8s.io;as=Table;v=v1beta1",
        expect!["Table(V1Beta1) | only the following media types are accepted: application/json | Json"],
    );
    check_media(
        "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        expect![
            "PartialObjectMetadata(V1) | only the following media types are accepted: application/json | Json"
        ],
    );
    check_media(
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1;profile=x",
        expect![
            "PartialObjectMetadataList(V1) | only the following media types are accepted: application/json | Json"
        ],
    );
    check_media(
        "application/json;as=Table;v=v9;g=meta.k8s.io",
        expect![
            "only the following media types are accepted: application/json | only the following media types are accepted: application/json | Json"
        ],
    );
    check_media(
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,application/json",
        expect!["Object | V2 | Json"],
    );
    check_media(
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
        expect!["Object | V2Beta1 | Json"],
    );
    check_media(
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        expect![
            "only the following media types are accepted: application/json | only the following media types are accepted: application/json | Protobuf"
        ],
    );
    check_media(
        "application/json;q=0.1,application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
        expect!["Object | Legacy | Protobuf"],
    );
}

/// Without what upstream writes for unset fields: empty objects, nulls, empty strings.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|_, v| !v.is_null() && *v != serde_json::json!({}));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

#[test]
fn every_recorded_protobuf_body_decodes_to_what_kubectl_prints() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/kubectl-1.32");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            if record["bodyEncoding"] != "base64" || record["expect"].is_null() {
                continue;
            }
            let body =
                base64::engine::general_purpose::STANDARD.decode(record["body"].as_str().unwrap()).unwrap();
            let mut want = record["expect"].clone();
            let (api_version, kind) = (want["apiVersion"].as_str().unwrap(), want["kind"].as_str().unwrap());
            let expected = Expected { api_version, kind };
            let read =
                decode(&body, Some("application/vnd.kubernetes.protobuf"), expected, FieldValidation::Strict);
            let mut got = read.unwrap_or_else(|e| panic!("{}: {e}", record["command"])).value;
            prune(&mut got);
            prune(&mut want);
            assert_eq!(got, want, "{}", record["command"]);
            seen += 1;
        }
    }
    expect!["48 bodies"].assert_eq(&format!("{seen} bodies"));
}

#[test]
fn a_damaged_protobuf_body_is_an_error_not_a_panic() {
    let expected = Expected { api_version: "v1", kind: "Namespace" };
    let body = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12\x09\x0a\x07\x0a\x01x\x12\x00\x1a\x00";
    let read =
        |b: &[u8]| decode(b, Some("application/vnd.kubernetes.protobuf"), expected, FieldValidation::Warn);
    expect![[r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"x"}}"#]]
        .assert_eq(&read(body).unwrap().value.to_string());
    for cut in 0..body.len() {
        let _outcome = read(&body[..cut]);
    }
    for at in 0..body.len() {
        let mut bad = body.to_vec();
        bad[at] ^= 0xff;
        let _outcome = read(&bad);
    }
    expect!["the object provided is unrecognized (must be of type Namespace): provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] (6e6f6e73656e7365)"].assert_eq(&read(b"nonsense").unwrap_err().to_string());
}

/// Upstream's own objects of every kind in three encodings; they stay outside the project.
#[test]
fn upstream_fixtures_decode_alike_from_every_encoding() {
    let Some(root) = std::env::var_os("ORLOP_FIXTURES") else {
        println!("upstream fixtures absent: 0 compared");
        return;
    };
    let folder = std::path::Path::new(&root).join("kubernetes-api/v1.34.0");
    let (mut same, mut differ, mut without_schema) = (0, Vec::new(), 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".json") || name.contains("after_roundtrip") {
            continue;
        }
        let json = std::fs::read(&path).unwrap();
        let meta: Value = serde_json::from_slice(&json).unwrap();
        let word = |key: &str| meta[key].as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (&*word("apiVersion"), &*word("kind"));
        if SchemaSet::builtin().lookup(api_version, kind).is_none() {
            without_schema += 1;
            continue;
        }
        let expected = Expected { api_version, kind };
        let read = |ext: &str, media: &str| {
            let body = std::fs::read(path.with_extension(ext)).unwrap();
            decode(&body, Some(media), expected, FieldValidation::Warn).map(|mut d| {
                prune(&mut d.value);
                d
            })
        };
        let from_json = read("json", "application/json").unwrap();
        let from_yaml = read("yaml", "application/yaml").unwrap();
        let from_pb = read("pb", "application/vnd.kubernetes.protobuf").unwrap();
        if from_json.warnings.is_empty() && from_json == from_yaml && from_json == from_pb {
            same += 1;
        } else {
            differ.push(format!("{name} {:?}", from_json.warnings));
        }
    }
    differ.sort();
    expect![[r#"
        88 same, 86 without schema, differ: [
            "admissionregistration.k8s.io.v1alpha1.MutatingAdmissionPolicy.json []",
            "admissionregistration.k8s.io.v1alpha1.MutatingAdmissionPolicyBinding.json []",
            "admissionregistration.k8s.io.v1beta1.MutatingAdmissionPolicy.json []",
            "admissionregistration.k8s.io.v1beta1.MutatingAdmissionPolicyBinding.json []",
            "certificates.k8s.io.v1alpha1.PodCertificateRequest.json []",
            "resource.k8s.io.v1alpha3.DeviceTaintRule.json []",
        ]"#]]
    .assert_eq(&format!("{same} same, {without_schema} without schema, differ: {differ:#?}"));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_body_is_a_panic(body in prop::collection::vec(any::<u8>(), 0..80), which in 0..3usize) {
            let media = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"][which];
            let body = if which == 2 { [b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".as_slice(), &body].concat() } else { body };
            let expected = Expected { api_version: "v1", kind: "Pod" };
            let _outcome = decode(&body, Some(media), expected, FieldValidation::Warn);
        }

        #[test]
        fn reading_again_changes_nothing(cpu in "[0-9]{1,4}(m|k|Ki|Mi|e3)?", port in 1..70_000i64, name in "[a-z]{0,5}") {
            let body = serde_json::json!({"metadata": {"name": name}, "spec": {"containers": [
                {"name": name, "ports": [{"containerPort": port}], "resources": {"limits": {"cpu": cpu}}}]}});
            let expected = Expected { api_version: "v1", kind: "Pod" };
            let once = conform(&body, expected).unwrap().0;
            prop_assert_eq!(&conform(&once, expected).unwrap().0, &once);
        }
    }
}
