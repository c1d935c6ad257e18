//! Upstream's rules for a pod's spec, in pods and in templates: those that people run into.

use orlop_model::names;
use orlop_model::quantities::Quantity;
use serde_json::Value;

use super::causes::Causes;
use super::fields::{items, text};
use super::meta;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
pub(super) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// Checks a spec found at `at` (`spec`, or `spec.template.spec`).
pub(super) fn validate(spec: &Value, at: &str, causes: &mut Causes) {
    let mut volumes: Vec<&str> = Vec::new();
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let field = format!("{at}.volumes[{i}]");
        name(volume, &field, &mut volumes, causes);
        volume_source(volume, &field, causes);
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
            container(c, &field, &volumes, causes);
        }
    }
    one_of(spec, "restartPolicy", at, RESTART_POLICIES, causes);
    one_of(spec, "dnsPolicy", at, DNS_POLICIES, causes);
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

fn volume_source(volume: &Value, field: &str, causes: &mut Causes) {
    let sources: Vec<&String> =
        volume.as_object().into_iter().flatten().map(|(k, _)| k).filter(|k| *k != "name").collect();
    if sources.is_empty() {
        causes.required(field, "must specify a volume type");
    }
    for extra in sources.iter().skip(1) {
        causes.forbidden(format!("{field}.{extra}"), "may not specify more than 1 volume type");
    }
    for (source, key) in [("secret", "secretName"), ("configMap", "name"), ("hostPath", "path")] {
        if volume.get(source).is_some_and(|s| text(s, key).is_empty()) {
            causes.required(format!("{field}.{source}.{key}"), "");
        }
    }
}

fn container(c: &Value, at: &str, volumes: &[&str], causes: &mut Causes) {
    let image = text(c, "image");
    if image.is_empty() {
        causes.required(format!("{at}.image"), "");
    } else if image.trim() != image {
        causes.invalid(format!("{at}.image"), &image.into(), "must not have leading or trailing whitespace");
    }
    one_of(c, "imagePullPolicy", at, PULL_POLICIES, causes);
    ports(c, at, causes);
    for (i, env) in items(c, "env").iter().enumerate() {
        let (field, name) = (format!("{at}.env[{i}].name"), text(env, "name"));
        if name.is_empty() {
            causes.required(field, "");
        } else {
            for error in names::env_var_name_errors(name) {
                causes.invalid(field.clone(), &name.into(), &error);
            }
        }
    }
    let mut paths: Vec<&str> = Vec::new();
    for (i, mount) in items(c, "volumeMounts").iter().enumerate() {
        let field = format!("{at}.volumeMounts[{i}]");
        let (name, path) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else if !volumes.contains(&name) {
            causes.not_found(format!("{field}.name"), &name.into());
        }
        if path.is_empty() {
            causes.required(format!("{field}.mountPath"), "");
        } else if paths.contains(&path) {
            causes.invalid(format!("{field}.mountPath"), &path.into(), "must be unique");
        }
        paths.push(path);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = c.get(probe) {
            self::probe(found, &format!("{at}.{probe}"), causes);
        }
    }
    resources(&c["resources"], &format!("{at}.resources"), causes);
}

fn ports(c: &Value, at: &str, causes: &mut Causes) {
    let mut named: Vec<&str> = Vec::new();
    for (i, port) in items(c, "ports").iter().enumerate() {
        let field = format!("{at}.ports[{i}]");
        let name = text(port, "name");
        if !name.is_empty() {
            for error in names::port_name_errors(name) {
                causes.invalid(format!("{field}.name"), &name.into(), &error);
            }
            if named.contains(&name) {
                causes.duplicate(format!("{field}.name"), &name.into());
            }
            named.push(name);
        }
        match port["containerPort"].as_i64().unwrap_or(0) {
            0 => causes.required(format!("{field}.containerPort"), ""),
            1..=65535 => {}
            number => causes.invalid(format!("{field}.containerPort"), &number.into(), PORT_RANGE),
        }
        one_of(port, "protocol", &field, PROTOCOLS, causes);
    }
}

fn probe(probe: &Value, at: &str, causes: &mut Causes) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|h| probe.get(**h).is_some()).count() {
        0 => causes.required(at, "must specify a handler type"),
        1 => {}
        _ => causes.forbidden(at, "may not specify more than 1 handler type"),
    }
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if let Some(number) = probe[key].as_i64().filter(|n| *n < 0) {
            causes.invalid(format!("{at}.{key}"), &number.into(), NOT_NEGATIVE);
        }
    }
    if !at.ends_with("readinessProbe") && probe["successThreshold"].as_i64().unwrap_or(1) != 1 {
        causes.invalid(format!("{at}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
}

fn resources(resources: &Value, at: &str, causes: &mut Causes) {
    let amount =
        |list: &str, name: &str| resources[list][name].as_str().and_then(|t| Quantity::parse(t).ok());
    for list in ["limits", "requests"] {
        for (name, shown) in resources[list].as_object().into_iter().flatten() {
            let field = format!("{at}.{list}[{name}]");
            match amount(list, name) {
                None => causes.invalid(field, shown, "must be a valid quantity"),
                Some(amount) if amount.milli() < 0 => causes.invalid(field, shown, NOT_NEGATIVE),
                Some(_) => {}
            }
        }
    }
    for (name, shown) in resources["requests"].as_object().into_iter().flatten() {
        let (Some(request), Some(limit)) = (amount("requests", name), amount("limits", name)) else {
            continue;
        };
        if request.milli() > limit.milli() {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            causes.invalid(format!("{at}.requests"), shown, &detail);
        }
    }
}
