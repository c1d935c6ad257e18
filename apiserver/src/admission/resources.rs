//! Requests and limits of containers and of pods as a whole: defaults, rules, quality of service.
//!
//! Not for: changing them while the pod runs (`resize`).

use std::collections::BTreeMap;

use orlop_model::quantities::Quantity;
use serde_json::{Value, json};

use super::causes::Causes;
use super::fields::{Fields, items, text};
use super::podrules::NOT_NEGATIVE;

const OF_CONTAINERS: &[&str] = &["cpu", "ephemeral-storage", "memory"];
const OF_PODS: &[&str] = &["cpu", "hugepages-", "memory"];
const RESIZABLE: &[&str] = &["cpu", "memory"];
const RESTARTS: &[&str] = &["NotRequired", "RestartContainer"];

type Amounts = BTreeMap<String, Quantity>;

/// A list of amounts; what cannot be read is refused elsewhere and counts as absent.
fn amounts(resources: &Value, list: &str) -> Amounts {
    let read =
        |(name, amount): (&String, &Value)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?));
    resources[list].as_object().into_iter().flatten().filter_map(read).collect()
}

/// Whether the pod as a whole has requests or limits of its own (KEP-2837).
pub(super) fn of_pod(spec: &Value) -> Option<&Value> {
    let any = |list: &str| spec["resources"][list].as_object().is_some_and(|list| !list.is_empty());
    (any("requests") || any("limits")).then(|| &spec["resources"])
}

pub(super) fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// What all containers ask for together: the largest moment of the pod's life.
fn aggregate(spec: &Value, list: &str) -> Amounts {
    let add = |sum: &mut Amounts, more: Amounts| {
        more.into_iter().for_each(|(name, amount)| *sum.entry(name).or_insert(Quantity::ZERO) += amount);
    };
    let (mut sum, mut peak) = (Amounts::new(), Amounts::new());
    for init in items(spec, "initContainers") {
        let mut now = sum.clone();
        add(&mut now, amounts(&init["resources"], list));
        if is_sidecar(init) {
            sum.clone_from(&now);
        }
        for (name, amount) in now {
            let entry = peak.entry(name).or_insert(amount);
            *entry = (*entry).max(amount);
        }
    }
    items(spec, "containers")
        .iter()
        .for_each(|container| add(&mut sum, amounts(&container["resources"], list)));
    for (name, amount) in peak {
        let entry = sum.entry(name).or_insert(amount);
        *entry = (*entry).max(amount);
    }
    sum
}

fn overcommits(name: &str) -> bool {
    !name.starts_with("hugepages-")
}

fn pods_may_have(name: &str) -> bool {
    RESIZABLE.contains(&name) || name.starts_with("hugepages-")
}

/// Requests of a pod with limits of its own: what its containers ask for, else the limits.
pub(super) fn default_of_pod(spec: &mut Fields) {
    let whole = Value::Object(spec.clone());
    if items(&whole, "containers").is_empty() || amounts(&whole["resources"], "limits").is_empty() {
        return;
    }
    let asked = aggregate(&whole, "requests");
    let asked = asked.iter().filter(|(name, _)| pods_may_have(name) && overcommits(name));
    let asked = asked.map(|(name, amount)| (name.clone(), json!(amount.to_string())));
    let limits = whole["resources"]["limits"].as_object().into_iter().flatten();
    let limits =
        limits.filter(|(name, _)| pods_may_have(name)).map(|(name, amount)| (name.clone(), amount.clone()));
    let defaults: Vec<_> = asked.chain(limits).collect();
    let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) else { return };
    let requests = resources.entry("requests").or_insert_with(|| json!({}));
    let Some(requests) = requests.as_object_mut() else { return };
    for (name, amount) in defaults {
        requests.entry(name).or_insert(amount);
    }
}

/// Upstream's quality of service, from cpu and memory alone; what the pod has of its own decides for all containers.
pub(super) fn qos_class(spec: &Value) -> &'static str {
    let each: Vec<&Value> = match of_pod(spec) {
        Some(resources) => vec![resources],
        None => ["containers", "initContainers"]
            .into_iter()
            .flat_map(|list| items(spec, list))
            .map(|container| &container["resources"])
            .collect(),
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in each {
        let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
        for name in ["cpu", "memory"] {
            let amount = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
            let (request, limit) = (amount(&requests), amount(&limits));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Rules for one container.
pub(super) fn of_container(c: &Value, spec: &Value, at: &str, causes: &mut Causes) {
    let field = format!("{at}.resources");
    each_amount(&c["resources"], &field, causes, |name, field, causes| {
        if !name.contains('/') && !name.starts_with("hugepages-") && !OF_CONTAINERS.contains(&name) {
            let value = name.into();
            causes.invalid(field, &value, "must be a standard resource type or fully qualified");
            causes.invalid(field, &value, "must be a standard resource for containers");
        }
    });
    requests_within_limits(&c["resources"], &field, causes);
    huge_pages(&c["resources"], &field, causes);
    if at.contains(".initContainers[") && !is_sidecar(c) {
        if !items(c, "resizePolicy").is_empty() {
            let detail = "must not be set for init containers";
            causes.invalid(format!("{at}.resizePolicy"), &c["resizePolicy"], detail);
        }
    } else {
        resize_policy(c, text(spec, "restartPolicy"), at, causes);
    }
}

/// Rules for the pod as a whole, found at `at` (`spec`).
pub(super) fn validate_of_pod(spec: &Value, at: &str, causes: &mut Causes) {
    let Some(resources) = of_pod(spec) else { return };
    let field = format!("{at}.resources");
    if !items(resources, "claims").is_empty() {
        causes.forbidden(format!("{field}.claims"), "claims may not be set for Resources at pod-level");
    }
    each_amount(resources, &field, causes, |name, field, causes| {
        if !pods_may_have(name) {
            causes.not_supported(field, &name.into(), OF_PODS);
        }
    });
    requests_within_limits(resources, &field, causes);
    huge_pages(resources, &field, causes);
    for (list, asked) in [("requests", "requests"), ("limits", "limits")] {
        let own = amounts(resources, list);
        for (name, sum) in aggregate(spec, asked) {
            // Limits of containers may add up to more, except where nothing can be lent.
            let counts = list == "requests" || !overcommits(&name);
            if let Some(amount) = own.get(&name).filter(|amount| counts && **amount < sum) {
                let detail = format!("must be greater than or equal to aggregate container {asked} of {sum}");
                causes.invalid(format!("{field}.{list}[{name}]"), &amount.to_string().into(), &detail);
            }
        }
    }
    let own = amounts(resources, "limits");
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (name, limit) in amounts(&container["resources"], "limits") {
            if let Some(most) = own.get(&name).filter(|most| limit > **most) {
                let field = format!("{at}.containers[{i}].resources.limits[{name}]");
                let detail = format!("must be less than or equal to pod limits of {most}");
                causes.invalid(field, &limit.to_string().into(), &detail);
            }
        }
    }
}

fn each_amount(
    resources: &Value,
    at: &str,
    causes: &mut Causes,
    check_name: impl Fn(&str, &str, &mut Causes),
) {
    for list in ["limits", "requests"] {
        for (name, shown) in resources[list].as_object().into_iter().flatten() {
            let field = format!("{at}.{list}[{name}]");
            check_name(name, &field, causes);
            match shown.as_str().and_then(|text| Quantity::parse(text).ok()) {
                None => causes.invalid(field, shown, "must be a valid quantity"),
                Some(amount) if amount < Quantity::ZERO => causes.invalid(field, shown, NOT_NEGATIVE),
                Some(_) => {}
            }
        }
    }
}

fn requests_within_limits(resources: &Value, at: &str, causes: &mut Causes) {
    let limits = amounts(resources, "limits");
    for (name, request) in amounts(resources, "requests") {
        let field = format!("{at}.requests");
        match limits.get(&name) {
            Some(limit) if !overcommits(&name) && request != *limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                causes.invalid(field, &resources["requests"][&name], &detail);
            }
            Some(limit) if request > *limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                causes.invalid(field, &resources["requests"][&name], &detail);
            }
            None if !overcommits(&name) => {
                causes.required(format!("{at}.limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
}

/// They come out of a stock of the node: cpu or memory have to be asked for beside them, or nothing would be accounted.
fn huge_pages(resources: &Value, at: &str, causes: &mut Causes) {
    let (requests, limits) = (amounts(resources, "requests"), amounts(resources, "limits"));
    let named = |wanted: fn(&str) -> bool| requests.keys().chain(limits.keys()).any(|name| wanted(name));
    if named(|name| name.starts_with("hugepages-")) && !named(|name| RESIZABLE.contains(&name)) {
        causes.forbidden(at, "HugePages require cpu or memory");
    }
}

fn resize_policy(c: &Value, pod_restarts: &str, at: &str, causes: &mut Causes) {
    let mut seen = Vec::new();
    for policy in items(c, "resizePolicy") {
        let field = format!("{at}.resizePolicy");
        let name = text(policy, "resourceName");
        if seen.contains(&name) {
            causes.duplicate(&field, &name.into());
        }
        seen.push(name);
        match name {
            "" => causes.required(&field, ""),
            name if !RESIZABLE.contains(&name) => causes.not_supported(&field, &name.into(), RESIZABLE),
            _ => {}
        }
        match text(policy, "restartPolicy") {
            "" => causes.required(&field, ""),
            restart if !RESTARTS.contains(&restart) => {
                causes.not_supported(&field, &restart.into(), RESTARTS)
            }
            restart if pod_restarts == "Never" && restart != "NotRequired" => {
                let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
                causes.invalid(&field, &restart.into(), detail);
            }
            _ => {}
        }
    }
}
