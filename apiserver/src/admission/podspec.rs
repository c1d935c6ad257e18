//! Upstream's defaults of a pod's spec, in pods and in templates.

use serde_json::{Map, Value, json};

use super::fields::{Fields, each, or, or_number, or_text, with};

/// Mode 0644, as upstream's API spells it.
const FILE_MODE: i64 = 0o644;

/// Fills in a spec.
pub(super) fn default(spec: &mut Fields) {
    or_text(spec, "dnsPolicy", "ClusterFirst");
    or_text(spec, "restartPolicy", "Always");
    or_text(spec, "schedulerName", "default-scheduler");
    or(spec, "securityContext", json!({}));
    or(spec, "terminationGracePeriodSeconds", 30);
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each(spec, list, |container| default_container(container, host_network));
    }
    each(spec, "volumes", default_volume);
    // `serviceAccount` is the old name of the same field.
    let account = [spec.get("serviceAccountName"), spec.get("serviceAccount")];
    let account = account.into_iter().flatten().find(|v| v.as_str().is_some_and(|s| !s.is_empty())).cloned();
    if let Some(account) = account {
        spec.insert("serviceAccountName".into(), account.clone());
        spec.insert("serviceAccount".into(), account);
    }
}

fn default_container(container: &mut Fields, host_network: bool) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    or_text(container, "imagePullPolicy", policy);
    or_text(container, "terminationMessagePath", "/dev/termination-log");
    or_text(container, "terminationMessagePolicy", "File");
    or(container, "resources", json!({}));
    each(container, "ports", |port| {
        or_text(port, "protocol", "TCP");
        if host_network {
            let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
            or_number(port, "hostPort", number);
        }
    });
    each(container, "env", |env| {
        with(env, "valueFrom", |from| with(from, "fieldRef", |field| or_text(field, "apiVersion", "v1")));
    });
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        with(container, probe, |probe| {
            or_number(probe, "timeoutSeconds", 1);
            or_number(probe, "periodSeconds", 10);
            or_number(probe, "successThreshold", 1);
            or_number(probe, "failureThreshold", 3);
            default_http_get(probe);
            with(probe, "grpc", |grpc| or(grpc, "service", ""));
        });
    }
    with(container, "lifecycle", |lifecycle| {
        with(lifecycle, "postStart", default_http_get);
        with(lifecycle, "preStop", default_http_get);
    });
}

fn default_http_get(handler: &mut Fields) {
    with(handler, "httpGet", |get| {
        or_text(get, "path", "/");
        or_text(get, "scheme", "HTTP");
    });
}

/// `Always` for what moves (tag latest or none), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_volume(volume: &mut Fields) {
    if volume.keys().all(|key| key == "name") {
        volume.insert("emptyDir".into(), Value::Object(Map::new()));
    }
    let mode = |source: &mut Fields| or(source, "defaultMode", FILE_MODE);
    with(volume, "configMap", mode);
    with(volume, "secret", mode);
    with(volume, "hostPath", |path| or(path, "type", ""));
    with(volume, "ephemeral", |ephemeral| {
        with(ephemeral, "volumeClaimTemplate", |template| {
            with(template, "spec", |spec| or(spec, "volumeMode", "Filesystem"));
        });
    });
    with(volume, "image", |image| {
        let policy = pull_policy(image.get("reference").and_then(Value::as_str).unwrap_or_default());
        or_text(image, "pullPolicy", policy);
    });
    with(volume, "downwardAPI", |source| {
        mode(source);
        each(source, "items", default_downward_item);
    });
    with(volume, "projected", |projected| {
        mode(projected);
        each(projected, "sources", |source| {
            with(source, "serviceAccountToken", |token| or(token, "expirationSeconds", 3600));
            with(source, "downwardAPI", |api| each(api, "items", default_downward_item));
        });
    });
}

fn default_downward_item(item: &mut Fields) {
    with(item, "fieldRef", |field| or_text(field, "apiVersion", "v1"));
}

/// Requests that are not given are the limits. Pods only: templates keep what was written.
pub(super) fn requests_from_limits(spec: &mut Fields) {
    for list in ["containers", "initContainers"] {
        each(spec, list, |container| {
            with(container, "resources", |resources| {
                let Some(Value::Object(limits)) = resources.get("limits").cloned() else { return };
                let requests = resources.entry("requests").or_insert_with(|| json!({}));
                let Some(requests) = requests.as_object_mut() else { return };
                for (name, amount) in limits {
                    requests.entry(name).or_insert(amount);
                }
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::pull_policy;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
