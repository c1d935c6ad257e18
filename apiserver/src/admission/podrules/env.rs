//! Environment of a container: where values come from.

use orlop_model::names;
use serde_json::Value;

use super::super::causes::Causes;
use super::super::fields::{items, text};

/// What an environment variable may take from its pod, and what files of a downward API volume may.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const FILE_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Further paths that upstream knows, and refuses with another text.
const OTHER_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Whose fields are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    Env,
    File,
}

/// `env` and `envFrom` of a container at `at`.
pub(super) fn validate(container: &Value, at: &str, causes: &mut Causes) {
    for (i, env) in items(container, "env").iter().enumerate() {
        let field = format!("{at}.env[{i}]");
        let name = text(env, "name");
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else {
            for error in names::env_var_name_errors(name) {
                causes.invalid(format!("{field}.name"), &name.into(), &error);
            }
        }
        if let Some(from) = env.get("valueFrom").filter(|from| !from.is_null()) {
            value_from(from, text(env, "value"), &format!("{field}.valueFrom"), causes);
        }
    }
    for (i, from) in items(container, "envFrom").iter().enumerate() {
        let field = format!("{at}.envFrom[{i}]");
        let sources: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|key| from.get(*key).is_some()).collect();
        for source in &sources {
            if text(&from[*source], "name").is_empty() {
                causes.required(format!("{field}.{source}.name"), "");
            }
        }
        match sources.len() {
            0 => causes.invalid(field, &"".into(), "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => causes.invalid(field, &"".into(), "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(from: &Value, value: &str, at: &str, causes: &mut Causes) {
    let sources: Vec<&str> =
        ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"]
            .into_iter()
            .filter(|key| from.get(*key).is_some_and(|source| !source.is_null()))
            .collect();
    for source in &sources {
        let (found, field) = (&from[*source], format!("{at}.{source}"));
        match *source {
            "fieldRef" => field_ref(found, &field, Asker::Env, causes),
            "resourceFieldRef" => resource_ref(found, &field, Asker::Env, causes),
            "fileKeyRef" => file_key_ref(found, &field, causes),
            _ => key_ref(found, &field, causes),
        }
    }
    if sources.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                      `fileKeyRef`";
        causes.invalid(at, &"".into(), detail);
    } else if !value.is_empty() {
        causes.invalid(at, &"".into(), "may not be specified when `value` is not empty");
    } else if sources.len() > 1 {
        causes.invalid(at, &"".into(), "may not have more than one field specified at a time");
    }
}

/// A field of the pod.
pub(super) fn field_ref(reference: &Value, at: &str, asker: Asker, causes: &mut Causes) {
    let path = text(reference, "fieldPath");
    let field = format!("{at}.fieldPath");
    if path.is_empty() {
        return causes.required(field, "");
    }
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        if !["metadata.annotations", "metadata.labels"].contains(&map) {
            let detail = "error converting fieldPath: field label does not support subscript";
            return causes.invalid(field, &path.into(), detail);
        }
        let key = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
        for error in names::label_key_errors(&key) {
            causes.invalid(at, &key.as_str().into(), &error);
        }
        return;
    }
    let supported = if asker == Asker::Env { ENV_FIELDS } else { FILE_FIELDS };
    if supported.contains(&path) {
        return;
    }
    if OTHER_FIELDS.contains(&path) || ENV_FIELDS.contains(&path) {
        causes.not_supported(field, &path.into(), supported);
    } else {
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        causes.invalid(field, &path.into(), &detail);
    }
}

/// A resource of a container.
pub(super) fn resource_ref(reference: &Value, at: &str, asker: Asker, causes: &mut Causes) {
    let resource = text(reference, "resource");
    if asker == Asker::File && text(reference, "containerName").is_empty() {
        causes.required(format!("{at}.containerName"), "");
    } else if resource.is_empty() {
        causes.required(format!("{at}.resource"), "");
    } else if !RESOURCES.contains(&resource) && !resource.contains(".hugepages-") {
        causes.not_supported(format!("{at}.resource"), &resource.into(), RESOURCES);
    }
    let (divisors, of): (&[&str], &str) = match resource.split_once('.').map(|(_, name)| name) {
        Some("cpu") => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        Some("memory") => (BYTES, "memory resource"),
        Some("ephemeral-storage") => (BYTES, "local ephemeral storage resource"),
        _ => return,
    };
    let divisor = text(reference, "divisor");
    if !["", "0"].contains(&divisor) && !divisors.contains(&divisor) {
        let detail = if divisors.len() == 2 {
            format!("only divisor's values {of}")
        } else {
            format!("only divisor's values {} are supported with the {of}", BYTES.join(", "))
        };
        causes.invalid(format!("{at}.divisor"), &resource.into(), &detail);
    }
}

/// A variable of an env file in a volume (KEP-3721).
fn file_key_ref(reference: &Value, at: &str, causes: &mut Causes) {
    let key = text(reference, "key");
    if key.is_empty() {
        causes.required(format!("{at}.key"), "");
    } else {
        for error in names::env_var_name_errors(key) {
            causes.invalid(format!("{at}.key"), &key.into(), &error);
        }
        if key.len() > 128 {
            causes.too_long(format!("{at}.key"), "may not be more than 128 bytes");
        }
    }
    if text(reference, "volumeName").is_empty() {
        causes.required(format!("{at}.volumeName"), "");
    }
    let path = text(reference, "path");
    if path.is_empty() {
        causes.required(format!("{at}.path"), "");
    } else if path.starts_with('/') {
        causes.invalid(format!("{at}.path"), &path.into(), "must be a relative path");
    } else if path.split('/').any(|part| part == "..") || path.starts_with("..") {
        causes.invalid(format!("{at}.path"), &path.into(), "must not contain '..'");
    }
}

fn key_ref(reference: &Value, at: &str, causes: &mut Causes) {
    if text(reference, "name").is_empty() {
        causes.required(format!("{at}.name"), "");
    }
    let key = text(reference, "key");
    if key.is_empty() {
        return causes.required(format!("{at}.key"), "");
    }
    for error in names::config_key_errors(key) {
        causes.invalid(format!("{at}.key"), &key.into(), &error);
    }
}
