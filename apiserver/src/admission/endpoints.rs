//! Endpoints and EndpointSlices: defaults of ports, addresses that one may send to, and an address type that stays.

use std::net::IpAddr;

use orlop_model::names;
use serde_json::Value;

use super::causes::Causes;
use super::fields::{each, items, or, or_text, text};
use super::podrules::{BAD_ADDRESS, PORT_RANGE};
use super::service::plain_address;
use crate::kinds::Hooks;
use crate::rest::object;

/// Code of endpoints.
pub const ENDPOINTS: Hooks = Hooks {
    default: |endpoints| {
        each(object::map(endpoints), "subsets", |subset| {
            each(subset, "ports", |port| or_text(port, "protocol", "TCP"));
        });
    },
    validate: validate_endpoints,
    ..Hooks::NONE
};

/// Code of endpoint slices.
pub const ENDPOINT_SLICE: Hooks =
    Hooks { default: default_slice, validate: validate_slice, validate_update: fixed_type, ..Hooks::NONE };

const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// The server's own: it may have been told to advertise loopback, on a machine without a network.
fn is_own(object: &Value) -> bool {
    object::namespace(object) == "default" && object::name(object) == "kubernetes"
}

fn validate_endpoints(endpoints: &Value, causes: &mut Causes) {
    let own = is_own(endpoints);
    for (i, subset) in items(endpoints, "subsets").iter().enumerate() {
        let at = format!("subsets[{i}]");
        if items(subset, "addresses").is_empty() && items(subset, "notReadyAddresses").is_empty() {
            causes.required(at.clone(), "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (k, address) in items(subset, list).iter().enumerate().filter(|_| !own) {
                plain_address(&address["ip"], &format!("{at}.{list}[{k}].ip"), causes);
            }
        }
        let ports = items(subset, "ports");
        for (k, port) in ports.iter().enumerate() {
            let field = format!("{at}.ports[{k}]");
            if ports.len() > 1 && text(port, "name").is_empty() {
                causes.required(format!("{field}.name"), "");
            }
            name_and_protocol(port, &field, causes);
            let number = port["port"].as_i64().unwrap_or(0);
            if !(1..=65535).contains(&number) {
                causes.invalid(format!("{field}.port"), &number.into(), PORT_RANGE);
            }
        }
    }
}

fn name_and_protocol(port: &Value, at: &str, causes: &mut Causes) {
    let (name, protocol) = (text(port, "name"), text(port, "protocol"));
    for error in (!name.is_empty()).then(|| names::dns1123_label_errors(name)).into_iter().flatten() {
        causes.invalid(format!("{at}.name"), &name.into(), &error);
    }
    if !PROTOCOLS.contains(&protocol) {
        causes.not_supported(format!("{at}.protocol"), &protocol.into(), PROTOCOLS);
    }
}

fn default_slice(slice: &mut Value) {
    let fields = object::map(slice);
    or(fields, "endpoints", Value::Array(Vec::new()));
    each(fields, "ports", |port| {
        or(port, "name", "");
        or(port, "protocol", "TCP");
    });
}

fn validate_slice(slice: &Value, causes: &mut Causes) {
    let own = is_own(slice);
    match text(slice, "addressType") {
        "" => causes.required("addressType", ""),
        found if !TYPES.contains(&found) => causes.not_supported("addressType", &found.into(), TYPES),
        _ => {}
    }
    for (i, endpoint) in items(slice, "endpoints").iter().enumerate() {
        if items(endpoint, "addresses").is_empty() {
            causes.required(format!("endpoints[{i}].addresses"), "must contain at least 1 address");
        }
        for (k, address) in items(endpoint, "addresses").iter().enumerate().filter(|_| !own) {
            slice_address(
                address,
                text(slice, "addressType"),
                &format!("endpoints[{i}].addresses[{k}]"),
                causes,
            );
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in items(slice, "ports").iter().enumerate() {
        let (field, name) = (format!("ports[{i}]"), text(port, "name"));
        name_and_protocol(port, &field, causes);
        if seen.contains(&name) {
            causes.duplicate(format!("{field}.name"), &name.into());
        }
        seen.push(name);
    }
}

fn slice_address(address: &Value, kind: &str, field: &str, causes: &mut Causes) {
    let text = address.as_str().unwrap_or_default();
    match (kind, text.parse::<IpAddr>()) {
        ("FQDN", _) => {
            for error in names::dns1123_subdomain_errors(text) {
                causes.invalid(field, address, &error);
            }
        }
        ("IPv4" | "IPv6", Err(_)) => causes.invalid(field, address, BAD_ADDRESS),
        ("IPv4", Ok(IpAddr::V6(_))) => causes.invalid(field, address, "must be an IPv4 address"),
        ("IPv6", Ok(IpAddr::V4(_))) => causes.invalid(field, address, "must be an IPv6 address"),
        ("IPv4" | "IPv6", Ok(_)) => plain_address(address, field, causes),
        _ => {}
    }
}

fn fixed_type(new: &Value, old: &Value, causes: &mut Causes) {
    if new["addressType"] != old["addressType"] {
        causes.invalid("addressType", &new["addressType"], "field is immutable");
    }
}
