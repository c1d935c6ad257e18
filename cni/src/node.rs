//! What the whole node needs: forwarding, masquerade, an end for packets to addresses without a pod, and the
//! repair of what an earlier run left half done.

use std::{borrow::Cow, collections::BTreeSet, fs, net::IpAddr};

use orlop_model::net::{Family, IpNet};
use rustix::io::Errno;

use crate::{
    attach,
    error::{OpenError, UninstallError, chain},
    host,
    ipam::{Ledger, Owner},
    names::{self, LinkName, OVERLAY},
    netlink::{
        self, Kind, Link, Route, RouteSocket,
        nft::{self, Field, Match, Rule, Table},
    },
    netns,
    network::{Inner, NetworkConfig},
    reap::DOOMED,
    sysctl::{self, SysctlError},
};

/// All that the node's own network ever puts into nf_tables is in these.
const TABLES: [Table; 2] = [empty(Family::V4), empty(Family::V6)];

const fn empty(family: Family) -> Table {
    Table { family, name: Cow::Borrowed("orlop"), chain: "postrouting", rules: Vec::new() }
}

/// Puts up everything node-wide; what is there already stays as it is.
pub(crate) fn install(config: &NetworkConfig, ledger: &mut Ledger) -> Result<(), OpenError> {
    let mut socket = RouteSocket::open().map_err(OpenError::Adopt)?;
    adopt(config, ledger, &mut socket)?;
    for range in &config.pod_cidrs {
        forward(range.family()).map_err(OpenError::Forward)?;
    }
    let named = |table| Table { name: table_name(config.name.as_deref()), ..table };
    let tables = config.pod_cidrs.iter().map(|range| named(table(*range, &config.cluster_cidrs)));
    put_up(config, &tables.collect::<Vec<_>>(), ledger)?;
    unreachable(config, &mut socket)
}

/// A transaction costs the plugin, which is a process per request, more than all else it does on the node: tables that
/// it has put up, and that still have their rules, stay.
fn put_up(config: &NetworkConfig, tables: &[Table], ledger: &Ledger) -> Result<(), OpenError> {
    let stamp = config.state_dir.join("tables");
    let rules: Vec<_> = tables.iter().flat_map(|table| &table.rules).map(ToString::to_string).collect();
    let wanted = format!("{}\n{}\n", netns::own_identity(), rules.join("\n"));
    let told = config.name.is_some() && fs::read_to_string(&stamp).is_ok_and(|told| told == wanted);
    let has_rules = |table: &Table| nft::count(table).is_ok_and(|count| count == table.rules.len());
    if told && tables.iter().all(|table| has_rules(table) && nft::guards(table.family)) {
        return Ok(());
    }
    nft::apply(tables).map_err(OpenError::Masquerade)?;
    let families: Vec<_> = config.pod_cidrs.iter().map(IpNet::family).collect();
    let permits: Vec<_> = ledger
        .allocator()
        .assignments()
        .flat_map(|(addresses, owner)| attach::permits(&owner.uid, addresses))
        .filter(|(_, address)| families.contains(&Family::of(*address)))
        .collect();
    nft::guard(&families, &permits).map_err(OpenError::Guard)?;
    if config.name.is_some()
        && let Err(error) = fs::write(&stamp, wanted)
    {
        tracing::debug!(%error, "remember which tables are up");
    }
    Ok(())
}

/// Learns addresses from links whose ledger line is lost, and removes links that were cut off half-made.
pub(crate) fn adopt_all(config: &NetworkConfig, ledger: &mut Ledger) -> Result<(), OpenError> {
    adopt(config, ledger, &mut RouteSocket::open().map_err(OpenError::Adopt)?)
}

/// Packets are passed on. For IPv6 this makes the kernel deaf to routers, and a node that has its default route from
/// one would lose it after a while: devices that listened go on doing so.
fn forward(family: Family) -> Result<(), SysctlError> {
    match family {
        Family::V4 => sysctl::set("ipv4/ip_forward", "1"),
        Family::V6 if sysctl::is("ipv6/conf/all/forwarding", "1") => Ok(()),
        Family::V6 => {
            for device in sysctl::children("ipv6/conf") {
                let listens = format!("ipv6/conf/{device}/accept_ra");
                if sysctl::is(&listens, "1") && device != "all" && LinkName::parse(&device).is_none() {
                    sysctl::set(&listens, "2")?;
                }
            }
            sysctl::set("ipv6/conf/all/forwarding", "1")
        }
    }
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
    for table in &TABLES {
        match nft::remove(std::slice::from_ref(table)) {
            // A kernel without IPv6 has no tables for it.
            Err(error) if error.is(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP]) => {}
            result => note("remove the masquerade rule", result),
        }
    }
    note("take back the node's address", host::take_back());
    match RouteSocket::open() {
        Ok(mut socket) => {
            note("remove the rules about pods' addresses", unguard(&mut socket));
            note("delete links", delete_links(&mut socket));
            note("delete routes", delete_routes(&mut socket));
        }
        Err(error) => note("find links and routes", Err(error)),
    }
    if failures.is_empty() { Ok(()) } else { Err(UninstallError { failures }) }
}

/// Other networks of this node are held by the same rules: then only the permissions of this one go.
fn unguard(socket: &mut RouteSocket) -> Result<(), netlink::Error> {
    let links = socket.links()?;
    if links.iter().any(is_named) {
        return Ok(());
    }
    [Family::V4, Family::V6].into_iter().try_for_each(|family| match nft::unguard(family) {
        Err(error) if error.is(&[Errno::AFNOSUPPORT, Errno::OPNOTSUPP]) => Ok(()),
        result => result,
    })
}

fn delete_links(socket: &mut RouteSocket) -> Result<(), netlink::Error> {
    if let Some(overlay) = socket.link(OVERLAY)? {
        socket.delete_link(overlay.index)?;
    }
    let links = socket.links()?;
    for link in links.iter().filter(|link| ours(link).is_some() && !is_named(link) || of_nobody(link, &[])) {
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
    let own = Cow::Borrowed("orlop");
    network.map_or(own, |name| format!("orlop-net-{name}").into())
}

/// Packets from pods of this node to outside the cluster leave with the node's address.
fn table(pod_cidr: IpNet, cluster_cidrs: &[IpNet]) -> Table {
    let from_pods = Match { field: Field::Source, inside: true, net: pod_cidr };
    let to_outside = |net| Match { field: Field::Destination, inside: false, net };
    let cluster = || cluster_cidrs.iter().copied().filter(|net| net.family() == pod_cidr.family());
    let inside = cluster().any(|net| net.covers(&pod_cidr));
    let outside = cluster().chain((!inside).then_some(pod_cidr)).map(to_outside);
    let matches = [from_pods].into_iter().chain(outside).collect();
    Table { rules: vec![Rule { comment: "pods to outside", matches }], ..empty(pod_cidr.family()) }
}

/// Without it, packets to an address that has no pod follow the default route: out, and perhaps back again.
/// One of an earlier run with another pod CIDR is known by lying in the same cluster.
fn unreachable(config: &NetworkConfig, socket: &mut RouteSocket) -> Result<(), OpenError> {
    let present = socket.routes().map_err(OpenError::Adopt)?;
    let wanted = || config.pod_cidrs.iter().map(|range| Route { to: *range, kind: Kind::Unreachable });
    let earlier = |route: &&Route| {
        let in_cluster = config.cluster_cidrs.iter().any(|cluster| cluster.overlaps(&route.to));
        route.kind == Kind::Unreachable && in_cluster && !wanted().any(|wanted| wanted == **route)
    };
    for route in present.iter().filter(earlier) {
        socket.delete_route(route).map_err(OpenError::Adopt)?;
    }
    for route in wanted().filter(|route| !present.contains(route)) {
        let failed = |source| OpenError::PodCidrRoute { pod_cidr: route.to, source };
        socket.add_route(&route).map_err(failed)?;
    }
    Ok(())
}

/// See [`adopt_all`].
fn adopt(config: &NetworkConfig, ledger: &mut Ledger, socket: &mut RouteSocket) -> Result<(), OpenError> {
    let (network, ranges) = (config.name.as_deref(), &config.pod_cidrs);
    let known: BTreeSet<_> =
        ledger.allocator().assignments().map(|(_, owner)| LinkName::for_pod(&owner.uid)).collect();
    let routes = socket.routes().map_err(OpenError::Adopt)?;
    let links = socket.links().map_err(OpenError::Adopt)?;
    for shaper in links.iter().filter(|link| of_nobody(link, &links)) {
        socket.delete_link(shaper.index).map_err(OpenError::Adopt)?;
    }
    for link in links {
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
        if !names::is_of(network, uid) || ledger.allocator().addresses(uid).is_some() {
            continue;
        }
        let to_pod = |route: &&Route| {
            route.kind == Kind::Link(link.index) && route.to == IpNet::host(route.to.network())
        };
        let mut addresses: Vec<IpAddr> =
            routes.iter().filter(to_pod).map(|route| route.to.network()).collect();
        addresses
            .sort_by_key(|address| ranges.iter().position(|range| range.family() == Family::of(*address)));
        if addresses.is_empty() {
            continue;
        }
        let owner = Owner { uid: uid.to_owned(), pod: "unknown".into(), netns: None };
        match ledger.adopt(addresses.clone(), owner)? {
            true => tracing::info!(uid, ?addresses, "address ledger: learned from the pod's link"),
            false => tracing::warn!(uid, ?addresses, "two pods have the same address"),
        }
    }
    Ok(())
}

/// Whether a link shapes what a pod sends whose own link is not among these.
fn of_nobody(link: &Link, links: &[Link]) -> bool {
    let pod = LinkName::of_shaper(&link.name);
    pod.is_some_and(|pod| !links.iter().any(|link| link.name == pod.as_str()))
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
        let cluster_cidrs = orlop_model::net::one_per_family(cluster_cidr).unwrap();
        let table = table(pod_cidr.parse().unwrap(), &cluster_cidrs);
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
        check(
            "fd00:10:0:1::/64",
            "10.244.0.0/16,fd00:10::/56",
            expect![[
                r#"ip6 saddr fd00:10:0:1::/64 ip6 daddr != fd00:10::/56 masquerade fully-random comment "pods to outside""#
            ]],
        );
    }
}
