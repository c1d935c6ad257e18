//! The loop on fake maps: what is written when, and what happens when a write is refused.

use std::time::Duration;

use expect_test::expect;
use orlop_model::event::Event;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, lists, parse};
use super::{node, set, shown, state};
use crate::Update;
use crate::health::Eligibility;
use crate::maps::FakeMaps;
use crate::model::{HostPort, Protocol, ServiceKey};
use crate::reconcile::{State, follow};
use crate::status::Status;
use crate::tables::MapOp;

fn yaml(name: &str, ip: u8, endpoints: &[u8]) -> String {
    let ports = "ports: [{port: 80}]";
    let endpoints: Vec<_> =
        endpoints.iter().map(|last| format!("{{ip: 10.0.0.{last}, ports: {{'': 80}}}}")).collect();
    format!(
        "- service: {{name: {name}, cluster_ips: [10.96.0.{ip}], {ports}}}\n  endpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn slices_of(fixtures: &[Fixture]) -> Update {
    Update::EndpointSlice(Event::Reset(fixtures.iter().flat_map(Fixture::slices).collect()))
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: name.to_owned() }
}

#[test]
fn nothing_is_written_before_both_first_lists() {
    let mut before = state(&yaml("old", 9, &[9]));
    let maps = std::mem::take(before.maps_mut());
    let mut state = State::new(maps, node());
    state.maps_mut().log.clear();
    let [services, slices] = lists(&parse(&yaml("web", 1, &[2])));
    state.ingest(services);
    state.sync();
    state.repair();
    assert_eq!(state.maps().log, []);
    state.ingest(slices);
    state.sync();
    expect![[r#"
        10.96.0.1:80/TCP slots=1 10.0.0.2:80
        10.96.0.1:* refused
    "#]]
    .assert_eq(&shown(&state));
}

#[test]
fn a_restart_that_finds_everything_right_writes_nothing() {
    let services = yaml("web", 1, &[2, 3]) + &yaml("api", 2, &[4]);
    let mut before = state(&services);
    let mut after = State::new(std::mem::take(before.maps_mut()), node());
    after.maps_mut().log.clear();
    set(&mut after, &services);
    assert_eq!(after.maps().log, []);
    assert!(after.status().synced);
}

#[test]
fn an_unchanged_backend_keeps_its_number_while_others_come_and_go() {
    let mut state = state(&yaml("web", 1, &[2, 3]));
    let number = |state: &State<FakeMaps>| {
        state
            .maps()
            .backends
            .iter()
            .find(|(_, (_, to))| to.at.to_string() == "10.0.0.3:80")
            .map(|(id, _)| *id)
    };
    let before = number(&state);
    set(&mut state, &yaml("web", 1, &[1, 3, 7]));
    assert_eq!(number(&state), before);
    let mut restarted = State::new(std::mem::take(state.maps_mut()), node());
    set(&mut restarted, &yaml("web", 1, &[3]));
    assert_eq!(number(&restarted), before);
}

#[test]
fn a_number_is_not_given_to_the_next_backend() {
    let mut state = state(&yaml("web", 1, &[2]));
    let first = *state.maps().backends.keys().next().unwrap();
    set(&mut state, &yaml("web", 1, &[3]));
    assert!(!state.maps().backends.contains_key(&first));
}

#[test]
fn a_refused_write_is_one_services_status_and_is_tried_again() {
    let mut state = State::new(FakeMaps { max_backends: Some(2), ..FakeMaps::default() }, node());
    set(&mut state, &(yaml("big", 1, &[2, 3, 4]) + &yaml("small", 2, &[])));
    expect![[r#"
        10.96.0.2:80/TCP slots=0
        10.96.0.2:* refused
    "#]]
    .assert_eq(&shown(&state));
    expect!["service 1: put backend 4 10.0.0.4:80: No space left on device"]
        .assert_eq(&state.status().failures[&key("big")]);

    state.maps_mut().max_backends = None;
    state.repair();
    expect![[r#"
        10.96.0.1:80/TCP slots=3 10.0.0.2:80 10.0.0.3:80 10.0.0.4:80
        10.96.0.2:80/TCP slots=0
        10.96.0.2:* refused
        10.96.0.1:* refused
    "#]]
    .assert_eq(&shown(&state));
    assert!(state.status().synced);
}

#[test]
fn what_another_hand_changed_is_repaired() {
    let mut state = state(&yaml("web", 1, &[2, 3]));
    let before = shown(&state);
    let slot = *state.maps().slots.keys().next().unwrap();
    state.maps_mut().slots.remove(&slot);
    state.maps_mut().frontends.clear();
    state.repair();
    assert_eq!(shown(&state), before);
    assert_eq!(state.status().repaired, 3);
    state.maps_mut().log.clear();
    state.repair();
    assert_eq!(state.maps().log, []);
}

#[test]
fn of_two_services_with_one_address_the_first_keeps_it_until_it_goes() {
    let mut state = state(&(yaml("a", 1, &[2]) + &yaml("b", 1, &[3])));
    assert!(shown(&state).starts_with("10.96.0.1:80/TCP slots=1 10.0.0.2:80\n"), "{}", shown(&state));
    expect!["10.96.0.1:80/TCP belongs to service default/a"].assert_eq(&state.status().failures[&key("b")]);
    set(&mut state, &yaml("b", 1, &[3]));
    state.repair();
    assert!(shown(&state).starts_with("10.96.0.1:80/TCP slots=1 10.0.0.3:80\n"), "{}", shown(&state));
    assert!(state.status().failures.is_empty());
}

#[test]
fn a_change_of_one_service_writes_only_that_one() {
    let mut state = state(&(yaml("a", 1, &[2]) + &yaml("b", 2, &[3])));
    state.maps_mut().log.clear();
    set(&mut state, &(yaml("a", 1, &[2]) + &yaml("b", 2, &[4])));
    let services: Vec<_> = state.maps().log.iter().map(MapOp::service).collect();
    assert!(!services.is_empty() && services.iter().all(|id| *id == services[0]), "{services:?}");
}

#[test]
fn the_zone_decides_once_it_is_known() {
    let hinted = "
- service: {name: z, cluster_ips: [10.96.0.1], ports: [{port: 80}]}
  endpoints:
  - {ip: 10.0.0.2, ports: {'': 80}, for_zones: [z1]}
  - {ip: 10.0.0.3, ports: {'': 80}, for_zones: [z2]}";
    let mut state = state(hinted);
    expect![[r#"
        10.96.0.1:80/TCP slots=1 10.0.0.2:80
        10.96.0.1:* refused
    "#]]
    .assert_eq(&shown(&state));
    state.ingest(Update::Node {
        zone: Some("z2".to_owned()),
        primary: Vec::new(),
        eligibility: Eligibility::Eligible,
    });
    state.sync();
    expect![[r#"
        10.96.0.1:80/TCP slots=1 10.0.0.3:80
        10.96.0.1:* refused
    "#]]
    .assert_eq(&shown(&state));
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut state = state(&(yaml("a", 1, &[2]) + &yaml("b", 2, &[])));
    let mut slice = parse(&yaml("a", 1, &[2]))[0].slices().remove(0);
    let labels = slice.metadata.labels.as_mut().unwrap();
    labels.insert("kubernetes.io/service-name".to_owned(), "b".to_owned());
    state.ingest(Update::EndpointSlice(Event::Apply(slice)));
    state.sync();
    expect![[r#"
        10.96.0.1:80/TCP slots=0
        10.96.0.1:* refused
        10.96.0.2:80/TCP slots=1 10.0.0.2:80
        10.96.0.2:* refused
    "#]]
    .assert_eq(&shown(&state));
}

#[tokio::test(start_paused = true)]
async fn the_loop_follows_updates_repairs_by_the_clock_and_stops_when_told() {
    let (tx, rx) = mpsc::channel(16);
    let (status_tx, mut status) = watch::channel(Status::default());
    let stop = CancellationToken::new();
    let state = State::new(FakeMaps { max_backends: Some(1), ..FakeMaps::default() }, node());
    let running = tokio::spawn(follow(state, rx, None, status_tx, stop.clone(), Duration::from_secs(30)));

    let fixtures = parse(&yaml("web", 1, &[2, 3]));
    let [services, slices] = lists(&fixtures);
    tx.send(services).await.unwrap();
    tx.send(slices).await.unwrap();
    let seen =
        status.wait_for(|status| status.services == 1 && !status.failures.is_empty()).await.unwrap().clone();
    assert!(!seen.synced);

    tx.send(slices_of(&parse(&yaml("web", 1, &[2])))).await.unwrap();
    until(&mut status, |status| status.synced && status.services == 1 && status.backends == 1).await;

    stop.cancel();
    running.await.unwrap();
}

/// Waits in paused time, where an hour passes at once if nothing happens.
async fn until(status: &mut watch::Receiver<Status>, wanted: impl FnMut(&Status) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(3600), status.wait_for(wanted)).await;
    assert!(waited.is_ok_and(|status| status.is_ok()), "not reached");
}

#[test]
fn host_ports_come_and_go_with_their_pods() {
    let mut state = state(&yaml("web", 1, &[2]));
    let pod = ServiceKey { namespace: "default".to_owned(), name: "pod/a".to_owned() };
    let port = |host_ip: Option<&str>, port| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        port,
        protocol: Protocol::Tcp,
        to: vec!["10.0.0.9:80".parse().unwrap(), "[fd00::9]:80".parse().unwrap()],
    };
    state.ingest(Update::HostPorts([(pod, vec![port(None, 8080), port(Some("192.0.2.1"), 8081)])].into()));
    state.sync();
    expect![[r#"
        10.96.0.1:80/TCP slots=1 10.0.0.2:80
        10.96.0.1:* refused
        node:8080/TCP slots=1 10.0.0.9:80
        [node]:8080/TCP slots=1 [fd00::9]:80
        192.0.2.1:8081/TCP slots=1 10.0.0.9:80
    "#]]
    .assert_eq(&shown(&state));
    state.repair();
    assert_eq!(state.status().repaired, 0);
    state.ingest(Update::HostPorts([].into()));
    state.sync();
    expect![[r#"
        10.96.0.1:80/TCP slots=1 10.0.0.2:80
        10.96.0.1:* refused
    "#]]
    .assert_eq(&shown(&state));
}
