//! What is in the kernel before, during and after: seen with `bpftool`, not with our own reader.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use orlop_dataplane::loader::{Device, LoadError, MAPS, PROGRAMS, pins};
use orlop_dataplane::maps::Maps as _;
use orlop_dataplane::model::Protocol;
use orlop_dataplane::tables::{Frontend, Host, MapOp, ServiceId, Vip};
use orlop_dataplane::{describe, loader, uninstall};

use crate::fixture::{lists, parse};
use crate::net::{dial, tcp_server};
use crate::room::{isolated, sh};
use crate::script::{bpftool, dns, set, start, web};

const WEB: &str = "10.96.0.10:80";

fn dump(pins: &Path, map: &str) -> Vec<serde_json::Value> {
    bpftool(&format!("map dump pinned {}", pins.join(map).display())).as_array().unwrap().clone()
}

fn shown(pins: &Path, map: &str) -> serde_json::Value {
    bpftool(&format!("map show pinned {}", pins.join(map).display()))
}

fn bytes(value: &serde_json::Value) -> String {
    let bytes = value
        .as_array()
        .unwrap()
        .iter()
        .map(|byte| byte.as_str().unwrap().trim_start_matches("0x").to_owned());
    bytes.collect::<Vec<_>>().join(" ")
}

fn attached(cgroup: &Path) -> Vec<String> {
    let shown = bpftool(&format!("cgroup show {}", cgroup.display()));
    let mut names: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|program| program["name"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
#[ignore = "root tier"]
fn bpftool_sees_the_programs_and_the_bytes() {
    isolated("install::bpftool_sees_the_programs_and_the_bytes", |room| {
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        let mut wanted = PROGRAMS.map(str::to_owned);
        wanted.sort();
        assert_eq!(attached(&room.cgroup), wanted);

        let pins = pins(&room.bpffs);
        let frontends = dump(&pins, "FRONTENDS");
        let mapped = "00 00 00 00 00 00 00 00 00 00 ff ff";
        let mut pairs: Vec<_> =
            frontends.iter().map(|element| (bytes(&element["key"]), bytes(&element["value"]))).collect();
        pairs.sort();
        let others = (format!("{mapped} 0a 60 00 0a 00 00 00 00"), format!("02{}", " 00".repeat(15)));
        let port = "01 00 00 00 01 00 00 00 04 00 00 00 00 00 00 00".to_owned();
        assert_eq!(pairs, [others, (format!("{mapped} 0a 60 00 0a 00 50 06 00"), port)]);
        let backends = dump(&pins, "BACKENDS");
        assert_eq!(bytes(&backends[0]["value"]), format!("{mapped} 0a 2a 00 05 1f 90 01 00 01 00 00 00"));
        let slots = dump(&pins, "SLOTS");
        assert_eq!(
            (bytes(&slots[0]["key"]), bytes(&slots[0]["value"])),
            ("01 00 00 00 00 00 00 00".into(), "01 00 00 00".into())
        );
    });
}

#[test]
#[ignore = "root tier"]
fn describe_says_it_in_words_without_an_agent() {
    isolated("install::describe_says_it_in_words_without_an_agent", |room| {
        let mut state = start(&room);
        let none_local = web(&[5]).replace("node-a", "node-b").replace("10.96.0.10", "10.96.0.11");
        let none_local = none_local.replace("{name: web,", "{name: l, internal_traffic_policy: Local,");
        set(&mut state, &(web(&[5, 6]) + &dns(&[]) + &none_local));
        drop(state);
        let lines: Vec<_> = describe(&room.bpffs).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "10.96.0.10:80/TCP       to 10.42.0.5:8080, 10.42.0.6:8080",
                "10.96.0.11:80/TCP       dropped: no endpoint on this node",
                "10.96.0.53:53/UDP       refused: no endpoint",
            ]
        );
    });
}

#[test]
#[ignore = "root tier"]
fn uninstall_leaves_nothing() {
    isolated("install::uninstall_leaves_nothing", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        dial(WEB).unwrap();
        drop(state);
        let maps = MAPS.map(|map| shown(&pins(&room.bpffs), map)["id"].as_u64().unwrap());

        uninstall(&room.bpffs).unwrap();
        assert!(attached(&room.cgroup).is_empty());
        assert!(dial(WEB).is_err(), "still translated");
        assert!(!sh("cat /proc/self/mounts").contains(room.bpffs.to_str().unwrap()), "still mounted");
        assert_eq!(fs::read_dir(&room.bpffs).unwrap().count(), 0);
        // The kernel frees maps a moment after the last user is gone.
        let left = || {
            maps.into_iter().filter(|id| sh("bpftool map show || true").contains(&format!("{id}: "))).count()
        };
        assert!((0..50).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            left() == 0
        }));
        uninstall(&room.bpffs).unwrap();
    });
}

#[test]
#[ignore = "root tier"]
fn what_another_hand_deletes_comes_back() {
    isolated("install::what_another_hand_deletes_comes_back", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        room.enter();
        let slots = pins(&room.bpffs).join("SLOTS");
        sh(&format!("bpftool map delete pinned {} key hex 01 00 00 00 00 00 00 00", slots.display()));
        assert!(dial(WEB).is_err());
        state.repair();
        dial(WEB).unwrap();
        assert_eq!(state.status().repaired, 1);
    });
}

#[test]
#[ignore = "root tier"]
fn a_cgroup_that_was_made_anew_is_attached_anew() {
    isolated("install::a_cgroup_that_was_made_anew_is_attached_anew", |room| {
        let node = room.cgroup.join("node");
        for _ in 0..2 {
            fs::create_dir(&node).unwrap();
            drop(loader::open(&room.bpffs, &node).unwrap());
            assert_eq!(attached(&node).len(), PROGRAMS.len());
            fs::remove_dir(&node).unwrap();
        }
    });
}

#[test]
#[ignore = "root tier"]
fn an_older_version_is_removed_once_this_one_is_in() {
    isolated("install::an_older_version_is_removed_once_this_one_is_in", |room| {
        tcp_server(5);
        let mut old = start(&room);
        set(&mut old, &web(&[5]));
        fs::rename(pins(&room.bpffs), room.bpffs.join("v0")).unwrap();
        let mut new = start(&room);
        set(&mut new, &web(&[5]));
        assert_eq!(attached(&room.cgroup).len(), PROGRAMS.len());
        assert!(!room.bpffs.join("v0").exists());
        room.enter();
        dial(WEB).unwrap();
    });
}

#[test]
#[ignore = "root tier"]
fn a_cgroup_that_does_not_exist_is_named() {
    isolated("install::a_cgroup_that_does_not_exist_is_named", |room| {
        let error = loader::open(&room.bpffs, Path::new("/sys/fs/cgroup/nowhere")).unwrap_err();
        assert!(matches!(error, LoadError::Cgroup { .. }), "{error}");
        assert_eq!(error.to_string(), "open cgroup /sys/fs/cgroup/nowhere");
        let error = loader::open(&room.bpffs, Path::new("/tmp")).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "it is not in a cgroup v2 hierarchy");
    });
}

#[test]
#[ignore = "root tier"]
fn an_idle_node_pays_little_memory() {
    isolated("install::an_idle_node_pays_little_memory", |room| {
        drop(start(&room));
        let mut total = 0;
        for map in MAPS {
            let bytes = shown(&pins(&room.bpffs), map)["bytes_memlock"].as_u64().unwrap();
            println!("{map}: {bytes}");
            total += bytes;
        }
        println!("total: {total}");
        assert!(total < 29 << 20, "{total} bytes");
    });
}

#[test]
#[ignore = "root tier"]
fn a_full_map_is_the_status_of_the_service_that_found_it_full() {
    isolated("install::a_full_map_is_the_status_of_the_service_that_found_it_full", |room| {
        tcp_server(5);
        let mut state = start(&room);
        set(&mut state, &web(&[5]));
        let frontend = Frontend::default();
        // One service has two: its port, and those it does not have.
        for n in 1..orlop_abi::MAX_FRONTENDS - 1 {
            let vip = Vip {
                host: Host::Ip(Ipv4Addr::from(0x0a80_0000 + n).into()),
                port: 1,
                protocol: Protocol::Tcp,
            };
            state.maps_mut().apply(&MapOp::PutFrontend(ServiceId(n + 1), vip, frontend)).unwrap();
        }
        let more = web(&[]).replace("web", "more").replace("10.96.0.10", "10.96.0.11");
        for update in lists(&parse(&(web(&[5]) + &more))) {
            state.ingest(update);
        }
        state.sync();
        let failures: Vec<_> =
            state.status().failures.into_iter().map(|(key, why)| format!("{key}: {why}")).collect();
        assert_eq!(failures, ["default/more: service 3: put 10.96.0.11:80/TCP slots=0: the map is full"]);
        room.enter();
        dial(WEB).unwrap();

        // What filled it was not ours: the read-back clears it, and the service gets its place.
        state.repair();
        assert_eq!(state.status().failures, Default::default());
        assert_eq!(describe(&room.bpffs).unwrap().len(), 2);
    });
}

#[test]
#[ignore = "root tier"]
fn the_verifiers_work_is_what_it_was() {
    isolated("install::the_verifiers_work_is_what_it_was", |room| {
        let begun = std::time::Instant::now();
        let mut loaded = loader::load_all(&room.bpffs, &room.cgroup).unwrap();
        // The one before the stack is loaded where a device is to have it.
        let device =
            Device { index: 1, name: "lo".to_owned(), pod: false, stack: false, early: true, port_of: None };
        loaded.devices.set(&[device]);
        let counts = loaded.devices.verified();
        let report: String = counts.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
        println!("loaded in {:?}", begun.elapsed());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/verifier.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(path, report).unwrap();
            return;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let (name, limit) = line.split_once(' ').unwrap();
            // Another kernel walks other ways; a tenth is no news.
            let limit = limit.parse::<u32>().unwrap() * 11 / 10;
            assert!(counts[name] <= limit, "{name} needs more of the verifier than {path} says:\n{report}");
        }
        assert_eq!(counts.len(), PROGRAMS.len() + 5, "{report}");
    });
}
