//! What do services cost: per connection, per request, per packet, and per change? Ours against no service at all, and
//! against the rules that kube-proxy would have written, in one run.
//!
//! ```text
//!  four towns, each with namespaces of its own: plain, ours, nftables, iptables
//!
//!  outside ──veth── node ──veth── client (pod)
//!                    └─────veth── server (pod, three addresses)
//! ```
//! Measurements go round the towns by turns, so that a busy machine slows all of them; ratios are taken within a round,
//! and the median of the rounds counts. Prints one line of JSON. Not for: gating tests by time.
//!
//! Arguments name the parts (`connect`, `traffic`, `packets`, `changes`, `cold`; none: all) after `--cgroup DIR`, a
//! directory of the cgroup v2 hierarchy to make ours in. Needs root, `ip`, `nft`, `iptables`, `bpftool` and the kernel programs:
//! `ORLOP_EBPF_OBJECT=… cargo run --example services_bench`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for the command line that ends when something is missing"
)]

mod agent;
mod client;
mod connect;
#[path = "../../tests/root_services/frame.rs"]
mod frame;
mod offload;
mod packets;
mod program;
mod rules;
mod server;
mod services;
mod statistics;
mod sync;
mod town;
mod traffic;
mod world;

use std::process::Command;

use serde_json::json;

use world::World;

fn main() {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["inside", parts @ ..] => inside(parts),
        ["server"] => server::serve(),
        ["client"] => client::answer(),
        ["agent", pins, cgroup] => agent::serve(pins.as_ref(), cgroup.as_ref()),
        ["program", pins, cgroup] => program::measure(pins.as_ref(), cgroup.as_ref()),
        ["changes", pins, cgroup, count] => {
            sync::changes(pins.as_ref(), cgroup.as_ref(), count.parse().unwrap());
        }
        ["cold", pins, cgroup] => sync::cold(pins.as_ref(), cgroup.as_ref()),
        ["--cgroup", parent, parts @ ..] => outside(parent, parts),
        parts => outside("", parts),
    }
}

/// Runs this program again in namespaces of its own, and removes its cgroup afterwards.
fn outside(parent: &str, parts: &[&str]) {
    let cgroup = world::Cgroup::create(parent);
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .arg("inside")
        .args(parts)
        .env(world::CGROUP, cgroup.path())
        .status();
    drop(cgroup);
    assert!(status.unwrap().success(), "the measurement failed");
}

fn inside(parts: &[&str]) {
    let wanted = |name: &str| parts.is_empty() || parts.contains(&name);
    let world = World::begin();
    let mut result = json!({});
    if ["connect", "traffic", "packets"].into_iter().any(wanted) {
        let mut towns = town::build(&world);
        if wanted("traffic") {
            result["traffic"] = traffic::measure(&mut towns);
        }
        if wanted("packets") {
            result["packets"] = packets::measure(&mut towns);
        }
        if wanted("connect") {
            result["connect"] = connect::measure(&mut towns);
        }
    }
    if wanted("packets") {
        result["program"] = world.alone("program", &[]);
    }
    if wanted("changes") {
        result["changes"] =
            sync::CHANGED.map(|count| world.alone("changes", &[&count.to_string()])).to_vec().into();
    }
    if wanted("cold") {
        result["cold"] = world.alone("cold", &[]);
    }
    println!("{result}");
}
