//! What this node has granted a pod, which may be less, or more, than what the pod asks for by now (KEP-1287).
//!
//! It is written down with the sandbox before anything follows from it, and with each container once its limits are
//! in the kernel: whoever comes after a crash sees what was promised and what was done. Not for: deciding (`resize`).

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity,
};
use orlop_model::quantities::Quantity as Amount;
use serde::{Deserialize, Serialize};

/// Label of sandboxes: the [`Allocation`] of the pod.
pub const LABEL_ALLOCATED: &str = "orlop/allocated";
/// Label of containers: the [`Granted`] that its limits follow from.
pub const LABEL_GRANTED: &str = "orlop/granted";

/// The resources that may change while a pod runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

type Amounts = BTreeMap<String, Quantity>;

/// Processor and memory of one container, as spelled in the spec. No maps: there are many of these.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Granted {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_request: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_limit: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_request: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit: Option<Quantity>,
}

/// Processor and memory of all containers of a pod, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation(Box<[(String, Granted)]>);

impl Granted {
    /// What a spec asks for.
    pub fn of(container: &Container) -> Granted {
        let resources = container.resources.as_ref();
        let requests = resources.and_then(|resources| resources.requests.as_ref());
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let amount = |list: Option<&Amounts>, name: &str| list.and_then(|list| list.get(name)).cloned();
        Granted {
            cpu_request: amount(requests, "cpu"),
            cpu_limit: amount(limits, "cpu"),
            memory_request: amount(requests, "memory"),
            memory_limit: amount(limits, "memory"),
        }
    }

    /// As a label.
    pub fn to_label(&self) -> (String, String) {
        (LABEL_GRANTED.to_owned(), json(self))
    }

    /// From a container's labels; one of an earlier version has none.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Granted> {
        serde_json::from_str(labels.get(LABEL_GRANTED)?).ok()
    }

    /// A request and a limit.
    pub fn amounts(&self, name: &str) -> [Option<&Quantity>; 2] {
        match name {
            "cpu" => [self.cpu_request.as_ref(), self.cpu_limit.as_ref()],
            "memory" => [self.memory_request.as_ref(), self.memory_limit.as_ref()],
            _ => [None, None],
        }
    }

    /// The names of resources of which the other has another amount, however they are spelled.
    pub fn changed<'a>(&'a self, other: &'a Granted) -> impl Iterator<Item = &'static str> + 'a {
        let read = |amount: Option<&Quantity>| amount.map(|q| Amount::parse(&q.0).ok());
        let same = move |name: &str| self.amounts(name).map(read) == other.amounts(name).map(read);
        RESIZABLE.into_iter().filter(move |name| !same(name))
    }

    fn put_into(&self, container: &mut Container) {
        let resources = container.resources.get_or_insert_default();
        for (at, list) in [&mut resources.requests, &mut resources.limits].into_iter().enumerate() {
            let mut amounts = list.take().unwrap_or_default();
            for name in RESIZABLE {
                amounts.remove(name);
                let granted = self.amounts(name)[at].cloned();
                amounts.extend(granted.map(|granted| (name.to_owned(), granted)));
            }
            *list = (!amounts.is_empty()).then_some(amounts);
        }
    }
}

impl Allocation {
    /// What a spec asks for.
    pub fn of(spec: &PodSpec) -> Allocation {
        let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        Allocation(all.map(|container| (container.name.clone(), Granted::of(container))).collect())
    }

    /// As a label.
    pub fn to_label(&self) -> (String, String) {
        (LABEL_ALLOCATED.to_owned(), json(self))
    }

    /// From a sandbox's labels; one of an earlier version has none.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Option<Allocation> {
        serde_json::from_str(labels.get(LABEL_ALLOCATED)?).ok()
    }

    /// Whether a pod asks for something else.
    pub fn differs(&self, pod: &Pod) -> bool {
        pod.spec.as_ref().is_some_and(|spec| Allocation::of(spec) != *self)
    }

    /// The pod with what was granted in place of what it asks for. What was never granted stays as asked for.
    pub fn into_pod(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if !self.differs(pod) {
            return Arc::clone(pod);
        }
        let mut granted = Pod::clone(pod);
        let spec = granted.spec.get_or_insert_default();
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            if let Some((_, of_container)) = self.0.iter().find(|(name, _)| *name == container.name) {
                of_container.put_into(container);
            }
        }
        Arc::new(granted)
    }
}

/// Maps of texts always become JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &str) -> Arc<Pod> {
        let spec = format!(
            "{{containers: [{{name: c, resources: {resources}}}], initContainers: [{{name: i, resources: {{limits: {{cpu: 1}}}}}}]}}"
        );
        Arc::new(Pod { spec: Some(serde_norway::from_str(&spec).unwrap()), ..Pod::default() })
    }

    #[test]
    fn what_was_granted_takes_the_place_of_what_is_asked_for() {
        let asked = pod("{requests: {cpu: 2, ephemeral-storage: 1Gi}, limits: {memory: 2Gi}}");
        let before = pod("{requests: {cpu: 1, ephemeral-storage: 9Gi}}");
        let allocation = Allocation::of(before.spec.as_ref().unwrap());
        let (name, text) = allocation.to_label();
        let read = Allocation::from_labels(&BTreeMap::from([(name, text)])).unwrap();
        assert_eq!(read, allocation);
        let granted = read.into_pod(&asked);
        let expected = pod("{requests: {cpu: 1, ephemeral-storage: 1Gi}}");
        assert_eq!(granted.spec, expected.spec);
        let same = Allocation::of(asked.spec.as_ref().unwrap()).into_pod(&asked);
        assert!(Arc::ptr_eq(&same, &asked));
    }

    #[test]
    fn which_resources_changed() {
        let granted = |resources: &str| Granted::of(&pod(resources).spec.as_ref().unwrap().containers[0]);
        let old = granted("{requests: {cpu: 1}, limits: {memory: 2Gi}}");
        for (new, changed) in [
            ("{requests: {cpu: 1}, limits: {memory: 2Gi}}", vec![]),
            ("{requests: {cpu: 1000m}, limits: {memory: 2048Mi}}", vec![]),
            ("{requests: {cpu: 2}, limits: {memory: 2Gi}}", vec!["cpu"]),
            ("{requests: {cpu: 1, memory: 1Gi}, limits: {memory: 2Gi}}", vec!["memory"]),
            ("{limits: {cpu: 1, memory: 3Gi}}", vec!["cpu", "memory"]),
        ] {
            assert_eq!(old.changed(&granted(new)).collect::<Vec<_>>(), changed, "{new}");
        }
    }
}
