//! What the whole node needs: forwarding, masquerade, an end for packets to addresses without a pod, and the
//! repair of what an earlier run left half done.

use std::{borrow::Cow, collections::BTreeSet};

use orlop_model::net::Ipv4Net;

use crate::{
    error::{OpenError, UninstallError, chain},
    ipam::{Ledger, Owner},
    names::{self, LinkName},
    netlink::{
        self, Kind, Link, Route, RouteSocket,
        nft::{Field, Match, Rule, Table},
    },
    network::{Inner, NetworkConfig},
    reap::DOOMED,
    sysctl,
};

/// All that we ever put into nf_tables is in this one.
const TABLE: Table = Table { name: Cow::Borrowed("orlop"), chain: "postrouting", rules: Vec::new() };

/// Puts up everything node-wide; what is there already stays as it is.
pub(crate) fn install(config: &NetworkConfig, ledger: &mut Ledger) -> Result<(), OpenError> {
    let mut socket = RouteSocket::open().map_err(OpenError::Adopt)?;
    adopt(config.name.as_deref(), ledger, &mut socket)?;
    sysctl::set("ipv4/ip_forward", "1").map_err(OpenError::Forward)?;
    let table =
        Table { name: table_name(config.name.as_deref()), ..table(config.pod_cidr, config.cluster_cidr) };
    table.apply().map_err(OpenError::Masquerade)?;
    unreachable(config.pod_cidr, config.cluster_cidr, &mut socket)
        .map_err(|source| OpenError::PodCidrRoute { pod_cidr: config.pod_cidr, source })
}

/// Frees what [`sweep`] has removed.
pub(crate) fn uninstall(inner: &Inner) -> Result<(), UninstallError> {
    sweep()?;
    let mut ledger = inner.ledger();
    let held: Vec<_> = ledger.allocator().assignments().map(|(_, owner)| owner.uid.clone()).collect();
    let failures: Vec<_> =
        held.iter().filter_map(|uid| ledger.release(uid).err()).map(|e| chain(&e)).collect();
    if failures.is_empty() { Ok(()) } else { Err(UninstallError { failures }) }
}

/// Removes everything of the node's own network from this namespace, as far as it goes.
pub(crate) fn sweep() -> Result<(), UninstallError> {
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<(), netlink::Error>| {
        failures.extend(result.err().map(|error| format!("{what}: {}", chain(&error))));
    };
    note("remove the masquerade rule", TABLE.remove());
    match RouteSocket::open() {
        Ok(mut socket) => {
            note("delete links", delete_links(&mut socket));
            note("delete routes", delete_routes(&mut socket));
        }
        Err(error) => note("find links and routes", Err(error)),
    }
    if failures.is_empty() { Ok(()) } else { Err(UninstallError { failures }) }
}

fn delete_links(socket: &mut RouteSocket) -> Result<(), netlink::Error> {
    for link in socket.links()?.iter().filter(|link| ours(link).is_some() && !is_named(link)) {
        socket.set_group(link.index, DOOMED)?;
    }
    socket.delete_group(DOOMED)
}

fn delete_routes(socket: &mut RouteSocket) -> Result<(), netlink::Error> {
    let kept: Vec<_> = socket.links()?.iter().filter(|link| is_named(link)).map(|link| link.index).collect();
    let to_named = |route: &Route| matches!(route.kind, Kind::Link(index) if kept.contains(&index));
    let routes = socket.routes()?;
    routes.iter().filter(|route| !to_named(route)).try_for_each(|route| socket.delete_route(route))
}

/// Whether a link is one of another network on this node.
fn is_named(link: &Link) -> bool {
    let uid = link.alias.as_deref().and_then(names::uid_of_alias);
    uid.is_some_and(|uid| !names::is_of(None, uid))
}

/// One for each network of this node.
fn table_name(network: Option<&str>) -> Cow<'static, str> {
    network.map_or(TABLE.name, |name| format!("{}-{name}", TABLE.name).into())
}

/// Packets from pods of this node to outside the cluster leave with the node's address.
fn table(pod_cidr: Ipv4Net, cluster_cidr: Ipv4Net) -> Table {
    let from_pods = Match { field: Field::Source, inside: true, net: pod_cidr };
    let to_outside = |net| Match { field: Field::Destination, inside: false, net };
    let inside = cluster_cidr.contains(pod_cidr.network()) && cluster_cidr.prefix() <= pod_cidr.prefix();
    let outside = [Some(to_outside(cluster_cidr)), (!inside).then(|| to_outside(pod_cidr))];
    let matches = [from_pods].into_iter().chain(outside.into_iter().flatten()).collect();
    Table { rules: vec![Rule { comment: "pods to outside", matches }], ..TABLE }
}

/// Without it, packets to an address that has no pod follow the default route: out, and perhaps back again.
/// One of an earlier run with another pod CIDR is known by lying in the same cluster.
fn unreachable(
    pod_cidr: Ipv4Net,
    cluster_cidr: Ipv4Net,
    socket: &mut RouteSocket,
) -> Result<(), netlink::Error> {
    let wanted = Route { to: pod_cidr, kind: Kind::Unreachable };
    let present = socket.routes()?;
    let earlier = |r: &&Route| r.kind == Kind::Unreachable && **r != wanted && cluster_cidr.overlaps(&r.to);
    for stale in present.iter().filter(earlier) {
        socket.delete_route(stale)?;
    }
    match present.contains(&wanted) {
        true => Ok(()),
        false => socket.add_route(&wanted),
    }
}

/// Learns addresses from links whose ledger line is lost, and removes links that were cut off half-made.
fn adopt(network: Option<&str>, ledger: &mut Ledger, socket: &mut RouteSocket) -> Result<(), OpenError> {
    let known: BTreeSet<_> =
        ledger.allocator().assignments().map(|(_, owner)| LinkName::for_pod(&owner.uid)).collect();
    let routes = socket.routes().map_err(OpenError::Adopt)?;
    for link in socket.links().map_err(OpenError::Adopt)? {
        let Some(name) = ours(&link) else { continue };
        let Some(uid) = link.alias.as_deref().and_then(names::uid_of_alias) else {
            // Another network of this node may be about to finish what this one does not know.
            if !known.contains(&name) {
                continue;
            }
            tracing::info!(link = %name, "removing a link that was never finished");
            socket.delete_link(link.index).map_err(OpenError::Adopt)?;
            continue;
        };
        let route = routes.iter().find(|r| r.to.prefix() == 32 && r.kind == Kind::Link(link.index));
        if !names::is_of(network, uid) || ledger.allocator().address(uid).is_some() {
            continue;
        }
        let Some(address) = route.map(|r| r.to.network()) else { continue };
        let owner = Owner { uid: uid.to_owned(), pod: "unknown".into() };
        match ledger.adopt(address, owner)? {
            true => tracing::info!(uid, %address, "address ledger: learned from the pod's link"),
            false => tracing::warn!(uid, %address, "two pods have the same address"),
        }
    }
    Ok(())
}

/// Whether a link is the host side of a pod's pair.
fn ours(link: &Link) -> Option<LinkName> {
    LinkName::parse(&link.name).filter(|_| link.veth)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(pod_cidr: &str, cluster_cidr: &str, expected: Expect) {
        let table = table(pod_cidr.parse().unwrap(), cluster_cidr.parse().unwrap());
        expected.assert_eq(&table.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn masquerade_leaves_the_cluster_alone() {
        check(
            "10.244.1.0/24",
            "10.244.0.0/16",
            expect![[
                r#"ip saddr 10.244.1.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random comment "pods to outside""#
            ]],
        );
        check(
            "10.9.1.0/24",
            "10.244.0.0/16",
            expect![[
                r#"ip saddr 10.9.1.0/24 ip daddr != 10.244.0.0/16 ip daddr != 10.9.1.0/24 masquerade fully-random comment "pods to outside""#
            ]],
        );
        check(
            "10.244.0.0/16",
            "10.244.0.0/24",
            expect![[
                r#"ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/24 ip daddr != 10.244.0.0/16 masquerade fully-random comment "pods to outside""#
            ]],
        );
    }
}
