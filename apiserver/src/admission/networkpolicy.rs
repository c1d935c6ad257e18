//! NetworkPolicies: defaults of types and protocols, and what makes one meaningless.

use std::net::IpAddr;

use orlop_model::selectors::LabelSelector;
use serde_json::Value;

use super::causes::Causes;
use super::fields::{each, items, or, or_text, text, with};
use super::podrules::PORT_RANGE;
use crate::kinds::Hooks;
use crate::rest::object;

/// Code of the kind.
pub const NETWORK_POLICY: Hooks = Hooks { default, validate, ..Hooks::NONE };

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TYPES: &[&str] = &["Egress", "Ingress"];
/// The lists of rules, and what each calls its peers.
const RULES: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn default(policy: &mut Value) {
    with(object::map(policy), "spec", |spec| {
        let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|rules| !rules.is_empty());
        let types = if egress { vec!["Ingress", "Egress"] } else { vec!["Ingress"] };
        or(spec, "policyTypes", types);
        for (rules, _) in RULES {
            each(spec, rules, |rule| each(rule, "ports", |port| or_text(port, "protocol", "TCP")));
        }
    });
}

fn validate(policy: &Value, causes: &mut Causes) {
    let spec = &policy["spec"];
    selector(&spec["podSelector"], "spec.podSelector", causes);
    for (i, kind) in items(spec, "policyTypes").iter().enumerate() {
        if !TYPES.iter().any(|known| kind == known) {
            causes.not_supported(format!("spec.policyTypes[{i}]"), kind, TYPES);
        }
    }
    for (rules, peers) in RULES {
        for (i, rule) in items(spec, rules).iter().enumerate() {
            let at = format!("spec.{rules}[{i}]");
            for (k, found) in items(rule, "ports").iter().enumerate() {
                port(found, &format!("{at}.ports[{k}]"), causes);
            }
            for (k, found) in items(rule, peers).iter().enumerate() {
                peer(found, &format!("{at}.{peers}[{k}]"), causes);
            }
        }
    }
}

fn port(port: &Value, at: &str, causes: &mut Causes) {
    if !PROTOCOLS.contains(&text(port, "protocol")) {
        causes.not_supported(format!("{at}.protocol"), &port["protocol"], PROTOCOLS);
    }
    let (first, last) = (&port["port"], &port["endPort"]);
    if first.as_i64().is_some_and(|number| !(1..=65535).contains(&number)) {
        causes.invalid(format!("{at}.port"), first, PORT_RANGE);
    }
    if last.is_null() {
        return;
    }
    let field = format!("{at}.endPort");
    match (first.as_i64(), last.as_i64().unwrap_or(0)) {
        (None, _) if first.is_null() => {
            causes.required(format!("{at}.port"), "must be specified when `endPort` is")
        }
        (None, _) => causes.invalid(field, last, "may not be specified when `port` is non-numeric"),
        (Some(first), number) if number < first => {
            causes.invalid(field, last, "must be greater than or equal to `port`");
        }
        (_, number) if number > 65535 => causes.invalid(field, last, PORT_RANGE),
        _ => {}
    }
}

fn peer(peer: &Value, at: &str, causes: &mut Causes) {
    let (pods, namespaces, block) = (&peer["podSelector"], &peer["namespaceSelector"], &peer["ipBlock"]);
    selector(pods, &format!("{at}.podSelector"), causes);
    selector(namespaces, &format!("{at}.namespaceSelector"), causes);
    match (pods.is_null() && namespaces.is_null(), block.is_null()) {
        (true, true) => causes.required(at, "must specify a peer"),
        (false, false) => causes.forbidden(at, "may not specify both ipBlock and another peer"),
        (true, false) => ip_block(block, &format!("{at}.ipBlock"), causes),
        (false, true) => {}
    }
}

fn ip_block(block: &Value, at: &str, causes: &mut Causes) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        return causes.required(format!("{at}.cidr"), "");
    }
    let Some(net) = network(cidr) else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return causes.invalid(format!("{at}.cidr"), &block["cidr"], detail);
    };
    for (i, value) in items(block, "except").iter().enumerate() {
        let inner = value.as_str().and_then(network);
        if !inner.is_some_and(|inner| inner.1 > net.1 && within(inner.0, net)) {
            causes.invalid(format!("{at}.except[{i}]"), value, "must be a strict subset of `cidr`");
        }
    }
}

type Network = (IpAddr, u8);

fn network(text: &str) -> Option<Network> {
    let (ip, prefix) = text.split_once('/')?;
    let (ip, prefix): Network = (ip.parse().ok()?, prefix.parse().ok()?);
    (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some((ip, prefix))
}

fn within(ip: IpAddr, (net, prefix): Network) -> bool {
    let bits = |ip| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    ip.is_ipv4() == net.is_ipv4() && (bits(ip) ^ bits(net)) & mask == 0
}

fn selector(selector: &Value, at: &str, causes: &mut Causes) {
    let labels: Vec<(String, String)> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    let expressions = items(selector, "matchExpressions").iter().map(|expression| {
        let values =
            items(expression, "values").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        (text(expression, "key"), text(expression, "operator"), values)
    });
    let labels = labels.iter().map(|(key, value)| (key, value));
    if let Err(error) = LabelSelector::from_match(labels, expressions) {
        causes.invalid(at, selector, &error.to_string());
    }
}
