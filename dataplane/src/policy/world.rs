//! The objects that policies are about, as far as they are known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use orlop_model::event::Event;

use super::model::{Key, Labels, Pod, Policy};

/// Something changed. Objects come reduced by [`ingest`](super::ingest).
#[derive(Clone, Debug)]
pub enum Change {
    /// NetworkPolicies.
    Policy(Event<Policy>),
    /// Namespaces by name, with their labels.
    Namespace(Event<(String, Labels)>),
    /// Pods; `None`: one without an address of its own.
    Pod(Event<(Key, Option<Pod>)>),
    /// A pod of this node got these addresses, which its status is still to tell.
    Attached(Key, BTreeSet<IpAddr>),
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Policies.
    pub policies: BTreeMap<Key, Policy>,
    /// Namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Pods with addresses of their own.
    pub pods: BTreeMap<Key, Pod>,
    /// Addresses of pods of this node that their status may not tell yet.
    pub attached: BTreeMap<Key, BTreeSet<IpAddr>>,
    listed: [bool; 3],
}

impl World {
    /// Takes a change in; whether it was one.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Policy(event) => {
                let event = event.map(|policy| (policy.key.clone(), Some(policy)));
                let changed = take(&mut self.policies, &mut self.listed[0], event);
                // From here on nobody says what becomes of pods and namespaces.
                if changed && self.policies.is_empty() {
                    *self = Self { listed: [self.listed[0], false, false], ..Self::default() };
                }
                changed
            }
            Change::Namespace(event) => {
                let listed = &mut self.listed[1];
                take(&mut self.namespaces, listed, event.map(|(name, labels)| (name, Some(labels))))
            }
            Change::Pod(event) => {
                let gone = match &event {
                    Event::Apply((key, None)) | Event::Delete((key, _)) => Some(key.clone()),
                    _ => None,
                };
                let changed = take(&mut self.pods, &mut self.listed[2], event);
                gone.map(|key| self.attached.remove(&key));
                changed
            }
            // Where there is no policy nobody says when the pod is gone; one that comes later finds the status.
            Change::Attached(..) if self.policies.is_empty() && self.listed[0] => false,
            Change::Attached(key, ips) => self.attached.insert(key, ips.clone()) != Some(ips),
        }
    }

    /// The addresses of a pod, as far as anybody knows.
    pub fn ips<'a>(&'a self, key: &Key, pod: &'a Pod) -> impl Iterator<Item = &'a IpAddr> + use<'a> {
        pod.ips.iter().chain(self.attached.get(key).into_iter().flatten())
    }

    /// Whether what policies say of a pod is known.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.complete() && (self.policies.is_empty() || self.pods.contains_key(key))
    }

    /// Whether all that matters has been listed. Where there is no policy, nobody needs to know the pods.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.listed[0] && (self.policies.is_empty() || self.listed == [true; 3])
    }
}

fn take<K: Ord, V: PartialEq>(
    known: &mut BTreeMap<K, V>,
    listed: &mut bool,
    event: Event<(K, Option<V>)>,
) -> bool {
    match event {
        Event::Apply((key, Some(value))) => {
            let changed = known.get(&key) != Some(&value);
            known.insert(key, value);
            changed
        }
        Event::Apply((key, None)) | Event::Delete((key, _)) => known.remove(&key).is_some(),
        Event::Reset(all) => {
            let fresh = all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            let changed = !*listed || *known != fresh;
            *listed = true;
            *known = fresh;
            changed
        }
    }
}
