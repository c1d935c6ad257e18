//! `[p]` What of `/metrics` is counted when it is asked for: pods and containers there are. Not for: what the parts of the node
//! count (`crate::metrics`).

use std::collections::BTreeMap;

use orlop_runtime::{ContainerState, Sandbox, Usage};

use super::{summary::Disk, text::Page};
use crate::{
    usage::{machine::Process, series::Value},
    worker::Known,
};

/// What there is.
pub(super) struct Seen<'a> {
    pub(super) node: &'a str,
    /// Pods with a worker; `None` when nobody knows.
    pub(super) known: Option<&'a [Known]>,
    pub(super) sandboxes: &'a [Sandbox],
    /// Logs of containers: pod, container, size.
    pub(super) logs: &'a [(&'a Sandbox, &'a str, Usage)],
    /// Volumes of claims, by namespace and name of the claim.
    pub(super) claims: &'a BTreeMap<(String, String), Disk>,
    /// This process, and when the machine was booted.
    pub(super) own: Option<(Process, u64)>,
    /// Open files of it, and how many there may be.
    pub(super) files: (u64, Option<u64>),
    /// Seconds until the certificates end, the client's and the server's.
    pub(super) certificates: [f64; 2],
}

pub(super) fn text(seen: &Seen<'_>) -> String {
    let mut page = Page::default();
    page.family("kubelet_node_name", "The node's name. The count is always 1.", "gauge");
    page.sample("kubelet_node_name", [("node", seen.node)], Value::Count(1), None);
    if let Some(known) = seen.known {
        pods(&mut page, known);
        resizes(&mut page, known);
    }
    let runs = |pod: &&Sandbox| pod.shim_alive;
    page.family("kubelet_running_pods", "Number of pods that have a running pod sandbox", "gauge");
    page.sample("kubelet_running_pods", [], count(seen.sandboxes.iter().filter(runs).count()), None);
    let mut states = BTreeMap::from([("created", 0), ("exited", 0), ("running", 0)]);
    for container in seen.sandboxes.iter().flat_map(|pod| &pod.containers) {
        let state = match container.state {
            ContainerState::Created => "created",
            ContainerState::Running { .. } => "running",
            ContainerState::Exited(_) => "exited",
        };
        *states.entry(state).or_default() += 1;
    }
    page.family("kubelet_running_containers", "Number of containers by their state", "gauge");
    for (state, number) in states {
        page.sample("kubelet_running_containers", [("container_state", state)], count(number), None);
    }
    let name = "kubelet_container_log_filesystem_used_bytes";
    if !seen.logs.is_empty() {
        page.family(name, "Bytes used by the container's logs on the filesystem.", "gauge");
    }
    for (pod, container, used) in seen.logs {
        let labels = [
            ("uid", &*pod.pod.uid),
            ("namespace", &pod.pod.namespace),
            ("pod", &pod.pod.name),
            ("container", container),
        ];
        page.sample(name, labels, Value::Count(used.bytes), None);
    }
    for (whose, seconds) in ["client", "server"].into_iter().zip(seen.certificates) {
        let name = format!("kubelet_certificate_manager_{whose}_ttl_seconds");
        page.family(&name, "Seconds until a certificate ends; endless where there is none", "gauge");
        page.number(&name, seconds);
    }
    claims(&mut page, seen.claims);
    process(&mut page, seen);
    page.finish()
}

fn pods(page: &mut Page, known: &[Known]) {
    // Those of the API have an empty label, as upstream.
    let of_node = |wanted: bool| known.iter().filter(move |one| one.of_node == wanted);
    let both = [("", false), ("true", true)];
    page.family("kubelet_desired_pods", "The number of pods this node is asked to run", "gauge");
    for (label, wanted) in both {
        let number = of_node(wanted).filter(|one| !one.gone).count();
        page.sample("kubelet_desired_pods", [("static", label)], count(number), None);
    }
    page.family("kubelet_active_pods", "The number of pods that have not ended", "gauge");
    for (label, wanted) in both {
        let number = of_node(wanted).filter(|one| !one.gone && !one.ended).count();
        page.sample("kubelet_active_pods", [("static", label)], count(number), None);
    }
    page.family("kubelet_mirror_pods", "The number of mirror pods: one for each of this node's own", "gauge");
    page.sample("kubelet_mirror_pods", [], count(of_node(true).count()), None);
    page.family("kubelet_working_pods", "Number of pods with a worker, by what it does", "gauge");
    for (label, wanted) in both {
        for config in ["desired", "orphan"] {
            for lifecycle in ["sync", "terminating", "terminated"] {
                let is = |one: &&Known| config_of(one) == config && lifecycle_of(one) == lifecycle;
                let labels = [("config", config), ("lifecycle", lifecycle), ("static", label)];
                let number = of_node(wanted).filter(is).count();
                page.sample("kubelet_working_pods", labels, count(number), None);
            }
        }
    }
}

/// What a metric shows of a volume.
type OfVolume = fn(&Disk) -> u64;

const VOLUMES: [(&str, &str, OfVolume); 6] = [
    ("available_bytes", "Number of available bytes in the volume", |disk| disk.system.available),
    ("capacity_bytes", "Capacity in bytes of the volume", |disk| disk.system.size),
    ("inodes", "Maximum number of inodes in the volume", |disk| disk.system.inodes),
    ("inodes_free", "Number of free inodes in the volume", |disk| disk.system.free_inodes),
    ("inodes_used", "Number of used inodes in the volume", |disk| disk.used.inodes),
    ("used_bytes", "Number of used bytes in the volume", |disk| disk.used.bytes),
];

fn claims(page: &mut Page, claims: &BTreeMap<(String, String), Disk>) {
    for (name, help, value) in VOLUMES.iter().filter(|_| !claims.is_empty()) {
        let name = format!("kubelet_volume_stats_{name}");
        page.family(&name, help, "gauge");
        for ((namespace, claim), disk) in claims {
            let labels = [("namespace", namespace.as_str()), ("persistentvolumeclaim", claim)];
            page.sample(&name, labels, Value::Count(value(disk)), None);
        }
    }
}

fn resizes(page: &mut Page, known: &[Known]) {
    let active = || known.iter().filter(|one| !one.ended);
    page.family("kubelet_pod_pending_resizes", "Number of resizes that wait, or can never be", "gauge");
    for (label, reason) in [("deferred", "Deferred"), ("infeasible", "Infeasible")] {
        let waits = |one: &&Known| one.desired.pending.as_ref().is_some_and(|why| why.reason == reason);
        let number = active().filter(waits).count();
        page.sample("kubelet_pod_pending_resizes", [("reason", label)], count(number), None);
    }
    page.family("kubelet_pod_in_progress_resizes", "Number of resizes that are being carried out", "gauge");
    let under_way = |one: &&Known| {
        let conditions = one.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "PodResizeInProgress")
    };
    page.sample("kubelet_pod_in_progress_resizes", [], count(active().filter(under_way).count()), None);
}

fn config_of(known: &Known) -> &'static str {
    if known.gone { "orphan" } else { "desired" }
}

fn lifecycle_of(known: &Known) -> &'static str {
    if known.ended {
        "terminated"
    } else if known.gone || known.pod.metadata.deletion_timestamp.is_some() {
        "terminating"
    } else {
        "sync"
    }
}

/// The names that all clients of Prometheus have.
fn process(page: &mut Page, seen: &Seen<'_>) {
    let mut one = |name: &str, help: &str, kind: &str, value: Value| {
        page.family(name, help, kind);
        page.sample(name, [], value, None);
    };
    let (open, most) = seen.files;
    one("process_open_fds", "Number of open file descriptors.", "gauge", Value::Count(open));
    if let Some(most) = most {
        one("process_max_fds", "Maximum number of open file descriptors.", "gauge", Value::Count(most));
    }
    let Some((own, booted)) = seen.own else { return };
    let started =
        booted.saturating_mul(1_000_000_000).saturating_add(own.started_ticks.saturating_mul(10_000_000));
    one(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        "counter",
        Value::Nanos(own.cpu_ns),
    );
    one(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        "gauge",
        Value::Count(own.resident),
    );
    one(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        "gauge",
        Value::Count(own.virtual_bytes),
    );
    one("process_threads", "Number of OS threads in the process.", "gauge", Value::Count(own.threads));
    one(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        "gauge",
        Value::Nanos(started),
    );
}

fn count(number: usize) -> Value {
    Value::Count(u64::try_from(number).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;

    use super::*;
    use crate::pod::desired::Desired;
    use crate::usage::series::FileSystem;

    fn known(meta: &str, gone: bool, ended: bool, of_node: bool) -> Known {
        let pod = serde_norway::from_str(&format!("{{metadata: {meta}}}")).unwrap();
        let pod = Arc::new(pod);
        Known { desired: Desired::new(Arc::clone(&pod)), pod, gone, ended, of_node }
    }

    #[test]
    fn pods_by_what_is_done_with_them() {
        let all = [
            known("{}", false, false, false),
            known("{deletionTimestamp: '2025-01-01T00:00:00Z'}", false, false, false),
            known("{}", false, true, false),
            known("{}", true, false, false),
            known("{}", false, false, true),
        ];
        let system = FileSystem { size: 100, available: 60, inodes: 10, free_inodes: 7 };
        let disk = Disk { system, used: Usage { bytes: 40, inodes: 3 } };
        let claims = BTreeMap::from([(("ns".to_owned(), "data".to_owned()), disk)]);
        let seen = Seen {
            node: "n",
            known: Some(&all),
            sandboxes: &[],
            logs: &[],
            claims: &claims,
            own: None,
            files: (7, None),
            certificates: [f64::INFINITY, -1.5],
        };
        let text = text(&seen);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0"));
        expect![[r#"
            kubelet_node_name{node="n"} 1
            kubelet_desired_pods{static=""} 3
            kubelet_desired_pods{static="true"} 1
            kubelet_active_pods{static=""} 2
            kubelet_active_pods{static="true"} 1
            kubelet_mirror_pods 1
            kubelet_working_pods{config="desired",lifecycle="sync",static=""} 1
            kubelet_working_pods{config="desired",lifecycle="terminating",static=""} 1
            kubelet_working_pods{config="desired",lifecycle="terminated",static=""} 1
            kubelet_working_pods{config="orphan",lifecycle="terminating",static=""} 1
            kubelet_working_pods{config="desired",lifecycle="sync",static="true"} 1
            kubelet_certificate_manager_client_ttl_seconds +Inf
            kubelet_certificate_manager_server_ttl_seconds -1.5
            kubelet_volume_stats_available_bytes{namespace="ns",persistentvolumeclaim="data"} 60
            kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="data"} 100
            kubelet_volume_stats_inodes{namespace="ns",persistentvolumeclaim="data"} 10
            kubelet_volume_stats_inodes_free{namespace="ns",persistentvolumeclaim="data"} 7
            kubelet_volume_stats_inodes_used{namespace="ns",persistentvolumeclaim="data"} 3
            kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="data"} 40
            process_open_fds 7
        "#]]
        .assert_eq(&lines.map(|line| format!("{line}\n")).collect::<String>());
    }
}
