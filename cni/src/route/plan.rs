//! From the other nodes to routes and tunnels: who is reached directly, and who inside of VXLAN. Pure.
//!
//! A tunnel needs nothing that other nodes would have to be told: the hardware address of its end follows from the
//! node's address, and the next hop inside is the first address of the node's pod CIDR.

use std::net::IpAddr;

use orlop_model::net::{Family, IpNet};

use super::{Hop, NodeRoute};
use crate::{error::RouteError, names::Mac};

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Addresses of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlay {
    /// Directly where the other node is on a link of this one, else inside of VXLAN.
    #[default]
    Auto,
    /// Directly: what is in between knows the way.
    HostGateway,
    /// Inside of VXLAN.
    Vxlan,
}

/// The other end of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Hardware address of its device.
    pub mac: Mac,
    /// Where packets go.
    pub remote: IpAddr,
    /// Next hops that it stands for.
    pub hops: Vec<IpAddr>,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// To pods of other nodes.
    pub routes: Vec<NodeRoute>,
    /// What some of the routes need.
    pub tunnels: Vec<Tunnel>,
}

/// The address that a node sends and gets tunnelled packets under, and that its hardware address follows from.
pub(crate) fn endpoint(addresses: &[IpAddr]) -> Option<IpAddr> {
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}

/// The address in a pod CIDR that is kept for its node.
pub(crate) fn node_address(pod_cidr: &IpNet) -> Option<IpAddr> {
    pod_cidr.nth(1)
}

/// Ways to all peers, and what is wrong with those to which there is none.
pub(crate) fn wanted(
    own: &[IpAddr],
    overlay: Overlay,
    peers: &[Peer],
    mut on_link: impl FnMut(IpAddr) -> bool,
) -> (Wanted, Vec<RouteError>) {
    let (mut wanted, mut failures) = (Wanted::default(), Vec::new());
    for Peer { pod_cidrs, addresses } in peers {
        let mut tunnelled = Vec::new();
        for &pod_cidr in pod_cidrs {
            let same = addresses.iter().find(|address| Family::of(**address) == pod_cidr.family()).copied();
            let direct = match overlay {
                Overlay::Auto => same.filter(|address| on_link(*address)),
                Overlay::HostGateway => same,
                Overlay::Vxlan => None,
            };
            match (direct, node_address(&pod_cidr)) {
                (Some(via), _) => wanted.routes.push(NodeRoute { pod_cidr, hop: Hop::Via(via) }),
                (None, Some(hop)) if overlay != Overlay::HostGateway => tunnelled.push((pod_cidr, hop)),
                _ => failures.push(RouteError::NoAddress { pod_cidr, addresses: addresses.clone() }),
            }
        }
        let remote = endpoint(addresses).filter(|remote| {
            endpoint(own).is_some_and(|own| Family::of(own) == Family::of(*remote) && own != *remote)
        });
        match remote {
            _ if tunnelled.is_empty() => {}
            Some(remote) => {
                let routes =
                    tunnelled.iter().map(|&(pod_cidr, hop)| NodeRoute { pod_cidr, hop: Hop::Tunnel(hop) });
                wanted.routes.extend(routes);
                let hops = tunnelled.iter().map(|(_, hop)| *hop).collect();
                wanted.tunnels.push(Tunnel { mac: Mac::for_node(remote), remote, hops });
            }
            None => failures.extend(
                tunnelled
                    .into_iter()
                    .map(|(pod_cidr, _)| RouteError::NoAddress { pod_cidr, addresses: addresses.clone() }),
            ),
        }
    }
    (wanted, failures)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// `"10.0.1.0/24,fd00:1::/64@192.168.0.1,fd01::1 …"`, and which addresses are on a link.
    fn check(overlay: Overlay, own: &str, peers: &str, on_link: &str, expected: Expect) {
        let ips = |text: &str| text.split(',').map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let peer = |word: &str| {
            let (cidrs, addresses) = word.split_once('@').unwrap();
            let pod_cidrs = cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect();
            Peer { pod_cidrs, addresses: ips(addresses) }
        };
        let peers: Vec<_> = peers.split_whitespace().map(peer).collect();
        let near: IpNet = on_link.parse().unwrap();
        let (wanted, failures) = wanted(&ips(own), overlay, &peers, |address| near.contains(address));
        let routes = wanted.routes.iter().map(|route| format!("{route}\n"));
        let tunnels = wanted.tunnels.iter().map(|t| format!("{} at {} for {:?}\n", t.mac, t.remote, t.hops));
        let failures = failures.iter().map(|error| format!("refused: {error}\n"));
        expected.assert_eq(&routes.chain(tunnels).chain(failures).collect::<String>());
    }

    const PEERS: &str = "10.0.1.0/24@192.168.0.1 10.0.2.0/24,fd00:2::/64@10.9.0.2,fd01::2";

    #[test]
    fn who_is_on_a_link_is_reached_directly_and_who_is_not_inside_of_vxlan() {
        check(
            Overlay::Auto,
            "192.168.0.9",
            PEERS,
            "192.168.0.0/24",
            expect![[r#"
            route to 10.0.1.0/24 via 192.168.0.1
            route to 10.0.2.0/24 via 10.0.2.1 in the overlay
            route to fd00:2::/64 via fd00:2::1 in the overlay
            0a:59:0a:09:00:02 at 10.9.0.2 for [10.0.2.1, fd00:2::1]
        "#]],
        );
    }

    #[test]
    fn the_operator_may_know_better() {
        check(
            Overlay::HostGateway,
            "192.168.0.9",
            PEERS,
            "192.168.0.0/24",
            expect![[r#"
            route to 10.0.1.0/24 via 192.168.0.1
            route to 10.0.2.0/24 via 10.9.0.2
            route to fd00:2::/64 via fd01::2
        "#]],
        );
        check(
            Overlay::Vxlan,
            "192.168.0.9",
            PEERS,
            "192.168.0.0/24",
            expect![[r#"
            route to 10.0.1.0/24 via 10.0.1.1 in the overlay
            route to 10.0.2.0/24 via 10.0.2.1 in the overlay
            route to fd00:2::/64 via fd00:2::1 in the overlay
            0a:59:c0:a8:00:01 at 192.168.0.1 for [10.0.1.1]
            0a:59:0a:09:00:02 at 10.9.0.2 for [10.0.2.1, fd00:2::1]
        "#]],
        );
    }

    #[test]
    fn tunnels_of_one_family_carry_pods_of_the_other() {
        check(
            Overlay::Auto,
            "fd01::9",
            "10.0.2.0/24,fd00:2::/64@fd01::2",
            "192.168.0.0/24",
            expect![[r#"
            route to 10.0.2.0/24 via 10.0.2.1 in the overlay
            route to fd00:2::/64 via fd00:2::1 in the overlay
            0a:59:4c:d2:24:8d at fd01::2 for [10.0.2.1, fd00:2::1]
        "#]],
        );
        check(
            Overlay::Auto,
            "192.168.0.9",
            "fd00:2::/64@192.168.0.2",
            "192.168.0.0/24",
            expect![[r#"
            route to fd00:2::/64 via fd00:2::1 in the overlay
            0a:59:c0:a8:00:02 at 192.168.0.2 for [fd00:2::1]
        "#]],
        );
    }

    #[test]
    fn nodes_without_a_common_family_are_told() {
        check(
            Overlay::Auto,
            "192.168.0.9",
            "10.0.2.0/24@fd01::2",
            "192.168.0.0/24",
            expect![[r#"
            refused: no way to 10.0.2.0/24: of its node's addresses [fd01::2] none can be used from here
        "#]],
        );
        check(
            Overlay::HostGateway,
            "192.168.0.9",
            "10.0.2.0/24@fd01::2",
            "192.168.0.0/24",
            expect![[r#"
            refused: no way to 10.0.2.0/24: of its node's addresses [fd01::2] none can be used from here
        "#]],
        );
        check(
            Overlay::Vxlan,
            "192.168.0.9",
            "10.0.2.0/24@192.168.0.9",
            "192.168.0.0/24",
            expect![[r#"
            refused: no way to 10.0.2.0/24: of its node's addresses [192.168.0.9] none can be used from here
        "#]],
        );
    }
}
