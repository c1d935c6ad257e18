//! Pods: READY, STATUS and RESTARTS follow upstream's `printPod`, whose rules are about what a person should look
//! at first.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::read::{at, flag, list, number, or, since};
use super::{Printer, read, text, wide};
use crate::kinds::Gvk;

pub(super) const PRINTER: Printer = Printer {
    columns: &[
        text("Name"),
        text("Ready"),
        text("Status"),
        text("Restarts"),
        text("Age"),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let Summary { ready, total, status, restarts, last_restart } = summarize(pod);
    let restarts = match last_restart {
        Some(time) if restarts != 0 => format!("{restarts} ({} ago)", since(time, now)),
        _ => restarts.to_string(),
    };
    vec![
        read::name(pod),
        format!("{ready}/{total}").into(),
        status.into(),
        restarts.into(),
        read::age(pod, now),
        or(at(pod, "/status/podIPs/0/ip"), "<none>").into(),
        or(at(pod, "/spec/nodeName"), "<none>").into(),
        or(at(pod, "/status/nominatedNodeName"), "<none>").into(),
        readiness_gates(pod).into(),
    ]
}

#[derive(Default)]
struct Summary<'a> {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    /// RFC 3339 in UTC, so that text order is time order.
    last_restart: Option<&'a str>,
}

fn summarize(pod: &Value) -> Summary<'_> {
    let phase = at(pod, "/status/phase");
    let conditions = list(pod, "/status/conditions");
    let gated =
        conditions.iter().any(|c| at(c, "/type") == "PodScheduled" && at(c, "/reason") == "SchedulingGated");
    let mut status = or(at(pod, "/status/reason"), phase).to_owned();
    if gated {
        status = "SchedulingGated".to_owned();
    }

    let init = list(pod, "/spec/initContainers");
    let sidecars: Vec<&str> =
        init.iter().filter(|c| at(c, "/restartPolicy") == "Always").map(|c| at(c, "/name")).collect();
    let total = list(pod, "/spec/containers").len() + sidecars.len();
    let mut sum = Summary { total, status, ..Summary::default() };

    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    let mut initializing = false;
    for (i, container) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = sidecars.contains(&at(container, "/name"));
        sum.restarts += number(container, "/restartCount");
        sum.last_restart = sum.last_restart.max(finished_before(container));
        if sidecar {
            sidecar_restarts += number(container, "/restartCount");
            sidecar_last = sidecar_last.max(finished_before(container));
        }
        match init_status(container, sidecar, i, init.len()) {
            InitStep::Done => {}
            InitStep::Sidecar { ready } => sum.ready += usize::from(ready),
            InitStep::At(status) => {
                sum.status = status;
                initializing = true;
                break;
            }
        }
    }

    let initialized =
        conditions.iter().any(|c| at(c, "/type") == "Initialized" && at(c, "/status") == "True");
    if !initializing || initialized {
        (sum.restarts, sum.last_restart) = (sidecar_restarts, sidecar_last);
        running_containers(pod, conditions, &mut sum);
    }

    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        if at(pod, "/status/reason") == "NodeLost" {
            sum.status = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            sum.status = "Terminating".to_owned();
        }
    }
    sum
}

fn running_containers<'a>(pod: &'a Value, conditions: &[Value], sum: &mut Summary<'a>) {
    let mut has_running = false;
    // Backwards, so that the first container's trouble is what is shown.
    for container in list(pod, "/status/containerStatuses").iter().rev() {
        sum.restarts += number(container, "/restartCount");
        sum.last_restart = sum.last_restart.max(finished_before(container));
        let waiting = at(container, "/state/waiting/reason");
        let terminated = container.pointer("/state/terminated");
        if !waiting.is_empty() {
            sum.status = waiting.to_owned();
        } else if let Some(terminated) = terminated {
            sum.status = termination(terminated);
        } else if flag(container, "/ready") && container.pointer("/state/running").is_some() {
            has_running = true;
            sum.ready += 1;
        }
    }
    if sum.status == "Completed" && has_running {
        let ready = conditions.iter().any(|c| at(c, "/type") == "Ready" && at(c, "/status") == "True");
        sum.status = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

enum InitStep {
    Done,
    Sidecar { ready: bool },
    At(String),
}

fn init_status(container: &Value, sidecar: bool, index: usize, total: usize) -> InitStep {
    let terminated = container.pointer("/state/terminated");
    let waiting = at(container, "/state/waiting/reason");
    match terminated {
        Some(t) if number(t, "/exitCode") == 0 => InitStep::Done,
        _ if sidecar && flag(container, "/started") => InitStep::Sidecar { ready: flag(container, "/ready") },
        Some(t) => InitStep::At(format!("Init:{}", termination(t))),
        None if !waiting.is_empty() && waiting != "PodInitializing" => {
            InitStep::At(format!("Init:{waiting}"))
        }
        None => InitStep::At(format!("Init:{index}/{total}")),
    }
}

fn termination(terminated: &Value) -> String {
    let (reason, signal) = (at(terminated, "/reason"), number(terminated, "/signal"));
    match (reason, signal) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn finished_before(container: &Value) -> Option<&str> {
    container.pointer("/lastState/terminated/finishedAt").and_then(Value::as_str)
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let conditions = list(pod, "/status/conditions");
    let open = gates.iter().filter(|gate| {
        let condition = conditions.iter().find(|c| at(c, "/type") == at(gate, "/conditionType"));
        condition.is_some_and(|c| at(c, "/status") == "True")
    });
    format!("{}/{}", open.count(), gates.len())
}

/// Marks rows of finished pods, so that clients can hide them.
pub(super) fn row_conditions(gvk: &Gvk, object: &Value) -> Option<Value> {
    if gvk.kind != "Pod" || !gvk.group.is_empty() {
        return None;
    }
    let (reason, message) = match at(object, "/status/phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}
