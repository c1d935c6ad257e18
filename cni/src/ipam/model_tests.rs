//! The ledger against a model: restarts, power cuts that take any part of what was not synced, and runtimes that ask again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    net::IpAddr,
    time::Duration,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Ledger, Owner};

/// A range with more addresses than there are pods, so that a freed one can rest.
const RANGE: &str = "10.0.0.0/28";
const PODS: u8 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// An attachment that was used: the log counts as synced by then.
    Attach(u8),
    /// One that a crash or an error ended before that.
    Begin(u8),
    /// One with a certain address.
    Wish(u8, u8),
    Release(u8),
    Restart,
    /// Per mille of what was not synced that is kept.
    PowerCut(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..PODS;
    prop_oneof![
        6 => pod.clone().prop_map(Step::Attach),
        2 => pod.clone().prop_map(Step::Begin),
        1 => (pod.clone(), 0u8..16).prop_map(|(pod, last)| Step::Wish(pod, last)),
        5 => pod.prop_map(Step::Release),
        1 => Just(Step::Restart),
        2 => (0u16..=1000).prop_map(Step::PowerCut),
    ]
}

fn owner(pod: u8) -> Owner {
    Owner { uid: format!("p{pod}"), pod: "default/p".into(), netns: None }
}

fn open(dir: &TempDir) -> Ledger {
    // Another test of this process that starts a program has a copy of the lock for a moment.
    Ledger::open(dir.path(), &[RANGE.parse().unwrap()], Duration::from_secs(10)).unwrap()
}

fn held(ledger: &Ledger) -> BTreeMap<String, IpAddr> {
    ledger.allocator().assignments().map(|(addresses, owner)| (owner.uid.clone(), addresses[0])).collect()
}

fn length(dir: &TempDir) -> u64 {
    fs::metadata(dir.path().join("addresses")).unwrap().len()
}

/// What a power cut may leave.
fn cut(dir: &TempDir, synced: u64, kept: u16) {
    let file = OpenOptions::new().write(true).open(dir.path().join("addresses")).unwrap();
    let length = length(dir);
    file.set_len(synced + (length - synced) * u64::from(kept) / 1000).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_address_is_given_twice_lost_or_given_again_at_once(steps in proptest::collection::vec(step(), 1..80)) {
        let dir = TempDir::new().unwrap();
        let mut ledger = open(&dir);
        // What pods really use; nobody else may get it.
        let mut used: BTreeMap<String, IpAddr> = BTreeMap::new();
        let (mut synced, mut freed) = (length(&dir), None);
        for step in steps {
            match step {
                Step::Attach(pod) | Step::Begin(pod) => {
                    let assigned = ledger.assign(&owner(pod), &[]).unwrap();
                    let (uid, address) = (owner(pod).uid, assigned.addresses[0]);
                    prop_assert!(used.iter().all(|(other, taken)| *other == uid || *taken != address));
                    if let Some(known) = used.get(&uid) {
                        prop_assert_eq!(*known, address);
                    }
                    prop_assert!(!assigned.new || freed != Some(address), "{} again at once", address);
                    freed = freed.filter(|_| !assigned.new);
                    if matches!(step, Step::Attach(_)) {
                        synced = length(&dir);
                        used.insert(uid, address);
                    }
                }
                Step::Wish(pod, last) => {
                    let address = IpAddr::from([10, 0, 0, last]);
                    let taken = held(&ledger).iter().any(|(uid, held)| *held == address && *uid != owner(pod).uid);
                    if ledger.assign(&owner(pod), &[address]).is_ok() {
                        prop_assert!(!taken && (1..15).contains(&last));
                        synced = length(&dir);
                        used.insert(owner(pod).uid, address);
                        freed = None;
                    }
                }
                Step::Release(pod) => {
                    let uid = owner(pod).uid;
                    let had = ledger.allocator().addresses(&uid).map(|addresses| addresses[0]);
                    ledger.release(&uid).unwrap();
                    used.remove(&uid);
                    freed = had.or(freed);
                    // A rewrite is synced.
                    synced = synced.min(length(&dir));
                }
                Step::Restart => {
                    drop(ledger);
                    ledger = open(&dir);
                }
                Step::PowerCut(kept) => {
                    drop(ledger);
                    cut(&dir, synced, kept);
                    ledger = open(&dir);
                    synced = length(&dir);
                    freed = None;
                    // What pods use is known; what was released without a trace is asked for again.
                    let known = held(&ledger);
                    prop_assert!(used.iter().all(|(uid, address)| known.get(uid) == Some(address)));
                    for uid in known.keys().filter(|uid| !used.contains_key(*uid)) {
                        ledger.release(uid).unwrap();
                    }
                    prop_assert_eq!(held(&ledger), used.clone());
                }
            }
            let addresses = held(&ledger);
            prop_assert_eq!(addresses.values().collect::<BTreeSet<_>>().len(), addresses.len());
        }
        // None is lost: with all pods gone, every address can be given.
        for uid in held(&ledger).keys() {
            ledger.release(uid).unwrap();
        }
        let all: BTreeSet<_> =
            (100..113).map(|pod| ledger.assign(&owner(pod), &[]).unwrap().addresses[0]).collect();
        prop_assert_eq!(all.len(), 13);
        prop_assert!(ledger.assign(&owner(200), &[]).is_err());
    }
}
