//! Which pods make room for a critical one.
//!
//! Source: kubelet 1.34 (`pkg/kubelet/preemption`): as few and as small pods as will do, those without guarantees first.

use super::{
    admission::is_critical,
    desired::Desired,
    resources::{Qos, qos, requests_of_pod},
    settings::Settings,
};

/// Of processor (thousandths), memory (bytes) and places for pods.
type Amounts = [i64; 3];

/// The pods to end so that `desired` fits beside the others; nothing where that cannot be had.
pub fn victims<'a>(settings: &Settings, desired: &Desired, others: &'a [Desired]) -> Vec<&'a Desired> {
    let room = [settings.allocatable.cpu_milli, settings.allocatable.memory, settings.allocatable.pods];
    let used = others.iter().map(amounts).fold([0; 3], |sum, one| each(sum, one, i64::saturating_add));
    let wanted = amounts(desired);
    let missing = [0, 1, 2].map(|at| match wanted[at] {
        0 => 0,
        wanted => (used[at] + wanted - room[at]).max(0),
    });
    let preemptable = |class: Qos| -> Vec<&'a Desired> {
        others.iter().filter(|other| qos(other.spec()) == class && gives_way(desired, other)).collect()
    };
    let (best_effort, burstable, guaranteed) =
        (preemptable(Qos::BestEffort), preemptable(Qos::Burstable), preemptable(Qos::Guaranteed));
    let all = [&best_effort, &burstable, &guaranteed];
    if less(missing, sum(all.iter().flat_map(|list| list.iter().copied()))) != [0; 3] {
        return Vec::new();
    }
    // What only the better protected can give is taken from them first, so that no more than needed goes.
    let unprotected = sum(best_effort.iter().chain(&burstable).copied());
    let guaranteed = closest(guaranteed, less(missing, unprotected));
    let rest = less(missing, sum(guaranteed.iter().copied()));
    let burstable = closest(burstable, less(rest, sum(best_effort.iter().copied())));
    let best_effort = closest(best_effort, less(rest, sum(burstable.iter().copied())));
    best_effort.into_iter().chain(burstable).chain(guaranteed).collect()
}

fn gives_way(critical: &Desired, other: &Desired) -> bool {
    let priority = |desired: &Desired| desired.spec().priority;
    let higher = priority(critical).zip(priority(other)).is_some_and(|(critical, other)| critical > other);
    !other.deleting() && (!is_critical(other) || higher)
}

/// Pods that together give what is missing: each time the one that comes closest, the smallest of equals.
fn closest(mut pods: Vec<&Desired>, mut missing: Amounts) -> Vec<&Desired> {
    let mut chosen = Vec::new();
    while missing != [0; 3] {
        let best = pods.iter().enumerate().min_by(|(_, a), (_, b)| {
            let distance = |pod: &Desired| distance(missing, amounts(pod));
            distance(a).total_cmp(&distance(b)).then_with(|| amounts(a).cmp(&amounts(b)))
        });
        let Some((at, _)) = best else { break };
        let pod = pods.swap_remove(at);
        missing = less(missing, amounts(pod));
        chosen.push(pod);
    }
    chosen
}

/// How far a pod is from giving all that is missing: the squares of the shares that would still be.
#[expect(clippy::cast_precision_loss, reason = "a measure to compare by")]
fn distance(missing: Amounts, gives: Amounts) -> f64 {
    let share = |(missing, gives): (i64, i64)| match missing {
        0 => 0.0,
        missing => (((missing - gives).max(0)) as f64 / missing as f64).powi(2),
    };
    missing.into_iter().zip(gives).map(share).sum()
}

fn amounts(desired: &Desired) -> Amounts {
    let (cpu, memory) = requests_of_pod(desired.spec());
    [cpu, memory, 1]
}

fn sum<'a>(pods: impl Iterator<Item = &'a Desired>) -> Amounts {
    pods.map(amounts).fold([0; 3], |sum, one| each(sum, one, i64::saturating_add))
}

fn less(from: Amounts, what: Amounts) -> Amounts {
    each(from, what, |from, what| from.saturating_sub(what).max(0))
}

fn each(a: Amounts, b: Amounts, of: impl Fn(i64, i64) -> i64) -> Amounts {
    [0, 1, 2].map(|at| of(a[at], b[at]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    /// `name class cpu[m] memory[Mi] priority`; classes are b(est effort), u(rstable), g(uaranteed).
    fn pod(words: &str) -> Desired {
        let words: Vec<_> = words.split_whitespace().collect();
        let [name, class, cpu, memory, priority] = words[..] else { panic!("{words:?}") };
        let amounts = format!("{{cpu: {cpu}m, memory: {memory}Mi}}");
        let resources = match class {
            "b" => "{}".to_owned(),
            "u" => format!("{{requests: {amounts}}}"),
            _ => format!("{{requests: {amounts}, limits: {amounts}}}"),
        };
        let spec = format!("{{priority: {priority}, containers: [{{name: c, resources: {resources}}}]}}");
        let mut pod = Pod { spec: Some(serde_norway::from_str(&spec).unwrap()), ..Pod::default() };
        pod.metadata.name = Some(name.to_owned());
        Desired::new(Arc::new(pod))
    }

    /// The node has 2000m and 4096Mi.
    fn check(critical: &str, others: &str, expected: Expect) {
        let others: Vec<_> = others.lines().map(pod).collect();
        let chosen = victims(&Settings::for_tests(), &pod(critical), &others);
        let names: Vec<_> = chosen.iter().map(|pod| pod.pod_ref().name).collect();
        expected.assert_eq(&names.join(" "));
    }

    const CRITICAL: &str = "crit g 1000 1000 2000000000";

    #[test]
    fn nobody_goes_where_there_is_room() {
        check(CRITICAL, "a u 1000 1000 0", expect![""]);
    }

    #[test]
    fn burstable_before_guaranteed() {
        check(CRITICAL, "a g 1000 1000 0\nb u 1000 1000 0", expect!["b"]);
    }

    #[test]
    fn the_one_that_fits_best() {
        check(CRITICAL, "a u 300 10 0\nb u 700 10 0\nc u 900 10 0\nd b 0 0 0", expect!["c"]);
    }

    #[test]
    fn several_where_one_is_not_enough() {
        check(CRITICAL, "a u 500 10 0\nb u 500 10 0\nc u 500 10 0\nd u 500 10 0", expect!["a d"]);
    }

    #[test]
    fn guaranteed_only_for_what_others_cannot_give() {
        check(CRITICAL, "a g 1500 1000 0\nb u 300 1000 0", expect!["a"]);
    }

    #[test]
    fn critical_pods_stay_unless_they_are_less_important() {
        check(CRITICAL, "a u 2000 10 2000000000", expect![""]);
        check("crit g 1000 1000 2000001000", "a u 2000 10 2000000000", expect!["a"]);
    }

    #[test]
    fn nobody_goes_for_nothing() {
        check("crit g 3000 10 2000000000", "a u 2000 10 0", expect![""]);
    }
}
