//! Whether a pod may have other resources than it was granted, and the steps to get there (KEP-1287).
//!
//! ```text
//! spec asks ─ judge ─▶ granted (`allocation`) ─ steps ─▶ kernel
//!               └▶ Deferred, Infeasible: told in the pod's conditions, judged again when there is more room
//! ```
//! Not for: taking the steps (`worker::resize`).

use std::cmp::Ordering;

use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use orlop_model::quantities::Quantity as Amount;

use super::{
    admission,
    allocation::Granted,
    desired::Desired,
    machine::Resources,
    resources::{Qos, of_pod_level, qos, requests_of_pod},
    settings::Settings,
};

/// Why a pod goes on with what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred` or `Infeasible`.
    pub reason: &'static str,
    /// Why never, in metrics' words; empty for what may come true.
    pub detail: &'static str,
    /// Text for users.
    pub message: String,
}

/// Decides; `others` are the pods of this node, with what they were granted.
pub fn judge(settings: &Settings, wanted: &Desired, others: &[Desired]) -> Result<(), Pending> {
    let infeasible = |detail, message: String| Err(Pending { reason: "Infeasible", detail, message });
    if wanted.is_static() {
        return infeasible("static_pod", "In-place resize of static-pods is not supported".into());
    }
    if of_pod_level(wanted.spec()).is_some() {
        let text = "In-place resize of pods with pod-level resources is not supported";
        return infeasible("pod_level_resources", text.into());
    }
    if settings.policy.static_cpus && qos(wanted.spec()) == Qos::Guaranteed {
        return infeasible(
            "guaranteed_pod_cpu_manager_static_policy",
            "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy".into(),
        );
    }
    let (cpu, memory) = requests_of_pod(wanted.spec());
    let room = &settings.allocatable;
    let too_much = [("memory", memory, room.memory), ("cpu", cpu, room.cpu_milli)];
    if let Some((name, asked, there)) = too_much.into_iter().find(|(_, asked, there)| asked > there) {
        let text = format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {there}");
        return infeasible("insufficient_node_allocatable", text);
    }
    admission::room(settings, wanted, others).map_err(|refused| Pending {
        reason: "Deferred",
        detail: "",
        message: refused.text,
    })
}

/// What somebody asks for that was asked for otherwise before: resource, `requests` or `limits`, and what becomes of it.
pub fn asked(before: &PodSpec, after: &PodSpec) -> Vec<[&'static str; 3]> {
    let mut asked = Vec::new();
    for container in containers(after) {
        let Some(old) = containers(before).find(|old| old.name == container.name) else { continue };
        let (old, new) = (Granted::of(old), Granted::of(container));
        for resource in old.changed(&new) {
            let amounts = old.amounts(resource).into_iter().zip(new.amounts(resource));
            for (requirement, (old, new)) in ["requests", "limits"].into_iter().zip(amounts) {
                let read = |amount: Option<&Quantity>| amount.and_then(|q| Amount::parse(&q.0).ok());
                let operation = match (read(old), read(new)) {
                    (None, None) => continue,
                    (None, Some(_)) => "add",
                    (Some(_), None) => "remove",
                    (Some(old), Some(new)) => match new.cmp(&old) {
                        Ordering::Equal => continue,
                        Ordering::Greater => "increase",
                        Ordering::Less => "decrease",
                    },
                };
                asked.push([resource, requirement, operation]);
            }
        }
    }
    asked
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Which of several that wait is judged first: upstream's order of priority and class.
pub fn rank(wanted: &Desired) -> (i64, u8) {
    let class = match qos(wanted.spec()) {
        Qos::Guaranteed => 0,
        Qos::Burstable => 1,
        Qos::BestEffort => 2,
    };
    (-i64::from(wanted.spec().priority.unwrap_or(0)), class)
}

/// Whether the change has to wait for a new instance of the container.
pub fn restarts(container: &Container, before: &Granted, after: &Granted) -> bool {
    let policy = |name: &str| {
        let of_name = container.resize_policy.iter().flatten().find(|policy| policy.resource_name == name);
        of_name.is_some_and(|policy| policy.restart_policy == "RestartContainer")
    };
    before.changed(after).any(policy)
}

/// What a cgroup is limited to and what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// As the kernel has it; what is unknown is written.
    pub now: Resources,
    /// As it follows from the spec.
    pub wanted: Resources,
}

/// One write, to the pod's cgroup or to that of a container (its place in the list).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `None`: the pod.
    pub container: Option<usize>,
    /// Only what changes.
    pub limits: Resources,
}

/// The writes in their order: the pod grows before its containers and shrinks after them, so that a container never has
/// more than its pod; what is right already is not written.
pub fn steps(pod: &Limits, containers: &[Limits]) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in [memory as Part, quota, shares] {
        let step = |container, limits: &Limits| part(limits).map(|limits| Step { container, limits });
        let of_pod = step(None, pod);
        let of_containers = containers.iter().enumerate().filter_map(|(at, limits)| step(Some(at), limits));
        let grows = grows(pod, part);
        steps.extend(of_pod.clone().filter(|_| grows));
        steps.extend(of_containers);
        steps.extend(of_pod.filter(|_| !grows));
    }
    steps
}

type Part = fn(&Limits) -> Option<Resources>;

fn memory(Limits { now, wanted }: &Limits) -> Option<Resources> {
    let limit = wanted.memory_limit.unwrap_or(-1);
    let swap = (wanted.unified.clone(), wanted.memory_swap);
    (now.memory_limit != Some(limit)).then(|| Resources {
        memory_limit: Some(limit),
        memory_swap: swap.1,
        unified: swap.0,
        ..Resources::default()
    })
}

fn quota(Limits { now, wanted }: &Limits) -> Option<Resources> {
    let quota = wanted.cpu_quota_us.unwrap_or(-1);
    let period = wanted.cpu_period_us.or(now.cpu_period_us).unwrap_or(100_000);
    let same = now.cpu_quota_us == Some(quota) && (quota < 0 || now.cpu_period_us == Some(period));
    (!same).then(|| Resources {
        cpu_quota_us: Some(quota),
        cpu_period_us: Some(period),
        ..Resources::default()
    })
}

fn shares(Limits { now, wanted }: &Limits) -> Option<Resources> {
    let shares = wanted.cpu_shares.filter(|_| now.cpu_shares != wanted.cpu_shares);
    shares.map(|shares| Resources { cpu_shares: Some(shares), ..Resources::default() })
}

/// No limit is more than any.
fn grows(pod: &Limits, part: Part) -> bool {
    let Some(limits) = part(pod) else { return false };
    let more = |now: Option<i64>, then: Option<i64>| match (now, then) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(now), Some(then)) => now >= 0 && (then < 0 || then > now),
    };
    more(pod.now.memory_limit, limits.memory_limit)
        || more(pod.now.cpu_quota_us, limits.cpu_quota_us)
        || limits.cpu_shares.is_some_and(|shares| pod.now.cpu_shares.is_none_or(|now| shares > now))
}

/// Why memory limits are not lowered: more is in use. v2 would kill, v1 would refuse half way.
pub fn too_low(pod: (&Limits, Option<u64>), containers: &[(&str, &Limits, Option<u64>)]) -> Option<String> {
    let below = |limits: &Limits, used: Option<u64>| {
        let limit = memory(limits)?.memory_limit.filter(|limit| *limit >= 0)?;
        let lower = limits.now.memory_limit.is_none_or(|now| now < 0 || limit < now);
        let used = used.filter(|used| lower && *used >= limit.unsigned_abs())?;
        Some(format!("memory limit ({limit}) below current usage ({used})"))
    };
    let of_pod = below(pod.0, pod.1).map(|text| format!("attempting to set pod {text}"));
    let of_containers = containers.iter().filter_map(|(name, limits, used)| {
        Some(format!("attempting to set container {name:?} {}", below(limits, *used)?))
    });
    let all: Vec<String> = of_pod.into_iter().chain(of_containers).collect();
    match all.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(resources: &str) -> Desired {
        let spec = format!("{{containers: [{{name: c, resources: {resources}}}]}}");
        let pod = Pod { spec: Some(serde_norway::from_str(&spec).unwrap()), ..Pod::default() };
        Desired::new(Arc::new(pod))
    }

    #[test]
    fn what_can_be_what_can_be_later_and_what_never() {
        let settings = Settings::for_tests();
        let check = |resources: &str, other: &str, expected: &str| {
            let verdict = judge(&settings, &pod(resources), &[pod(other)]);
            let text = verdict.map_or_else(|p| format!("{}: {}", p.reason, p.message), |()| "granted".into());
            assert_eq!(text, expected);
        };
        check("{requests: {cpu: 1500m}}", "{requests: {cpu: 500m}}", "granted");
        check("{requests: {cpu: 1500m}, limits: {cpu: 64}}", "{}", "granted");
        check(
            "{requests: {cpu: 1500m}}",
            "{requests: {cpu: 501m}}",
            "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 501, capacity: 2000",
        );
        check(
            "{requests: {cpu: 2001m}}",
            "{}",
            "Infeasible: Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000",
        );
        check(
            "{requests: {cpu: 2001m, memory: 5Gi}}",
            "{}",
            "Infeasible: Node didn't have enough capacity: memory, requested: 5368709120, capacity: 4294967296",
        );
    }

    #[test]
    fn what_is_asked_for_anew_has_a_word() {
        let check = |before: &str, after: &str, expected: &str| {
            let asked = asked(pod(before).spec(), pod(after).spec());
            let shown: Vec<_> = asked.iter().map(|words| words.join(" ")).collect();
            assert_eq!(shown.join(", "), expected, "{before} {after}");
        };
        check("{requests: {cpu: 1}}", "{requests: {cpu: 1000m}}", "");
        check(
            "{requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 128Mi}}",
            "{requests: {cpu: 200m}, limits: {memory: 64Mi, cpu: 1}}",
            "cpu requests increase, cpu limits add, memory requests remove, memory limits decrease",
        );
    }

    #[test]
    fn policy_decides_over_a_restart() {
        let container = |policy: &str, resources: &str| -> Container {
            serde_norway::from_str(&format!("{{name: c, resizePolicy: {policy}, resources: {resources}}}"))
                .unwrap()
        };
        let memory = "[{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: RestartContainer}]";
        let before = Granted::of(&container("[]", "{requests: {cpu: 1, memory: 1Gi}}"));
        for (policy, after, expected) in [
            ("[]", "{requests: {cpu: 2, memory: 2Gi}}", false),
            (memory, "{requests: {cpu: 2, memory: 1Gi}}", false),
            (memory, "{requests: {cpu: 1, memory: 2Gi}}", true),
            (memory, "{requests: {cpu: 1, memory: 1Gi}}", false),
        ] {
            let container = container(policy, after);
            assert_eq!(restarts(&container, &before, &Granted::of(&container)), expected, "{policy} {after}");
        }
    }

    fn limits(now: (i64, i64, u64), wanted: (i64, i64, u64)) -> Limits {
        let all = |(memory, quota, shares): (i64, i64, u64)| Resources {
            memory_limit: Some(memory),
            cpu_quota_us: Some(quota),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(shares),
            ..Resources::default()
        };
        Limits { now: all(now), wanted: all(wanted) }
    }

    fn text(steps: &[Step]) -> String {
        let one = |step: &Step| {
            let who = step.container.map_or("pod".to_owned(), |at| at.to_string());
            let Resources { memory_limit, cpu_quota_us, cpu_shares, .. } = &step.limits;
            let what = [
                memory_limit.map(|limit| format!("memory {limit}")),
                cpu_quota_us.map(|quota| format!("quota {quota}")),
                cpu_shares.map(|shares| format!("shares {shares}")),
            ];
            format!("{who} {}", what.into_iter().flatten().collect::<Vec<_>>().join(" "))
        };
        steps.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_pod_grows_first_and_shrinks_last() {
        let cases = [
            ((10, 10, 10), (10, 10, 10), ""),
            (
                (10, 10, 10),
                (20, 20, 20),
                "pod memory 20, 0 memory 20, pod quota 20, 0 quota 20, pod shares 20, 0 shares 20",
            ),
            (
                (20, 20, 20),
                (10, 10, 10),
                "0 memory 10, pod memory 10, 0 quota 10, pod quota 10, 0 shares 10, pod shares 10",
            ),
            ((20, 10, 10), (10, 20, 10), "0 memory 10, pod memory 10, pod quota 20, 0 quota 20"),
            ((10, 10, 10), (-1, -1, 10), "pod memory -1, 0 memory -1, pod quota -1, 0 quota -1"),
            ((-1, -1, 10), (10, 10, 10), "0 memory 10, pod memory 10, 0 quota 10, pod quota 10"),
        ];
        for (now, wanted, expected) in cases {
            let both = limits(now, wanted);
            assert_eq!(text(&steps(&both, std::slice::from_ref(&both))), expected, "{now:?} {wanted:?}");
        }
        let unknown = Limits { now: Resources::default(), wanted: limits((1, 1, 1), (5, 5, 5)).wanted };
        assert_eq!(text(&steps(&unknown, &[])), "pod memory 5, pod quota 5, pod shares 5");
        let none = Limits { now: limits((-1, -1, 2), (0, 0, 0)).now, wanted: Resources::default() };
        assert_eq!(text(&steps(&none, &[])), "", "no limit wanted, none there");
    }

    #[test]
    fn memory_is_not_taken_from_those_who_use_it() {
        let lower = limits((20, 1, 1), (10, 1, 1));
        let higher = limits((20, 1, 1), (30, 1, 1));
        let said = |limits: &Limits, used: u64| too_low((limits, Some(used)), &[("c", limits, Some(used))]);
        assert_eq!(said(&lower, 9), None);
        assert_eq!(said(&higher, 40), None);
        assert_eq!(
            said(&lower, 10).unwrap(),
            "[attempting to set pod memory limit (10) below current usage (10), attempting to set container \"c\" \
             memory limit (10) below current usage (10)]"
        );
        assert_eq!(
            too_low((&higher, Some(40)), &[("c", &lower, Some(12))]).unwrap(),
            "attempting to set container \"c\" memory limit (10) below current usage (12)"
        );
        assert_eq!(too_low((&lower, None), &[]), None, "what cannot be read is the kernel's to refuse");
    }
}
