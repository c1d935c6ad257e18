//! The order of writes: at no moment does an address lead to a backend that is not there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orlop_abi::{PLACES, TABLE};
use proptest::prelude::*;

use crate::compile::{Compiled, Rules};
use crate::diff::diff_all;
use crate::ids::Ids;
use crate::maps::{FakeMaps, Maps as _};
use crate::model::Protocol;
use crate::tables::{Backend, BackendId, Frontend, Home, Host, MapOp, ServiceId, Set, Tables, Vip};

fn vip(last: u8) -> Vip {
    Vip { host: Host::Ip(IpAddr::V4(Ipv4Addr::new(10, 96, 0, last))), port: 80, protocol: Protocol::Udp }
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8080))
}

prop_compose! {
    /// A service of one of five addresses, with some of eight backends in the slots and some others kept.
    fn service(by_hash: bool)(ip in 0..5_u8, slots in prop::collection::btree_set(0..8_u8, 0..6), kept in prop::collection::btree_set(0..8_u8, 0..3), second in (0..2_u8).prop_map(|n| n * 10), guarded: bool) -> Compiled {
        Compiled {
            close: false,
            primary: vip(ip),
            // A second address that comes and goes, and is guarded at times.
            frontends: [
                (vip(ip), Rules { by_hash, ..Rules::default() }),
                (vip(ip + 100 + second), Rules { guarded, by_hash, ..Rules::default() }),
            ].into(),
            sets: [(Set::Cluster, slots.iter().map(|last| at(*last)).collect())].into(),
            serving: kept.iter().map(|last| at(*last)).collect(),
            homes: std::collections::BTreeMap::new(),
            any: !slots.is_empty(),
            ranges: if guarded { ["203.0.113.0/24".parse().unwrap()].into() } else { [].into() },
            affinity_seconds: 0,
        }
    }
}

fn world() -> impl Strategy<Value = Vec<Compiled>> {
    prop::collection::vec(service(false), 0..5).prop_map(apart)
}

fn apart(mut services: Vec<Compiled>) -> Vec<Compiled> {
    services.sort_by_key(|service| service.primary);
    services.dedup_by_key(|service| service.primary);
    services
}

/// What a client could meet: every counted slot must lead to a backend of the same service.
fn assert_sound(maps: &FakeMaps) {
    for (vip, (service, frontend)) in &maps.frontends {
        assert!(
            !frontend.rules.guarded || maps.ranges.iter().any(|(of, _)| of == service),
            "{vip} lets in nobody"
        );
        for slot in 0..frontend.cluster {
            let id = maps.slots.get(&(*service, Set::Cluster, slot));
            let owner = id.and_then(|id| maps.backends.get(id)).map(|(owner, _)| owner);
            assert_eq!(owner, Some(service), "{vip} slot {slot}");
        }
        // The first, one in the middle and the last: each is a write of its own.
        for part in [0, 100, 273].iter().filter(|_| frontend.rules.by_hash && frontend.cluster > 0) {
            let places = &maps.places[&(*service, Set::Cluster, *part)];
            let used = if *part == 273 { &places[..TABLE % PLACES] } else { &places[..] };
            for id in used {
                let owner = maps.backends.get(id).map(|(owner, _)| owner);
                assert_eq!(owner, Some(service), "{vip} part {part}");
            }
        }
    }
}

fn assign(ids: &mut Ids, world: &[Compiled], actual: &Tables) -> Tables {
    let mut tables = Tables::default();
    tables.services.extend(world.iter().map(|compiled| ids.assign(compiled, actual)));
    tables
}

proptest! {
    #[test]
    fn every_prefix_is_sound_and_the_end_is_what_was_wanted(worlds in prop::collection::vec(world(), 1..5)) {
        assert_all_sound(worlds);
    }

    #[test]
    fn whatever_another_hand_wrote_one_pass_repairs(world in world(), strange in prop::collection::vec(drift(), 0..20)) {
        let desired = assign(&mut Ids::default(), &world, &Tables::default());
        let mut maps = FakeMaps::default();
        for op in diff_all(&desired, &Tables::default()).iter().chain(&strange) {
            maps.apply(op).unwrap();
        }
        for op in diff_all(&desired, &maps.dump().unwrap()) {
            maps.apply(&op).unwrap();
        }
        prop_assert_eq!(maps.dump().unwrap(), desired);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn tables_of_choices_lead_to_backends_at_every_moment(
        worlds in prop::collection::vec(prop::collection::vec(any::<bool>().prop_flat_map(service), 1..3).prop_map(apart), 2..5),
    ) {
        assert_all_sound(worlds);
    }
}

/// After every write, and at the end as wanted.
fn assert_all_sound(worlds: Vec<Vec<Compiled>>) {
    let mut maps = FakeMaps::default();
    for world in worlds {
        let actual = maps.dump().unwrap();
        let desired = assign(&mut Ids::adopt(&actual), &world, &actual);
        for op in diff_all(&desired, &actual) {
            maps.apply(&op).unwrap();
            assert_sound(&maps);
        }
        assert_eq!(maps.dump().unwrap(), desired);
    }
}

fn drift() -> impl Strategy<Value = MapOp> {
    let service = (0..7_u32).prop_map(ServiceId);
    let frontend = (0..9_u16).prop_map(|cluster| Frontend { cluster, ..Frontend::default() });
    prop_oneof![
        (service.clone(), 0..12_u32, 0..9_u8).prop_map(|(s, id, last)| MapOp::PutBackend(
            s,
            BackendId(id),
            Backend { at: at(last), cluster: true, local: false, close: false, home: Home::Unsaid }
        )),
        (service.clone(), 0..9_u16, 0..12_u32).prop_map(|(s, n, id)| MapOp::PutSlot(
            s,
            (Set::Cluster, n),
            BackendId(id)
        )),
        (service.clone(), 0..7_u8, frontend).prop_map(|(s, ip, to)| MapOp::PutFrontend(s, vip(ip), to)),
        (service.clone(), 0..7_u8).prop_map(|(s, ip)| MapOp::DelFrontend(s, vip(ip))),
        (service.clone(), 0..9_u16).prop_map(|(s, n)| MapOp::DelSlot(s, (Set::Cluster, n))),
        (service, 0..12_u32).prop_map(|(s, id)| MapOp::DelBackend(s, BackendId(id))),
    ]
}
