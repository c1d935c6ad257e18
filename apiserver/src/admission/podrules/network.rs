//! Ports, DNS and host names.

use std::net::IpAddr;

use orlop_model::names;
use serde_json::{Value, json};

use super::super::causes::Causes;
use super::super::fields::{items, text};
use super::{PORT_RANGE, one_of};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
pub(in super::super) const BAD_ADDRESS: &str =
    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Ports of a container.
pub(super) fn ports(container: &Value, at: &str, host_network: bool, causes: &mut Causes) {
    let mut named: Vec<&str> = Vec::new();
    for (i, port) in items(container, "ports").iter().enumerate() {
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
        let host_port = &port["hostPort"];
        match host_port.as_i64().unwrap_or(0) {
            0 => {}
            1..=65535 if host_network && host_port != &port["containerPort"] => {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                causes.invalid(format!("{field}.hostPort"), host_port, detail);
            }
            1..=65535 => {}
            _ => causes.invalid(format!("{field}.hostPort"), host_port, PORT_RANGE),
        }
        one_of(port, "protocol", &field, PROTOCOLS, causes);
    }
}

/// A port of the host can be had once in a pod.
pub(super) fn host_ports(spec: &Value, at: &str, causes: &mut Causes) {
    let mut taken: Vec<String> = Vec::new();
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (k, port) in items(container, "ports").iter().enumerate() {
            let number = port["hostPort"].as_i64().unwrap_or(0);
            if number == 0 {
                continue;
            }
            let place = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if taken.contains(&place) {
                causes.duplicate(format!("{at}.containers[{i}].ports[{k}].hostPort"), &json!(place));
            }
            taken.push(place);
        }
    }
}

/// `dnsConfig` and `hostAliases`.
pub(super) fn dns(spec: &Value, at: &str, causes: &mut Causes) {
    let own = text(spec, "dnsPolicy") == "None";
    let field = format!("{at}.dnsConfig");
    match spec.get("dnsConfig").filter(|config| !config.is_null()) {
        None if own => causes.required(field, "must provide `dnsConfig` when `dnsPolicy` is None"),
        None => {}
        Some(config) => {
            let servers = items(config, "nameservers");
            let at = format!("{field}.nameservers");
            if own && servers.is_empty() {
                let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
                causes.required(at.clone(), detail);
            }
            if servers.len() > MAX_SERVERS {
                causes.invalid(at.clone(), &config["nameservers"], "must not have more than 3 nameservers");
            }
            for (i, server) in servers.iter().enumerate() {
                address(server, &format!("{at}[{i}]"), causes);
            }
            searches(config, &format!("{field}.searches"), causes);
            for (i, option) in items(config, "options").iter().enumerate() {
                if text(option, "name").is_empty() {
                    causes.required(format!("{field}.options[{i}]"), "must not be empty");
                }
            }
        }
    }
    for (i, alias) in items(spec, "hostAliases").iter().enumerate() {
        address(&alias["ip"], &format!("{at}.hostAliases[{i}].ip"), causes);
        for name in items(alias, "hostnames") {
            for error in names::dns1123_subdomain_errors(name.as_str().unwrap_or_default()) {
                causes.invalid(format!("{at}.hostAliases[{i}].hostnames"), name, &error);
            }
        }
    }
}

fn searches(config: &Value, at: &str, causes: &mut Causes) {
    let searches = items(config, "searches");
    if searches.len() > MAX_SEARCHES {
        causes.invalid(at, &config["searches"], "must not have more than 32 search paths");
    }
    for (i, search) in searches.iter().enumerate() {
        let name = search.as_str().unwrap_or_default();
        // The root, and names that end in it, are fine; so are underscores since 1.32.
        let name = name.strip_suffix('.').unwrap_or(name).replace('_', "-");
        for error in (!name.is_empty()).then(|| names::dns1123_subdomain_errors(&name)).into_iter().flatten()
        {
            causes.invalid(format!("{at}[{i}]"), search, &error);
        }
    }
}

fn address(address: &Value, field: &str, causes: &mut Causes) {
    let text = address.as_str().unwrap_or_default();
    if text.parse::<IpAddr>().is_err() {
        causes.invalid(field, &text.into(), BAD_ADDRESS);
    }
}
