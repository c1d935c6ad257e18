//! More than one call to the kernel holds: written in batches, read back in batches.

use orlop_dataplane::loader::{self, pins};
use orlop_dataplane::model::Node;
use orlop_dataplane::reconcile::State;
use orlop_dataplane::sizes::Sizes;

use crate::net::{dial, tcp_server};
use crate::room::{Room, isolated};
use crate::script::{bpftool, set, start, web};

const SERVICES: usize = 60;
const ENDPOINTS: usize = 100;

fn cluster() -> String {
    let service = |n: usize| {
        let endpoints: Vec<_> =
            (1..=ENDPOINTS).map(|m| format!("{{ip: 10.42.{n}.{m}, ports: {{p: 8080}}}}")).collect();
        format!(
            "- service: {{name: s{n}, cluster_ips: [10.96.1.{n}], ports: [{{name: p, port: 80}}]}}\n  endpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    (1..=SERVICES).map(service).collect()
}

fn elements(room: &Room, map: &str) -> serde_json::Value {
    bpftool(&format!("map dump pinned {}", pins(&room.bpffs).join(map).display()))
}

#[test]
#[ignore = "root tier"]
fn a_large_cluster_is_written_whole_and_taken_over_as_it_is() {
    isolated("large::a_large_cluster_is_written_whole_and_taken_over_as_it_is", |room| {
        let yaml = cluster();
        let mut state = start(&room);
        set(&mut state, &yaml);
        let written = ["BACKENDS", "SLOTS", "FRONTENDS"].map(|map| elements(&room, map));
        let counts = written.each_ref().map(|map| map.as_array().unwrap().len());
        // Of a service its port, and the ports that it does not have.
        assert_eq!(counts, [SERVICES * ENDPOINTS, SERVICES * ENDPOINTS, SERVICES * 2]);
        state.repair();
        assert_eq!(state.status().repaired, 0);
        drop(state);

        let mut next = start(&room);
        set(&mut next, &yaml);
        let found = ["BACKENDS", "SLOTS", "FRONTENDS"].map(|map| elements(&room, map));
        assert!(found == written, "numbers have changed");
        assert_eq!(next.status().backends, SERVICES * ENDPOINTS);
    });
}

#[test]
#[ignore = "root tier"]
fn maps_of_another_size_have_the_same_services_from_their_first_moment() {
    isolated("large::maps_of_another_size_have_the_same_services_from_their_first_moment", |room| {
        tcp_server(5);
        let services = web(&[5]) + &cluster();
        drop({
            let mut state = start(&room);
            set(&mut state, &services);
            state
        });
        let maps = ["BACKENDS", "SLOTS", "FRONTENDS"];
        let sorted = |map: &str| {
            let mut elements =
                elements(&room, map).as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
            elements.sort();
            elements
        };
        let before = maps.map(sorted);
        let sizes = Sizes { services: 2_000, endpoints: 8_000, connections: 1_000 };
        let loaded = loader::load_sized(&room.bpffs, &loader::Callers::below(&room.cgroup), &sizes).unwrap();
        for (map, size) in sizes.of_maps() {
            let shown = bpftool(&format!("map show pinned {}", pins(&room.bpffs).join(map).display()));
            assert_eq!(shown["max_entries"], size, "{map}");
        }
        assert!(maps.map(sorted) == before, "something was not carried over");
        // Before any list is in.
        room.enter();
        assert_eq!(dial("10.96.0.10:80").unwrap().0, "10.42.0.5:8080");

        let mut state = State::new(loaded.maps, Node { name: "node-a".to_owned(), ..Node::default() });
        set(&mut state, &services);
        assert!(maps.map(sorted) == before, "numbers have changed");
    });
}
