//! `[p]` `/metrics/resource`: what pods, containers and the node use, in the text form of Prometheus. What metrics-server reads.
//!
//! Each sample carries its time, since use of CPU is the difference of two. Not for: what pods may use.

use jiff::Timestamp;
use orlop_runtime::cgroup::Stats;

use crate::usage::{PodUse, machine::Machine, series::Measured};

/// Whose counters these are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whose {
    Container { container: String, namespace: String, pod: String, started: Timestamp },
    Pod { namespace: String, pod: String },
    Node,
}

/// Counters, and when they were read.
#[derive(Clone, Debug)]
struct Sample {
    whose: Whose,
    at: Timestamp,
    stats: Stats,
    /// Bytes in swap.
    swap: u64,
    /// Most bytes there; `None` is no limit, or none that is known.
    swap_limit: Option<u64>,
}

/// As text.
pub(super) fn text(machine: &Machine, at: Timestamp, pods: &[PodUse]) -> String {
    let node = Stats { pressure: Default::default(), ..machine.stats };
    let swap = machine.swap[0].saturating_sub(machine.swap[1]);
    let mut samples = vec![Sample { whose: Whose::Node, at, stats: node, swap, swap_limit: None }];
    for pod in pods {
        let (namespace, name) = (&pod.sandbox.pod.namespace, &pod.sandbox.pod.name);
        let sample = |whose, seen: &Measured| Sample {
            whose,
            at: seen.at,
            stats: seen.stats,
            swap: seen.counted.details.swap,
            swap_limit: seen.limits.memory_swap.and_then(|both| {
                u64::try_from(both.checked_sub(seen.limits.memory_limit.filter(|limit| *limit > 0)?)?).ok()
            }),
        };
        for (container, seen) in pod.running() {
            let whose = Whose::Container {
                container: container.name.clone(),
                namespace: namespace.clone(),
                pod: name.clone(),
                started: seen.started,
            };
            samples.push(sample(whose, seen));
        }
        // A pod that has ended uses nothing, though its cgroup may be there still.
        if let Some(seen) = pod.pod.as_ref().filter(|_| !pod.containers.is_empty()) {
            let whose = Whose::Pod { namespace: namespace.clone(), pod: name.clone() };
            samples.push(sample(whose, seen));
        }
    }
    lines(&samples)
}

/// One line of values; `None` where a metric is not about them.
type Value = fn(&Sample) -> Option<String>;

const METRICS: [(&str, &str, Value); 11] = [
    ("container_cpu_usage_seconds_total", "counter", |sample| of_container(sample).map(|()| cpu(sample))),
    ("container_memory_working_set_bytes", "gauge", |sample| of_container(sample).map(|()| memory(sample))),
    ("container_start_time_seconds", "gauge", |sample| match &sample.whose {
        Whose::Container { started, .. } => Some(seconds(started.as_nanosecond())),
        _ => None,
    }),
    ("container_swap_limit_bytes", "gauge", |sample| {
        of_container(sample).and(sample.swap_limit).map(|limit| limit.to_string())
    }),
    ("container_swap_usage_bytes", "gauge", |sample| of_container(sample).map(|()| sample.swap.to_string())),
    ("node_cpu_usage_seconds_total", "counter", |sample| (sample.whose == Whose::Node).then(|| cpu(sample))),
    ("node_memory_working_set_bytes", "gauge", |sample| {
        (sample.whose == Whose::Node).then(|| memory(sample))
    }),
    ("node_swap_usage_bytes", "gauge", |sample| {
        (sample.whose == Whose::Node).then(|| sample.swap.to_string())
    }),
    ("pod_cpu_usage_seconds_total", "counter", |sample| of_pod(sample).map(|()| cpu(sample))),
    ("pod_memory_working_set_bytes", "gauge", |sample| of_pod(sample).map(|()| memory(sample))),
    ("pod_swap_usage_bytes", "gauge", |sample| of_pod(sample).map(|()| sample.swap.to_string())),
];

fn of_container(sample: &Sample) -> Option<()> {
    matches!(sample.whose, Whose::Container { .. }).then_some(())
}

fn of_pod(sample: &Sample) -> Option<()> {
    matches!(sample.whose, Whose::Pod { .. }).then_some(())
}

fn cpu(sample: &Sample) -> String {
    seconds(i128::from(sample.stats.cpu_ns))
}

fn memory(sample: &Sample) -> String {
    sample.stats.memory_working_set.to_string()
}

fn seconds(nanoseconds: i128) -> String {
    format!("{}.{:09}", nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000))
}

fn lines(samples: &[Sample]) -> String {
    let metric = |(name, kind, value): &(&str, &str, Value)| {
        let line = |sample: &Sample| {
            let (value, at) = (value(sample)?, sample.at.as_millisecond());
            Some(format!("{name}{} {value} {at}\n", labels(&sample.whose)))
        };
        format!("# TYPE {name} {kind}\n") + &samples.iter().filter_map(line).collect::<String>()
    };
    // Names of before and after Kubernetes 1.29.
    let errors =
        ["scrape_error", "resource_scrape_error"].map(|name| format!("# TYPE {name} gauge\n{name} 0\n"));
    METRICS.iter().map(metric).chain(errors).collect()
}

/// Names of Kubernetes need no escaping.
fn labels(whose: &Whose) -> String {
    match whose {
        Whose::Container { container, namespace, pod, .. } => {
            format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}")
        }
        Whose::Pod { namespace, pod } => format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}"),
        Whose::Node => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_metric_has_the_samples_that_it_is_about() {
        let at = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        let sample = |whose, cpu_ns, memory_working_set, swap_limit| {
            let stats = Stats { cpu_ns, memory_working_set, ..Stats::default() };
            Sample { whose, at, stats, swap: 5, swap_limit }
        };
        let container = Whose::Container {
            container: "c".into(),
            namespace: "n".into(),
            pod: "p".into(),
            started: Timestamp::from_second(1_600_000_000).unwrap(),
        };
        let pod = Whose::Pod { namespace: "n".into(), pod: "p".into() };
        let samples = [
            sample(Whose::Node, 7_000_000_000, 9, None),
            sample(container, 1_500_000_001, 4096, Some(70)),
            sample(pod, 2_000_000_000, 8192, None),
        ];
        expect![[r#"
            # TYPE container_cpu_usage_seconds_total counter
            container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.500000001 1700000000123
            # TYPE container_memory_working_set_bytes gauge
            container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 1700000000123
            # TYPE container_start_time_seconds gauge
            container_start_time_seconds{container="c",namespace="n",pod="p"} 1600000000.000000000 1700000000123
            # TYPE container_swap_limit_bytes gauge
            container_swap_limit_bytes{container="c",namespace="n",pod="p"} 70 1700000000123
            # TYPE container_swap_usage_bytes gauge
            container_swap_usage_bytes{container="c",namespace="n",pod="p"} 5 1700000000123
            # TYPE node_cpu_usage_seconds_total counter
            node_cpu_usage_seconds_total 7.000000000 1700000000123
            # TYPE node_memory_working_set_bytes gauge
            node_memory_working_set_bytes 9 1700000000123
            # TYPE node_swap_usage_bytes gauge
            node_swap_usage_bytes 5 1700000000123
            # TYPE pod_cpu_usage_seconds_total counter
            pod_cpu_usage_seconds_total{namespace="n",pod="p"} 2.000000000 1700000000123
            # TYPE pod_memory_working_set_bytes gauge
            pod_memory_working_set_bytes{namespace="n",pod="p"} 8192 1700000000123
            # TYPE pod_swap_usage_bytes gauge
            pod_swap_usage_bytes{namespace="n",pod="p"} 5 1700000000123
            # TYPE scrape_error gauge
            scrape_error 0
            # TYPE resource_scrape_error gauge
            resource_scrape_error 0
        "#]]
        .assert_eq(&lines(&samples));
    }
}
