//! From desired and actual routes to the steps between them. Pure.

use std::{fmt, net::IpAddr};

use orlop_model::net::{Family, IpNet};

use super::{Hop, NodeRoute};
use crate::error::RouteError;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteOp {
    /// No route to there yet.
    Add(NodeRoute),
    /// Another way to the same place.
    Change(NodeRoute),
    /// No longer wanted.
    Delete(NodeRoute),
}

/// Splits a request into what can be done and what is wrong with the rest: one odd Node object must not cost
/// the routes to all others.
pub(crate) fn valid(own: &[IpNet], desired: &[NodeRoute]) -> (Vec<NodeRoute>, Vec<RouteError>) {
    let (mut good, mut bad) = (Vec::<NodeRoute>::new(), Vec::new());
    for route in desired {
        if own.iter().any(|net| net.overlaps(&route.pod_cidr)) {
            bad.push(RouteError::Own { route: route.to_string() });
        } else if !next_hop(route) {
            bad.push(RouteError::NextHop { route: route.to_string() });
        } else if let Some(first) = good.iter().find(|g| g.pod_cidr == route.pod_cidr) {
            if first != route {
                bad.push(RouteError::Twice { route: first.to_string(), also: route.to_string() });
            }
        } else {
            good.push(*route);
        }
    }
    (good, bad)
}

/// Whether a packet to there can be handed to that address.
fn next_hop(NodeRoute { pod_cidr, hop: Hop::Via(via) | Hop::Tunnel(via) }: &NodeRoute) -> bool {
    let broadcast = matches!(via, IpAddr::V4(address) if address.is_broadcast());
    !via.is_unspecified() && !via.is_multicast() && !broadcast && Family::of(*via) == pod_cidr.family()
}

/// Steps in a safe order: what is wanted first, then what is stale.
pub(crate) fn diff(desired: &[NodeRoute], actual: &[NodeRoute]) -> Vec<RouteOp> {
    let here = |route: &NodeRoute| actual.iter().any(|a| a.pod_cidr == route.pod_cidr);
    let put = |route: &NodeRoute| match here(route) {
        true => RouteOp::Change(*route),
        false => RouteOp::Add(*route),
    };
    let puts = desired.iter().filter(|d| !actual.contains(d)).map(put);
    let wanted = |route: &NodeRoute| desired.iter().any(|d| d.pod_cidr == route.pod_cidr);
    let stale = actual.iter().filter(|a| !wanted(a)).map(|a| RouteOp::Delete(*a));
    puts.chain(stale).collect()
}

impl fmt::Display for RouteOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, route) = match self {
            Self::Add(route) => ("add", route),
            Self::Change(route) => ("change", route),
            Self::Delete(route) => ("delete", route),
        };
        write!(f, "{verb} {route}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    /// `"10.0.1.0/24>192.168.0.1 …"`
    fn routes(text: &str) -> Vec<NodeRoute> {
        let route = |word: &str| {
            let (pod_cidr, via) = word.split_once('>').unwrap();
            NodeRoute { pod_cidr: pod_cidr.parse().unwrap(), hop: Hop::Via(via.parse().unwrap()) }
        };
        text.split_whitespace().map(route).collect()
    }

    fn check(desired: &str, actual: &str, expected: Expect) {
        let (desired, bad) =
            valid(&["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()], &routes(desired));
        let bad = bad.iter().map(|error| format!("refused: {error}\n"));
        let ops = diff(&desired, &routes(actual)).into_iter().map(|op| format!("{op}\n"));
        expected.assert_eq(&bad.chain(ops).collect::<String>());
    }

    #[test]
    fn equal_sets_need_nothing() {
        check("10.0.1.0/24>192.168.0.1", "10.0.1.0/24>192.168.0.1", expect![""]);
    }

    #[test]
    fn new_before_stale_and_moves_in_place() {
        check(
            "10.0.1.0/24>192.168.0.9 10.0.3.0/24>192.168.0.3",
            "10.0.1.0/24>192.168.0.1 10.0.2.0/24>192.168.0.2",
            expect![[r#"
                change route to 10.0.1.0/24 via 192.168.0.9
                add route to 10.0.3.0/24 via 192.168.0.3
                delete route to 10.0.2.0/24 via 192.168.0.2
            "#]],
        );
    }

    #[test]
    fn odd_routes_are_refused_one_by_one() {
        check(
            "10.0.0.0/24>192.168.0.1 10.0.1.0/24>192.168.0.1 10.0.1.0/24>192.168.0.2 10.0.2.0/24>0.0.0.0 0.0.0.0/0>192.168.0.1 \
             fd00:0:0:1::/64>192.168.0.1 fd00:0:0:1::/64>fd01::1 fd00::/60>fd01::1",
            "",
            expect![[r#"
                refused: route to 10.0.0.0/24 via 192.168.0.1 covers this node's own pods
                refused: route to 10.0.1.0/24 via 192.168.0.2: there is a route to 10.0.1.0/24 via 192.168.0.1
                refused: route to 10.0.2.0/24 via 0.0.0.0: no node can be there
                refused: route to 0.0.0.0/0 via 192.168.0.1 covers this node's own pods
                refused: route to fd00:0:0:1::/64 via 192.168.0.1: no node can be there
                refused: route to fd00::/60 via fd01::1 covers this node's own pods
                add route to 10.0.1.0/24 via 192.168.0.1
                add route to fd00:0:0:1::/64 via fd01::1
            "#]],
        );
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_desired_set(a in arbitrary(), b in arbitrary()) {
            let mut state = b.clone();
            for op in diff(&a, &b) {
                match op {
                    RouteOp::Add(r) => {
                        prop_assert!(state.iter().all(|s| s.pod_cidr != r.pod_cidr));
                        state.push(r);
                    }
                    RouteOp::Change(r) => state.iter_mut().filter(|s| s.pod_cidr == r.pod_cidr).for_each(|s| *s = r),
                    RouteOp::Delete(r) => state.retain(|s| *s != r),
                }
            }
            let key = |r: &NodeRoute| r.pod_cidr.network();
            let mut wanted = a;
            wanted.sort_by_key(key);
            state.sort_by_key(key);
            prop_assert_eq!(state, wanted);
        }
    }

    fn arbitrary() -> impl Strategy<Value = Vec<NodeRoute>> {
        proptest::collection::btree_map(1u8..9, 1u8..4, 0..8).prop_map(|map| {
            let route = |(net, via): (u8, u8)| format!("10.0.{net}.0/24>192.168.0.{via}");
            routes(&map.into_iter().map(route).collect::<Vec<_>>().join(" "))
        })
    }
}
