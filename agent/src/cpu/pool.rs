//! Who holds which processors: the static policy of upstream's CPU manager. Pure.
//!
//! Containers of Guaranteed pods that ask for whole processors get them for themselves, for as long as their pod is
//! there; all others share the rest. Not for: writing cpusets.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{
    choose::{How, choose},
    set::CpuSet,
    topology::{Topology, Unit},
};
use crate::{
    pod::{admission::Refused, resources},
    topology::{self, Hints, Nodes},
};

/// What a pod's containers would get, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    held: Held,
    /// What init containers had that have ended by then.
    again: CpuSet,
}

/// By name of the container.
pub type Held = BTreeMap<String, CpuSet>;

/// The processors of this machine.
#[derive(Clone, Debug)]
pub struct Pool {
    machine: Topology,
    reserved: CpuSet,
    how: How,
    /// Nobody runs on the reserved ones, not those who share either (`strict-cpu-reservation`).
    strict: bool,
    held: BTreeMap<String, Held>,
}

impl Pool {
    /// With none held. `reserved` are those that nobody gets for itself; if none are named, `count` are chosen.
    #[must_use]
    pub fn new(machine: Topology, reserved: CpuSet, count: usize, how: How, strict: bool) -> Pool {
        let named = (!reserved.is_empty()).then_some(reserved);
        let chosen = named.or_else(|| choose(&machine, &machine.all(), count, How::default()));
        // More than there are: all.
        let reserved = chosen.unwrap_or_else(|| machine.all());
        Pool { machine, reserved, how, strict, held: BTreeMap::new() }
    }

    /// What is left for those who have none for themselves.
    #[must_use]
    pub fn shared(&self) -> CpuSet {
        let rest = &self.machine.all() - &self.taken();
        if self.strict { &rest - &self.reserved } else { rest }
    }

    /// All that are on and not kept for the system.
    #[must_use]
    pub fn allocatable(&self) -> CpuSet {
        &self.machine.all() - &self.reserved
    }

    /// What a container has for itself.
    #[must_use]
    pub fn held(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.held.get(uid)?.get(container)
    }

    /// What all containers of a pod have for themselves.
    #[must_use]
    pub fn of_pod(&self, uid: &str) -> Option<&Held> {
        self.held.get(uid)
    }

    /// Takes over what a pod that is there already was given.
    pub fn adopt(&mut self, uid: &str, held: Held) {
        self.held.insert(uid.to_owned(), held);
    }

    /// Gives back what pods held that are no more.
    pub fn retain(&mut self, active: &HashSet<String>) {
        self.held.retain(|uid, _| active.contains(uid));
    }

    /// Gives back what one pod held.
    pub fn release(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// Gives a pod's containers what they ask for, all or none.
    ///
    /// # Errors
    /// There is not enough; in upstream's words.
    pub fn admit(&mut self, uid: &str, spec: &PodSpec) -> Result<(), Refused> {
        let mut draft = Draft::default();
        for (container, ends) in resources::in_order(spec) {
            self.add(&mut draft, spec, container, ends, None)?;
        }
        self.keep(uid, draft);
        Ok(())
    }

    /// Memory nodes of the machine.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        self.machine.nodes()
    }

    /// From where so many could be had, after what was drafted.
    #[must_use]
    pub fn hints(&self, draft: &Draft, count: usize) -> Hints {
        if count == 0 {
            return None;
        }
        let (all, free) = (self.allocatable(), self.free(draft));
        let on = |nodes: Nodes, cpus: &CpuSet| (&self.on(nodes) & cpus).len();
        Some(topology::ways(self.nodes(), count, |nodes| on(nodes, &all), |nodes| on(nodes, &free)))
    }

    /// Gives a container what it asks for, from these memory nodes as far as they do. `ends` are init containers.
    ///
    /// # Errors
    /// There is not enough; in upstream's words.
    pub fn add(
        &self,
        draft: &mut Draft,
        spec: &PodSpec,
        container: &Container,
        ends: bool,
        nodes: Option<Nodes>,
    ) -> Result<(), Refused> {
        let count = resources::whole_cpus(spec, container);
        if count > 0 {
            let cpus = self.take(count, draft, nodes)?;
            // Those of init containers that end are the next ones'.
            draft.again = if ends { &draft.again | &cpus } else { &draft.again - &cpus };
            draft.held.insert(container.name.clone(), cpus);
        }
        Ok(())
    }

    /// Makes a draft true.
    pub fn keep(&mut self, uid: &str, draft: Draft) {
        if !draft.held.is_empty() {
            self.held.insert(uid.to_owned(), draft.held);
        }
    }

    /// The processors of memory nodes.
    fn on(&self, nodes: Nodes) -> CpuSet {
        let units = self.machine.units(Unit::Node).into_iter().filter(|(node, _)| nodes.has(*node));
        units.fold(CpuSet::default(), |all, (_, cpus)| &all | &cpus)
    }

    fn free(&self, draft: &Draft) -> CpuSet {
        let own = draft.held.values().fold(CpuSet::default(), |all, cpus| &all | cpus);
        &(&(&self.allocatable() - &self.taken()) - &own) | &draft.again
    }

    fn take(&self, count: usize, draft: &Draft, nodes: Option<Nodes>) -> Result<CpuSet, Refused> {
        let (free, again) = (self.free(draft), &draft.again);
        let per_core = self.machine.per_core();
        if self.how.whole_cores && !count.is_multiple_of(per_core) {
            return Err(Refused {
                reason: "SMTAlignmentError".to_owned(),
                text: format!(
                    "SMT Alignment Error: requested {count} cpus not multiple cpus per core = {per_core}"
                ),
            });
        }
        // What an init container gave back is used first, and only then something else.
        let first = choose(&self.machine, again, count.min(again.len()), self.how).unwrap_or_default();
        let near = nodes.map(|nodes| &(&self.on(nodes) & &free) - &first).unwrap_or_default();
        let left = count - first.len();
        let near = choose(&self.machine, &near, left.min(near.len()), self.how).unwrap_or_default();
        let first = &first | &near;
        let rest = choose(&self.machine, &(&free - &first), count - first.len(), self.how);
        rest.map(|rest| &first | &rest).ok_or_else(|| {
            let available = free.len();
            let error = format!(
                "not enough cpus available to satisfy request: requested={count}, available={available}"
            );
            Refused {
                reason: "UnexpectedAdmissionError".to_owned(),
                text: format!("Allocate failed due to {error}, which is unexpected"),
            }
        })
    }

    fn taken(&self) -> CpuSet {
        self.held.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, cpus| &all | cpus)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    fn guaranteed(containers: &[(&str, &str)], init: &[(&str, &str)]) -> PodSpec {
        let list = |containers: &[(&str, &str)]| {
            let one = |(name, cpu): &(&str, &str)| {
                let policy = if name.starts_with("side") { ", restartPolicy: Always" } else { "" };
                format!("{{name: {name}, resources: {{limits: {{cpu: '{cpu}', memory: 1Mi}}}}{policy}}}")
            };
            containers.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let text = format!("{{containers: [{}], initContainers: [{}]}}", list(containers), list(init));
        serde_norway::from_str(&text).unwrap()
    }

    fn pool(how: How) -> Pool {
        Pool::new(Topology::regular(1, 4, 2), "0,4".parse().unwrap(), 0, how, false)
    }

    fn shown(pool: &Pool) -> String {
        let mut text = format!("shared {}", pool.shared());
        for (uid, held) in &pool.held {
            for (name, cpus) in held {
                write!(text, ", {uid}/{name} {cpus}").unwrap();
            }
        }
        text
    }

    #[test]
    fn whole_processors_are_for_one_alone() {
        let mut pool = pool(How::default());
        pool.admit("a", &guaranteed(&[("one", "2"), ("half", "500m")], &[])).unwrap();
        assert_eq!(shown(&pool), "shared 0,2-4,6-7, a/one 1,5");
        pool.admit("b", &guaranteed(&[("x", "1")], &[("init", "3"), ("side", "1")])).unwrap();
        assert_eq!(shown(&pool), "shared 0,4,7, a/one 1,5, b/init 2-3,6, b/side 3, b/x 2");
        let refused = pool.admit("c", &guaranteed(&[("x", "2")], &[])).unwrap_err();
        assert_eq!(refused.reason, "UnexpectedAdmissionError");
        assert_eq!(
            refused.text,
            "Allocate failed due to not enough cpus available to satisfy request: requested=2, available=1, which is \
             unexpected"
        );
        pool.retain(&HashSet::from(["b".to_owned()]));
        pool.admit("c", &guaranteed(&[("x", "2")], &[])).unwrap();
        assert_eq!(shown(&pool), "shared 0,4,7, b/init 2-3,6, b/side 3, b/x 2, c/x 1,5");
        let burstable: PodSpec =
            serde_norway::from_str("{containers: [{name: c, resources: {requests: {cpu: '4'}}}]}").unwrap();
        pool.admit("d", &burstable).unwrap();
        assert_eq!(pool.of_pod("d"), None);
    }

    #[test]
    fn options_are_kept_to() {
        let mut whole = pool(How { whole_cores: true, spread: false });
        let refused = whole.admit("a", &guaranteed(&[("x", "1")], &[])).unwrap_err();
        assert_eq!(refused.reason, "SMTAlignmentError");
        assert_eq!(refused.text, "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2");
        whole.admit("a", &guaranteed(&[("x", "2")], &[])).unwrap();
        assert_eq!(shown(&whole), "shared 0,2-4,6-7, a/x 1,5");
        let strict = Pool { strict: true, ..pool(How::default()) };
        assert_eq!(strict.shared().to_string(), "1-3,5-7");
        let counted = Pool::new(Topology::regular(1, 2, 1), CpuSet::default(), 1, How::default(), false);
        assert_eq!(
            (counted.shared().to_string(), counted.allocatable().to_string()),
            ("0-1".into(), "1".into())
        );
        let too_many = Pool::new(Topology::regular(1, 2, 1), CpuSet::default(), 3, How::default(), false);
        assert!(too_many.allocatable().is_empty());
    }

    proptest! {
        #[test]
        fn nobody_shares_what_another_has_for_itself(
            steps in proptest::collection::vec((0_u32..6, any::<bool>(), 1_u32..4, 0_u32..3), 1..30),
        ) {
            let mut pool = Pool::new(Topology::regular(2, 4, 2), "0".parse().unwrap(), 0, How::default(), false);
            let mut active = HashSet::new();
            for (pod, comes, first, second) in steps {
                let uid = pod.to_string();
                if !comes {
                    active.remove(&uid);
                    pool.retain(&active);
                } else if active.insert(uid.clone()) {
                    let (first, second) = (first.to_string(), second.to_string());
                    if pool.admit(&uid, &guaranteed(&[("a", &first), ("b", &second)], &[])).is_err() {
                        active.remove(&uid);
                    }
                }
                let mut seen = pool.shared();
                for cpus in pool.held.values().flat_map(BTreeMap::values) {
                    prop_assert!((&seen & cpus).is_empty());
                    seen = &seen | cpus;
                }
                prop_assert_eq!(&seen, &pool.machine.all());
                prop_assert!(pool.shared().contains(0));
            }
        }
    }
}
