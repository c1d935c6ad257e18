//! Which pod goes, and what it is told.
//!
//! Source of order and words: kubelet 1.34 (`pkg/kubelet/eviction/helpers.go`). Not for: whether one has to go.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use orlop_model::quantities::Quantity;

use super::judge::{Reached, Resource};

/// What a pod uses and asked for. Bytes, inodes, processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodUse {
    /// Pod UID.
    pub(super) uid: String,
    /// `spec.priority`.
    pub(super) priority: i32,
    /// Working set.
    pub(super) memory: u64,
    /// Asked for.
    pub(super) memory_request: u64,
    /// Writable layers, logs and emptyDirs.
    pub(super) disk: u64,
    /// Asked for.
    pub(super) disk_request: u64,
    /// Of the same.
    pub(super) inodes: u64,
    /// Processes.
    pub(super) pids: u64,
    /// By container.
    pub(super) containers: Vec<ContainerUse>,
}

/// What a container uses and asked for, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ContainerUse {
    pub(super) name: String,
    pub(super) memory: u64,
    pub(super) memory_request: u64,
    pub(super) disk: u64,
    pub(super) disk_request: u64,
}

/// The one to go first, if there is any.
pub(super) fn first(resource: Resource, pods: &[PodUse]) -> Option<&PodUse> {
    // Those that use more than they asked for, then by importance, then by how much more.
    let over = |usage: u64, request: u64| i128::from(usage) - i128::from(request);
    pods.iter().min_by_key(|pod| {
        let (within, beyond) = match resource {
            Resource::Memory => (pod.memory <= pod.memory_request, over(pod.memory, pod.memory_request)),
            Resource::EphemeralStorage => (pod.disk <= pod.disk_request, over(pod.disk, pod.disk_request)),
            Resource::Inodes => (false, over(pod.inodes, 0)),
            Resource::Pids => (false, over(pod.pids, 0)),
        };
        (within, pod.priority, Reverse(beyond), pod.uid.clone())
    })
}

/// What users are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notice {
    /// In the pod's status and the event.
    pub(super) message: String,
    /// For programs that read the event.
    pub(super) annotations: BTreeMap<String, String>,
}

/// Why this pod.
pub(super) fn notice(reached: &Reached, pod: &PodUse) -> Notice {
    let resource = reached.measure.resource();
    let bytes = matches!(resource, Resource::Memory | Resource::EphemeralStorage);
    let amount = |units: u64| match bytes {
        true => quantity(units),
        false => units.to_string(),
    };
    let name = resource.name();
    let mut text = format!(
        "The node was low on resource: {name}. Threshold quantity: {}, available: {}. ",
        amount(reached.least),
        amount(reached.available)
    );
    let (mut offending, mut usages) = (Vec::new(), Vec::new());
    for container in &pod.containers {
        let (usage, request) = match resource {
            Resource::Memory => (container.memory, container.memory_request),
            Resource::EphemeralStorage => (container.disk, container.disk_request),
            Resource::Inodes | Resource::Pids => continue,
        };
        if usage > request {
            // Writing to a string does not fail.
            let _always_works = write!(
                text,
                "Container {} was using {}, request is {}, has larger consumption of {name}. ",
                container.name,
                quantity(usage),
                quantity(request)
            );
            offending.push(container.name.as_str());
            usages.push(quantity(usage));
        }
    }
    let annotations = [
        ("starved_resource", name.to_owned()),
        ("offending_containers", offending.join(",")),
        ("offending_containers_usage", usages.join(",")),
    ];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value)).into();
    Notice { message: text, annotations }
}

/// `100Mi`.
pub(super) fn quantity(bytes: u64) -> String {
    Quantity::from_bytes(i64::try_from(bytes).unwrap_or(i64::MAX)).to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::{config::kubelet::eviction::Signal, evict::judge::Measure};

    /// Lines of `uid priority usage request`; the order in which they go.
    fn check(resource: Resource, pods: &str, expected: Expect) {
        let mut pods: Vec<_> = pods
            .lines()
            .map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                let [uid, priority, usage, request] = words[..] else { panic!("{line}") };
                let (usage, request) = (usage.parse().unwrap(), request.parse().unwrap());
                PodUse {
                    uid: uid.to_owned(),
                    priority: priority.parse().unwrap(),
                    memory: usage,
                    memory_request: request,
                    disk: usage,
                    disk_request: request,
                    inodes: usage,
                    pids: usage,
                    containers: Vec::new(),
                }
            })
            .collect();
        let mut order = Vec::new();
        while let Some(uid) = first(resource, &pods).map(|pod| pod.uid.clone()) {
            pods.retain(|pod| pod.uid != uid);
            order.push(uid);
        }
        expected.assert_eq(&order.join(" "));
    }

    #[test]
    fn memory_beyond_requests_goes_first_then_the_least_important_then_the_largest() {
        let pods = "guaranteed 0 100 100\nsmall 0 60 10\nlarge 0 500 10\nimportant 10 900 0\nbest-effort 0 55 0\nwithin 0 5 50";
        check(Resource::Memory, pods, expect!["large best-effort small important guaranteed within"]);
        check(
            Resource::EphemeralStorage,
            pods,
            expect!["large best-effort small important guaranteed within"],
        );
    }

    #[test]
    fn inodes_and_processes_know_no_requests() {
        let pods = "a 0 5 100\nb 10 500 0\nc 0 7 0";
        check(Resource::Inodes, pods, expect!["c a b"]);
        check(Resource::Pids, pods, expect!["c a b"]);
    }

    #[test]
    fn nobody_is_there() {
        assert_eq!(first(Resource::Memory, &[]), None);
    }

    fn said(measure: Measure) -> Notice {
        let container = |name: &str, usage, request| ContainerUse {
            name: name.to_owned(),
            memory: usage,
            memory_request: request,
            disk: usage,
            disk_request: request,
        };
        let containers = vec![container("c", 200 << 20, 0), container("d", 5, 5)];
        let reached = Reached { measure, least: 100 << 20, available: 60 << 20, hard: true };
        notice(&reached, &PodUse { containers, ..PodUse::default() })
    }

    #[test]
    fn words() {
        expect!["The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. Container c was using 200Mi, request is 0, has larger consumption of memory. "].assert_eq(&said(Measure::PodsMemory).message);
        expect!["The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 60Mi. Container c was using 200Mi, request is 0, has larger consumption of ephemeral-storage. "].assert_eq(&said(Measure::Node(Signal::NodefsAvailable)).message);
        expect!["The node was low on resource: pids. Threshold quantity: 104857600, available: 62914560. "]
            .assert_eq(&said(Measure::Node(Signal::PidAvailable)).message);
    }

    #[test]
    fn programs_are_told_who_took_how_much_of_what() {
        let shown = |measure| format!("{:?}", said(measure).annotations);
        expect![[r#"{"offending_containers": "c", "offending_containers_usage": "200Mi", "starved_resource": "memory"}"#]]
            .assert_eq(&shown(Measure::PodsMemory));
        expect![[
            r#"{"offending_containers": "", "offending_containers_usage": "", "starved_resource": "pids"}"#
        ]]
        .assert_eq(&shown(Measure::Node(Signal::PidAvailable)));
    }
}
