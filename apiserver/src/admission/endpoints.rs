//! Endpoints and EndpointSlices: defaults of ports, and an address type that stays.

use serde_json::Value;

use super::causes::Causes;
use super::fields::{each, items, or, or_text, text};
use crate::kinds::Hooks;
use crate::rest::object;

/// Code of endpoints.
pub const ENDPOINTS: Hooks = Hooks {
    default: |endpoints| {
        each(object::map(endpoints), "subsets", |subset| {
            each(subset, "ports", |port| or_text(port, "protocol", "TCP"));
        });
    },
    ..Hooks::NONE
};

/// Code of endpoint slices.
pub const ENDPOINT_SLICE: Hooks =
    Hooks { default: default_slice, validate: validate_slice, validate_update: fixed_type, ..Hooks::NONE };

const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

fn default_slice(slice: &mut Value) {
    let fields = object::map(slice);
    or(fields, "endpoints", Value::Array(Vec::new()));
    each(fields, "ports", |port| {
        or(port, "name", "");
        or(port, "protocol", "TCP");
    });
}

fn validate_slice(slice: &Value, causes: &mut Causes) {
    match text(slice, "addressType") {
        "" => causes.required("addressType", ""),
        found if !TYPES.contains(&found) => causes.not_supported("addressType", &found.into(), TYPES),
        _ => {}
    }
    for (i, endpoint) in items(slice, "endpoints").iter().enumerate() {
        if items(endpoint, "addresses").is_empty() {
            causes.required(format!("endpoints[{i}].addresses"), "must contain at least 1 address");
        }
    }
}

fn fixed_type(new: &Value, old: &Value, causes: &mut Causes) {
    if new["addressType"] != old["addressType"] {
        causes.invalid("addressType", &new["addressType"], "field is immutable");
    }
}
