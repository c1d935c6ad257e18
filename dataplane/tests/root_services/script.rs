//! A dataplane under test: the real loop's state on the kernel's maps, fed with services in short form.

use std::fmt::Write as _;

use orlop_dataplane::loader;
use orlop_dataplane::maps::KernelMaps;
use orlop_dataplane::model::Node;
use orlop_dataplane::reconcile::State;

use crate::fixture::{lists, parse};
use crate::room::{Room, sh};

/// Loads, or adopts what the room has.
pub(crate) fn start(room: &Room) -> State<KernelMaps> {
    let maps = loader::open(&room.bpffs, &room.cgroup).unwrap();
    State::new(maps, Node { name: "node-a".to_owned(), ..Node::default() })
}

/// What `bpftool` says, as JSON; of some things that are not there it says nothing at all.
pub(crate) fn bpftool(arguments: &str) -> serde_json::Value {
    let said = sh(&format!("bpftool -j {arguments}"));
    if said.trim().is_empty() { serde_json::json!([]) } else { serde_json::from_str(&said).unwrap() }
}

/// Makes these all services there are.
pub(crate) fn set(state: &mut State<KernelMaps>, yaml: &str) {
    for update in lists(&parse(yaml)) {
        state.ingest(update);
    }
    state.sync();
    assert_eq!(state.status().failures, Default::default());
}

/// One service `web` at 10.96.0.10:80 (TCP, port 8080 behind) with these endpoints, all on this node.
pub(crate) fn web(last: &[u8]) -> String {
    one("web", "10.96.0.10", "TCP", 80, 8080, last)
}

/// One service `dns` at 10.96.0.53:53 (UDP, port 5353 behind) with these endpoints.
pub(crate) fn dns(last: &[u8]) -> String {
    one("dns", "10.96.0.53", "UDP", 53, 5353, last)
}

fn one(name: &str, ip: &str, protocol: &str, port: u16, target: u16, last: &[u8]) -> String {
    let ports = format!("[{{name: p, protocol: {protocol}, port: {port}}}]");
    let mut yaml =
        format!("- service: {{name: {name}, cluster_ips: [{ip}], ports: {ports}}}\n  endpoints:\n");
    if last.is_empty() {
        return yaml.replace("endpoints:\n", "endpoints: []\n");
    }
    for last in last {
        writeln!(yaml, "  - {{ip: 10.42.0.{last}, node: node-a, ports: {{p: {target}}}}}").unwrap();
    }
    yaml
}
