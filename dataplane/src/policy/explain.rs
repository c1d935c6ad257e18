//! What policies make of the first packet of a connection, in words: as the programs decide, and by name.
//!
//! Not for: services; where a packet goes is known here.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::model::{Direction, Key};
use super::tables::{Names, Tables};
use crate::model::Protocol;

/// A connection to a place, and what the policies of this node's pods say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Where it ends, behind all services.
    pub to: SocketAddr,
    /// One line per direction in which a policy has a say; none: no policy has.
    pub steps: Vec<String>,
    /// Whether it comes to be.
    pub allowed: bool,
}

/// Judges a connection. `node` is whether an address is this node's own.
#[must_use]
pub fn judge(
    tables: &Tables,
    names: &Names,
    node: impl Fn(IpAddr) -> bool,
    (source, to, protocol): (IpAddr, SocketAddr, Protocol),
) -> Judgement {
    let mut judgement = Judgement { to, steps: Vec::new(), allowed: true };
    for (way, pod, peer) in [(Direction::Egress, source, to.ip()), (Direction::Ingress, to.ip(), source)] {
        let Some(set) = tables.subjects.get(&pod).map(|subject| subject.set(way)).filter(|set| *set != 0)
        else {
            continue;
        };
        let free = if pod == peer {
            Some("a pod may always talk to itself")
        } else if node(peer) {
            Some("a pod and its node may always talk to each other")
        } else {
            None
        };
        if let Some(why) = free {
            judgement.steps.push(format!("{way} of {}: {why}", names.pod(pod)));
            continue;
        }
        let by = tables.allowed_by(set, peer, protocol.number(), to.port());
        judgement.allowed &= by.is_some();
        judgement.steps.push(match by {
            Some(policy) => format!("{way} of {}: {} allows it", names.pod(pod), names.policy(policy)),
            None => format!("{way} of {}: nothing in {} allows it", names.pod(pod), names.set(set)),
        });
    }
    judgement
}

impl Names {
    /// A pod by name, as far as that is known.
    #[must_use]
    pub fn pod(&self, ip: IpAddr) -> String {
        self.pods.get(&ip).map_or_else(|| ip.to_string(), |key| format!("{key} ({ip})"))
    }

    fn policy(&self, number: u32) -> String {
        self.policies.get(&number).map_or_else(|| format!("policy {number:08x}"), Key::to_string)
    }

    fn set(&self, number: u32) -> String {
        let joined = |keys: &BTreeSet<Key>| keys.iter().map(Key::to_string).collect::<Vec<_>>().join(", ");
        self.sets.get(&number).map_or_else(|| format!("set {number:08x}"), |(_, keys)| joined(keys))
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        if self.allowed { Ok(()) } else { writeln!(f, "=> dropped on its way to {}: NetworkPolicy", self.to) }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::policy::tables::{RuleKey, Subject};

    fn check(from: &str, to: &str, expected: Expect) {
        let key = |name: &str| Key { namespace: "shop".into(), name: name.into() };
        let (web, friend): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut tables = Tables::default();
        tables.subjects.insert(web, Subject { ingress: 7, egress: 0 });
        tables.subjects.insert(friend, Subject { ingress: 0, egress: 8 });
        tables.identities.insert(friend, 5);
        tables.identities.insert(web, 6);
        tables.rules.insert(RuleKey::new(7, 5, 24, 6, 80), 1);
        tables.rules.insert(RuleKey::new(8, 6, 0, 0, 0), 2);
        let mut names = Names::default();
        names.policies.extend([(1, key("friends")), (2, key("out"))]);
        names.sets.insert(7, (Direction::Ingress, [key("deny"), key("friends")].into()));
        names.pods.insert(web, key("web-0"));
        let node = |ip| ip == IpAddr::from([192, 0, 2, 1]);
        let packet = (from.parse().unwrap(), to.parse().unwrap(), Protocol::Tcp);
        expected.assert_eq(&judge(&tables, &names, node, packet).to_string());
    }

    #[test]
    fn both_ends_have_a_say_and_it_has_a_name() {
        check(
            "10.0.0.2",
            "10.0.0.1:80",
            expect![[r#"
                egress of 10.0.0.2: shop/out allows it
                ingress of shop/web-0 (10.0.0.1): shop/friends allows it
            "#]],
        );
        check(
            "10.0.0.2",
            "10.0.0.1:81",
            expect![[r#"
                egress of 10.0.0.2: shop/out allows it
                ingress of shop/web-0 (10.0.0.1): nothing in shop/deny, shop/friends allows it
                => dropped on its way to 10.0.0.1:81: NetworkPolicy
            "#]],
        );
        check(
            "10.0.0.2",
            "8.8.8.8:53",
            expect![[r#"
                egress of 10.0.0.2: nothing in set 00000008 allows it
                => dropped on its way to 8.8.8.8:53: NetworkPolicy
            "#]],
        );
    }

    #[test]
    fn the_node_and_the_pod_itself_are_never_kept_out() {
        check(
            "192.0.2.1",
            "10.0.0.1:81",
            expect![[r#"
                ingress of shop/web-0 (10.0.0.1): a pod and its node may always talk to each other
            "#]],
        );
        check(
            "10.0.0.2",
            "10.0.0.2:81",
            expect![[r#"
                egress of 10.0.0.2: a pod may always talk to itself
            "#]],
        );
        check("10.0.0.1", "10.0.0.9:80", expect![""]);
    }
}
