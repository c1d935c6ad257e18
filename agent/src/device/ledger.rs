//! Which devices there are, and who has which. Pure.
//!
//! Not for: talking to plugins.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use orlop_model::quantities::Quantity;

use super::grant::{Extras, Grant, Grants};
use crate::{
    pod::resources,
    topology::{self, Hints, Nodes},
};

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// It can be given to containers.
    pub healthy: bool,
    /// Memory nodes that it is near to.
    pub nodes: Vec<i64>,
}

/// How many of a resource the node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All.
    pub capacity: u64,
    /// Healthy ones.
    pub allocatable: u64,
}

/// What was set aside for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of the container.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// From where, if that matters.
    pub nodes: Option<Nodes>,
}

/// What a pod's containers would get, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    grants: Grants,
    wanted: Vec<Wanted>,
    /// Devices of init containers that have ended by then.
    again: BTreeMap<String, BTreeSet<String>>,
}

impl Device {
    fn is_on(&self, nodes: Nodes) -> bool {
        self.nodes.iter().any(|node| u32::try_from(*node).is_ok_and(|node| nodes.has(node)))
    }
}

/// What a plugin may choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// All that may be.
    pub available: BTreeSet<String>,
    /// What must be, of these.
    pub included: BTreeSet<String>,
    /// How many.
    pub count: usize,
}

/// All devices.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    offered: BTreeMap<String, BTreeMap<String, Device>>,
    held: BTreeMap<String, Grants>,
}

impl Ledger {
    /// There is, or was, a plugin for this resource. What it has is not known until it says so.
    pub fn expect(&mut self, resource: &str) {
        self.offered.entry(resource.to_owned()).or_default();
    }

    /// All devices of a resource.
    pub fn offer(&mut self, resource: &str, devices: BTreeMap<String, Device>) {
        self.offered.insert(resource.to_owned(), devices);
    }

    /// There is nobody who could hand them out.
    pub fn none_healthy(&mut self, resource: &str) {
        for device in self.offered.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
            device.healthy = false;
        }
    }

    /// There are none any more; the resource stays known.
    pub fn forget(&mut self, resource: &str) {
        self.offered.insert(resource.to_owned(), BTreeMap::new());
    }

    /// How many there are of each.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let counts = |devices: &BTreeMap<String, Device>| Counts {
            capacity: count(devices.len()),
            allocatable: count(devices.values().filter(|device| device.healthy).count()),
        };
        self.offered.iter().map(|(resource, devices)| (resource.clone(), counts(devices))).collect()
    }

    /// Healthy ones with their memory nodes.
    #[must_use]
    pub fn healthy(&self) -> BTreeMap<String, BTreeMap<String, Vec<i64>>> {
        let healthy = |devices: &BTreeMap<String, Device>| {
            let healthy = devices.iter().filter(|(_, device)| device.healthy);
            healthy.map(|(id, device)| (id.clone(), device.nodes.clone())).collect()
        };
        self.offered.iter().map(|(resource, devices)| (resource.clone(), healthy(devices))).collect()
    }

    /// Memory nodes of one.
    #[must_use]
    pub fn nodes_of(&self, resource: &str, id: &str) -> Vec<i64> {
        let device = self.offered.get(resource).and_then(|devices| devices.get(id));
        device.map(|device| device.nodes.clone()).unwrap_or_default()
    }

    /// Sets devices aside for a pod, all or none. Resources that no plugin ever offered are not our business.
    ///
    /// # Errors
    /// There are not enough; in upstream's words.
    pub fn reserve(&mut self, uid: &str, spec: &PodSpec) -> Result<Vec<Wanted>, String> {
        let mut draft = Draft::default();
        for (container, ends) in resources::in_order(spec) {
            self.add(&mut draft, container, ends, None)?;
        }
        Ok(self.keep(uid, draft))
    }

    /// From where what is asked for could be had, after what was drafted, by resource.
    #[must_use]
    pub fn hints(&self, draft: &Draft, machine: Nodes, asked: &[(String, usize)]) -> Vec<Hints> {
        let hints = |(resource, count): &(String, usize)| {
            let devices = self.offered.get(resource)?;
            let healthy: Vec<_> = devices.iter().filter(|(_, device)| device.healthy).collect();
            // Where none says where it is, it does not matter.
            if *count == 0 || healthy.iter().all(|(_, device)| device.nodes.is_empty()) {
                return None;
            }
            let free: BTreeSet<_> = self.free(draft, resource).collect();
            let all = |nodes| healthy.iter().filter(|(_, device)| device.is_on(nodes)).count();
            let on = |nodes| {
                healthy.iter().filter(|(id, device)| device.is_on(nodes) && free.contains(id)).count()
            };
            Some(topology::ways(machine, *count, all, on))
        };
        asked.iter().map(hints).collect()
    }

    /// Sets devices aside for a container, from these memory nodes as far as they do. `ends` are init containers.
    ///
    /// # Errors
    /// There are not enough; in upstream's words.
    pub fn add(
        &self,
        draft: &mut Draft,
        container: &Container,
        ends: bool,
        nodes: Option<Nodes>,
    ) -> Result<(), String> {
        for (resource, count) in asked(container) {
            let Some(devices) = self.offered.get(&resource) else { continue };
            if !devices.values().any(|device| device.healthy) {
                return Err(format!(
                    "no healthy devices present; cannot allocate unhealthy devices {resource}"
                ));
            }
            let mut free: Vec<_> = self.free(draft, &resource).collect();
            if free.len() < count {
                let available = free.len();
                return Err(format!(
                    "requested number of devices unavailable for {resource}. Requested: {count}, Available: {available}"
                ));
            }
            let again = draft.again.get(&resource);
            let is_again = |id: &String| again.is_some_and(|again| again.contains(id));
            let far = |id: &String| nodes.is_some_and(|nodes| !devices[id].is_on(nodes));
            free.sort_by_key(|id| (!is_again(id), far(id)));
            let ids: BTreeSet<String> = free.into_iter().take(count).cloned().collect();
            let again = draft.again.entry(resource.clone()).or_default();
            match ends {
                true => again.extend(ids.iter().cloned()),
                false => again.retain(|id| !ids.contains(id)),
            }
            draft.grants.entry(container.name.clone()).or_default().resources.insert(resource.clone(), ids);
            draft.wanted.push(Wanted { container: container.name.clone(), resource, nodes });
        }
        Ok(())
    }

    /// Makes a draft true; what plugins have to be asked for.
    pub fn keep(&mut self, uid: &str, draft: Draft) -> Vec<Wanted> {
        if !draft.grants.is_empty() {
            self.held.insert(uid.to_owned(), draft.grants);
        }
        draft.wanted
    }

    /// Healthy ones that nobody has, nor a container that was drafted, but what that gives back.
    fn free<'a>(&'a self, draft: &'a Draft, resource: &'a str) -> impl Iterator<Item = &'a String> {
        let own = draft.grants.values().filter_map(|grant| grant.resources.get(resource)).flatten();
        let again = draft.again.get(resource);
        let is_again = move |id: &String| again.is_some_and(|again| again.contains(id));
        let taken: BTreeSet<&String> = own.chain(self.taken(resource)).filter(|id| !is_again(id)).collect();
        let devices = self.offered.get(resource).into_iter().flatten();
        devices.filter(move |(id, device)| device.healthy && !taken.contains(id)).map(|(id, _)| id)
    }

    fn taken<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a String> {
        let grants = self.held.values().flat_map(BTreeMap::values);
        grants.filter_map(move |grant| grant.resources.get(resource)).flatten()
    }

    /// What a container has of a resource.
    #[must_use]
    pub fn held(&self, uid: &str, container: &str, resource: &str) -> BTreeSet<String> {
        let grant = self.held.get(uid).and_then(|grants| grants.get(container));
        grant.and_then(|grant| grant.resources.get(resource)).cloned().unwrap_or_default()
    }

    /// What a plugin may choose from for a container that has some set aside: these, and what is free.
    #[must_use]
    pub fn choice(&self, uid: &str, wanted: &Wanted) -> Choice {
        let Wanted { container, resource, nodes } = wanted;
        let own = self.held(uid, container, resource);
        let taken: BTreeSet<_> = self.taken(resource).collect();
        // What it shares with a container of its own pod was chosen for that one before.
        let others = self.held.get(uid).into_iter().flatten().filter(|(name, _)| *name != container);
        let shared: BTreeSet<_> =
            others.filter_map(|(_, grant)| grant.resources.get(resource)).flatten().collect();
        let devices = self.offered.get(resource).into_iter().flatten();
        let near = |device: &Device| nodes.is_none_or(|nodes| device.is_on(nodes));
        let free = devices
            .filter(|(id, device)| device.healthy && near(device) && !taken.contains(id))
            .map(|(id, _)| id);
        Choice {
            count: own.len(),
            included: own.iter().filter(|id| shared.contains(id)).cloned().collect(),
            available: free.cloned().chain(own).collect(),
        }
    }

    /// Takes others than those set aside, if that many are preferred and nobody else has them.
    pub fn swap(&mut self, uid: &str, wanted: &Wanted, preferred: &BTreeSet<String>) {
        let choice = self.choice(uid, wanted);
        let Wanted { container, resource, .. } = wanted;
        let good = preferred.len() == choice.count
            && preferred.is_subset(&choice.available)
            && choice.included.is_subset(preferred);
        if good && let Some(grant) = self.held.get_mut(uid).and_then(|grants| grants.get_mut(container)) {
            grant.resources.insert(resource.clone(), preferred.clone());
        }
    }

    /// Adds what a plugin gives with its devices.
    pub fn fill(&mut self, uid: &str, container: &str, extras: Extras) {
        if let Some(grant) = self.held.get_mut(uid).and_then(|grants| grants.get_mut(container)) {
            grant.extras.add(extras);
        }
    }

    /// What all containers of a pod have.
    #[must_use]
    pub fn of_pod(&self, uid: &str) -> Option<&Grants> {
        self.held.get(uid)
    }

    /// Takes over what a pod that is there already has.
    pub fn adopt(&mut self, uid: &str, grants: Grants) {
        for resource in grants.values().flat_map(|grant: &Grant| grant.resources.keys()) {
            self.offered.entry(resource.clone()).or_default();
        }
        self.held.insert(uid.to_owned(), grants);
    }

    /// Gives back what one pod held.
    pub fn release(&mut self, uid: &str) {
        self.held.remove(uid);
    }

    /// Gives back what pods held that are no more.
    pub fn retain(&mut self, active: &HashSet<String>) {
        self.held.retain(|uid, _| active.contains(uid));
    }
}

/// Whole numbers of resources of vendors: `vendor.example/device`.
#[must_use]
pub fn asked(container: &Container) -> Vec<(String, usize)> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let of_vendor = |name: &str| name.split_once('/').is_some_and(|(domain, _)| !is_own(domain));
    let asked =
        limits.into_iter().flatten().filter(|(name, _)| of_vendor(name)).filter_map(|(name, amount)| {
            let amount = usize::try_from(Quantity::parse(&amount.0).ok()?.value()).ok()?;
            (amount > 0).then(|| (name.clone(), amount))
        });
    asked.collect()
}

/// Kubernetes' own resources are no devices.
fn is_own(domain: &str) -> bool {
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// Whether a plugin may offer a resource of this name.
#[must_use]
pub fn is_resource_name(name: &str) -> bool {
    let vendor = name.split_once('/').is_some_and(|(domain, _)| !is_own(domain));
    // Quotas name it with this in front.
    vendor
        && !name.starts_with("requests.")
        && orlop_model::names::is_label_key(&format!("requests.{name}")).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GPU: &str = "v.example/gpu";

    fn offered(healthy: &[&str], unhealthy: &[&str]) -> BTreeMap<String, Device> {
        let all = healthy.iter().map(|id| (id, true)).chain(unhealthy.iter().map(|id| (id, false)));
        all.map(|(id, healthy)| ((*id).to_owned(), Device { healthy, nodes: vec![0] })).collect()
    }

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.offer(GPU, offered(&["a", "b", "c"], &["x"]));
        ledger
    }

    fn pod(containers: &[(&str, u32)], init: &[(&str, u32)]) -> PodSpec {
        let list = |containers: &[(&str, u32)]| {
            let one = |(name, count): &(&str, u32)| {
                let policy = if name.starts_with("side") { ", restartPolicy: Always" } else { "" };
                format!(
                    "{{name: {name}, resources: {{limits: {{v.example/gpu: '{count}', cpu: '1'}}}}{policy}}}"
                )
            };
            containers.iter().map(one).collect::<Vec<_>>().join(", ")
        };
        let text = format!("{{containers: [{}], initContainers: [{}]}}", list(containers), list(init));
        serde_norway::from_str(&text).unwrap()
    }

    fn shown(ledger: &Ledger, uid: &str) -> String {
        let of = |(name, grant): (&String, &Grant)| {
            let ids = grant.resources.get(GPU).into_iter().flatten().cloned().collect::<Vec<_>>();
            format!("{name}={}", ids.join("+"))
        };
        ledger.of_pod(uid).into_iter().flatten().map(of).collect::<Vec<_>>().join(" ")
    }

    fn set(ids: &str) -> BTreeSet<String> {
        ids.split_whitespace().map(str::to_owned).collect()
    }

    fn wanted_by(container: &str) -> Wanted {
        Wanted { container: container.into(), resource: GPU.into(), nodes: None }
    }

    #[test]
    fn devices_come_from_where_they_are_wanted() {
        let mut ledger = Ledger::default();
        let on = |nodes: &[i64]| Device { healthy: true, nodes: nodes.to_vec() };
        ledger.offer(GPU, [("a".into(), on(&[0])), ("b".into(), on(&[1])), ("c".into(), on(&[1]))].into());
        ledger.offer("v.example/anywhere", [("x".into(), on(&[]))].into());
        let machine = Nodes::from_iter([0, 1]);
        let draft = Draft::default();
        let asked =
            [(GPU.to_owned(), 2), ("v.example/anywhere".to_owned(), 1), ("cpu.other/x".to_owned(), 1)];
        let hints = ledger.hints(&draft, machine, &asked);
        let nodes = |hints: &Hints| -> Vec<String> {
            let one = |hint: &topology::Hint| {
                format!("{}{}", hint.nodes.unwrap(), if hint.preferred { "!" } else { "" })
            };
            hints.iter().flatten().map(one).collect()
        };
        assert_eq!(nodes(&hints[0]), ["1!", "0,1"]);
        assert_eq!(hints[1..], [None, None], "it does not matter, or is nobody's");
        let spec = pod(&[("m", 2)], &[]);
        let mut draft = Draft::default();
        ledger.add(&mut draft, &spec.containers[0], false, Some(Nodes::from_iter([1]))).unwrap();
        let wanted = ledger.keep("1", draft);
        assert_eq!(ledger.held("1", "m", GPU), set("b c"));
        assert_eq!(
            ledger.choice("1", &wanted[0]).available,
            set("b c"),
            "nor may the plugin choose the other"
        );
    }

    #[test]
    fn devices_are_given_and_given_back() {
        let mut ledger = ledger();
        assert_eq!(ledger.counts()[GPU], Counts { capacity: 4, allocatable: 3 });
        let wanted = ledger.reserve("1", &pod(&[("c", 2), ("none", 0)], &[])).unwrap();
        assert_eq!(wanted, [wanted_by("c")]);
        assert_eq!(shown(&ledger, "1"), "c=a+b");
        let short = ledger.reserve("2", &pod(&[("c", 2)], &[])).unwrap_err();
        assert_eq!(
            short,
            "requested number of devices unavailable for v.example/gpu. Requested: 2, Available: 1"
        );
        assert_eq!(ledger.of_pod("2"), None);
        ledger.reserve("2", &pod(&[("c", 1)], &[])).unwrap();
        ledger.retain(&HashSet::from(["2".to_owned()]));
        ledger.reserve("3", &pod(&[("c", 1)], &[])).unwrap();
        assert_eq!((shown(&ledger, "2"), shown(&ledger, "3")), ("c=c".into(), "c=a".into()));
    }

    #[test]
    fn init_containers_hand_theirs_on() {
        let mut one = ledger();
        one.reserve("1", &pod(&[("c", 1), ("d", 1)], &[("i", 1), ("j", 2)])).unwrap();
        assert_eq!(shown(&one, "1"), "c=a d=b i=a j=a+b");
        let mut two = ledger();
        two.reserve("1", &pod(&[("c", 1)], &[("i", 2), ("side", 1)])).unwrap();
        assert_eq!(shown(&two, "1"), "c=b i=a+b side=a");
        assert!(ledger().reserve("1", &pod(&[("c", 3)], &[("side", 1)])).is_err());
    }

    #[test]
    fn what_is_not_there_is_not_given() {
        let mut ledger = ledger();
        let other: PodSpec = serde_norway::from_str(
            "{containers: [{name: c, resources: {limits: {other.example/x: '1', hugepages-2Mi: 2Mi}}}]}",
        )
        .unwrap();
        assert_eq!(ledger.reserve("1", &other).unwrap(), [], "nobody ever offered it");
        ledger.none_healthy(GPU);
        assert_eq!(ledger.counts()[GPU], Counts { capacity: 4, allocatable: 0 });
        let none = "no healthy devices present; cannot allocate unhealthy devices v.example/gpu";
        assert_eq!(ledger.reserve("1", &pod(&[("c", 1)], &[])).unwrap_err(), none);
        ledger.forget(GPU);
        assert_eq!(ledger.counts()[GPU], Counts::default());
        assert_eq!(ledger.reserve("1", &pod(&[("c", 1)], &[])).unwrap_err(), none);
        // What runs keeps what it has, and nobody else gets it when the plugin is back.
        ledger.adopt(
            "old",
            Grants::from([(
                "c".into(),
                Grant { resources: [(GPU.into(), ["a".into()].into())].into(), ..Grant::default() },
            )]),
        );
        ledger.offer(GPU, offered(&["a", "b"], &[]));
        ledger.reserve("1", &pod(&[("c", 1)], &[])).unwrap();
        assert_eq!(shown(&ledger, "1"), "c=b");
    }

    #[test]
    fn a_plugin_may_prefer_others() {
        let mut ledger = ledger();
        ledger.reserve("1", &pod(&[("c", 1)], &[])).unwrap();
        ledger.reserve("2", &pod(&[("c", 1)], &[("i", 1)])).unwrap();
        let choice = ledger.choice("1", &wanted_by("c"));
        assert_eq!(choice, Choice { available: set("a c"), included: set(""), count: 1 });
        for (preferred, now) in [("b", "c=a"), ("x", "c=a"), ("a c", "c=a"), ("c", "c=c")] {
            ledger.swap("1", &wanted_by("c"), &set(preferred));
            assert_eq!(shown(&ledger, "1"), now, "{preferred}");
        }
        assert_eq!(ledger.choice("2", &wanted_by("c")).included, set("b"), "as its init container has");
    }

    #[test]
    fn names_of_resources() {
        for (name, good) in [
            (GPU, true),
            ("gpu", false),
            ("kubernetes.io/gpu", false),
            ("x.kubernetes.io/gpu", false),
            ("requests.v.example/gpu", false),
            ("v.example/g pu", false),
            ("v.example/", false),
        ] {
            assert_eq!(is_resource_name(name), good, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_device_has_two_pods(steps in proptest::collection::vec((0_u32..6, any::<bool>(), 0_u32..3, 0_u32..3), 1..40)) {
            let mut ledger = Ledger::default();
            ledger.offer(GPU, offered(&["a", "b", "c", "d", "e"], &["x"]));
            let mut active = HashSet::new();
            for (number, comes, first, second) in steps {
                let uid = number.to_string();
                if !comes {
                    active.remove(&uid);
                    ledger.retain(&active);
                } else if active.insert(uid.clone())
                    && ledger.reserve(&uid, &pod(&[("m", first), ("n", second)], &[("i", 2)])).is_err()
                {
                    active.remove(&uid);
                }
                let mut seen = BTreeSet::new();
                for grants in ledger.held.values() {
                    let of_pod: BTreeSet<_> =
                        grants.values().flat_map(|grant| grant.resources.get(GPU)).flatten().collect();
                    for id in of_pod {
                        prop_assert!(id != "x" && seen.insert(id.clone()), "{id}");
                    }
                }
            }
        }
    }
}
