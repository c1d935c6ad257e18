//! Services: defaults, addresses and ports from the server, and what stays as it is.

use std::net::IpAddr;

use orlop_model::{names, net::Family};
use serde_json::{Value, json};

use super::causes::Causes;
use super::families::{self, Addresses, Nature};
use super::fields::{each, items, or, or_text, text};
use super::{Surroundings, meta, podrules};
use crate::kinds::{self, Hooks};
use crate::rest::object;
use crate::rest::status::Failure;

/// Code of services.
pub const SERVICE: Hooks =
    Hooks { default, prepare_create, prepare_update, validate, validate_update, ..Hooks::NONE };

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
const NODE_PORTS: std::ops::Range<i64> = 30_000..32_768;
const MAX_AFFINITY_SECONDS: i64 = 86_400;

fn kind_of(service: &Value) -> &str {
    text(&service["spec"], "type")
}

fn is_published(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Balancers ask such a service's nodes whether they have endpoints, at a port of its own.
fn needs_health_check(service: &Value) -> bool {
    kind_of(service) == "LoadBalancer" && text(&service["spec"], "externalTrafficPolicy") == "Local"
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
    if kind_of(service) != "ExternalName" {
        addresses(service, None, world)?;
    }
    node_ports(service, world)
}

/// What an old type needed and the new one may not have goes, unless the client asks for something else in its place.
fn drop_leftovers(new: &mut Value, old: &Value) {
    let mut leftovers: Vec<&str> = Vec::new();
    if kind_of(new) == "ExternalName" && kind_of(old) != "ExternalName" {
        leftovers.extend([
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ]);
    }
    if is_published(kind_of(old)) && !is_published(kind_of(new)) {
        leftovers.extend(["externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"]);
    }
    if needs_health_check(old) && !needs_health_check(new) {
        leftovers.push("healthCheckNodePort");
    }
    let spec = object::child(new, "spec");
    for key in leftovers {
        if spec.get(key) == old["spec"].get(key) {
            spec.remove(key);
        }
    }
}

/// An update that leaves out what the server allocated keeps it.
fn prepare_update(new: &mut Value, old: &Value, world: &dyn Surroundings) -> Result<(), Failure> {
    drop_leftovers(new, old);
    if kind_of(new) == "ExternalName" {
        return Ok(());
    }
    addresses(new, Some(old), world)?;
    let old = &old["spec"];
    if needs_health_check(new)
        && let Some(port) = old.get("healthCheckNodePort")
    {
        or(object::child(new, "spec"), "healthCheckNodePort", port.clone());
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
    node_ports(new, world)
}

/// Gives the service its cluster IPs, as far as it has none.
fn addresses(service: &mut Value, old: Option<&Value>, world: &dyn Surroundings) -> Result<(), Failure> {
    let mut wanted = Addresses::read(&service["spec"]);
    let before = old.map(|old| (Addresses::read(&old["spec"]), nature(old)));
    let before_had = before.as_ref().filter(|(_, nature)| nature.kind != "ExternalName").map(|(was, _)| was);
    if let Some(was) = before_had {
        wanted.keep(was);
    }
    wanted.synchronize(before.as_ref().map(|(was, _)| was));
    let mut causes = Causes::default();
    let was = before.as_ref().map(|(was, nature)| (was, *nature));
    wanted.settle(nature(service), was, &world.service_families(), &mut causes);
    refuse(service, &causes)?;
    // What it has stays; a service with the same name is a conflict, and not one about addresses.
    let stored = world.get("services", object::namespace(service), object::name(service));
    let mut held = stored.as_ref().map(|stored| Addresses::read(&stored["spec"]).ips).unwrap_or_default();
    if object::namespace(service) == "default" && object::name(service) == "kubernetes" {
        held.push(wanted.ip.clone());
    }
    if !wanted.is_headless() {
        for (i, family) in wanted.families.clone().iter().enumerate() {
            let ip = wanted.ips.get(i).cloned().unwrap_or_default();
            // What an update may not change is not a matter of what is free.
            let fixed = before_had.is_some_and(|was| i < was.ips.len());
            if !ip.is_empty() && (fixed || held.contains(&ip)) {
                continue;
            }
            let ip = allocate(&ip, families::named(family), &wanted, service, world)?;
            match wanted.ips.get_mut(i) {
                Some(place) => *place = ip,
                None => wanted.ips.push(ip),
            }
        }
        wanted.ip = wanted.ips.first().cloned().unwrap_or_default();
    }
    wanted.write(object::child(service, "spec"));
    Ok(())
}

/// The wanted address, if it is free; any, if none is wanted.
fn allocate(
    ip: &str,
    family: Family,
    wanted: &Addresses,
    service: &Value,
    world: &dyn Surroundings,
) -> Result<String, Failure> {
    let parsed = ip.parse().ok();
    world.allocate_ip(family, parsed).map(|ip| ip.to_string()).map_err(|why| {
        let mut causes = Causes::default();
        let detail = format!("failed to allocate IP {ip}: {why}");
        causes.invalid("spec.clusterIPs", &json!(wanted.ips), &detail);
        let refused = refuse(service, &causes).err().filter(|_| parsed.is_some());
        refused.unwrap_or_else(|| Failure::internal(format!("failed to allocate a serviceIP: {why}")))
    })
}

fn nature(service: &Value) -> Nature<'_> {
    let selector = service["spec"]["selector"].as_object();
    Nature { kind: kind_of(service), selects: selector.is_some_and(|selector| !selector.is_empty()) }
}

/// Gives the service its node ports, as far as it has none.
fn node_ports(service: &mut Value, world: &dyn Surroundings) -> Result<(), Failure> {
    if is_published(kind_of(service)) {
        let mut taken = world.node_ports();
        let before = world.get("services", object::namespace(service), object::name(service));
        let own = held_ports(&before);
        refuse_ports(service, &taken, &own)?;
        let (checked, wanted) = (needs_health_check(service), node_ports_wanted(service));
        let spec = object::child(service, "spec");
        let mut failed = false;
        each(spec, "ports", |port| {
            if !wanted || port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0 {
                return;
            }
            match NODE_PORTS.clone().find(|p| !taken.contains(p)) {
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
        if checked && spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) == 0 {
            let free = NODE_PORTS.clone().find(|p| !taken.contains(p));
            let free = free.ok_or_else(|| {
                Failure::internal("failed to allocate a HealthCheck NodePort: range is full")
            })?;
            spec.insert("healthCheckNodePort".into(), free.into());
        }
    }
    Ok(())
}

/// KEP-1864: a balancer that reaches pods by itself can do without node ports.
fn node_ports_wanted(service: &Value) -> bool {
    kind_of(service) != "LoadBalancer" || service["spec"]["allocateLoadBalancerNodePorts"] != false
}

/// Node ports that a stored service has already.
fn held_ports(service: &Option<Value>) -> Vec<i64> {
    let ports = service.iter().flat_map(|service| items(&service["spec"], "ports"));
    ports.filter_map(|port| port["nodePort"].as_i64()).collect()
}

/// A node port that is wished for must be in the range, and nobody else's.
fn refuse_ports(
    service: &Value,
    taken: &std::collections::BTreeSet<i64>,
    own: &[i64],
) -> Result<(), Failure> {
    let mut causes = Causes::default();
    for (i, port) in items(&service["spec"], "ports").iter().enumerate() {
        let (wanted, field) = (port["nodePort"].as_i64().unwrap_or(0), format!("spec.ports[{i}].nodePort"));
        if wanted == 0 || own.contains(&wanted) {
            continue;
        }
        if !NODE_PORTS.contains(&wanted) {
            let detail = "provided port is not in the valid range. The range of valid ports is 30000-32767";
            causes.invalid(field, &wanted.into(), detail);
        } else if taken.contains(&wanted) {
            causes.invalid(field, &wanted.into(), "provided port is already allocated");
        }
    }
    refuse(service, &causes)
}

fn refuse(service: &Value, causes: &Causes) -> Result<(), Failure> {
    match kinds::find("", "v1", "services").filter(|_| !causes.is_empty()) {
        Some(kind) => Err(Failure::invalid(kind, object::name(service), causes)),
        None => Ok(()),
    }
}

fn validate(service: &Value, causes: &mut Causes) {
    let spec = &service["spec"];
    let kind = kind_of(service);
    if !TYPES.contains(&kind) {
        causes.not_supported("spec.type", &kind.into(), TYPES);
    }
    if kind == "ExternalName" {
        return external_name(spec, causes);
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
    let seconds = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
    if seconds.as_i64().is_some_and(|seconds| !(1..=MAX_AFFINITY_SECONDS).contains(&seconds)) {
        let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
        causes.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &detail);
    }
    for (i, address) in items(spec, "externalIPs").iter().enumerate() {
        plain_address(address, &format!("spec.externalIPs[{i}]"), causes);
    }
    publishing(spec, kind, headless, causes);
    Addresses::read(spec).validate(causes);
}

fn external_name(spec: &Value, causes: &mut Causes) {
    let name = text(spec, "externalName");
    if name.is_empty() {
        causes.required("spec.externalName", "");
    } else {
        for error in names::dns1123_subdomain_errors(name.strip_suffix('.').unwrap_or(name)) {
            causes.invalid("spec.externalName", &name.into(), &error);
        }
    }
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let single = if key == "clusterIPs" { "clusterIP" } else { key };
        if !text(spec, single).is_empty() || !items(spec, key).is_empty() {
            causes.forbidden(format!("spec.{key}"), "may not be set for ExternalName services");
        }
    }
}

/// What depends on how far a service can be reached.
fn publishing(spec: &Value, kind: &str, headless: bool, causes: &mut Causes) {
    if kind == "ClusterIP" {
        for (i, port) in items(spec, "ports").iter().enumerate() {
            if port["nodePort"].as_i64().unwrap_or(0) != 0 {
                let field = format!("spec.ports[{i}].nodePort");
                causes.forbidden(field, "may not be used when `type` is 'ClusterIP'");
            }
        }
    } else if headless {
        let detail = format!("may not be set to 'None' for {kind} services");
        causes.invalid("spec.clusterIPs[0]", &"None".into(), &detail);
    }
    let policy = |key: &str, causes: &mut Causes| {
        let given = text(spec, key);
        if !given.is_empty() && !POLICIES.contains(&given) {
            causes.not_supported(format!("spec.{key}"), &given.into(), POLICIES);
        }
    };
    policy("internalTrafficPolicy", causes);
    let outside = &spec["externalTrafficPolicy"];
    if !text(spec, "externalTrafficPolicy").is_empty()
        && !is_published(kind)
        && items(spec, "externalIPs").is_empty()
    {
        let detail = "may only be set for externally-accessible services";
        causes.invalid("spec.externalTrafficPolicy", outside, detail);
    } else {
        policy("externalTrafficPolicy", causes);
    }
    let check = &spec["healthCheckNodePort"];
    if check.as_i64().unwrap_or(0) != 0 && !(kind == "LoadBalancer" && outside == "Local") {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid("spec.healthCheckNodePort", check, detail);
    }
    if let Some(wish) = spec["trafficDistribution"].as_str().filter(|wish| !DISTRIBUTIONS.contains(wish)) {
        causes.not_supported("spec.trafficDistribution", &wish.into(), DISTRIBUTIONS);
    }
}

/// An address that traffic may be sent to: none that means something on every machine.
pub(super) fn plain_address(address: &Value, field: &str, causes: &mut Causes) {
    let text = address.as_str().unwrap_or_default();
    let Ok(parsed) = text.parse::<IpAddr>() else {
        return causes.invalid(field, &text.into(), podrules::BAD_ADDRESS);
    };
    let (link_local, multicast) = match parsed {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] == 0xff02),
    };
    let detail = if parsed.is_unspecified() {
        "may not be unspecified (0.0.0.0 or ::)"
    } else if parsed.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else if multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    } else {
        return;
    };
    causes.invalid(field, &text.into(), detail);
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
    if kind_of(old) != "ExternalName" && kind_of(new) != "ExternalName" {
        Addresses::read(&new["spec"]).validate_update(&Addresses::read(&old["spec"]), causes);
    }
}
