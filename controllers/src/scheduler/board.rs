//! [pure] The scheduler's state: nodes, what is taken of them, and the pods that wait.
//!
//! Pods wait in one of three places: ready to be tried, refused (until something changes that could help),
//! or paused until a time. Time comes as an argument.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::object::{created, is_deleting, is_finished, name, node_name, uid};

use super::filter::{self, Misfit, Refused};
use super::ledger::Ledger;
use super::request::Request;
use super::score;
use super::volumes::{Binding, Volumes};

/// A pod that shall run on a node, already counted there.
#[derive(Debug)]
pub(super) struct Placement {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    /// What is bound for it first.
    pub(super) volumes: Vec<Binding>,
}

/// A pod that no node takes, and why; only told when the reason is a new one.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) pod: Arc<Pod>,
    pub(super) message: String,
}

/// What to do with the next pod.
#[derive(Debug)]
pub(super) enum Decision {
    Place(Placement),
    Refuse(Refusal),
}

/// Order of trying: higher priority, then older, then by uid.
type Rank = (Reverse<i32>, Timestamp, String);

#[derive(Debug, Default)]
pub(super) struct Board {
    ledger: Ledger,
    volumes: Volumes,
    /// Pods without a node, by uid.
    waiting: HashMap<String, Waiting>,
    ready: BTreeSet<Rank>,
    paused: BTreeMap<(Instant, String), ()>,
    turn: usize,
}

#[derive(Debug)]
struct Waiting {
    pod: Arc<Pod>,
    told: Option<String>,
}

impl Board {
    /// A pod was added or changed.
    pub(super) fn pod(&mut self, pod: Arc<Pod>) {
        let id = uid(&pod.metadata).to_owned();
        if is_finished(&pod) {
            self.forget(&pod);
        } else if let Some(node) = node_name(&pod) {
            self.stop_waiting(&id);
            self.ledger.assign(&id, node, Request::of(&pod));
        } else if !is_ours(&pod) {
            self.stop_waiting(&id);
        } else if !self.ledger.is_assigned(&id) {
            self.wait(id, pod);
        }
    }

    /// A pod was removed.
    pub(super) fn pod_gone(&mut self, pod: &Pod) {
        self.forget(pod);
    }

    /// Stops caring for a pod; its place is free again.
    pub(super) fn forget(&mut self, pod: &Pod) {
        let id = uid(&pod.metadata);
        self.stop_waiting(id);
        if self.ledger.release(id) {
            self.try_all_again();
        }
    }

    /// A placement did not come about: its place is free, the pod is tried again later.
    pub(super) fn retry(&mut self, pod: Arc<Pod>, at: Instant) {
        let id = uid(&pod.metadata).to_owned();
        self.ledger.release(&id);
        self.waiting.insert(id.clone(), Waiting { pod, told: None });
        self.paused.insert((at, id), ());
    }

    /// A claim, a volume or a class changed: what waits for one may go on.
    pub(super) fn volumes(&mut self, change: impl FnOnce(&mut Volumes)) {
        change(&mut self.volumes);
        self.try_all_again();
    }

    /// What a placement would have bound is free again.
    pub(super) fn take_back(&mut self, bindings: &[Binding]) {
        self.volumes.take_back(bindings);
    }

    /// A node was added or changed.
    pub(super) fn node(&mut self, node: &Arc<Node>) {
        let old = self.ledger.get(name(&node.metadata)).map(|info| Arc::clone(&info.node));
        self.ledger.set_node(Arc::clone(node));
        if old.is_none_or(|old| matters(&old, node)) {
            self.try_all_again();
        }
    }

    /// A node was removed. The pods on it stay counted in case it comes back.
    pub(super) fn node_gone(&mut self, node: &str) {
        self.ledger.remove_node(node);
    }

    /// When a paused pod is due.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.paused.keys().next().map(|(at, _)| *at)
    }

    /// Decides about the next pod that is ready to be tried.
    pub(super) fn next(&mut self, now: Instant) -> Option<Decision> {
        self.ripen(now);
        while let Some((_, _, id)) = self.ready.pop_first() {
            let Some(waiting) = self.waiting.get_mut(&id) else { continue };
            let pod = Arc::clone(&waiting.pod);
            let request = Request::of(&pod);
            match place(&self.ledger, &self.volumes, &pod, &request, self.turn) {
                Ok((node, volumes)) => {
                    self.volumes.promise(&volumes);
                    self.turn = self.turn.wrapping_add(1);
                    self.waiting.remove(&id);
                    self.ledger.assign(&id, &node, request);
                    return Some(Decision::Place(Placement { pod, node, volumes }));
                }
                Err(refused) => {
                    let message = refused.to_string();
                    if waiting.told.as_ref() != Some(&message) {
                        waiting.told = Some(message.clone());
                        return Some(Decision::Refuse(Refusal { pod, message }));
                    }
                }
            }
        }
        None
    }

    fn wait(&mut self, id: String, pod: Arc<Pod>) {
        // A change of the status (often our own) is no reason to try again.
        if let Some(known) = self.waiting.get_mut(&id) {
            let same = known.pod.spec == pod.spec;
            known.pod = Arc::clone(&pod);
            if same {
                return;
            }
        } else {
            self.waiting.insert(id, Waiting { pod: Arc::clone(&pod), told: None });
        }
        self.ready.insert(rank(&pod));
    }

    fn stop_waiting(&mut self, id: &str) {
        if let Some(waiting) = self.waiting.remove(id) {
            self.ready.remove(&rank(&waiting.pod));
        }
    }

    fn try_all_again(&mut self) {
        self.ready.extend(self.waiting.values().map(|waiting| rank(&waiting.pod)));
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(((at, _), ())) = self.paused.first_key_value() {
            if *at > now {
                return;
            }
            if let Some(((_, id), ())) = self.paused.pop_first()
                && let Some(waiting) = self.waiting.get(&id)
            {
                self.ready.insert(rank(&waiting.pod));
            }
        }
    }
}

fn place(
    ledger: &Ledger,
    volumes: &Volumes,
    pod: &Pod,
    request: &Request,
    turn: usize,
) -> Result<(String, Vec<Binding>), Refused> {
    let mut refused = Refused::default();
    let Some(spec) = &pod.spec else { return Err(refused) };
    let needs = volumes.needs(pod).map_err(|why| Refused::everywhere(why, ledger.nodes().count()))?;
    let mut candidates = Vec::new();
    for info in ledger.nodes() {
        let bindings = || volumes.check(&needs, &info.node).map_err(Misfit::never);
        match filter::check(spec, request, info).and_then(|()| bindings()) {
            Ok(_) => candidates.push(info),
            Err(misfit) => refused.count(misfit),
        }
    }
    let best = score::best(spec, request, &candidates, turn).ok_or(refused)?;
    let bindings = volumes.check(&needs, &best.node).unwrap_or_default();
    Ok((name(&best.node.metadata).to_owned(), bindings))
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let scheduler = spec.scheduler_name.as_deref().unwrap_or("default-scheduler");
    scheduler == "default-scheduler" && !gated && !is_deleting(&pod.metadata)
}

/// Whether the change of a node can make a refused pod fit: heartbeats do not.
fn matters(old: &Node, new: &Node) -> bool {
    let allocatable = |node: &Node| node.status.as_ref().and_then(|status| status.allocatable.clone());
    let gates = |node: &Node| {
        let spec = node.spec.as_ref();
        (spec.and_then(|s| s.unschedulable), spec.and_then(|s| s.taints.clone()))
    };
    old.metadata.labels != new.metadata.labels
        || gates(old) != gates(new)
        || allocatable(old) != allocatable(new)
}

fn rank(pod: &Pod) -> Rank {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    (Reverse(priority), created(&pod.metadata), uid(&pod.metadata).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    /// Each line is an object or a removal (`- pod NAME`, `- node NAME`), then all decisions are made; shows
    /// `pod>node` for placements and `pod: why` for refusals.
    fn check(lines: &[&str], expected: Expect) {
        let (mut board, mut out, now) = (Board::default(), Vec::new(), Instant::now());
        for line in lines {
            let (kind, rest) = line.split_once(' ').unwrap();
            match (kind, rest.split_once(' ')) {
                ("pod", _) => board.pod(Arc::new(yaml(&pod(rest)))),
                ("node", _) => board.node(&Arc::new(yaml(&node(rest)))),
                ("-", Some(("pod", rest))) => board.pod_gone(&yaml(&pod(rest))),
                ("-", Some(("node", name))) => board.node_gone(name),
                _ => unreachable!("{line}"),
            }
            while let Some(decision) = board.next(now) {
                out.push(match decision {
                    Decision::Place(p) => format!("{}>{}", name(&p.pod.metadata), p.node),
                    Decision::Refuse(r) => format!("{}: {}", name(&r.pod.metadata), r.message),
                });
            }
        }
        expected.assert_eq(&out.join("\n"));
    }

    /// `NAME [CPU [more spec]]`
    fn pod(text: &str) -> String {
        let mut words = text.splitn(3, ' ');
        let (name, cpu, more) =
            (words.next().unwrap(), words.next().unwrap_or("0"), words.next().unwrap_or(""));
        format!(
            "{{metadata: {{name: {name}, uid: {name}}}, spec: {{containers: [{{name: c, resources: {{requests: {{cpu: {cpu}}}}}}}], {more}}}}}"
        )
    }

    /// `NAME CPU [more spec]`
    fn node(text: &str) -> String {
        let mut words = text.splitn(3, ' ');
        let (name, cpu, more) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        format!(
            "{{metadata: {{name: {name}, labels: {{n: {name}}}}}, spec: {{{more}}}, status: {{allocatable: {{cpu: {cpu}, memory: 4Gi, pods: 10}}}}}}"
        )
    }

    #[test]
    fn a_burst_is_spread_over_equal_nodes() {
        check(
            &["node a 4", "node b 4", "pod p1 1", "pod p2 1", "pod p3 1", "pod p4 1"],
            expect![[r#"
                p1>a
                p2>b
                p3>a
                p4>b"#]],
        );
    }

    #[test]
    fn what_does_not_fit_waits_for_room() {
        check(
            &["node a 2", "pod p1 1500m", "pod p2 1", "- pod p1"],
            expect![[r#"
                p1>a
                p2: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.
                p2>a"#]],
        );
    }

    #[test]
    fn what_can_never_fit_says_so() {
        check(
            &["node a 2", "node b 2 unschedulable: true", "pod p1 3"],
            expect![
                "p1: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn pods_wait_for_the_first_node() {
        check(
            &["pod p1 1", "node a 2"],
            expect![[r#"
                p1: no nodes available to schedule pods
                p1>a"#]],
        );
    }

    #[test]
    fn selectors_taints_and_ports_keep_pods_away() {
        check(
            &[
                "node a 2 taints: [{key: k, value: v, effect: NoSchedule}]",
                "pod p1 0",
                "pod p2 0 nodeSelector: {n: b}, tolerations: [{operator: Exists}]",
                "pod p3 0 tolerations: [{key: k, operator: Exists}]",
                "node b 2",
            ],
            expect![[r#"
                p1: 0/1 nodes are available: 1 node(s) had untolerated taint {k: v}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
                p2: 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.
                p3>a
                p1>b
                p2>b"#]],
        );
        let port = "pod NAME 0 hostNetwork: true, initContainers: [{name: s, restartPolicy: Always, ports: [{containerPort: 80, hostPort: 80}]}]";
        check(
            &["node a 2", &port.replace("NAME", "p1"), &port.replace("NAME", "p2")],
            expect![[r#"
                p1>a
                p2: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
        );
    }

    #[test]
    fn bound_and_foreign_pods_are_left_alone() {
        check(
            &[
                "node a 2",
                "pod p1 1500m nodeName: a",
                "pod p2 0 schedulerName: other",
                "pod p3 0 schedulingGates: [{name: g}]",
                "pod p4 1",
            ],
            expect![
                "p4: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
            ],
        );
    }

    #[test]
    fn a_heartbeat_repeats_no_refusal() {
        check(
            &["node a 1", "pod p1 2", "node a 1", "pod p1 2"],
            expect![
                "p1: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
            ],
        );
    }

    #[test]
    fn higher_priority_goes_first() {
        check(
            &["pod p1 1", "pod p2 1 priority: 10", "node a 1"],
            expect![[r#"
                p1: no nodes available to schedule pods
                p2: no nodes available to schedule pods
                p2>a
                p1: 0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."#]],
        );
    }
}
