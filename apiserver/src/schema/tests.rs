use expect_test::{Expect, expect};

use super::*;

fn describe(set: &SchemaSet, id: TypeId) -> String {
    match set.get(id) {
        Type::Any(kind) => format!("any({kind:?})"),
        Type::Scalar(s) => format!("{s:?}").to_lowercase(),
        Type::Map { elem, atomic } => {
            format!("map{}({})", if *atomic { " atomic" } else { "" }, describe(set, *elem))
        }
        Type::List { elem, kind } => {
            let kind = match kind {
                ListKind::Atomic => "atomic".to_owned(),
                ListKind::Set => "set".to_owned(),
                ListKind::Map(keys) => format!("map by {}", keys.join("+")),
            };
            format!("list {kind}({})", describe(set, *elem))
        }
        Type::Struct(s) => format!("{}{}", s.short_name(), if s.atomic { " atomic" } else { "" }),
    }
}

/// `apiVersion Kind path.to.field` → what the table says of it.
fn check(query: &str, expect: Expect) {
    let set = SchemaSet::builtin();
    let mut words = query.split(' ');
    let (api_version, kind) = (words.next().unwrap(), words.next().unwrap());
    let mut id = set.lookup(api_version, kind).expect("kind");
    let mut rule = String::new();
    for step in words.next().unwrap_or_default().split('.').filter(|s| !s.is_empty()) {
        let field = set.as_struct(id).and_then(|s| s.field(step));
        rule = field.map_or(String::new(), |f| {
            let mut notes = Vec::new();
            notes.extend(f.required.then(|| "required".to_owned()));
            notes.extend(f.patch.merge.then(|| "merge".to_owned()));
            notes.extend(f.patch.merge_key.as_ref().map(|k| format!("key {k}")));
            notes.extend(f.patch.retain_keys.then(|| "retainKeys".to_owned()));
            notes.extend(f.key_default.map(|d| format!("default {d}")));
            notes.iter().map(|n| format!("; {n}")).collect()
        });
        id = set.descend(id, step).expect("step");
    }
    expect.assert_eq(&format!("{}{rule}", describe(set, id)));
}

#[test]
fn fields_carry_their_types() {
    check("v1 Pod", expect!["Pod"]);
    check("v1 Pod metadata", expect!["ObjectMeta"]);
    check("v1 Pod metadata.creationTimestamp", expect!["time"]);
    check("v1 Pod metadata.labels", expect!["map(string)"]);
    check("v1 Secret data", expect!["map(bytes)"]);
    check("v1 Pod spec.containers.[].resources.limits", expect!["map(quantity)"]);
    check("v1 Service spec.ports.[].targetPort", expect!["intorstring"]);
    check("coordination.k8s.io/v1 Lease spec.renewTime", expect!["microtime"]);
    check("apps/v1 Deployment spec.selector", expect!["LabelSelector atomic; required"]);
    check("v1 Pod metadata.managedFields.[].fieldsV1", expect!["any(Raw)"]);
    check("v1 Pod spec.nodeSelector", expect!["map atomic(string)"]);
}

#[test]
fn lists_know_their_keys() {
    check("v1 Pod spec.containers", expect!["list map by name(Container); required; merge; key name"]);
    check(
        "v1 Pod spec.containers.[].ports",
        expect!["list map by containerPort+protocol(ContainerPort); merge; key containerPort"],
    );
    check("v1 Pod spec.containers.[].ports.[].protocol", expect!["string; default TCP"]);
    check("v1 Service spec.ports", expect!["list map by port+protocol(ServicePort); merge; key port"]);
    check("v1 Pod metadata.finalizers", expect!["list set(string); merge"]);
    check("v1 Pod spec.tolerations", expect!["list atomic(Toleration)"]);
    check("v1 Pod spec.volumes", expect!["list map by name(Volume); merge; key name; retainKeys"]);
    check("apps/v1 Deployment spec.strategy", expect!["DeploymentStrategy; retainKeys"]);
    check("v1 Pod status.hostIPs", expect!["list atomic(HostIP); merge; key ip"]);
}

#[test]
fn a_reference_may_override_atomicity() {
    check("v1 PersistentVolume spec.claimRef", expect!["ObjectReference"]);
    check("v1 Event involvedObject", expect!["ObjectReference atomic; required"]);
}

#[test]
fn shared_kinds_are_found_under_every_group() {
    let set = SchemaSet::builtin();
    let id = set.lookup("v1", "DeleteOptions");
    assert!(id.is_some());
    assert_eq!(id, set.lookup("policy/v1", "DeleteOptions"));
    assert_eq!(None, set.lookup("v1", "Deployment"));
}

#[test]
fn the_table_is_whole_and_small() {
    let set = SchemaSet::builtin();
    let fields: usize =
        set.types.iter().map(|t| if let Type::Struct(s) = t { s.fields.len() } else { 0 }).sum();
    expect!["730 definitions, 1026 types, 2997 fields"].assert_eq(&format!(
        "{} definitions, {} types, {fields} fields",
        set.by_name.len(),
        set.len()
    ));
}

#[test]
fn a_dangling_reference_is_an_error() {
    let text = br##"{"definitions":{"A":{"type":"object","properties":{"b":{"$ref":"#/definitions/B"}}}}}"##;
    expect!["OpenAPI definition A refers to B, which does not exist"]
        .assert_eq(&SchemaSet::compile(text).unwrap_err().to_string());
}
