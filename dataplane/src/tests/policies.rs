//! Policies through the loop's state, on fake maps: when they are written, and when a pod may start.

use std::collections::BTreeSet;

use orlop_model::event::Event;
use orlop_model::selectors::LabelSelector;
use tokio::sync::mpsc;

use super::node;
use crate::maps::FakeMaps;
use crate::policy::Change;
use crate::policy::model::{Key, Labels, Pod, Policy};
use crate::reconcile::{State, Update};

fn key(name: &str) -> Key {
    Key { namespace: "shop".to_owned(), name: name.to_owned() }
}

fn deny() -> Change {
    let policy = Policy {
        key: key("deny"),
        subject: LabelSelector::everything(),
        ingress: Some(Vec::new()),
        egress: None,
    };
    Change::Policy(Event::Reset(vec![policy]))
}

fn pods(all: &[(&str, &str)]) -> Change {
    let pod = |(name, ip): &(&str, &str)| {
        let ips = ip.parse().into_iter().collect();
        (key(name), Some(Pod { ips, node: "node-a".to_owned(), ..Pod::default() }))
    };
    Change::Pod(Event::Reset(all.iter().map(pod).collect()))
}

fn namespaces() -> Change {
    Change::Namespace(Event::Reset(vec![("shop".to_owned(), Labels::new())]))
}

fn sync(state: &mut State<FakeMaps>, changes: impl IntoIterator<Item = Change>) {
    changes.into_iter().for_each(|change| state.ingest(Update::Policy(change)));
    state.sync();
}

fn attach(state: &mut State<FakeMaps>, name: &str, ip: &str) -> mpsc::Receiver<()> {
    let (done, told) = mpsc::channel(1);
    state.ingest(Update::Attached(key(name), BTreeSet::from([ip.parse().unwrap()]), done));
    state.sync();
    told
}

#[test]
fn what_is_pinned_holds_until_everything_is_listed() {
    let mut old = State::new(FakeMaps::default(), node());
    sync(&mut old, [deny(), namespaces(), pods(&[("web", "10.42.0.1")])]);
    let pinned = old.maps().policies.clone();
    assert_eq!(pinned.subjects.len(), 1);
    let mut new = State::new(FakeMaps { policies: pinned.clone(), ..FakeMaps::default() }, node());
    sync(&mut new, []);
    sync(&mut new, [deny()]);
    sync(&mut new, [namespaces()]);
    assert_eq!(new.maps().policies, pinned);
    sync(&mut new, [pods(&[])]);
    assert!(new.maps().policies.subjects.is_empty());
    assert_eq!(new.maps().published, 1);
    // The same again is no change, and has nothing judged again.
    sync(&mut new, [deny(), pods(&[])]);
    assert_eq!(new.maps().published, 1);
}

#[test]
fn a_pod_starts_when_its_policies_are_in_force() {
    let mut state = State::new(FakeMaps::default(), node());
    let mut told = attach(&mut state, "web", "10.42.0.1");
    assert!(told.try_recv().is_err(), "nobody knows of policies yet");
    sync(&mut state, [deny(), namespaces()]);
    sync(&mut state, [pods(&[])]);
    assert!(told.try_recv().is_err(), "nobody knows the pod yet");
    // Its status does not tell its address yet.
    sync(&mut state, [pods(&[("web", "")])]);
    assert!(told.try_recv().is_ok());
    assert!(state.maps().policies.subjects.contains_key(&"10.42.0.1".parse().unwrap()));
}

#[test]
fn without_policies_nobody_waits() {
    let mut state = State::new(FakeMaps::default(), node());
    sync(&mut state, [Change::Policy(Event::Reset(Vec::new()))]);
    assert!(attach(&mut state, "web", "10.42.0.1").try_recv().is_ok());
}

#[test]
fn what_another_hand_changed_is_put_right() {
    let mut state = State::new(FakeMaps::default(), node());
    sync(&mut state, [deny(), namespaces(), pods(&[("web", "10.42.0.1")])]);
    let before = state.maps().policies.clone();
    state.maps_mut().policies.subjects.clear();
    state.repair();
    assert_eq!(state.maps().policies, before);
    assert_eq!(state.maps().published, 2);
}
