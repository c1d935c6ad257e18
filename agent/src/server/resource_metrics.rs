//! `/metrics/resource`: what pods, containers and the node use, in the text form of Prometheus. What metrics-server reads.
//!
//! Read when asked for; each sample carries its time, since use of CPU is the difference of two. Not for: what pods may use.

use jiff::Timestamp;
use orlop_runtime::{ContainerState, Runtime, cgroup::Stats};

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
}

/// All there is now. What ends meanwhile is left out.
pub(super) async fn answer(runtime: &Runtime) -> String {
    let mut samples = vec![Sample { whose: Whose::Node, at: Timestamp::now(), stats: node() }];
    for pod in runtime.pods().await {
        let (namespace, name, uid) = (&pod.pod.namespace, &pod.pod.name, &pod.pod.uid);
        let running = pod.containers.iter().filter_map(|container| match container.state {
            ContainerState::Running { started_at, .. } => Some((container, started_at)),
            _ => None,
        });
        let mut any = false;
        for (container, started) in running {
            let Ok(stats) = runtime.container_stats(uid, &container.id).await else { continue };
            any = true;
            let whose = Whose::Container {
                container: container.name.clone(),
                namespace: namespace.clone(),
                pod: name.clone(),
                started,
            };
            samples.push(Sample { whose, at: Timestamp::now(), stats });
        }
        // A pod that has ended uses nothing, though its cgroup may be there still.
        if any && let Ok(stats) = runtime.pod_stats(uid).await {
            let whose = Whose::Pod { namespace: namespace.clone(), pod: name.clone() };
            samples.push(Sample { whose, at: Timestamp::now(), stats });
        }
    }
    text(&samples)
}

/// The machine as a whole, as cAdvisor counts the root cgroup.
fn node() -> Stats {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    machine(&read("/proc/stat"), &read("/proc/meminfo"))
}

fn machine(stat: &str, meminfo: &str) -> Stats {
    /// The kernel's `USER_HZ` is a constant of its interface.
    const TICK_NS: u64 = 10_000_000;
    // user nice system idle iowait irq softirq steal; guests are in user.
    let fields: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    let ticks: u64 = [0, 1, 2, 5, 6, 7].into_iter().filter_map(|at| fields.get(at)).sum();
    let bytes = |name: &str| -> u64 {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    };
    let usage = bytes("MemTotal").saturating_sub(bytes("MemFree"));
    Stats {
        cpu_ns: ticks.saturating_mul(TICK_NS),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(bytes("Inactive(file)")),
        memory_rss: bytes("AnonPages"),
        ..Stats::default()
    }
}

/// One line of values; `None` where a metric is not about them.
type Value = fn(&Sample) -> Option<String>;

const METRICS: [(&str, &str, Value); 7] = [
    ("container_cpu_usage_seconds_total", "counter", |sample| of_container(sample).map(|()| cpu(sample))),
    ("container_memory_working_set_bytes", "gauge", |sample| of_container(sample).map(|()| memory(sample))),
    ("container_start_time_seconds", "gauge", |sample| match &sample.whose {
        Whose::Container { started, .. } => Some(seconds(started.as_nanosecond())),
        _ => None,
    }),
    ("node_cpu_usage_seconds_total", "counter", |sample| (sample.whose == Whose::Node).then(|| cpu(sample))),
    ("node_memory_working_set_bytes", "gauge", |sample| {
        (sample.whose == Whose::Node).then(|| memory(sample))
    }),
    ("pod_cpu_usage_seconds_total", "counter", |sample| of_pod(sample).map(|()| cpu(sample))),
    ("pod_memory_working_set_bytes", "gauge", |sample| of_pod(sample).map(|()| memory(sample))),
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

fn text(samples: &[Sample]) -> String {
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
        let stats = |cpu_ns, memory_working_set| Stats { cpu_ns, memory_working_set, ..Stats::default() };
        let container = Whose::Container {
            container: "c".into(),
            namespace: "n".into(),
            pod: "p".into(),
            started: Timestamp::from_second(1_600_000_000).unwrap(),
        };
        let pod = Whose::Pod { namespace: "n".into(), pod: "p".into() };
        let samples = [
            Sample { whose: Whose::Node, at, stats: stats(7_000_000_000, 9) },
            Sample { whose: container, at, stats: stats(1_500_000_001, 4096) },
            Sample { whose: pod, at, stats: stats(2_000_000_000, 8192) },
        ];
        expect![[r#"
            # TYPE container_cpu_usage_seconds_total counter
            container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 1.500000001 1700000000123
            # TYPE container_memory_working_set_bytes gauge
            container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 1700000000123
            # TYPE container_start_time_seconds gauge
            container_start_time_seconds{container="c",namespace="n",pod="p"} 1600000000.000000000 1700000000123
            # TYPE node_cpu_usage_seconds_total counter
            node_cpu_usage_seconds_total 7.000000000 1700000000123
            # TYPE node_memory_working_set_bytes gauge
            node_memory_working_set_bytes 9 1700000000123
            # TYPE pod_cpu_usage_seconds_total counter
            pod_cpu_usage_seconds_total{namespace="n",pod="p"} 2.000000000 1700000000123
            # TYPE pod_memory_working_set_bytes gauge
            pod_memory_working_set_bytes{namespace="n",pod="p"} 8192 1700000000123
            # TYPE scrape_error gauge
            scrape_error 0
            # TYPE resource_scrape_error gauge
            resource_scrape_error 0
        "#]]
        .assert_eq(&text(&samples));
    }

    #[test]
    fn the_machine_is_what_is_not_idle_and_not_easily_given_back() {
        let stat = "cpu  100 10 50 9999 8888 5 3 2 77 0\ncpu0 1 1 1 1\n";
        let meminfo = "MemTotal: 1000 kB\nMemFree:  300 kB\nInactive(file):  200 kB\nAnonPages: 50 kB\n";
        let seen = machine(stat, meminfo);
        assert_eq!((seen.cpu_ns, seen.memory_working_set), (1_700_000_000, 500 * 1024));
        assert_eq!((seen.memory_usage, seen.memory_rss), (700 * 1024, 50 * 1024));
        assert_eq!(machine("", ""), Stats::default());
    }
}
