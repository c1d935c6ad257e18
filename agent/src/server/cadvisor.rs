//! `[p]` `/metrics/cadvisor`: the series of `usage::series` as the kubelet of upstream shows cAdvisor's.
//!
//! Besides the rows of containers there is one of the pod as a whole, one of its sandbox, which has the network's series, and
//! one of the machine (`id="/"`) with what is known of it.

use jiff::Timestamp;
use orlop_runtime::{Counted, Counters, Resources};

use super::text::Page;
use crate::usage::{
    PodUse,
    machine::Machine,
    series::{Kind, LABELS, METRICS, Measured, Row, Value, Whose},
};

/// Names of a machine, as cAdvisor labels it.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) boot_id: String,
    pub(super) machine_id: String,
    pub(super) system_uuid: String,
    pub(super) cpus: u32,
}

/// Series of what is connected: they belong to the sandbox.
const NETWORK: &str = "container_network_";
/// What is known of the machine as a whole.
const OF_MACHINE: [&str; 10] = [
    "container_cpu_usage_seconds_total",
    "container_memory_rss",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
];

/// A row: whose, what was measured, and which series it has.
struct Line<'a> {
    labels: [String; 6],
    seen: &'a Measured,
    has: fn(&str) -> bool,
}

pub(super) fn text(names: &Names, machine: &Machine, at: Timestamp, pods: &[PodUse]) -> String {
    let counted = Counted { cgroup: "/".into(), ..Counted::default() };
    let root = Counters { at, stats: machine.stats, counted, limits: Resources::default() };
    let root = Measured::new(root, at);
    let nobody = Whose { container: "", image: "", id: "", namespace: "", pod: "" };
    let of_machine = |name: &str| OF_MACHINE.contains(&name);
    let mut lines = vec![Line { labels: nobody.labels(&root), seen: &root, has: of_machine }];
    lines.extend(pods.iter().flat_map(of_pod));
    let mut page = Page::default();
    METRICS.iter().for_each(|row| family(&mut page, row, &lines));
    let cores = u64::from(names.cpus);
    let labels = [
        ("boot_id", &*names.boot_id),
        ("machine_id", &*names.machine_id),
        ("system_uuid", &*names.system_uuid),
    ];
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cores),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", machine.memory),
    ] {
        page.family(name, help, "gauge");
        page.sample(name, labels, Value::Count(value), Some(at));
    }
    page.finish()
}

fn of_pod(used: &PodUse) -> Vec<Line<'_>> {
    let pod = &used.sandbox.pod;
    let whose = Whose { container: "", image: "", id: "", namespace: &pod.namespace, pod: &pod.name };
    let mut lines = Vec::new();
    if let Some(seen) = used.pod.as_ref().filter(|_| !used.containers.is_empty()) {
        let sandbox = Whose { id: &pod.uid, ..whose };
        lines.push(Line { labels: whose.labels(seen), seen, has: |name| !name.starts_with(NETWORK) });
        lines.push(Line { labels: sandbox.labels(seen), seen, has: |name| name.starts_with(NETWORK) });
    }
    for (container, seen) in used.running() {
        let whose =
            Whose { container: &container.name, image: &container.image_ref, id: &container.id, ..whose };
        lines.push(Line { labels: whose.labels(seen), seen, has: |_| true });
    }
    lines
}

fn family(page: &mut Page, row: &Row, lines: &[Line<'_>]) {
    let kind = match row.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let mut begun = false;
    for Line { labels, seen, has } in lines.iter().filter(|line| (line.has)(row.name)) {
        let _ = has;
        for (own, value) in row.values(seen) {
            if !std::mem::replace(&mut begun, true) {
                page.family(row.name, row.help, kind);
            }
            let common = LABELS.into_iter().zip(labels.iter().map(String::as_str));
            let own = row.labels().iter().copied().zip(own.iter().map(String::as_str));
            page.sample(row.name, common.chain(own), value, Some(seen.at));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use orlop_runtime::{Container, ContainerState, PodRef, Sandbox, cgroup::Stats};

    use super::*;
    use crate::usage::series::Interface;

    pub(super) fn measured(cgroup: &str, cpu_ns: u64) -> Measured {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let counted = Counted { cgroup: cgroup.into(), ..Counted::default() };
        let stats = Stats { cpu_ns, memory_working_set: cpu_ns, ..Stats::default() };
        Measured::new(Counters { at, stats, counted, limits: Resources::default() }, at)
    }

    #[test]
    fn network_is_the_sandboxes_and_each_container_has_a_row() {
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let container = Container {
            id: "c1".into(),
            name: "c".into(),
            attempt: 0,
            image_ref: "i".into(),
            image_id: "sha256:1".into(),
            user: None,
            tty: false,
            log_path: "/log".into(),
            state: ContainerState::Running { pid: 7, started_at: at },
            labels: Default::default(),
        };
        let sandbox = Sandbox {
            pod: PodRef { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            netns: None,
            created_at: at,
            shim_alive: true,
            containers: vec![container],
            labels: Default::default(),
        };
        let eth0 = Interface {
            name: "eth0".into(),
            bytes: [1, 2],
            packets: [3, 4],
            errors: [0, 0],
            dropped: [0, 0],
        };
        let pod = Measured { interfaces: vec![eth0], ..measured("pods/u", 3_000_000_000) };
        let used =
            PodUse { sandbox, pod: Some(pod), containers: vec![(0, measured("pods/u/c1", 2_000_000_000))] };
        let names = Names { boot_id: "b".into(), machine_id: "m".into(), system_uuid: "s".into(), cpus: 4 };
        let machine = Machine { memory: 4096, ..Machine::default() };
        let text = text(&names, &machine, at, &[used]);
        let shown = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        expect![[r#"
            container_cpu_usage_seconds_total{container="",id="/",image="",name="",namespace="",pod="",cpu="total"} 0.000000000 1700000000000
            container_cpu_usage_seconds_total{container="",id="/pods/u",image="",name="",namespace="n",pod="p",cpu="total"} 3.000000000 1700000000000
            container_cpu_usage_seconds_total{container="c",id="/pods/u/c1",image="i",name="c1",namespace="n",pod="p",cpu="total"} 2.000000000 1700000000000
        "#]]
        .assert_eq(&shown("container_cpu_usage_seconds_total"));
        expect![[r#"
            container_network_receive_bytes_total{container="",id="/pods/u",image="",name="u",namespace="n",pod="p",interface="eth0"} 1 1700000000000
        "#]]
        .assert_eq(&shown("container_network_receive_bytes_total"));
        expect![[r#"
            machine_memory_bytes{boot_id="b",machine_id="m",system_uuid="s"} 4096 1700000000000
        "#]]
        .assert_eq(&shown("machine_memory_bytes"));
    }
}
