//! Services: defaults, addresses and ports from the server, and what stays as it is.

use std::net::Ipv4Addr;

use orlop_model::names;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{each, items, or, or_text, text};
use super::{Surroundings, meta, podrules};
use crate::kinds::{self, Hooks};
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of services.
pub const SERVICE: Hooks =
    Hooks { default, prepare_create, prepare_update, validate, validate_update, ..Hooks::NONE };

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn kind_of(service: &Value) -> &str {
    text(&service["spec"], "type")
}

fn is_published(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

fn default(service: &mut Value) {
    let spec = object::child(service, "spec");
    or_text(spec, "type", "ClusterIP");
    or_text(spec, "sessionAffinity", "None");
    each(spec, "ports", |port| {
        or_text(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        match port.get("targetPort") {
            None | Some(Value::Null) => drop(port.insert("targetPort".into(), number)),
            Some(target) if target == 0 || target == "" => drop(port.insert("targetPort".into(), number)),
            Some(_) => {}
        }
    });
    if spec.get("sessionAffinity").is_some_and(|a| a == "ClientIP") {
        or(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    } else {
        spec.remove("sessionAffinityConfig");
    }
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        or_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if is_published(&kind) {
        or_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        or(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn prepare_create(service: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    service["status"] = json!({"loadBalancer": {}});
    allocate(service, world)
}

/// An update that leaves out what the server allocated keeps it.
fn prepare_update(new: &mut Value, old: &Value, world: &dyn Surroundings) -> Result<(), Failure> {
    if kind_of(new) == "ExternalName" {
        return Ok(());
    }
    let old = &old["spec"];
    if text(old, "type") != "ExternalName" {
        let spec = object::child(new, "spec");
        or_text(spec, "clusterIP", text(old, "clusterIP"));
        for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let Some(value) = old.get(key) {
                or(spec, key, value.clone());
            }
        }
    }
    if is_published(kind_of(new)) {
        each(object::child(new, "spec"), "ports", |port| {
            let same = |o: &&Value| ["port", "protocol"].iter().all(|key| o.get(key) == port.get(*key));
            let known = items(old, "ports").iter().find(same).and_then(|o| o.get("nodePort")).cloned();
            if let Some(known) = known {
                or(port, "nodePort", known);
            }
        });
    } else {
        each(object::child(new, "spec"), "ports", |port| drop(port.remove("nodePort")));
    }
    allocate(new, world)
}

/// Gives the service its address and node ports, as far as it has none.
fn allocate(service: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    let kind = kind_of(service).to_owned();
    if kind == "ExternalName" {
        return Ok(());
    }
    let held = world.get("services", object::namespace(service), object::name(service));
    let held = held.as_ref().map(|s| text(&s["spec"], "clusterIP")).unwrap_or_default().to_owned();
    let own = object::namespace(service) == "default" && object::name(service) == "kubernetes";
    let wanted = match text(&service["spec"], "clusterIP") {
        "" => items(&service["spec"], "clusterIPs").first().and_then(Value::as_str).unwrap_or_default(),
        wanted => wanted,
    };
    let address = match wanted {
        "None" => "None".to_owned(),
        wanted if !wanted.is_empty() && (wanted == held || own) => wanted.to_owned(),
        "" => world.allocate_ip(None).map_err(|why| refuse(service, &Value::Null, &why, true))?.to_string(),
        wanted => {
            let bad = |why: &str| refuse(service, &json!([wanted]), why, false);
            let address: Ipv4Addr = wanted
                .parse()
                .map_err(|_| bad("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))?;
            world
                .allocate_ip(Some(address))
                .map_err(|why| bad(&format!("failed to allocate IP {wanted}: {why}")))?
                .to_string()
        }
    };
    let spec = object::child(service, "spec");
    spec.insert("clusterIP".into(), address.as_str().into());
    or(spec, "clusterIPs", json!([address]));
    or(spec, "ipFamilies", json!(["IPv4"]));
    or(spec, "ipFamilyPolicy", "SingleStack");
    if is_published(&kind) {
        let mut taken = world.node_ports();
        let mut failed = false;
        each(spec, "ports", |port| {
            if port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                return;
            }
            match (30_000..32_768).find(|p| !taken.contains(p)) {
                Some(free) => {
                    taken.insert(free);
                    port.insert("nodePort".into(), free.into());
                }
                None => failed = true,
            }
        });
        if failed {
            return Err(Failure::internal("failed to allocate a nodePort: range is full"));
        }
    }
    Ok(())
}

fn refuse(service: &Value, value: &Value, why: &str, internal: bool) -> Failure {
    let Some(kind) = kinds::find("", "v1", "services").filter(|_| !internal) else {
        return Failure::internal(format!("failed to allocate a serviceIP: {why}"));
    };
    let mut causes = Causes::default();
    causes.invalid("spec.clusterIPs", value, why);
    Failure::invalid(kind, object::name(service), &causes)
}

fn validate(service: &Value, causes: &mut Causes) {
    let spec = &service["spec"];
    let kind = kind_of(service);
    if !TYPES.contains(&kind) {
        causes.not_supported("spec.type", &kind.into(), TYPES);
    }
    if kind == "ExternalName" {
        if text(spec, "externalName").is_empty() {
            causes.required("spec.externalName", "");
        }
        return;
    }
    let headless = text(spec, "clusterIP") == "None";
    let ports = items(spec, "ports");
    if ports.is_empty() && !headless {
        causes.required("spec.ports", "");
    }
    let mut names: Vec<&str> = Vec::new();
    let mut seen: Vec<(i64, &str)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let at = format!("spec.ports[{i}]");
        name(port, &at, ports.len() > 1, &mut names, causes);
        let number = port["port"].as_i64().unwrap_or(0);
        if !(1..=65535).contains(&number) {
            causes.invalid(format!("{at}.port"), &number.into(), podrules::PORT_RANGE);
        }
        let protocol = text(port, "protocol");
        if !["SCTP", "TCP", "UDP"].contains(&protocol) {
            causes.not_supported(format!("{at}.protocol"), &protocol.into(), &["SCTP", "TCP", "UDP"]);
        }
        target(&port["targetPort"], &format!("{at}.targetPort"), causes);
        if seen.contains(&(number, protocol)) {
            causes.duplicate(at, &json!({"protocol": protocol, "port": number}));
        }
        seen.push((number, protocol));
    }
    meta::labels(&spec["selector"], "spec.selector", causes);
    let affinity = text(spec, "sessionAffinity");
    if !["ClientIP", "None"].contains(&affinity) {
        causes.not_supported("spec.sessionAffinity", &affinity.into(), &["ClientIP", "None"]);
    }
}

fn name<'a>(port: &'a Value, at: &str, required: bool, seen: &mut Vec<&'a str>, causes: &mut Causes) {
    let name = text(port, "name");
    if name.is_empty() {
        if required {
            causes.required(format!("{at}.name"), "");
        }
        return;
    }
    for error in names::dns1123_label_errors(name) {
        causes.invalid(format!("{at}.name"), &name.into(), &error);
    }
    if seen.contains(&name) {
        causes.duplicate(format!("{at}.name"), &name.into());
    }
    seen.push(name);
}

fn target(target: &Value, at: &str, causes: &mut Causes) {
    match target {
        Value::Number(number) if !number.as_i64().is_some_and(|n| (1..=65535).contains(&n)) => {
            causes.invalid(at, target, podrules::PORT_RANGE);
        }
        Value::String(name) => {
            for error in names::port_name_errors(name) {
                causes.invalid(at, target, &error);
            }
        }
        _ => {}
    }
}

fn validate_update(new: &Value, old: &Value, causes: &mut Causes) {
    let (was, is) = (text(&old["spec"], "clusterIP"), text(&new["spec"], "clusterIP"));
    let fixed = kind_of(old) != "ExternalName" && kind_of(new) != "ExternalName" && !was.is_empty();
    if fixed && was != is {
        causes.invalid("spec.clusterIPs[0]", &json!([is]), "may not change once set");
    }
}
