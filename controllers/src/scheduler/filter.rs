//! [pure] Whether a pod can run on a node, and if not, why, in upstream's words.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::PodSpec;

use super::affinity;
use super::ledger::NodeInfo;
use super::request::Request;

/// Why one node does not take the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misfit {
    reasons: Vec<String>,
    /// Whether the removal of other pods could help.
    resolvable: bool,
}

/// Checks a node in upstream's order of filters; the first that fails decides.
pub(super) fn check(spec: &PodSpec, request: &Request, info: &NodeInfo) -> Result<(), Misfit> {
    let never = |reason: String| Err(Misfit { reasons: vec![reason], resolvable: false });
    let node = &info.node;
    let cordoned = node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
    if cordoned && !tolerates_cordon(spec) {
        return never("node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = affinity::untolerated(spec, node) {
        let value = taint.value.as_deref().unwrap_or_default();
        return never(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key));
    }
    if !affinity::accepts(spec, node) {
        return never("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if request.ports.iter().any(|port| info.ports.iter().any(|taken| taken.clashes(port))) {
        let reason = "node(s) didn't have free ports for the requested pod ports".to_owned();
        return Err(Misfit { reasons: vec![reason], resolvable: true });
    }
    fits(request, info)
}

fn tolerates_cordon(spec: &PodSpec) -> bool {
    let taint = k8s_openapi::api::core::v1::Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Default::default()
    };
    spec.tolerations.iter().flatten().any(|toleration| affinity::tolerates(toleration, &taint))
}

fn fits(request: &Request, info: &NodeInfo) -> Result<(), Misfit> {
    let mut misfit = Misfit { reasons: Vec::new(), resolvable: true };
    let allocatable = |name: &str| info.allocatable.get(name).copied().unwrap_or(0);
    if info.pods + 1 > allocatable("pods") {
        misfit.reasons.push("Too many pods".to_owned());
    }
    for (name, amount) in &request.amounts {
        let used = info.used.get(name).copied().unwrap_or(0);
        if used + amount > allocatable(name) {
            misfit.reasons.push(format!("Insufficient {name}"));
            misfit.resolvable &= *amount <= allocatable(name);
        }
    }
    if misfit.reasons.is_empty() { Ok(()) } else { Err(misfit) }
}

impl Misfit {
    /// What no removal of pods changes.
    pub(super) fn never(reason: &str) -> Misfit {
        Misfit { reasons: vec![reason.to_owned()], resolvable: false }
    }
}

/// Why no node takes the pod: what the event and the condition say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Refused {
    nodes: usize,
    /// What keeps it from every node.
    everywhere: Option<String>,
    reasons: BTreeMap<String, usize>,
    resolvable: usize,
}

impl Refused {
    /// For the same reason by every node.
    pub(super) fn everywhere(reason: String, nodes: usize) -> Refused {
        Refused { nodes, everywhere: Some(reason), ..Refused::default() }
    }

    pub(super) fn count(&mut self, misfit: Misfit) {
        self.nodes += 1;
        self.resolvable += usize::from(misfit.resolvable);
        for reason in misfit.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let list = |reasons: &mut Vec<String>| {
            reasons.sort();
            reasons.join(", ")
        };
        let mut reasons: Vec<_> = self.reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
        reasons.extend(self.everywhere.clone());
        let mut preemption = Vec::new();
        if self.resolvable > 0 {
            preemption.push(format!("{} No preemption victims found for incoming pod", self.resolvable));
        }
        if self.resolvable < nodes {
            preemption.push(format!("{} Preemption is not helpful for scheduling", nodes - self.resolvable));
        }
        let (reasons, preemption) = (list(&mut reasons), list(&mut preemption));
        write!(f, "0/{nodes} nodes are available: {reasons}. ")?;
        write!(f, "preemption: 0/{nodes} nodes are available: {preemption}.")
    }
}
