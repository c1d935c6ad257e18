//! [pure] What a pod asks of a node: resources and host ports.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use orlop_model::quantities::Quantity;

/// What a container without requests counts as when nodes are compared (not when they are filtered).
const DEFAULT_CPU: i128 = 100;
const DEFAULT_MEMORY: i128 = 200 * 1024 * 1024;

/// Amounts by resource name; CPU in thousandths, everything else in units.
pub(crate) type Amounts = BTreeMap<String, i128>;

/// A port of the node that a pod wants for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct HostPort {
    pub(crate) address: String,
    pub(crate) protocol: String,
    pub(crate) port: i32,
}

impl HostPort {
    /// Whether both cannot be on the same node.
    pub(crate) fn clashes(&self, other: &HostPort) -> bool {
        let any = |address: &str| matches!(address, "" | "0.0.0.0");
        let address = any(&self.address) || any(&other.address) || self.address == other.address;
        address && self.port == other.port && self.protocol == other.protocol
    }
}

/// All that counts on a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Request {
    pub(crate) amounts: Amounts,
    /// CPU and memory with defaults for containers that ask for nothing.
    pub(crate) weight: (i128, i128),
    pub(crate) ports: Vec<HostPort>,
}

impl Request {
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let ports = spec.containers.iter().chain(sidecars(spec)).flat_map(host_ports).collect();
        let held = |container: &Container| held(pod, container);
        Self { amounts: amounts(spec, &held, 0, 0), weight: weight(spec, &held), ports }
    }
}

/// What a container asks for, or has: while a resize (KEP-1287) is not done, the node holds the larger of both for it. One
/// that its node will never grant does not count.
fn held(pod: &Pod, container: &Container) -> Amounts {
    let mut amounts = requests(container.resources.as_ref());
    let Some(status) = &pod.status else { return amounts };
    let all = status.container_statuses.iter().flatten();
    let mut all = all.chain(status.init_container_statuses.iter().flatten());
    let told = all.find(|told| told.name == container.name).filter(|told| told.resources.is_some());
    let Some(told) = told else { return amounts };
    let infeasible = status.conditions.iter().flatten().any(|condition| {
        condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
    });
    if infeasible {
        amounts.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
    }
    raise(&mut amounts, &requests(told.resources.as_ref()));
    let allocated = told.allocated_resources.iter().flatten();
    raise(&mut amounts, &allocated.map(|(name, q)| (name.clone(), amount(name, q))).collect());
    amounts
}

type Held<'a> = &'a dyn Fn(&Container) -> Amounts;

fn weight(spec: &PodSpec, held: Held<'_>) -> (i128, i128) {
    let amounts = amounts(spec, held, DEFAULT_CPU, DEFAULT_MEMORY);
    let of = |name| amounts.get(name).copied().unwrap_or(0);
    (of("cpu"), of("memory"))
}

/// The largest need at any time: the containers and sidecars together, or an init container with the sidecars
/// started before it. Pod-level requests win, the overhead comes on top.
fn amounts(spec: &PodSpec, held: Held<'_>, default_cpu: i128, default_memory: i128) -> Amounts {
    let of = |container: &Container| {
        let mut amounts = held(container);
        amounts.entry("cpu".to_owned()).or_insert(default_cpu);
        amounts.entry("memory".to_owned()).or_insert(default_memory);
        amounts
    };
    let mut sum = Amounts::new();
    let mut peak = Amounts::new();
    for init in spec.init_containers.iter().flatten() {
        let mut now = sum.clone();
        add(&mut now, &of(init));
        if is_sidecar(init) {
            sum.clone_from(&now);
        }
        raise(&mut peak, &now);
    }
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    raise(&mut sum, &peak);
    for (name, amount) in requests(spec.resources.as_ref()) {
        sum.insert(name, amount);
    }
    for (name, quantity) in spec.overhead.iter().flatten() {
        *sum.entry(name.clone()).or_default() += amount(name, quantity);
    }
    sum.retain(|_, amount| *amount > 0);
    sum
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        *sum.entry(name.clone()).or_default() += amount;
    }
}

fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = to.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

fn requests(resources: Option<&ResourceRequirements>) -> Amounts {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    requests.into_iter().flatten().map(|(name, q)| (name.clone(), amount(name, q))).collect()
}

/// An amount in the unit of its resource; what cannot be read counts as nothing (the API server refuses it).
pub(crate) fn amount(name: &str, quantity: &ApiQuantity) -> i128 {
    let quantity = Quantity::parse(&quantity.0).unwrap_or(Quantity::ZERO);
    if name == "cpu" { quantity.milli() } else { quantity.value() }
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().filter(|container| is_sidecar(container))
}

fn host_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    container.ports.iter().flatten().filter_map(|port| {
        Some(HostPort {
            address: port.host_ip.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.host_port.filter(|port| *port > 0)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    fn check(spec: &str, expected: Expect) {
        let request = Request::of(&Pod { spec: Some(yaml(spec)), ..Pod::default() });
        let ports: Vec<_> = request.ports.iter().map(|p| format!("{}/{}", p.port, p.protocol)).collect();
        expected.assert_eq(&format!("{:?} weight {:?} ports {ports:?}", request.amounts, request.weight));
    }

    #[test]
    fn containers_add_up() {
        check(
            "containers: [{name: a, resources: {requests: {cpu: 100m, memory: 1Mi}}}, {name: b, resources: {requests: {cpu: '1', nvidia.com/gpu: 2}}}]",
            expect![[
                r#"{"cpu": 1100, "memory": 1048576, "nvidia.com/gpu": 2} weight (1100, 210763776) ports []"#
            ]],
        );
    }

    #[test]
    fn an_init_container_counts_only_where_it_needs_more() {
        check(
            "{initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: 100m}}}, {name: i, resources: {requests: {cpu: 500m}}}], containers: [{name: a, resources: {requests: {cpu: 200m}}}]}",
            expect![[r#"{"cpu": 600} weight (600, 419430400) ports []"#]],
        );
    }

    #[test]
    fn overhead_comes_on_top_and_pod_level_requests_win() {
        check(
            "{overhead: {cpu: 10m}, resources: {requests: {cpu: '2'}}, containers: [{name: a}]}",
            expect![[r#"{"cpu": 2010} weight (2010, 209715200) ports []"#]],
        );
    }

    /// `status` of container `a`, which asks for 300m, and what counts.
    #[test]
    fn while_a_pod_is_resized_the_larger_counts() {
        let asks = "{requests: {cpu: 300m}}";
        for (status, expected) in [
            ("{}", 300),
            ("{containerStatuses: [{name: a, allocatedResources: {cpu: 500m}}]}", 300),
            ("{containerStatuses: [{name: a, resources: {}, allocatedResources: {cpu: 500m}}]}", 500),
            (
                "{containerStatuses: [{name: a, resources: {requests: {cpu: 600m}}, allocatedResources: {cpu: 500m}}]}",
                600,
            ),
            ("{containerStatuses: [{name: a, resources: {requests: {cpu: 100m}}}]}", 300),
            (
                "{conditions: [{type: PodResizePending, status: 'True', reason: Infeasible}], containerStatuses: [{name: a, resources: {requests: {cpu: 100m}}}]}",
                100,
            ),
        ] {
            let text = format!(
                "{{spec: {{containers: [{{name: a, resources: {asks}}}]}}, status: {}}}",
                status.replace("{name: a,", "{name: a, image: i, imageID: i, ready: true, restartCount: 0,")
            );
            let pod: Pod = yaml(&text);
            assert_eq!(Request::of(&pod).amounts["cpu"], expected, "{status}");
        }
    }

    #[test]
    fn host_ports_are_collected() {
        check(
            "containers: [{name: a, ports: [{containerPort: 80}, {containerPort: 53, hostPort: 53, protocol: UDP}]}]",
            expect![[r#"{} weight (100, 209715200) ports ["53/UDP"]"#]],
        );
    }
}
