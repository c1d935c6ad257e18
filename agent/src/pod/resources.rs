//! Requests and limits in the kernel's terms: QoS class, cgroup path, shares, quota, memory, OOM score.
//!
//! Not for: writing cgroups. Numbers follow cgroup v1, which the runtime translates where the machine has v2.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};
use orlop_model::quantities::Quantity;

use super::{desired::Kind, machine::Resources, settings::Settings};

const PERIOD_US: u64 = 100_000;

/// Quality-of-service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits for cpu and memory, and requests equal to them.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }
}

type Amounts = BTreeMap<String, ApiQuantity>;

/// Value of a quantity in thousandths; 0 if it is missing or malformed.
pub fn milli(amounts: Option<&Amounts>, resource: &str) -> i64 {
    parse(amounts, resource).map_or(0, |quantity| clamp(quantity.milli()))
}

/// Value of a quantity in whole units; 0 if it is missing or malformed.
pub fn value(amounts: Option<&Amounts>, resource: &str) -> i64 {
    parse(amounts, resource).map_or(0, |quantity| clamp(quantity.value()))
}

fn parse(amounts: Option<&Amounts>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&amounts?.get(resource)?.0).ok()
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The class of a pod.
pub fn qos(spec: &PodSpec) -> Qos {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let amount = |amounts: Option<&Amounts>, name: &str| milli(amounts, name);
    let set = |c: &Container| {
        let resources = c.resources.as_ref();
        ["cpu", "memory"].iter().any(|name| {
            amount(resources.and_then(|r| r.requests.as_ref()), name) > 0
                || amount(resources.and_then(|r| r.limits.as_ref()), name) > 0
        })
    };
    let tight = |c: &Container| {
        let Some(resources) = c.resources.as_ref() else { return false };
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(resources.limits.as_ref(), name);
            let request = resources.requests.as_ref().filter(|requests| requests.contains_key(*name));
            limit > 0 && request.is_none_or(|requests| amount(Some(requests), name) == limit)
        })
    };
    if !all().any(set) {
        Qos::BestEffort
    } else if all().all(tight) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// The pod-level cgroup, relative to every hierarchy's mount point.
pub fn cgroup(settings: &Settings, spec: &PodSpec, uid: &str) -> String {
    let class = match qos(spec) {
        Qos::Guaranteed => "",
        Qos::Burstable => "burstable/",
        Qos::BestEffort => "besteffort/",
    };
    format!("{}/kubepods/{class}pod{uid}", settings.cgroup_root)
}

/// Thousandths of a processor as `cpu.shares`.
pub fn shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or_default().clamp(2, 262_144)
}

fn quota(milli: i64) -> i64 {
    milli.saturating_mul(100).max(1000)
}

/// Limits of one container.
pub fn of_container(settings: &Settings, spec: &PodSpec, container: &Container) -> Resources {
    let (requests, limits) = split(container.resources.as_ref());
    let (limit_cpu, limit_memory) = (milli(limits, "cpu"), value(limits, "memory"));
    let request_cpu = match requests.is_some_and(|requests| requests.contains_key("cpu")) {
        true => milli(requests, "cpu"),
        false => limit_cpu,
    };
    Resources {
        cpu_shares: Some(shares(request_cpu)),
        cpu_quota_us: (limit_cpu > 0).then(|| quota(limit_cpu)),
        cpu_period_us: (limit_cpu > 0).then_some(PERIOD_US),
        memory_limit: (limit_memory > 0).then_some(limit_memory),
        oom_score_adj: Some(oom_score_adj(settings, spec, container)),
        ..Resources::default()
    }
}

/// Limits of the pod as a whole.
pub fn of_pod(settings: &Settings, spec: &PodSpec) -> Resources {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let every = |name: &str| all().all(|c| milli(split(c.resources.as_ref()).1, name) > 0);
    let limit_cpu = total(spec, |c| milli(split(c.resources.as_ref()).1, "cpu"));
    let limit_memory = total(spec, |c| value(split(c.resources.as_ref()).1, "memory"));
    let request_cpu = total(spec, |c| milli(split(c.resources.as_ref()).0, "cpu"));
    let best_effort = qos(spec) == Qos::BestEffort;
    let (cpu, memory) = (every("cpu") && limit_cpu > 0, every("memory") && limit_memory > 0);
    let cpu_request = if request_cpu == 0 && cpu { limit_cpu } else { request_cpu };
    Resources {
        cpu_shares: Some(if best_effort { 2 } else { shares(cpu_request) }),
        cpu_quota_us: cpu.then(|| quota(limit_cpu)),
        cpu_period_us: cpu.then_some(PERIOD_US),
        memory_limit: memory.then_some(limit_memory),
        pids_limit: settings.pod_pids_limit,
        ..Resources::default()
    }
}

/// What a pod asks of the node: the largest moment of its life, plus overhead.
pub fn requests_of_pod(spec: &PodSpec) -> (i64, i64) {
    let cpu = total(spec, |c| milli(split(c.resources.as_ref()).0, "cpu"));
    let memory = total(spec, |c| value(split(c.resources.as_ref()).0, "memory"));
    (cpu + milli(spec.overhead.as_ref(), "cpu"), memory + value(spec.overhead.as_ref(), "memory"))
}

/// max(largest init container + sidecars before it, all regular containers + all sidecars).
fn total(spec: &PodSpec, of: impl Fn(&Container) -> i64) -> i64 {
    let (mut sidecars, mut peak) = (0_i64, 0_i64);
    for container in spec.init_containers.iter().flatten() {
        let amount = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars.saturating_add(amount);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(amount));
        }
    }
    let regular = spec.containers.iter().map(of).fold(0, i64::saturating_add);
    peak.max(regular.saturating_add(sidecars))
}

fn split(resources: Option<&ResourceRequirements>) -> (Option<&Amounts>, Option<&Amounts>) {
    (resources.and_then(|r| r.requests.as_ref()), resources.and_then(|r| r.limits.as_ref()))
}

/// −997 for Guaranteed and node-critical pods, 1000 for BestEffort, in between by share of the machine's memory.
pub fn oom_score_adj(settings: &Settings, spec: &PodSpec, container: &Container) -> i32 {
    if spec.priority_class_name.as_deref() == Some("system-node-critical") {
        return -997;
    }
    let score = |container: &Container| match qos(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let (requests, limits) = split(container.resources.as_ref());
            let request = match requests.is_some_and(|requests| requests.contains_key("memory")) {
                true => value(requests, "memory"),
                false => value(limits, "memory"),
            };
            let share = i128::from(request) * 1000 / i128::from(settings.memory_capacity.max(1));
            i32::try_from(1000 - share).unwrap_or_default().clamp(3, 999)
        }
    };
    let sidecar = spec.init_containers.iter().flatten().any(|c| c.name == container.name)
        && kind(container) == Kind::Sidecar;
    let lowest = spec.containers.iter().map(score).min().filter(|_| sidecar);
    lowest.unwrap_or(i32::MAX).min(score(container))
}

fn kind(container: &Container) -> Kind {
    match container.restart_policy.as_deref() {
        Some("Always") => Kind::Sidecar,
        _ => Kind::Init,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(spec: &str, expect: Expect) {
        let spec: PodSpec = serde_norway::from_str(spec).unwrap();
        let settings = Settings::for_tests();
        let mut text = format!("{}\n", cgroup(&settings, &spec, "u"));
        let mut line = |name: &str, r: Resources| {
            text += &format!(
                "{name}: shares={} quota={} memory={} oom={}\n",
                r.cpu_shares.unwrap_or_default(),
                r.cpu_quota_us.unwrap_or(-1),
                r.memory_limit.unwrap_or(-1),
                r.oom_score_adj.unwrap_or_default(),
            );
        };
        line("pod", of_pod(&settings, &spec));
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            line(&container.name, of_container(&settings, &spec, container));
        }
        expect.assert_eq(&text);
    }

    #[test]
    fn nothing_asked_is_best_effort() {
        check(
            "{containers: [{name: c}]}",
            expect![[r#"
                orlop/kubepods/besteffort/podu
                pod: shares=2 quota=-1 memory=-1 oom=0
                c: shares=2 quota=-1 memory=-1 oom=1000
            "#]],
        );
    }

    #[test]
    fn limits_alone_are_requests_too() {
        check(
            "{containers: [{name: c, resources: {limits: {cpu: 500m, memory: 64Mi}}}]}",
            expect![[r#"
                orlop/kubepods/podu
                pod: shares=512 quota=50000 memory=67108864 oom=0
                c: shares=512 quota=50000 memory=67108864 oom=-997
            "#]],
        );
    }

    #[test]
    fn one_unlimited_container_leaves_the_pod_unlimited() {
        check(
            "{containers: [{name: a, resources: {limits: {memory: 1Gi}, requests: {memory: 1Gi, cpu: 1}}}, {name: b}]}",
            expect![[r#"
                orlop/kubepods/burstable/podu
                pod: shares=1024 quota=-1 memory=-1 oom=0
                a: shares=1024 quota=-1 memory=1073741824 oom=750
                b: shares=2 quota=-1 memory=-1 oom=999
            "#]],
        );
    }

    #[test]
    fn init_containers_count_by_their_largest_moment() {
        check(
            "{initContainers: [{name: i, resources: {requests: {cpu: 2}}}, {name: s, restartPolicy: Always, resources: {requests: {cpu: 250m}}}], containers: [{name: c, resources: {requests: {cpu: 100m}}}]}",
            expect![[r#"
                orlop/kubepods/burstable/podu
                pod: shares=2048 quota=-1 memory=-1 oom=0
                i: shares=2048 quota=-1 memory=-1 oom=999
                s: shares=256 quota=-1 memory=-1 oom=999
                c: shares=102 quota=-1 memory=-1 oom=999
            "#]],
        );
    }
}
