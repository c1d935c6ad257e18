//! Addresses of one range: the next free one after the last given, so that a freed one rests. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
};

use orlop_model::net::Ipv4Net;

use super::Assigned;

/// Whom an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Pod uid.
    pub uid: String,
    /// `namespace/name`, for whoever reads the ledger.
    pub pod: String,
}

/// No address is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {range}: all {size} are assigned")]
pub struct Full {
    /// The pod CIDR.
    pub range: Ipv4Net,
    /// How many addresses pods can have.
    pub size: usize,
}

/// A certain address that is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no pod's address.
    #[error("address {address} is none for pods of {range}")]
    Outside {
        /// What was asked for.
        address: Ipv4Addr,
        /// The pod CIDR.
        range: Ipv4Net,
    },
    /// Another pod has it.
    #[error("address {address} belongs to {pod}")]
    Taken {
        /// What was asked for.
        address: Ipv4Addr,
        /// Who has it.
        pod: String,
    },
    /// The pod has another one.
    #[error("the pod has address {has}, and not {address}")]
    Another {
        /// What was asked for.
        address: Ipv4Addr,
        /// What it has.
        has: Ipv4Addr,
    },
}

/// Who has what.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    range: Ipv4Net,
    by_address: BTreeMap<Ipv4Addr, Owner>,
    by_uid: HashMap<String, Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Allocator {
    /// An empty range. The first address (the network), the second (kept for the node) and the last
    /// (broadcast) are never given.
    pub(crate) fn new(range: Ipv4Net) -> Self {
        Self { range, by_address: BTreeMap::new(), by_uid: HashMap::new(), last: None }
    }

    /// The owner's address: the one it has, else the next free one after the last given.
    pub(crate) fn assign(&mut self, owner: &Owner) -> Result<Assigned, Full> {
        if let Some(address) = self.by_uid.get(&owner.uid) {
            return Ok(Assigned { address: *address, new: false });
        }
        let address = self.next_free().ok_or_else(|| Full { range: self.range, size: self.size() })?;
        self.insert(address, owner.clone());
        Ok(Assigned { address, new: true })
    }

    /// This very address.
    pub(crate) fn claim(&mut self, owner: &Owner, address: Ipv4Addr) -> Result<Assigned, Refused> {
        match self.by_uid.get(&owner.uid) {
            Some(has) if *has == address => return Ok(Assigned { address, new: false }),
            Some(has) => return Err(Refused::Another { address, has: *has }),
            None => {}
        }
        let (first, last) = self.bounds();
        if !(first - 1..=last).contains(&u32::from(address)) {
            return Err(Refused::Outside { address, range: self.range });
        }
        if let Some(other) = self.by_address.get(&address) {
            return Err(Refused::Taken { address, pod: other.pod.clone() });
        }
        self.insert(address, owner.clone());
        Ok(Assigned { address, new: true })
    }

    /// Takes over an assignment made earlier. False when either half of it is taken already.
    pub(crate) fn insert(&mut self, address: Ipv4Addr, owner: Owner) -> bool {
        if self.by_address.contains_key(&address) || self.by_uid.contains_key(&owner.uid) {
            return false;
        }
        self.by_uid.insert(owner.uid.clone(), address);
        self.by_address.insert(address, owner);
        self.last = Some(address);
        true
    }

    /// Frees what the pod has.
    pub(crate) fn release(&mut self, uid: &str) -> Option<Ipv4Addr> {
        let address = self.by_uid.remove(uid)?;
        self.by_address.remove(&address);
        Some(address)
    }

    /// Continue after this address.
    pub(crate) fn resume_after(&mut self, address: Ipv4Addr) {
        self.last = Some(address);
    }

    /// The last address given.
    pub(crate) fn last(&self) -> Option<Ipv4Addr> {
        self.last
    }

    /// Address of a pod.
    pub(crate) fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.by_uid.get(uid).copied()
    }

    /// All assignments, by address.
    pub(crate) fn assignments(&self) -> impl Iterator<Item = (Ipv4Addr, &Owner)> {
        self.by_address.iter().map(|(address, owner)| (*address, owner))
    }

    fn bounds(&self) -> (u32, u32) {
        (u32::from(self.range.network()) + 2, u32::from(self.range.broadcast()) - 1)
    }

    fn size(&self) -> usize {
        let (first, last) = self.bounds();
        (last - first) as usize + 1
    }

    fn next_free(&self) -> Option<Ipv4Addr> {
        let (first, last) = self.bounds();
        let start = self.last.map_or(first, |a| u32::from(a).saturating_add(1));
        let start = if (first..=last).contains(&start) { start } else { first };
        let mut candidates = (start..=last).chain(first..start).map(Ipv4Addr::from);
        candidates.find(|address| !self.by_address.contains_key(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn owner(uid: impl ToString) -> Owner {
        Owner { uid: uid.to_string(), pod: "default/p".into() }
    }

    fn last_octets(allocator: &mut Allocator, uids: &[&str]) -> Vec<u8> {
        uids.iter().map(|uid| allocator.assign(&owner(uid)).unwrap().address.octets()[3]).collect()
    }

    fn range(text: &str) -> Allocator {
        Allocator::new(text.parse().unwrap())
    }

    #[test]
    fn a_freed_address_rests_until_the_range_has_gone_round() {
        let mut a = range("10.0.0.0/29");
        assert_eq!(last_octets(&mut a, &["a", "b"]), [2, 3]);
        a.release("a");
        assert_eq!(last_octets(&mut a, &["c", "d", "e", "f"]), [4, 5, 6, 2]);
    }

    #[test]
    fn the_same_pod_gets_the_same_address() {
        let mut a = range("10.0.0.0/24");
        assert!(a.assign(&owner("a")).unwrap().new);
        let again = a.assign(&owner("a")).unwrap();
        assert_eq!(again, Assigned { address: [10, 0, 0, 2].into(), new: false });
    }

    #[test]
    fn a_full_range_says_so() {
        let mut a = range("10.0.0.0/30");
        assert_eq!(last_octets(&mut a, &["a"]), [2]);
        let full = a.assign(&owner("b")).unwrap_err();
        assert_eq!(full.to_string(), "no address is free in 10.0.0.0/30: all 1 are assigned");
    }

    #[test]
    fn addresses_outside_the_range_are_kept_but_not_given() {
        let mut a = range("10.0.1.0/24");
        assert!(a.insert([10, 0, 0, 9].into(), owner("old")));
        assert_eq!(last_octets(&mut a, &["new", "old"]), [2, 9]);
    }

    #[test]
    fn a_certain_address_is_given_once_and_only_from_the_range() {
        let mut a = range("10.0.0.0/29");
        let mut claim = |uid: &str, last| {
            let claimed = a.claim(&owner(uid), [10, 0, 0, last].into());
            claimed.map(|assigned| assigned.new).map_err(|refused| refused.to_string())
        };
        assert_eq!(claim("a", 5), Ok(true));
        assert_eq!(claim("a", 5), Ok(false));
        assert_eq!(claim("a", 6), Err("the pod has address 10.0.0.5, and not 10.0.0.6".into()));
        assert_eq!(claim("b", 5), Err("address 10.0.0.5 belongs to default/p".into()));
        assert_eq!(claim("b", 7), Err("address 10.0.0.7 is none for pods of 10.0.0.0/29".into()));
        assert_eq!(claim("b", 0), Err("address 10.0.0.0 is none for pods of 10.0.0.0/29".into()));
        assert_eq!(last_octets(&mut a, &["c", "d", "e", "f"]), [6, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn no_address_is_ever_held_twice_and_none_is_lost(steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..200)) {
            let mut a = range("10.0.0.0/29");
            let mut model: HashMap<String, Ipv4Addr> = HashMap::new();
            for (uid, take) in steps {
                let uid = uid.to_string();
                match take {
                    true => match a.assign(&owner(&uid)) {
                        Ok(assigned) => {
                            let known = model.insert(uid, assigned.address);
                            prop_assert_eq!(known.is_none(), assigned.new);
                            prop_assert!(known.is_none_or(|k| k == assigned.address));
                        }
                        Err(_) => prop_assert_eq!(model.len(), 5),
                    },
                    false => prop_assert_eq!(a.release(&uid), model.remove(&uid)),
                }
                let held: HashSet<_> = model.values().collect();
                prop_assert_eq!(held.len(), model.len());
                prop_assert!(held.iter().all(|h| (2..=6).contains(&h.octets()[3])));
                prop_assert_eq!(a.assignments().count(), model.len());
            }
        }

        #[test]
        fn with_half_the_range_free_no_address_returns_at_once(rounds in 1usize..60) {
            let mut a = range("10.0.0.0/28");
            let mut previous = None;
            for round in 0..rounds {
                let given = a.assign(&owner(round)).unwrap().address;
                prop_assert_ne!(Some(given), previous);
                previous = a.release(&round.to_string());
            }
        }
    }
}
