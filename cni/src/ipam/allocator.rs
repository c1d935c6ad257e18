//! Addresses of one range per family: the next free one after the last given, so that a freed one rests. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    path::PathBuf,
};

use orlop_model::net::{Family, IpNet};

use super::{Assigned, IpamError};

/// Whom an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Pod uid.
    pub uid: String,
    /// `namespace/name`, for whoever reads the ledger.
    pub pod: String,
    /// Where the pod's network namespace was when it was attached.
    pub netns: Option<PathBuf>,
}

/// No address is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {range}: all {size} are assigned")]
pub struct Full {
    /// The pod CIDR.
    pub range: IpNet,
    /// How many addresses pods can have.
    pub size: u128,
}

/// A certain address that is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no pod's address.
    #[error("address {address} is none for pods of {range}")]
    Outside {
        /// What was asked for.
        address: IpAddr,
        /// The pod CIDR.
        range: IpNet,
    },
    /// Another pod has it.
    #[error("address {address} belongs to {pod}")]
    Taken {
        /// What was asked for.
        address: IpAddr,
        /// Who has it.
        pod: String,
    },
    /// The pod has others.
    #[error("the pod has {}, and not {address}", has.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and "))]
    Another {
        /// What was asked for.
        address: IpAddr,
        /// What it has.
        has: Vec<IpAddr>,
    },
}

/// How many freed addresses are remembered as such.
const RESTING: usize = 128;

/// Who has what.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    ranges: Vec<Range>,
    by_address: BTreeMap<IpAddr, String>,
    by_uid: HashMap<String, (Vec<IpAddr>, Owner)>,
    last: BTreeMap<Family, IpAddr>,
    /// Freed not long ago, the first one first: others are given before these.
    resting: VecDeque<IpAddr>,
}

impl Allocator {
    /// Empty ranges, one of a family; a pod gets an address of each, in their order. The first address (the network),
    /// the second (kept for the node) and IPv4's last (broadcast) are never given.
    pub(crate) fn new(ranges: &[IpNet]) -> Self {
        let ranges = ranges.iter().copied().map(Range).collect();
        Self {
            ranges,
            by_address: BTreeMap::new(),
            by_uid: HashMap::new(),
            last: BTreeMap::new(),
            resting: VecDeque::new(),
        }
    }

    /// The owner's addresses: those it has, else of each range the one that is wished for, or the next free one after
    /// the last given.
    pub(crate) fn assign(&mut self, owner: &Owner, wishes: &[IpAddr]) -> Result<Assigned, IpamError> {
        if let Some((held, _)) = self.by_uid.get(&owner.uid) {
            let another = wishes.iter().find(|wish| !held.contains(wish));
            return match another {
                Some(&address) => Err(Refused::Another { address, has: held.clone() }.into()),
                None => Ok(Assigned { addresses: held.clone(), new: false }),
            };
        }
        if let Some((&address, range)) = wishes.iter().find_map(|wish| Some((wish, self.outside(*wish)?))) {
            return Err(Refused::Outside { address, range }.into());
        }
        let pick = |range: &Range| self.pick(*range, wishes);
        let addresses = self.ranges.iter().map(pick).collect::<Result<Vec<_>, _>>()?;
        self.insert(addresses.clone(), owner.clone());
        Ok(Assigned { addresses, new: true })
    }

    fn pick(&self, range: Range, wishes: &[IpAddr]) -> Result<IpAddr, IpamError> {
        if let Some(&address) = wishes.iter().find(|wish| range.has(**wish)) {
            return match self.by_address.get(&address).and_then(|uid| self.owner(uid)) {
                Some(other) => Err(Refused::Taken { address, pod: other.pod.clone() }.into()),
                None => Ok(address),
            };
        }
        let last = self.last.get(&range.0.family()).copied();
        let busy = |address| self.by_address.contains_key(&address) || self.resting.contains(&address);
        let rested = || self.resting.iter().copied().find(|address| range.gives(*address));
        range
            .next_free(last, busy)
            .or_else(rested)
            .ok_or_else(|| Full { range: range.0, size: range.size() }.into())
    }

    /// The range that an address is none for pods of, if it is in none.
    fn outside(&self, address: IpAddr) -> Option<IpNet> {
        let same = self.ranges.iter().find(|range| range.0.family() == Family::of(address));
        let near = same.or(self.ranges.first())?;
        (!self.ranges.iter().any(|range| range.has(address))).then_some(near.0)
    }

    /// Takes over an assignment made earlier, or news about its owner. False when any part of it is another's.
    pub(crate) fn insert(&mut self, addresses: Vec<IpAddr>, owner: Owner) -> bool {
        if let Some((held, known)) = self.by_uid.get_mut(&owner.uid)
            && *held == addresses
        {
            *known = owner;
            return true;
        }
        let taken = addresses.iter().any(|address| self.by_address.contains_key(address));
        if taken || addresses.is_empty() || self.by_uid.contains_key(&owner.uid) {
            return false;
        }
        for address in &addresses {
            self.by_address.insert(*address, owner.uid.clone());
            self.resume_after(*address);
        }
        self.resting.retain(|address| !addresses.contains(address));
        self.by_uid.insert(owner.uid.clone(), (addresses, owner));
        true
    }

    /// Frees what the pod has.
    pub(crate) fn release(&mut self, uid: &str) -> Option<Vec<IpAddr>> {
        let (addresses, _) = self.by_uid.remove(uid)?;
        for address in &addresses {
            self.by_address.remove(address);
            self.rest(*address);
        }
        Some(addresses)
    }

    /// Gives others before this one, for a while.
    pub(crate) fn rest(&mut self, address: IpAddr) {
        self.resting.push_back(address);
        if self.resting.len() > RESTING {
            self.resting.pop_front();
        }
    }

    /// Those that rest, the first one first.
    pub(crate) fn resting(&self) -> impl Iterator<Item = IpAddr> {
        self.resting.iter().copied()
    }

    /// Continue after this address, in its family.
    pub(crate) fn resume_after(&mut self, address: IpAddr) {
        self.last.insert(Family::of(address), address);
    }

    /// The last address given of each family.
    pub(crate) fn last(&self) -> impl Iterator<Item = IpAddr> {
        self.last.values().copied()
    }

    /// Addresses of a pod.
    pub(crate) fn addresses(&self, uid: &str) -> Option<&[IpAddr]> {
        self.by_uid.get(uid).map(|(addresses, _)| addresses.as_slice())
    }

    /// What is known of a pod.
    pub(crate) fn owner(&self, uid: &str) -> Option<&Owner> {
        self.by_uid.get(uid).map(|(_, owner)| owner)
    }

    /// All assignments, by first address.
    pub(crate) fn assignments(&self) -> impl Iterator<Item = (&[IpAddr], &Owner)> {
        self.by_address.iter().filter_map(|(address, uid)| {
            let (addresses, owner) = self.by_uid.get(uid)?;
            (addresses.first() == Some(address)).then_some((addresses.as_slice(), owner))
        })
    }

    /// How many pods have addresses.
    pub(crate) fn len(&self) -> usize {
        self.by_uid.len()
    }
}

/// What is given out of a network.
#[derive(Clone, Copy, Debug)]
struct Range(IpNet);

impl Range {
    /// Offsets of the first and the last address that pods can have.
    fn bounds(self) -> (u128, u128) {
        let last = self.0.index_of(self.0.last()).unwrap_or_default();
        match self.0.family() {
            Family::V4 => (2, last.saturating_sub(1)),
            Family::V6 => (2, last),
        }
    }

    /// Whether a pod can have it, on demand even the address that is kept for the node.
    fn has(self, address: IpAddr) -> bool {
        let (first, last) = self.bounds();
        self.0.index_of(address).is_some_and(|offset| (first - 1..=last).contains(&offset))
    }

    /// Whether it is given to pods that do not ask for a certain one.
    fn gives(self, address: IpAddr) -> bool {
        let (first, last) = self.bounds();
        self.0.index_of(address).is_some_and(|offset| (first..=last).contains(&offset))
    }

    fn size(self) -> u128 {
        let (first, last) = self.bounds();
        last.saturating_sub(first) + 1
    }

    fn next_free(self, last_given: Option<IpAddr>, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let (first, last) = self.bounds();
        let start =
            last_given.and_then(|address| self.0.index_of(address)).map_or(first, |offset| offset + 1);
        let start = if (first..=last).contains(&start) { start } else { first };
        let mut candidates = (start..=last).chain(first..start).filter_map(|offset| self.0.nth(offset));
        candidates.find(|address| !taken(*address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn owner(uid: impl ToString) -> Owner {
        Owner { uid: uid.to_string(), pod: "default/p".into(), netns: None }
    }

    fn last_octets(allocator: &mut Allocator, uids: &[&str]) -> Vec<u8> {
        uids.iter().map(|uid| octet(allocator.assign(&owner(uid), &[]).unwrap().addresses[0])).collect()
    }

    /// The last one.
    fn octet(address: IpAddr) -> u8 {
        match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        }
    }

    /// `10.0.0.0/29,fd00::/64`
    fn range(text: &str) -> Allocator {
        Allocator::new(&orlop_model::net::one_per_family(text).unwrap())
    }

    #[test]
    fn a_freed_address_rests_until_the_range_has_gone_round() {
        let mut a = range("10.0.0.0/29");
        assert_eq!(last_octets(&mut a, &["a", "b"]), [2, 3]);
        a.release("a");
        assert_eq!(last_octets(&mut a, &["c", "d", "e", "f"]), [4, 5, 6, 2]);
    }

    #[test]
    fn an_address_that_is_next_but_was_freed_just_now_waits_for_the_others() {
        let mut a = range("10.0.0.0/29");
        assert_eq!(last_octets(&mut a, &["a", "b", "c", "d", "e"]), [2, 3, 4, 5, 6]);
        for uid in ["c", "a", "b"] {
            a.release(uid);
        }
        // The round begins anew at 2; all rest, so the one that has for longest comes first.
        assert_eq!(last_octets(&mut a, &["f", "g", "h"]), [4, 2, 3]);
    }

    #[test]
    fn the_same_pod_gets_the_same_address() {
        let mut a = range("10.0.0.0/24");
        assert!(a.assign(&owner("a"), &[]).unwrap().new);
        let again = a.assign(&owner("a"), &[]).unwrap();
        assert_eq!(again, Assigned { addresses: vec![[10, 0, 0, 2].into()], new: false });
    }

    #[test]
    fn a_full_range_says_so() {
        let mut a = range("10.0.0.0/30");
        assert_eq!(last_octets(&mut a, &["a"]), [2]);
        let full = a.assign(&owner("b"), &[]).unwrap_err();
        assert_eq!(full.to_string(), "no address is free in 10.0.0.0/30: all 1 are assigned");
    }

    #[test]
    fn addresses_outside_the_range_are_kept_but_not_given() {
        let mut a = range("10.0.1.0/24");
        assert!(a.insert(vec![[10, 0, 0, 9].into()], owner("old")));
        assert_eq!(last_octets(&mut a, &["new", "old"]), [2, 9]);
    }

    #[test]
    fn a_certain_address_is_given_once_and_only_from_the_range() {
        let mut a = range("10.0.0.0/29");
        let mut claim = |uid: &str, last| {
            let claimed = a.assign(&owner(uid), &[[10, 0, 0, last].into()]);
            claimed.map(|assigned| assigned.new).map_err(|refused| refused.to_string())
        };
        assert_eq!(claim("a", 5), Ok(true));
        assert_eq!(claim("a", 5), Ok(false));
        assert_eq!(claim("a", 6), Err("the pod has 10.0.0.5, and not 10.0.0.6".into()));
        assert_eq!(claim("b", 5), Err("address 10.0.0.5 belongs to default/p".into()));
        assert_eq!(claim("b", 7), Err("address 10.0.0.7 is none for pods of 10.0.0.0/29".into()));
        assert_eq!(claim("b", 0), Err("address 10.0.0.0 is none for pods of 10.0.0.0/29".into()));
        assert_eq!(last_octets(&mut a, &["c", "d", "e", "f"]), [6, 2, 3, 4]);
    }

    #[test]
    fn a_wish_for_one_family_leaves_the_other_to_chance() {
        let mut a = range("10.0.0.0/29,fd00::/64");
        let mut claim = |uid: &str, wish: &str| {
            let claimed = a.assign(&owner(uid), &[wish.parse().unwrap()]);
            claimed.map(|assigned| assigned.addresses.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(claim("a", "fd00::9").unwrap(), ["10.0.0.2", "fd00::9"]);
        assert_eq!(claim("b", "10.0.0.6").unwrap(), ["10.0.0.6", "fd00::a"]);
        let refused = claim("c", "fd01::9").unwrap_err();
        assert_eq!(refused.to_string(), "address fd01::9 is none for pods of fd00::/64");
    }

    #[test]
    fn each_family_has_its_own_range_and_position() {
        let mut a = range("fd00::/64,10.0.0.0/29");
        let texts =
            |assigned: Assigned| assigned.addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(a.assign(&owner("a"), &[]).unwrap()), ["fd00::2", "10.0.0.2"]);
        assert!(a.insert(vec!["10.0.0.3".parse().unwrap()], owner("of before IPv6")));
        assert_eq!(texts(a.assign(&owner("b"), &[]).unwrap()), ["fd00::3", "10.0.0.4"]);
        assert_eq!(
            texts(a.assign(&owner("of before IPv6"), &[]).unwrap()),
            ["10.0.0.3"],
            "a pod keeps what it has"
        );
        for uid in ["c", "d"] {
            a.assign(&owner(uid), &[]).unwrap();
        }
        let full = a.assign(&owner("e"), &[]).unwrap_err();
        assert_eq!(full.to_string(), "no address is free in 10.0.0.0/29: all 5 are assigned");
        assert_eq!(a.assignments().count(), 5);
        assert_eq!(a.release("a").unwrap().len(), 2);
        assert_eq!(
            texts(a.assign(&owner("e"), &[]).unwrap()),
            ["fd00::6", "10.0.0.2"],
            "the failed attempt took nothing"
        );
    }

    #[test]
    fn the_end_of_ipv6_is_an_address_like_any_other() {
        let mut a = range("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        assert_eq!(last_octets(&mut a, &["a", "b"]), [0xfe, 0xff]);
        assert!(a.assign(&owner("c"), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_address_is_ever_held_twice_and_none_is_lost(steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..200)) {
            let mut a = range("10.0.0.0/29");
            let mut model: HashMap<String, IpAddr> = HashMap::new();
            for (uid, take) in steps {
                let uid = uid.to_string();
                match take {
                    true => match a.assign(&owner(&uid), &[]) {
                        Ok(assigned) => {
                            let known = model.insert(uid, assigned.addresses[0]);
                            prop_assert_eq!(known.is_none(), assigned.new);
                            prop_assert!(known.is_none_or(|k| k == assigned.addresses[0]));
                        }
                        Err(_) => prop_assert_eq!(model.len(), 5),
                    },
                    false => prop_assert_eq!(a.release(&uid).map(|held| held[0]), model.remove(&uid)),
                }
                let held: HashSet<_> = model.values().collect();
                prop_assert_eq!(held.len(), model.len());
                prop_assert!(held.iter().all(|h| (2..=6).contains(&octet(**h))));
                prop_assert_eq!(a.assignments().count(), model.len());
            }
        }

        #[test]
        fn with_half_the_range_free_no_address_returns_at_once(rounds in 1usize..60) {
            let mut a = range("10.0.0.0/28");
            let mut previous = None;
            for round in 0..rounds {
                let given = a.assign(&owner(round), &[]).unwrap().addresses;
                prop_assert_ne!(Some(given), previous.clone());
                previous = a.release(&round.to_string());
            }
        }
    }
}
