//! What single containers have for themselves: processors (static policy) and devices of plugins.
//!
//! ```text
//!  admission ──reserve──▶ Exclusive ──labels──▶ sandbox (on disk) ──adopt──▶ the next agent's Exclusive
//!                 └─complete─▶ plugins │
//!                                      └─prepare─▶ request for a container
//! ```
//!
//! A pod gets all of it when it is admitted, before anything is made for it, and gives it back when it has ended. What
//! it has is written down with its sandbox. Not for: how things are chosen (`cpu`, `device`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use tokio::sync::watch;

use crate::{
    cpu::{
        pool::{self, Held, Pool},
        reconcile,
        set::CpuSet,
    },
    device::{
        Devices,
        grant::{self, Grants},
        ledger::{self, Ledger, Wanted},
    },
    pod::{admission::Refused, desired::Desired, machine::ContainerSpec, resources},
    topology::{Alignment, Merged, Nodes, Policy, Scope, merge},
};

/// Label of sandboxes: processors by container, as lists.
const CPUS: &str = "orlop/cpus";

/// Who has what.
pub struct Exclusive {
    /// With the static policy.
    cpus: Option<Mutex<Pool>>,
    /// How near to each other it has to be, and the machine's memory nodes.
    alignment: (Alignment, Nodes),
    shared: watch::Sender<CpuSet>,
    devices: Devices,
    pods: Mutex<Vec<Arc<Pod>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exclusive {
    /// With processors, if containers can have some for themselves, and devices.
    #[must_use]
    pub fn new(cpus: Option<Pool>, devices: Devices) -> Exclusive {
        let shared = cpus.as_ref().map(Pool::shared).unwrap_or_default();
        Exclusive {
            cpus: cpus.map(Mutex::new),
            alignment: (Alignment::default(), Nodes::default()),
            shared: watch::Sender::new(shared),
            devices,
            pods: Mutex::default(),
        }
    }

    /// What a pod's containers have is near to each other.
    #[must_use]
    pub fn aligned(self, alignment: Alignment, machine: Nodes) -> Exclusive {
        Exclusive { alignment: (alignment, machine), ..self }
    }

    /// Neither processors nor devices.
    #[must_use]
    pub fn nothing() -> Exclusive {
        Exclusive::new(None, Devices::open("/".into(), None))
    }

    /// Takes over what a pod that was found here has, from the labels of its sandbox.
    pub fn adopt(&self, uid: &str, labels: &BTreeMap<String, String>) {
        if let Some(grants) = read::<Grants>(uid, labels, grant::LABEL) {
            self.devices.adopt(uid, grants);
        }
        let held = read::<BTreeMap<String, String>>(uid, labels, CPUS);
        if let Some((pool, held)) = self.cpus.as_ref().zip(held) {
            let parsed: Held =
                held.into_iter().filter_map(|(name, list)| Some((name, list.parse().ok()?))).collect();
            locked(pool).adopt(uid, parsed);
            self.tell();
        }
    }

    /// Sets aside what a pod needs, all or nothing. What plugins still have to agree to is returned.
    ///
    /// # Errors
    /// There is not enough.
    pub fn reserve(&self, desired: &Desired) -> Result<Vec<Wanted>, Refused> {
        let (uid, spec) = (desired.uid(), desired.spec());
        let mut pool = self.cpus.as_ref().map(locked);
        let reserved = self.devices.with_ledger(|ledger| {
            let drafts = self.draft(pool.as_deref(), ledger, spec)?;
            if let Some(pool) = pool.as_deref_mut() {
                pool.keep(uid, drafts.0);
            }
            Ok(ledger.keep(uid, drafts.1))
        });
        drop(pool);
        self.tell();
        reserved
    }

    /// Container by container, each as near to itself as the policy wants it.
    fn draft(
        &self,
        pool: Option<&Pool>,
        ledger: &Ledger,
        spec: &PodSpec,
    ) -> Result<(pool::Draft, ledger::Draft), Refused> {
        let (Alignment { policy, scope }, machine) = self.alignment;
        let mut drafts = (pool::Draft::default(), ledger::Draft::default());
        let place = |drafts: &(pool::Draft, ledger::Draft), cpus: usize, asked: &[(String, usize)]| {
            let hints = pool.map(|pool| pool.hints(&drafts.0, cpus)).into_iter();
            let hints: Vec<_> = hints.chain(ledger.hints(&drafts.1, machine, asked)).collect();
            match merge(policy, machine, &hints) {
                Merged { nodes, admitted: true } => Ok(nodes),
                Merged { .. } => Err(unaligned()),
            }
        };
        let together = match (policy, scope) {
            (Policy::None, _) | (_, Scope::Container) => None,
            (_, Scope::Pod) => {
                let (cpus, asked) = (of_pod(spec, |c| cpus_of(spec, c)), of_pod(spec, ledger::asked));
                let cpus = cpus.into_iter().next().map_or(0, |(_, count)| count);
                Some(place(&drafts, cpus, &asked)?)
            }
        };
        for (container, ends) in resources::in_order(spec) {
            let nodes = match (policy, together) {
                (Policy::None, _) => None,
                (_, Some(nodes)) => nodes,
                _ => {
                    let cpus = resources::whole_cpus(spec, container);
                    place(&drafts, cpus, &ledger::asked(container))?
                }
            };
            if let Some(pool) = pool {
                pool.add(&mut drafts.0, spec, container, ends, nodes)?;
            }
            ledger.add(&mut drafts.1, container, ends, nodes).map_err(|error| unexpected(&error))?;
        }
        Ok(drafts)
    }

    /// Asks the plugins.
    ///
    /// # Errors
    /// One refuses; nothing is set aside any more.
    pub async fn complete(&self, uid: &str, wanted: &[Wanted]) -> Result<(), Refused> {
        self.devices.allocate(uid, wanted).await.map_err(|error| {
            self.release(uid);
            unexpected(&error)
        })
    }

    /// What is written down with a pod's sandbox.
    #[must_use]
    pub fn labels(&self, uid: &str) -> BTreeMap<String, String> {
        let devices = self.devices.of_pod(uid).and_then(|grants| serde_json::to_string(&grants).ok());
        let cpus = self.cpus.as_ref().and_then(|pool| {
            let held: BTreeMap<String, String> = locked(pool)
                .of_pod(uid)?
                .iter()
                .map(|(name, cpus)| (name.clone(), cpus.to_string()))
                .collect();
            serde_json::to_string(&held).ok()
        });
        let labels = [(grant::LABEL, devices), (CPUS, cpus)];
        labels.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?))).collect()
    }

    /// Adds what a container has to what the runtime is asked for.
    ///
    /// # Errors
    /// A plugin does not want it to start.
    pub async fn prepare(&self, uid: &str, spec: &mut ContainerSpec) -> Result<(), String> {
        if let Some(grant) = self.devices.grant(uid, &spec.name) {
            self.devices.before_start(&grant).await?;
            grant.extras.into_spec(spec);
        }
        if let Some(cpus) = self.cpus(uid, &spec.name).filter(|cpus| !cpus.is_empty()) {
            spec.resources.cpuset_cpus = Some(cpus.to_string());
            spec.labels.insert(reconcile::LABEL.to_owned(), cpus.to_string());
        }
        Ok(())
    }

    /// These pods are there; what others had is free. `coming` are those that are not admitted yet.
    pub fn retain(&self, pods: Vec<Arc<Pod>>, coming: impl Iterator<Item = String>) {
        let uids = pods.iter().filter_map(|pod| pod.metadata.uid.clone());
        let active: HashSet<String> = uids.chain(coming).collect();
        self.devices.retain(&active);
        if let Some(pool) = &self.cpus {
            locked(pool).retain(&active);
            self.tell();
        }
        *locked(&self.pods) = pods;
    }

    fn release(&self, uid: &str) {
        self.devices.release(uid);
        if let Some(pool) = &self.cpus {
            locked(pool).release(uid);
            self.tell();
        }
    }

    /// The pods that are there.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        locked(&self.pods).clone()
    }

    /// The devices.
    #[must_use]
    pub fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Where a container runs; `None`: wherever the kernel likes.
    #[must_use]
    pub fn cpus(&self, uid: &str, container: &str) -> Option<CpuSet> {
        let pool = locked(self.cpus.as_ref()?);
        Some(pool.held(uid, container).cloned().unwrap_or_else(|| pool.shared()))
    }

    /// What a container has for itself.
    #[must_use]
    pub fn own_cpus(&self, uid: &str, container: &str) -> Option<CpuSet> {
        locked(self.cpus.as_ref()?).held(uid, container).cloned()
    }

    /// What containers can have for themselves, at most.
    #[must_use]
    pub fn allocatable_cpus(&self) -> CpuSet {
        self.cpus.as_ref().map(|pool| locked(pool).allocatable()).unwrap_or_default()
    }

    /// What is left for all others, as it changes; `None` without the static policy.
    #[must_use]
    pub fn shared(&self) -> Option<watch::Receiver<CpuSet>> {
        self.cpus.as_ref().map(|_| self.shared.subscribe())
    }

    fn tell(&self) {
        let Some(pool) = &self.cpus else { return };
        let shared = locked(pool).shared();
        self.shared.send_if_modified(|known| {
            let news = *known != shared;
            *known = shared;
            news
        });
    }
}

/// In upstream's words.
fn unaligned() -> Refused {
    Refused {
        reason: "TopologyAffinityError".to_owned(),
        text: "Resources cannot be allocated with Topology locality".to_owned(),
    }
}

fn cpus_of(spec: &PodSpec, container: &Container) -> Vec<(String, usize)> {
    vec![("cpu".to_owned(), resources::whole_cpus(spec, container))]
}

/// What all containers need at once: those that stay together, or the largest of those that end before.
fn of_pod(spec: &PodSpec, asked: impl Fn(&Container) -> Vec<(String, usize)>) -> Vec<(String, usize)> {
    let (mut stay, mut most) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    for (container, ends) in resources::in_order(spec) {
        for (name, count) in asked(container) {
            let so_far = stay.entry(name.clone()).or_default();
            let at_once = *so_far + count;
            if !ends {
                *so_far = at_once;
            }
            let most = most.entry(name).or_default();
            *most = at_once.max(*most);
        }
    }
    most.into_iter().collect()
}

/// In upstream's words.
fn unexpected(error: &str) -> Refused {
    Refused {
        reason: "UnexpectedAdmissionError".to_owned(),
        text: format!("Allocate failed due to {error}, which is unexpected"),
    }
}

/// Of a label that cannot be read only the pod's own containers have something: what they run with stays.
fn read<T: serde::de::DeserializeOwned>(
    uid: &str,
    labels: &BTreeMap<String, String>,
    name: &str,
) -> Option<T> {
    let text = labels.get(name)?;
    serde_json::from_str(text)
        .inspect_err(|error| {
            tracing::error!(
                uid, label = name, %error,
                "what a pod has for itself cannot be read: it keeps running with it, but others may get it too"
            );
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{choose::How, topology::Topology};

    fn exclusive(known: &str) -> (Exclusive, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("known.json");
        std::fs::write(&file, known).unwrap();
        let pool = Pool::new(Topology::regular(1, 4, 1), "0".parse().unwrap(), 0, How::default(), false);
        let devices = Devices::open(dir.path().to_owned(), Some(file));
        (Exclusive::new(Some(pool), devices), dir)
    }

    fn pod(uid: &str, limits: &str) -> Desired {
        let text = format!(
            "{{metadata: {{uid: {uid}}}, spec: {{containers: [{{name: c, resources: {{limits: {limits}}}}}]}}}}"
        );
        Desired::new(Arc::new(serde_norway::from_str(&text).unwrap()))
    }

    async fn cpuset(exclusive: &Exclusive, uid: &str) -> Option<String> {
        let mut spec = ContainerSpec { name: "c".to_owned(), ..ContainerSpec::default() };
        exclusive.prepare(uid, &mut spec).await.unwrap();
        assert_eq!(spec.labels.get(reconcile::LABEL), spec.resources.cpuset_cpus.as_ref());
        spec.resources.cpuset_cpus
    }

    #[tokio::test]
    async fn what_is_written_down_is_the_next_agents() {
        let (first, _dir) = exclusive("[]");
        assert_eq!(first.reserve(&pod("a", "{cpu: 2, memory: 1Mi}")), Ok(vec![]));
        assert_eq!(cpuset(&first, "a").await.as_deref(), Some("1-2"));
        assert_eq!(cpuset(&first, "other").await.as_deref(), Some("0,3"));
        let labels = first.labels("a");
        assert_eq!(labels, BTreeMap::from([(CPUS.to_owned(), "{\"c\":\"1-2\"}".to_owned())]));
        assert_eq!(first.labels("other"), BTreeMap::new());

        let (next, _dir) = exclusive("[]");
        next.adopt("a", &labels);
        next.adopt("broken", &BTreeMap::from([(CPUS.to_owned(), "{".to_owned())]));
        let refused = next.reserve(&pod("b", "{cpu: 2, memory: 1Mi}")).unwrap_err();
        assert_eq!(refused.reason, "UnexpectedAdmissionError");
        assert_eq!(next.shared().unwrap().borrow().to_string(), "0,3");
        next.retain(Vec::new(), std::iter::empty());
        assert_eq!(next.shared().unwrap().borrow().to_string(), "0-3");
    }

    fn two_nodes(alignment: Alignment) -> Exclusive {
        let machine = Topology::regular(2, 4, 1);
        let pool = Pool::new(machine, "0".parse().unwrap(), 0, How::default(), false);
        let nodes = pool.nodes();
        let exclusive = Exclusive::new(Some(pool), Devices::open("/".into(), None)).aligned(alignment, nodes);
        let on = |node| ledger::Device { healthy: true, nodes: vec![node] };
        let offered = [("near".to_owned(), on(0)), ("far".to_owned(), on(1))];
        exclusive.devices.with_ledger(|ledger| ledger.offer("v.example/x", offered.into()));
        exclusive
    }

    #[test]
    fn processors_are_where_the_device_is_or_the_pod_is_not_here() {
        use Policy::{BestEffort, None, Restricted, SingleNode};
        let limits = "{cpu: 2, memory: 1Mi, v.example/x: 1}";
        // One device on each node, and of the processors of the first node three may be had.
        for (policy, cpus) in [
            (None, ["1-2", "3-4", ""]),
            (BestEffort, ["1-2", "4-5", ""]),
            (Restricted, ["1-2", "4-5", ""]),
            (SingleNode, ["1-2", "4-5", ""]),
        ] {
            let exclusive = two_nodes(Alignment { policy, scope: Scope::Container });
            let seen = ["a", "b", "c"].map(|uid| {
                let reserved = exclusive.reserve(&pod(uid, limits));
                reserved.map(|_| exclusive.own_cpus(uid, "c").unwrap().to_string()).unwrap_or_default()
            });
            assert_eq!(seen, cpus, "{policy:?}");
            let device = exclusive.devices.with_ledger(|ledger| ledger.held("a", "c", "v.example/x"));
            let expected = if policy == None { "far" } else { "near" };
            assert!(device.contains(expected), "{policy:?}: {device:?}");
        }
        // Five processors are on no one node.
        for (policy, refused) in [(None, false), (BestEffort, false), (Restricted, false), (SingleNode, true)]
        {
            let exclusive = two_nodes(Alignment { policy, scope: Scope::Container });
            let reserved = exclusive.reserve(&pod("a", "{cpu: 5, memory: 1Mi}"));
            assert_eq!(reserved.is_err(), refused, "{policy:?}");
            if let Err(error) = reserved {
                assert_eq!(error, unaligned());
                assert_eq!(exclusive.shared().unwrap().borrow().to_string(), "0-7", "nothing is kept");
            }
        }
    }

    #[test]
    fn a_pod_as_a_whole_is_on_one_node() {
        let text = "{metadata: {uid: a}, spec: {containers: [{name: c, resources: {limits: {cpu: 2, memory: 1Mi}}}, \
                    {name: d, resources: {limits: {cpu: 2, memory: 1Mi}}}]}}";
        let pod = Desired::new(Arc::new(serde_norway::from_str(text).unwrap()));
        let cpus = |scope| {
            let exclusive = two_nodes(Alignment { policy: Policy::SingleNode, scope });
            exclusive.reserve(&pod).unwrap();
            ["c", "d"].map(|name| exclusive.own_cpus("a", name).unwrap().to_string())
        };
        // Of the first node three are left: enough for one container, not for both.
        assert_eq!(cpus(Scope::Container), ["1-2", "4-5"]);
        assert_eq!(cpus(Scope::Pod), ["4-5", "6-7"]);
    }

    #[tokio::test]
    async fn all_or_nothing() {
        // Damaged or not: what there were plugins for is known, or is not.
        for (known, refused) in [("[\"v.example/x\"]", true), ("[\"v.exa", false)] {
            let (exclusive, _dir) = exclusive(known);
            let reserved = exclusive.reserve(&pod("a", "{cpu: 2, memory: 1Mi, v.example/x: 1}"));
            assert_eq!(reserved.is_err(), refused, "{known}");
            let shared = if refused { "0-3" } else { "0,3" };
            assert_eq!(exclusive.shared().unwrap().borrow().to_string(), shared, "{known}");
        }
    }

    #[tokio::test]
    async fn without_the_policy_nobody_is_told_where_to_run() {
        let none = Exclusive::nothing();
        none.adopt("a", &BTreeMap::from([(CPUS.to_owned(), "{\"c\":\"1\"}".to_owned())]));
        assert_eq!(none.reserve(&pod("b", "{cpu: 2, memory: 1Mi}")), Ok(vec![]));
        assert_eq!((cpuset(&none, "a").await, none.labels("a")), (None, BTreeMap::new()));
    }
}
