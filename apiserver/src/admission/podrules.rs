//! Upstream's rules for a pod's spec, in pods and in templates: those that people run into.

mod env;
mod ephemeral;
mod handlers;
mod network;
mod placement;
mod restart;
mod security;
mod volumes;

#[cfg(test)]
mod tests;

use orlop_model::names;
use serde_json::Value;

use super::causes::Causes;
use super::fields::{items, text};
use super::{meta, resources};

pub(super) use network::BAD_ADDRESS;

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const MESSAGE_POLICIES: &[&str] = &["FallbackToLogsOnError", "File"];
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Checks a spec found at `at` (`spec`, or `spec.template.spec`).
pub(super) fn validate(spec: &Value, at: &str, causes: &mut Causes) {
    let mut volumes: Vec<&str> = Vec::new();
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let field = format!("{at}.volumes[{i}]");
        name(volume, &field, &mut volumes, causes);
        volumes::source(volume, &field, causes);
    }
    let containers = items(spec, "containers");
    if containers.is_empty() {
        causes.required(format!("{at}.containers"), "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, c) in items(spec, list).iter().enumerate() {
            let field = format!("{at}.{list}[{i}]");
            name(c, &field, &mut seen, causes);
            restart::validate(c, &field, causes);
            container(c, spec, &field, &volumes, causes);
        }
    }
    ephemeral_containers(spec, at, &volumes, &mut seen, causes);
    network::host_ports(spec, at, causes);
    resources::validate_of_pod(spec, at, causes);
    one_of(spec, "restartPolicy", at, RESTART_POLICIES, causes);
    one_of(spec, "dnsPolicy", at, DNS_POLICIES, causes);
    network::dns(spec, at, causes);
    security::of_pod(spec, at, causes);
    placement::validate(spec, at, causes);
    if let Some(seconds) = spec["terminationGracePeriodSeconds"].as_i64().filter(|s| *s < 0) {
        causes.invalid(format!("{at}.terminationGracePeriodSeconds"), &seconds.into(), NOT_NEGATIVE);
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64().filter(|s| *s < 1) {
        let detail = "must be between 1 and 2147483647, inclusive";
        causes.invalid(format!("{at}.activeDeadlineSeconds"), &seconds.into(), detail);
    }
    meta::labels(&spec["nodeSelector"], &format!("{at}.nodeSelector"), causes);
    for (key, kind) in [("hostname", "hostname"), ("subdomain", "subdomain")] {
        let value = text(spec, kind);
        for error in (!value.is_empty()).then(|| names::dns1123_label_errors(value)).into_iter().flatten() {
            causes.invalid(format!("{at}.{key}"), &value.into(), &error);
        }
    }
    let account = text(spec, "serviceAccountName");
    if !account.is_empty() {
        for error in names::dns1123_subdomain_errors(account) {
            causes.invalid(format!("{at}.serviceAccountName"), &account.into(), &error);
        }
    }
}

fn ephemeral_containers<'a>(
    spec: &'a Value,
    at: &str,
    volumes: &[&str],
    seen: &mut Vec<&'a str>,
    causes: &mut Causes,
) {
    let others = seen.clone();
    let list = items(spec, "ephemeralContainers");
    for (i, c) in list.iter().enumerate() {
        let field = format!("{at}.ephemeralContainers[{i}]");
        name(c, &field, seen, causes);
        common(c, spec, &field, volumes, causes);
        ephemeral::validate(c, &field, &others, causes);
    }
    if at != "spec" && !list.is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        causes.forbidden(format!("{at}.ephemeralContainers"), detail);
    }
}

fn name<'a>(thing: &'a Value, field: &str, seen: &mut Vec<&'a str>, causes: &mut Causes) {
    let name = text(thing, "name");
    let field = format!("{field}.name");
    if name.is_empty() {
        return causes.required(field, "");
    }
    for error in names::dns1123_label_errors(name) {
        causes.invalid(field.clone(), &name.into(), &error);
    }
    if seen.contains(&name) {
        causes.duplicate(field, &name.into());
    }
    seen.push(name);
}

fn one_of(object: &Value, key: &str, at: &str, supported: &[&str], causes: &mut Causes) {
    let value = text(object, key);
    if value.is_empty() {
        causes.required(format!("{at}.{key}"), "");
    } else if !supported.contains(&value) {
        causes.not_supported(format!("{at}.{key}"), &value.into(), supported);
    }
}

fn container(c: &Value, spec: &Value, at: &str, volumes: &[&str], causes: &mut Causes) {
    common(c, spec, at, volumes, causes);
    if at.contains(".initContainers[") && c["restartPolicy"] != "Always" {
        handlers::none_for_init(c, at, causes);
    } else {
        let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        handlers::validate(c, at, grace, causes);
    }
}

/// What counts for every kind of container.
fn common(c: &Value, spec: &Value, at: &str, volumes: &[&str], causes: &mut Causes) {
    let image = text(c, "image");
    if image.is_empty() {
        causes.required(format!("{at}.image"), "");
    } else if image.trim() != image {
        causes.invalid(format!("{at}.image"), &image.into(), "must not have leading or trailing whitespace");
    }
    one_of(c, "imagePullPolicy", at, PULL_POLICIES, causes);
    one_of(c, "terminationMessagePolicy", at, MESSAGE_POLICIES, causes);
    network::ports(c, at, spec["hostNetwork"] == true, causes);
    env::validate(c, at, causes);
    volumes::mounts(c, at, volumes, causes);
    volumes::devices(c, at, volumes, causes);
    security::of_container(c, spec, at, causes);
    resources::of_container(c, spec, at, causes);
}
