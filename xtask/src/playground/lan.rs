//! The network between host and nodes: one namespace with a bridge, a veth to each.
//!
//! Idempotent: what is there stays. Removing the namespaces removes the links with them.

use std::collections::BTreeSet;
use std::fs::File;

use anyhow::{Context as _, Result};

use super::{Layout, NodePlace, layout::subnet_of};
use crate::run::{cmd, output, succeeds};

/// Namespace, bridge and the host's end, with addresses that nobody else on this machine has.
pub(super) fn claim(layout: &mut Layout) -> Result<()> {
    let lan = layout.lan();
    if !exists(&lan) {
        ip(&["netns", "add", &lan])?;
        ip(&["-n", &lan, "link", "set", "lo", "up"])?;
        ip(&["-n", &lan, "link", "add", "br0", "type", "bridge", "forward_delay", "0"])?;
        ip(&["-n", &lan, "link", "set", "br0", "up"])?;
    }
    let host_link = layout.host_link();
    if !succeeds(&mut cmd("ip", ["link", "show", "dev", &host_link])) {
        // Until the address is there: several may come up at once.
        let lock = File::create(std::env::temp_dir().join("orlop-playgrounds.lock"))
            .and_then(|file| file.lock().map(|()| file))
            .context("lock against other playgrounds")?;
        layout.move_from(&taken()?)?;
        plug(
            &lan,
            "host",
            &["link", "add", &host_link, "type", "veth", "peer", "name", "host", "netns", &lan],
        )?;
        for (address, bits) in layout.addresses(1) {
            ip(&["addr", "add", &format!("{address}/{bits}"), "dev", &host_link, "nodad"])?;
        }
        ip(&["link", "set", &host_link, "up"])?;
        drop(lock);
    }
    Ok(())
}

/// Networks of other playgrounds, by the addresses that the host has.
fn taken() -> Result<BTreeSet<u16>> {
    let listed = output(&mut cmd("ip", ["-4", "-j", "addr", "show"]))?;
    let links: serde_json::Value = serde_json::from_str(&listed).context("read the host's addresses")?;
    let infos = links.as_array().into_iter().flatten().filter_map(|link| link["addr_info"].as_array());
    let addresses = infos.flatten().filter_map(|info| info["local"].as_str()?.parse().ok());
    Ok(addresses.filter_map(subnet_of).collect())
}

/// Namespaces and wires of the nodes.
pub(super) fn up(layout: &Layout, places: &[NodePlace]) -> Result<()> {
    let lan = layout.lan();
    for place in places {
        let Some(netns) = &place.netns else { continue };
        if exists(netns) {
            continue;
        }
        ip(&["netns", "add", netns])?;
        ip(&["-n", netns, "link", "set", "lo", "up"])?;
        let port = format!("n{}", place.number);
        plug(
            &lan,
            &port,
            &["-n", netns, "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", &lan],
        )?;
        for (address, bits) in layout.addresses(10 + place.number) {
            ip(&["-n", netns, "addr", "add", &format!("{address}/{bits}"), "dev", "eth0", "nodad"])?;
        }
        ip(&["-n", netns, "link", "set", "eth0", "up"])?;
        for (gateway, _) in layout.addresses(1) {
            ip(&["-n", netns, "route", "add", "default", "via", &gateway, "dev", "eth0"])?;
        }
    }
    Ok(())
}

/// Removes the namespaces and the host's link; a list of what could not be removed.
pub(super) fn down(layout: &Layout) -> Vec<String> {
    let ours = format!("orlop-{}-", layout.id);
    let listed = output(&mut cmd("ip", ["netns", "list"])).unwrap_or_default();
    let mut failures = Vec::new();
    for name in listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with(&ours))
    {
        failures.extend(ip(&["netns", "delete", name]).err().map(|error| format!("{error:#}")));
    }
    // The link goes with its peer's namespace; on a busy machine that takes a moment.
    let host_link = layout.host_link();
    if succeeds(&mut cmd("ip", ["link", "show", "dev", &host_link])) {
        let _gone_meanwhile = ip(&["link", "delete", "dev", &host_link]);
    }
    failures
}

fn plug(lan: &str, port: &str, add: &[&str]) -> Result<()> {
    ip(add)?;
    ip(&["-n", lan, "link", "set", port, "master", "br0", "up"])
}

fn exists(netns: &str) -> bool {
    std::path::Path::new("/run/netns").join(netns).exists()
}

fn ip(args: &[&str]) -> Result<()> {
    output(&mut cmd("ip", args)).map(drop)
}
