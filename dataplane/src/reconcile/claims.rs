//! Who has which address. Of two services that want the same one, the first keeps it, and the other is served at its
//! other addresses; when it is given up, the other gets it.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::Compiled;
use crate::model::ServiceKey;
use crate::tables::Vip;

/// The addresses that stand in the maps, by owner.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: BTreeMap<Vip, ServiceKey>,
    /// The same by service: a change of one never walks through the addresses of all.
    owned: BTreeMap<ServiceKey, BTreeSet<Vip>>,
    /// What each service is found by: the [primary](Compiled::primary) address of each of its ports.
    held: BTreeMap<ServiceKey, BTreeSet<Vip>>,
    freed: bool,
}

impl Claims {
    /// What of `compiled` may stand in the maps, and the first address that is somebody else's.
    pub(super) fn claim(
        &mut self,
        key: &ServiceKey,
        compiled: Vec<Compiled>,
    ) -> (Vec<Compiled>, Option<String>) {
        let mut taken = None;
        let mut ours = Vec::new();
        for mut port in compiled {
            port.frontends.retain(|vip, _| {
                let owner = self.owners.entry(*vip).or_insert_with(|| key.clone());
                match owner == key {
                    true => drop(self.owned.entry(key.clone()).or_default().insert(*vip)),
                    false => {
                        taken.get_or_insert_with(|| format!("{vip} belongs to service {owner}"));
                    }
                }
                owner == key
            });
            // A service is found by its primary address; without that there is nothing to stand on.
            if port.frontends.contains_key(&port.primary) {
                self.held.entry(key.clone()).or_default().insert(port.primary);
                ours.push(port);
            }
        }
        (ours, taken)
    }

    /// The primary addresses of ports that the service no longer has.
    pub(super) fn stale(&self, key: &ServiceKey, compiled: &[Compiled]) -> Vec<Vip> {
        let held = self.held.get(key).into_iter().flatten();
        held.filter(|vip| !compiled.iter().any(|port| port.primary == **vip)).copied().collect()
    }

    /// A port is out of the maps.
    pub(super) fn removed(&mut self, key: &ServiceKey, primary: &Vip) {
        if let Some(held) = self.held.get_mut(key) {
            held.remove(primary);
            if held.is_empty() {
                self.held.remove(key);
            }
        }
    }

    /// Gives up what the service neither has nor, after a refused removal, still holds.
    pub(super) fn release(&mut self, key: &ServiceKey, compiled: &[Compiled]) {
        let (Some(owned), held) = (self.owned.get_mut(key), self.held.get(key)) else { return };
        let keeps = |vip: &Vip| {
            compiled.iter().any(|port| port.frontends.contains_key(vip))
                || held.is_some_and(|held| held.contains(vip))
        };
        let given_up: Vec<Vip> = owned.iter().filter(|vip| !keeps(vip)).copied().collect();
        for vip in &given_up {
            owned.remove(vip);
            self.owners.remove(vip);
        }
        if owned.is_empty() {
            self.owned.remove(key);
        }
        self.freed |= !given_up.is_empty();
    }

    /// Whether anything was given up since this was last asked.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }
}
