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

/// Microseconds over which limits of processor time hold, unless the operator says otherwise.
pub const PERIOD_US: u64 = 100_000;

/// Of containers that go last when the machine is out of memory.
pub const LOWEST_OOM_SCORE: i32 = -997;

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

/// What the pod has of its own beside its containers (KEP-2837).
pub fn of_pod_level(spec: &PodSpec) -> Option<&ResourceRequirements> {
    let some = |amounts: &Option<Amounts>| amounts.as_ref().is_some_and(|amounts| !amounts.is_empty());
    spec.resources.as_ref().filter(|resources| some(&resources.requests) || some(&resources.limits))
}

/// The class of a pod; what it has of its own decides for all containers.
pub fn qos(spec: &PodSpec) -> Qos {
    let of_containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all: Vec<Option<&ResourceRequirements>> = match of_pod_level(spec) {
        Some(resources) => vec![Some(resources)],
        None => of_containers.map(|container| container.resources.as_ref()).collect(),
    };
    let amount = |amounts: Option<&Amounts>, name: &str| milli(amounts, name);
    let set = |resources: &Option<&ResourceRequirements>| {
        ["cpu", "memory"].iter().any(|name| {
            amount(resources.and_then(|r| r.requests.as_ref()), name) > 0
                || amount(resources.and_then(|r| r.limits.as_ref()), name) > 0
        })
    };
    let tight = |resources: &Option<&ResourceRequirements>| {
        let Some(resources) = resources else { return false };
        ["cpu", "memory"].iter().all(|name| {
            let limit = amount(resources.limits.as_ref(), name);
            let request = resources.requests.as_ref().filter(|requests| requests.contains_key(*name));
            limit > 0 && request.is_none_or(|requests| amount(Some(requests), name) == limit)
        })
    };
    if !all.iter().any(set) {
        Qos::BestEffort
    } else if all.iter().all(tight) {
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

/// What pods have together, and their cgroup: the machine without what is reserved. Not without what eviction keeps
/// free: that is not taken away, it is asked back in time.
pub fn of_all_pods(settings: &Settings) -> (String, Resources) {
    let path = format!("{}/kubepods", settings.cgroup_root);
    if !settings.policy.enforce {
        return (path, Resources::default());
    }
    let memory = settings.memory_capacity.saturating_sub(settings.policy.reserved.memory);
    let limits = Resources {
        cpu_shares: Some(shares(settings.allocatable.cpu_milli)),
        memory_limit: Some(memory).filter(|memory| *memory > 0),
        ..Resources::default()
    };
    (path, limits)
}

/// The cgroups of the classes of pods; `asked` is what Burstable ones ask for together, in thousandths of a processor.
pub fn tiers(settings: &Settings, asked: i64) -> [(String, Resources); 2] {
    let tier = |name: &str, milli: i64| {
        let path = format!("{}/kubepods/{name}", settings.cgroup_root);
        (path, Resources { cpu_shares: Some(shares(milli)), ..Resources::default() })
    };
    [tier("burstable", asked), tier("besteffort", 0)]
}

/// What Burstable pods ask for together, in thousandths of a processor.
pub fn asked_by_burstable<'a>(specs: impl Iterator<Item = &'a PodSpec>) -> i64 {
    let burstable = specs.filter(|spec| qos(spec) == Qos::Burstable);
    burstable.map(|spec| requests_of_pod(spec).0).fold(0, i64::saturating_add)
}

/// Thousandths of a processor as `cpu.shares`.
pub fn shares(milli: i64) -> u64 {
    u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or_default().clamp(2, 262_144)
}

/// Thousandths of a processor as `cpu.cfs_quota_us` of a period.
pub fn quota(milli: i64, period_us: u64) -> i64 {
    milli.saturating_mul(i64::try_from(period_us).unwrap_or(i64::MAX)).saturating_div(1000).max(1000)
}

/// Containers in the order of their starts, and whether each ends before the next one.
pub fn in_order(spec: &PodSpec) -> impl Iterator<Item = (&Container, bool)> {
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|container| (container, container.restart_policy.as_deref() != Some("Always")));
    init.chain(spec.containers.iter().map(|container| (container, false)))
}

/// How many processors a container would have for itself (static policy): all that it asks for, if it is of a Guaranteed
/// pod and these are whole ones. Resources of a pod as a whole are not of any container.
pub fn whole_cpus(spec: &PodSpec, container: &Container) -> usize {
    if qos(spec) != Qos::Guaranteed || of_pod_level(spec).is_some() {
        return 0;
    }
    let (requests, limits) = split(container.resources.as_ref());
    let asked = match requests.is_some_and(|requests| requests.contains_key("cpu")) {
        true => milli(requests, "cpu"),
        false => milli(limits, "cpu"),
    };
    usize::try_from(asked).ok().filter(|milli| milli.is_multiple_of(1000)).map_or(0, |milli| milli / 1000)
}

/// Who has processors for itself is not held to their time as well.
fn alone(settings: &Settings, spec: &PodSpec, container: &Container) -> bool {
    settings.policy.static_cpus && whole_cpus(spec, container) > 0
}

/// Limits of one container. Without limits of its own it has those of the pod.
pub fn of_container(settings: &Settings, spec: &PodSpec, container: &Container) -> Resources {
    let (requests, limits) = split(container.resources.as_ref());
    let pods = split(of_pod_level(spec)).1;
    let own = |name: &str| limits.is_some_and(|limits| limits.contains_key(name));
    let limit_cpu = milli(if own("cpu") { limits } else { pods }, "cpu");
    let limit_memory = value(if own("memory") { limits } else { pods }, "memory");
    let request_cpu = match requests.is_some_and(|requests| requests.contains_key("cpu")) {
        true => milli(requests, "cpu"),
        false => limit_cpu,
    };
    let held = limit_cpu > 0 && !alone(settings, spec, container);
    let period = settings.policy.cfs_period_us.filter(|_| held);
    Resources {
        cpu_shares: Some(shares(request_cpu)),
        cpu_quota_us: period.map(|period| quota(limit_cpu, period)),
        cpu_period_us: period,
        memory_limit: (limit_memory > 0).then_some(limit_memory),
        hugepages: hugepages(settings, limits),
        unified: unified(settings, spec, container, limit_memory),
        oom_score_adj: Some(oom_score_adj(settings, spec, container)),
        ..Resources::default()
    }
}

/// Limits of the pod as a whole.
pub fn of_pod(settings: &Settings, spec: &PodSpec) -> Resources {
    let all = || spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let every = |name: &str| all().all(|c| milli(split(c.resources.as_ref()).1, name) > 0);
    let (pods_requests, pods_limits) = split(of_pod_level(spec));
    let pods = |amounts: Option<&Amounts>, name: &str| amounts.is_some_and(|all| all.contains_key(name));
    let limit_cpu = match pods(pods_limits, "cpu") {
        true => milli(pods_limits, "cpu"),
        false => total(spec, |c| milli(split(c.resources.as_ref()).1, "cpu")),
    };
    let limit_memory = match pods(pods_limits, "memory") {
        true => value(pods_limits, "memory"),
        false => total(spec, |c| value(split(c.resources.as_ref()).1, "memory")),
    };
    let request_cpu = match pods(pods_requests, "cpu") {
        true => milli(pods_requests, "cpu"),
        false => total(spec, |c| milli(split(c.resources.as_ref()).0, "cpu")),
    };
    let best_effort = qos(spec) == Qos::BestEffort;
    let cpu = (every("cpu") || pods(pods_limits, "cpu")) && limit_cpu > 0;
    let memory = (every("memory") || pods(pods_limits, "memory")) && limit_memory > 0;
    let cpu_request = if request_cpu == 0 && cpu { limit_cpu } else { request_cpu };
    let period = settings.policy.cfs_period_us.filter(|_| cpu && !all().any(|c| alone(settings, spec, c)));
    Resources {
        cpu_shares: Some(if best_effort { 2 } else { shares(cpu_request) }),
        cpu_quota_us: period.map(|period| quota(limit_cpu, period)),
        cpu_period_us: period,
        memory_limit: memory.then_some(limit_memory),
        pids_limit: settings.policy.pod_pids_limit,
        hugepages: hugepages_of_pod(settings, spec),
        unified: settings
            .policy
            .memory_qos
            .then(|| ("memory.min".to_owned(), requests_of_pod(spec).1.to_string()))
            .into_iter()
            .collect(),
        ..Resources::default()
    }
}

/// Of every size that the machine has, none unless it is asked for. By the kernel's names (`2MB`).
fn hugepages(settings: &Settings, limits: Option<&Amounts>) -> BTreeMap<String, i64> {
    let of = |size: &i64| (hugetlb_name(*size), huge(limits, *size));
    settings.hugepages.iter().map(of).collect()
}

fn hugepages_of_pod(settings: &Settings, spec: &PodSpec) -> BTreeMap<String, i64> {
    let own = split(of_pod_level(spec)).1;
    let of = |size: &i64| {
        let own = huge(own, *size);
        let all = total(spec, |container| huge(split(container.resources.as_ref()).1, *size));
        (hugetlb_name(*size), own.max(all))
    };
    settings.hugepages.iter().map(of).collect()
}

/// Bytes of huge pages of one size, however the size is spelled.
fn huge(amounts: Option<&Amounts>, size: i64) -> i64 {
    let of_size = |name: &&String| {
        let text = name.strip_prefix("hugepages-").unwrap_or_default();
        Quantity::parse(text).is_ok_and(|named| named.value() == i128::from(size))
    };
    let names = amounts.iter().flat_map(|amounts| amounts.keys()).filter(of_size);
    names.map(|name| value(amounts, name)).fold(0, i64::saturating_add)
}

/// Sizes of the huge pages that a pod asks for, in bytes.
pub fn hugepage_sizes(spec: &PodSpec) -> Vec<i64> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let all = all.filter_map(|container| container.resources.as_ref()).chain(of_pod_level(spec));
    let names = all.flat_map(|resources| resources.limits.iter().flatten().map(|(name, _)| name));
    let size = |name: &String| Quantity::parse(name.strip_prefix("hugepages-")?).ok();
    let mut sizes: Vec<_> = names.filter_map(size).map(|size| clamp(size.value())).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// `2MB`, as in the names of the files of cgroups.
pub fn hugetlb_name(size: i64) -> String {
    let units = [(1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB")];
    let unit = units.into_iter().find(|(unit, _)| size % unit == 0 && size >= *unit);
    unit.map_or_else(|| size.to_string(), |(unit, name)| format!("{}{name}", size / unit))
}

/// What only cgroup v2 can do.
fn unified(
    settings: &Settings,
    spec: &PodSpec,
    container: &Container,
    limit_memory: i64,
) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut set = |file: &str, value: String| files.insert(file.to_owned(), value);
    if settings.policy.single_process_oom_kill {
        set("memory.oom.group", "0".to_owned());
    }
    let asked = asked_memory(container);
    let swap = if settings.policy.limited_swap { swap(settings, spec, container) } else { 0 };
    set("memory.swap.max", swap.to_string());
    if settings.policy.memory_qos {
        set("memory.min", asked.to_string());
        if qos(spec) != Qos::Guaranteed {
            let most = if limit_memory > 0 { limit_memory } else { settings.allocatable.memory };
            set("memory.high", throttled_at(asked, most, settings.policy.throttling).to_string());
        }
    }
    files
}

/// KEP-2570: so many thousandths of the way from the request to the limit, in whole pages.
fn throttled_at(request: i64, most: i64, thousandths: u32) -> i64 {
    const PAGE: i64 = 4096;
    let above = i128::from(most.saturating_sub(request).max(0)) * i128::from(thousandths) / 1000;
    let at = i128::from(request).saturating_add(above);
    i64::try_from(at).unwrap_or(i64::MAX) / PAGE * PAGE
}

/// KEP-2400: the share of the machine's swap that is the request's share of its memory. Not for pods that must not wait
/// for a disk, nor for those that asked for all they may have.
fn swap(settings: &Settings, spec: &PodSpec, container: &Container) -> i64 {
    const CRITICAL: i32 = 2_000_000_000;
    let limits = split(container.resources.as_ref()).1;
    let asked = asked_memory(container);
    let critical = spec.priority.is_some_and(|priority| priority >= CRITICAL);
    if qos(spec) != Qos::Burstable || critical || asked == 0 || asked == value(limits, "memory") {
        return 0;
    }
    let share = i128::from(asked) * i128::from(settings.swap_capacity);
    i64::try_from(share / i128::from(settings.memory_capacity.max(1))).unwrap_or(0)
}

/// The limit stands in for a request.
fn asked_memory(container: &Container) -> i64 {
    let (requests, limits) = split(container.resources.as_ref());
    match requests.is_some_and(|requests| requests.contains_key("memory")) {
        true => value(requests, "memory"),
        false => value(limits, "memory"),
    }
}

/// What a pod asks of the node: what it asks for as a whole, else the largest moment of its life; plus overhead.
pub fn requests_of_pod(spec: &PodSpec) -> (i64, i64) {
    let own = split(of_pod_level(spec)).0;
    let has = |name: &str| own.is_some_and(|own| own.contains_key(name));
    let cpu = match has("cpu") {
        true => milli(own, "cpu"),
        false => total(spec, |c| milli(split(c.resources.as_ref()).0, "cpu")),
    };
    let memory = match has("memory") {
        true => value(own, "memory"),
        false => total(spec, |c| value(split(c.resources.as_ref()).0, "memory")),
    };
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
        return LOWEST_OOM_SCORE;
    }
    let score = |container: &Container| match qos(spec) {
        Qos::Guaranteed => LOWEST_OOM_SCORE,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = asked_memory(container).saturating_add(spare_memory(spec));
            let share = i128::from(request) * 1000 / i128::from(settings.memory_capacity.max(1));
            i32::try_from(1000 - share).unwrap_or_default().clamp(3, 999)
        }
    };
    let sidecar = spec.init_containers.iter().flatten().any(|c| c.name == container.name)
        && kind(container) == Kind::Sidecar;
    let lowest = spec.containers.iter().map(score).min().filter(|_| sidecar);
    lowest.unwrap_or(i32::MAX).min(score(container))
}

/// What the pod asks for beyond its containers, for each of them.
fn spare_memory(spec: &PodSpec) -> i64 {
    let Some(own) = split(of_pod_level(spec)).0.filter(|own| own.contains_key("memory")) else { return 0 };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| kind(c) == Kind::Sidecar);
    let all: Vec<_> = spec.containers.iter().chain(sidecars).collect();
    let asked =
        all.iter().map(|c| value(split(c.resources.as_ref()).0, "memory")).fold(0, i64::saturating_add);
    let count = i64::try_from(all.len()).unwrap_or(i64::MAX).max(1);
    value(Some(own), "memory").saturating_sub(asked).max(0) / count
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
    fn the_operator_may_choose_the_period_or_have_no_quota() {
        let spec: PodSpec = serde_norway::from_str(
            "{containers: [{name: c, resources: {limits: {cpu: 500m, memory: 10Mi}, requests: {memory: 2Mi}}}]}",
        )
        .unwrap();
        let with = |cfs_period_us, throttling| {
            let mut settings = Settings::for_tests();
            settings.policy.cfs_period_us = cfs_period_us;
            (settings.policy.memory_qos, settings.policy.throttling) = (true, throttling);
            let limits = of_container(&settings, &spec, &spec.containers[0]);
            assert_eq!(of_pod(&settings, &spec).cpu_quota_us, limits.cpu_quota_us);
            (limits.cpu_quota_us, limits.cpu_period_us, limits.unified["memory.high"].clone())
        };
        assert_eq!(with(Some(PERIOD_US), 900), (Some(50_000), Some(100_000), "9646080".into()));
        assert_eq!(with(Some(5000), 500), (Some(2500), Some(5000), "6291456".into()));
        assert_eq!(with(None, 1000), (None, None, "10485760".into()));
    }

    #[test]
    fn who_is_alone_on_its_processors_has_no_quota() {
        let quotas = |spec: &str, static_cpus| {
            let spec: PodSpec = serde_norway::from_str(spec).unwrap();
            let mut settings = Settings::for_tests();
            settings.policy.static_cpus = static_cpus;
            let of = |container| of_container(&settings, &spec, container).cpu_quota_us;
            let containers: Vec<_> = spec.containers.iter().map(of).collect();
            (of_pod(&settings, &spec).cpu_quota_us, containers)
        };
        let two = "{containers: [{name: a, resources: {limits: {cpu: 2, memory: 1Mi}}}, {name: b, resources: {limits: {cpu: 500m, memory: 1Mi}}}]}";
        assert_eq!(quotas(two, true), (None, vec![None, Some(50_000)]));
        assert_eq!(quotas(two, false), (Some(250_000), vec![Some(200_000), Some(50_000)]));
        let burstable = "{containers: [{name: a, resources: {limits: {cpu: 2}}}]}";
        assert_eq!(quotas(burstable, true), (Some(200_000), vec![Some(200_000)]));
        let as_a_whole = "{resources: {limits: {cpu: 2, memory: 1Mi}}, containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Mi}}}]}";
        assert_eq!(quotas(as_a_whole, true), (Some(200_000), vec![Some(100_000)]));
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
    fn what_a_pod_has_of_its_own_wins() {
        check(
            "{resources: {requests: {cpu: 1, memory: 2Gi}, limits: {cpu: 2, memory: 2Gi}}, containers: [{name: a, resources: {requests: {memory: 1Gi}}}, {name: b, resources: {limits: {cpu: 1}}}]}",
            expect![[r#"
                orlop/kubepods/burstable/podu
                pod: shares=1024 quota=200000 memory=2147483648 oom=0
                a: shares=2048 quota=200000 memory=2147483648 oom=625
                b: shares=1024 quota=100000 memory=2147483648 oom=875
            "#]],
        );
        check(
            "{resources: {requests: {cpu: 1, memory: 2Gi}, limits: {cpu: 1, memory: 2Gi}}, containers: [{name: a}]}",
            expect![[r#"
                orlop/kubepods/podu
                pod: shares=1024 quota=100000 memory=2147483648 oom=0
                a: shares=1024 quota=100000 memory=2147483648 oom=-997
            "#]],
        );
        let spec: PodSpec = serde_norway::from_str(
            "{overhead: {cpu: 1m}, resources: {requests: {cpu: 1}}, containers: [{name: a, resources: {requests: {memory: 7}}}]}",
        )
        .unwrap();
        assert_eq!(requests_of_pod(&spec), (1001, 7));
    }

    #[test]
    fn classes_share_what_pods_have_together() {
        let mut settings = Settings::for_tests();
        settings.policy.reserved.memory = 1 << 30;
        let line = |(path, limits): (String, Resources)| {
            format!("{path} {:?} {:?}\n", limits.cpu_shares, limits.memory_limit)
        };
        expect![[r#"
            orlop/kubepods None None
        "#]]
        .assert_eq(&line(of_all_pods(&settings)));
        settings.policy.enforce = true;
        let all = [of_all_pods(&settings)].into_iter().chain(tiers(&settings, 1500));
        expect![[r#"
            orlop/kubepods Some(2048) Some(3221225472)
            orlop/kubepods/burstable Some(1536) None
            orlop/kubepods/besteffort Some(2) None
        "#]]
        .assert_eq(&all.map(line).collect::<String>());
        let specs =
            ["{requests: {cpu: 1}}", "{limits: {cpu: 1, memory: 1}}", "{}", "{requests: {cpu: 500m}}"];
        let specs: Vec<PodSpec> = specs
            .map(|r| {
                serde_norway::from_str(&format!("{{containers: [{{name: c, resources: {r}}}]}}")).unwrap()
            })
            .into();
        assert_eq!(asked_by_burstable(specs.iter()), 1500);
    }

    fn limits(settings: &Settings, spec: &str) -> String {
        let spec: PodSpec = serde_norway::from_str(spec).unwrap();
        let pod = of_pod(settings, &spec);
        let container = of_container(settings, &spec, &spec.containers[0]);
        let line = |limits: Resources| {
            format!("{:?} {:?} {:?}", limits.unified, limits.hugepages, limits.pids_limit)
        };
        format!("{}\n{}\n", line(pod), line(container))
    }

    #[test]
    fn huge_pages_tasks_swap_and_memory_by_quality() {
        let mut settings = Settings::for_tests();
        settings.hugepages = vec![2 << 20, 1 << 30];
        settings.policy.pod_pids_limit = Some(100);
        let burstable = "{containers: [{name: c, resources: {requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi, hugepages-2Mi: 4Mi}}}, {name: d, resources: {limits: {hugepages-2048Ki: 2Mi}}}]}";
        let guaranteed = "{containers: [{name: c, resources: {limits: {cpu: 1, memory: 1Gi}}}]}";
        expect![[r#"
            {} {"1GB": 0, "2MB": 6291456} Some(100)
            {"memory.swap.max": "0"} {"1GB": 0, "2MB": 4194304} None
        "#]]
        .assert_eq(&limits(&settings, burstable));
        settings.hugepages.clear();
        settings.policy.limited_swap = true;
        settings.policy.memory_qos = true;
        settings.policy.single_process_oom_kill = true;
        expect![[r#"
            {"memory.min": "1073741824"} {} Some(100)
            {"memory.high": "2040107008", "memory.min": "1073741824", "memory.oom.group": "0", "memory.swap.max": "536870912"} {} None
        "#]].assert_eq(&limits(&settings, burstable));
        expect![[r#"
            {"memory.min": "0"} {} Some(100)
            {"memory.min": "1073741824", "memory.oom.group": "0", "memory.swap.max": "0"} {} None
        "#]]
        .assert_eq(&limits(&settings, guaranteed));
        expect![[r#"
            {"memory.min": "0"} {} Some(100)
            {"memory.high": "3865468928", "memory.min": "0", "memory.oom.group": "0", "memory.swap.max": "0"} {} None
        "#]].assert_eq(&limits(&settings, "{containers: [{name: c}]}"));
        let names = [4096, 64 << 10, 2 << 20, 1 << 30].map(hugetlb_name);
        assert_eq!(names, ["4KB", "64KB", "2MB", "1GB"]);
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
