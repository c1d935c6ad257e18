//! More than one call to the kernel holds: written in batches, read back in batches.

use orlop_dataplane::loader::pins;

use crate::room::{Room, isolated};
use crate::script::{bpftool, set, start};

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
        assert_eq!(counts, [SERVICES * ENDPOINTS, SERVICES * ENDPOINTS, SERVICES]);
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
