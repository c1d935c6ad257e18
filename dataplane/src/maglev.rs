//! Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4): a list of choices that is the same on every node and after every restart,
//! and nearly the same when a backend comes or goes. A connection's hash picks the place, so whichever node sees its packets
//! sends them to the same backend.
//!
//! Not for: sockets. They have no port of their own yet when they choose, and stay with their choice anyway.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use orlop_abi::{PLACES, TABLE};
use orlop_model::hash::fnv64a;

use crate::tables::{BackendId, Places};

/// The table for these backends, in parts; none if there are no backends. Shares differ by one place at most.
#[must_use]
pub fn table(backends: &BTreeMap<SocketAddr, BackendId>) -> Vec<Places> {
    let places = places(backends);
    places.chunks(PLACES).map(part).collect()
}

fn part(places: &[BackendId]) -> Places {
    let mut part = [BackendId(0); PLACES];
    part.iter_mut().zip(places).for_each(|(to, from)| *to = *from);
    Places::new(part)
}

/// The backends take turns, each with the first place of its own order that is still free. Who comes first matters, so that is
/// by address, and not by who was heard of first.
fn places(backends: &BTreeMap<SocketAddr, BackendId>) -> Vec<BackendId> {
    let mut turns: Vec<_> = backends.iter().map(|(at, id)| (*id, Walk::of(*at))).collect();
    let mut places = vec![None; if turns.is_empty() { 0 } else { TABLE }];
    let mut free = places.len();
    while free > 0 {
        for (id, walk) in turns.iter_mut().take(free) {
            let mut place = walk.next();
            while places[place].is_some() {
                place = walk.next();
            }
            places[place] = Some(*id);
            free -= 1;
        }
    }
    places.into_iter().flatten().collect()
}

/// All places, in an order of the backend's own.
struct Walk {
    at: usize,
    step: usize,
}

impl Walk {
    fn of(backend: SocketAddr) -> Self {
        let hash = |salt: &str| {
            // 64 bits are mixed once more: addresses of one network differ in few of them.
            let hash = fnv64a(format!("{salt}{backend}").as_bytes());
            let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
            usize::try_from((hash ^ hash >> 33) >> 16).unwrap_or_default()
        };
        Self { at: hash("at ") % TABLE, step: hash("step ") % (TABLE - 1) + 1 }
    }

    fn next(&mut self) -> usize {
        let place = self.at;
        self.at += self.step;
        if self.at >= TABLE {
            self.at -= TABLE;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn backends(count: u16) -> BTreeMap<SocketAddr, BackendId> {
        let at = |n: u16| SocketAddr::from(([10, 42, n.to_be_bytes()[0], n.to_be_bytes()[1]], 8080));
        (0..count).map(|n| (at(n), BackendId(u32::from(n) + 1))).collect()
    }

    #[test]
    fn nobody_is_no_table() {
        assert!(table(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn parts_are_the_table_and_nothing_else() {
        let all = backends(3);
        let parts = table(&all);
        assert_eq!(parts.len(), 274);
        let joined: Vec<_> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        assert_eq!(joined[..TABLE], places(&all));
        assert!(joined[TABLE..].iter().all(|id| *id == BackendId(0)));
    }

    #[test]
    fn numbers_do_not_matter() {
        let all = backends(20);
        let other: BTreeMap<_, _> = all.iter().map(|(at, id)| (*at, BackendId(1000 - id.0))).collect();
        let at = |all: &BTreeMap<SocketAddr, BackendId>| -> Vec<SocketAddr> {
            let by_id: BTreeMap<_, _> = all.iter().map(|(at, id)| (*id, *at)).collect();
            places(all).iter().map(|id| by_id[id]).collect()
        };
        assert_eq!(at(&all), at(&other));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn shares_are_equal_and_few_places_move(count in 1_u16..=100, gone in any::<prop::sample::Index>()) {
            let mut all = backends(count);
            let before = places(&all);
            prop_assert_eq!(before.len(), TABLE);
            let mut shares = BTreeMap::new();
            before.iter().for_each(|id| *shares.entry(*id).or_insert(0) += 1);
            prop_assert!(shares.values().max().unwrap() - shares.values().min().unwrap() <= 1);

            let gone = *all.keys().nth(gone.index(all.len())).unwrap();
            let gone = all.remove(&gone).unwrap();
            let after = places(&all);
            let moved = before.iter().zip(&after).filter(|(was, is)| **was != gone && was != is).count();
            // One in a hundred of those that need not have moved.
            prop_assert!(moved * 100 <= TABLE, "{} of {} moved, {} backends", moved, TABLE, count);
        }
    }
}
