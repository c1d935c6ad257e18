//! Probes and lifecycle hooks.

use orlop_model::names;
use serde_json::{Value, json};

use super::super::causes::Causes;
use super::super::fields::{items, text};
use super::{NOT_NEGATIVE, PORT_RANGE};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
const INIT_ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";

/// Probes and hooks of a container; `grace` is the pod's.
pub(super) fn validate(container: &Value, at: &str, grace: i64, causes: &mut Causes) {
    for hook in ["postStart", "preStop"] {
        if let Some(found) = container["lifecycle"].get(hook).filter(|found| !found.is_null()) {
            handler(found, &format!("{at}.lifecycle.{hook}"), Some(grace), causes);
        }
    }
    for name in PROBES {
        if let Some(found) = container.get(name).filter(|found| !found.is_null()) {
            probe(found, &format!("{at}.{name}"), causes);
        }
    }
}

/// An init container that is no sidecar is over before anybody could probe it.
pub(super) fn none_for_init(container: &Value, at: &str, causes: &mut Causes) {
    for name in ["lifecycle"].iter().chain(&PROBES) {
        if container.get(*name).is_some_and(|found| !found.is_null()) {
            causes.forbidden(format!("{at}.{name}"), INIT_ONLY_SIDECARS);
        }
    }
}

fn probe(probe: &Value, at: &str, causes: &mut Causes) {
    handler(probe, at, None, causes);
    for key in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if let Some(number) = probe[key].as_i64().filter(|n| *n < 0) {
            causes.invalid(format!("{at}.{key}"), &number.into(), NOT_NEGATIVE);
        }
    }
    let readiness = at.ends_with("readinessProbe");
    if !readiness && probe["successThreshold"].as_i64().unwrap_or(1) != 1 {
        causes.invalid(format!("{at}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
    let grace = &probe["terminationGracePeriodSeconds"];
    let field = format!("{at}.terminationGracePeriodSeconds");
    if grace.as_i64().is_some_and(|grace| grace <= 0) {
        causes.invalid(&field, grace, "must be greater than 0");
    }
    if readiness && !grace.is_null() {
        causes.invalid(field, grace, "must not be set for readinessProbes");
    }
}

/// What is run or asked. Hooks may sleep, within the pod's grace period, and cannot speak gRPC.
fn handler(handler: &Value, at: &str, grace: Option<i64>, causes: &mut Causes) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given = kinds.into_iter().filter(|kind| handler.get(*kind).is_some_and(|found| !found.is_null()));
    let mut count = 0;
    for kind in given {
        let field = format!("{at}.{kind}");
        count += 1;
        if count > 1 {
            causes.forbidden(field, "may not specify more than 1 handler type");
            continue;
        }
        let found = &handler[kind];
        match kind {
            "exec" if items(found, "command").is_empty() => causes.required(format!("{field}.command"), ""),
            "httpGet" => http_get(found, &field, causes),
            "tcpSocket" => port(&found["port"], &format!("{field}.port"), causes),
            "grpc" if !is_port(found["port"].as_i64().unwrap_or(0)) => {
                causes.invalid(format!("{field}.port"), &number(&found["port"]), PORT_RANGE);
            }
            "sleep" => {
                let (seconds, most) = (found["seconds"].as_i64().unwrap_or(0), grace.unwrap_or(0));
                if !(0..=most).contains(&seconds) {
                    let detail =
                        format!("must be non-negative and less than terminationGracePeriodSeconds ({most})");
                    causes.invalid(field, &seconds.into(), &detail);
                }
            }
            _ => {}
        }
    }
    if count == 0 {
        causes.required(at, "must specify a handler type");
    }
}

fn http_get(get: &Value, at: &str, causes: &mut Causes) {
    if text(get, "path").is_empty() {
        causes.required(format!("{at}.path"), "");
    }
    port(&get["port"], &format!("{at}.port"), causes);
    let scheme = text(get, "scheme");
    if !["HTTP", "HTTPS"].contains(&scheme) {
        causes.not_supported(format!("{at}.scheme"), &scheme.into(), &["HTTP", "HTTPS"]);
    }
}

/// A number, or the name of a port.
fn port(port: &Value, at: &str, causes: &mut Causes) {
    match port.as_str() {
        Some(name) => {
            for error in names::port_name_errors(name) {
                causes.invalid(at, port, &error);
            }
        }
        None if is_port(port.as_i64().unwrap_or(0)) => {}
        None => causes.invalid(at, &number(port), PORT_RANGE),
    }
}

fn is_port(number: i64) -> bool {
    (1..=65535).contains(&number)
}

/// A number that was not given is shown as upstream holds it.
fn number(value: &Value) -> Value {
    if value.is_null() { json!(0) } else { value.clone() }
}
