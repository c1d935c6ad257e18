//! Pods: what the server adds at creation and what may change afterwards.

use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{Fields, each, items, or, text};
use super::{Surroundings, apparmor, podrules, podspec, resources};
use crate::kinds::{self, Hooks};
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of pods.
pub const POD: Hooks = Hooks {
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_create,
    validate_update,
    awaits: |pod| (!is_mirror(pod)).then(|| ("serviceaccounts", account_name(pod).to_owned())),
    ..Hooks::NONE
};

pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const TOKEN_DIR: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// An hour and seven seconds: how upstream recognises tokens of its own making.
const TOKEN_SECONDS: i64 = 3607;
const TOLERATION_SECONDS: i64 = 300;

fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].get(MIRROR).is_some()
}

fn validate(pod: &Value, causes: &mut Causes) {
    podrules::validate(&pod["spec"], "spec", causes);
}

fn validate_create(pod: &Value, causes: &mut Causes) {
    let spec = &pod["spec"];
    if !items(spec, "ephemeralContainers").is_empty() {
        causes.forbidden("spec.ephemeralContainers", "cannot be set on create");
    }
    if !items(spec, "schedulingGates").is_empty() && !text(spec, "nodeName").is_empty() {
        causes.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
    }
}

fn account_name(pod: &Value) -> &str {
    match text(&pod["spec"], "serviceAccountName") {
        "" => "default",
        name => name,
    }
}

fn default(pod: &mut Value) {
    let spec = object::child(pod, "spec");
    podspec::default(spec);
    podspec::requests_from_limits(spec);
    resources::default_of_pod(spec);
    or(spec, "enableServiceLinks", true);
}

fn prepare_create(pod: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    if !is_mirror(pod) {
        add_account(pod, world)?;
    }
    set_classes(pod)?;
    apparmor::say_both_ways(pod);
    let spec = object::child(pod, "spec");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        tolerate(spec, key);
    }
    let mut status = json!({"phase": "Pending", "qosClass": resources::qos_class(&pod["spec"])});
    if !items(&pod["spec"], "schedulingGates").is_empty() {
        // Upstream says it here: the scheduler does not look at such a pod at all.
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "lastTransitionTime": null,
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod["status"] = status;
    Ok(())
}

/// Upstream's ServiceAccount admission: the account must exist; its token is mounted.
fn add_account(pod: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    let name = account_name(pod).to_owned();
    let namespace = object::namespace(pod).to_owned();
    let account = world.get("serviceaccounts", &namespace, &name).ok_or_else(|| {
        refuse(
            pod,
            &format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            ),
        )
    })?;
    let automount = pod["spec"]["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    let spec = object::child(pod, "spec");
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.as_str().into());
    let has_secrets = spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
    if let Some(secrets) = account.get("imagePullSecrets").filter(|_| !has_secrets) {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    if automount {
        mount_token(spec, &format!("kube-api-access-{}", world.random_suffix()));
    }
    Ok(())
}

fn mount_token(spec: &mut Fields, name: &str) {
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        each(spec, list, |container| {
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Some(mounts) = mounts.as_array_mut() else { return };
            if mounts.iter().all(|mount| mount["mountPath"] != TOKEN_DIR) {
                needed = true;
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_DIR}));
            }
        });
    }
    if !needed {
        return;
    }
    let volume = json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    });
    if let Some(volumes) = spec.entry("volumes").or_insert_with(|| json!([])).as_array_mut() {
        volumes.push(volume);
    }
}

/// Neither priority classes nor runtime classes exist yet, but upstream's two built-in priorities are known by name.
fn set_classes(pod: &mut Value) -> Result<(), Failure> {
    let priority = match text(&pod["spec"], "priorityClassName") {
        "" => 0,
        "system-node-critical" => 2_000_001_000,
        "system-cluster-critical" => 2_000_000_000,
        other => return Err(refuse(pod, &format!("no PriorityClass with name {other} was found"))),
    };
    let given = pod["spec"]["priority"].as_i64().filter(|given| *given != priority);
    if let Some(given) = given {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller \
             computed {priority} from the given PriorityClass name"
        );
        return Err(refuse(pod, &why));
    }
    let class = text(&pod["spec"], "runtimeClassName");
    if !class.is_empty() {
        return Err(refuse(pod, &format!("pod rejected: RuntimeClass {class:?} not found")));
    }
    let spec = object::child(pod, "spec");
    or(spec, "priority", priority);
    or(spec, "preemptionPolicy", "PreemptLowerPriority");
    Ok(())
}

fn tolerate(spec: &mut Fields, key: &str) {
    let list = spec.entry("tolerations").or_insert_with(|| json!([]));
    let Some(list) = list.as_array_mut() else { return };
    let covers = |t: &Value| {
        (text(t, "key") == key || text(t, "key").is_empty()) && matches!(text(t, "effect"), "NoExecute" | "")
    };
    if !list.iter().any(covers) {
        list.push(json!({
            "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
        }));
    }
}

fn refuse(pod: &Value, why: &str) -> Failure {
    match kinds::find("", "v1", "pods") {
        Some(kind) => Failure::forbidden(kind, object::name(pod), why),
        None => Failure::no_such_path(),
    }
}

/// Deprecated alias and defaults that only creation adds stay as they were when an update leaves them out.
fn prepare_update(new: &mut Value, old: &Value, _: &dyn Surroundings) -> Result<(), Failure> {
    let spec = object::child(new, "spec");
    for key in ["serviceAccount", "serviceAccountName", "priority", "preemptionPolicy"] {
        if let Some(value) = old["spec"].get(key) {
            or(spec, key, value.clone());
        }
    }
    Ok(())
}

const UPDATE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
    tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (new, old) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if items(new, list).len() != items(old, list).len() {
            return causes.forbidden(format!("spec.{list}"), "pod updates may not add or remove containers");
        }
    }
    let kept = items(old, "tolerations").iter().all(|t| items(new, "tolerations").contains(t));
    if !kept {
        causes.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    let gates = items(new, "schedulingGates").iter().all(|g| items(old, "schedulingGates").contains(g));
    if !gates {
        causes.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gates");
    }
    if without_mutable(new) != without_mutable(old) {
        causes.forbidden("spec", UPDATE_RULE);
    }
}

fn without_mutable(spec: &Value) -> Value {
    let mut spec = spec.clone();
    let fields = object::map(&mut spec);
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        fields.remove(key);
    }
    for list in ["containers", "initContainers"] {
        each(fields, list, |container| drop(container.remove("image")));
    }
    spec
}
