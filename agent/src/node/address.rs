//! Which addresses are the node's where its operator does not say, and when they have changed. Pure.
//!
//! The main family first: it is that of the cluster's (first) pod network. In a family it is the address that packets
//! to the outside would carry, else the first there is: a machine whose network has no way out is a node too. As
//! upstream, the other family where there is nothing else.

use std::net::IpAddr;

use orlop_model::net::Family;

/// What there is to choose from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// What packets to the outside would carry: one of a family at most.
    pub routed: Vec<IpAddr>,
    /// All that the machine has and others can know it by, the likeliest first.
    pub own: Vec<IpAddr>,
}

/// What the node needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The family of its main address.
    pub main: Family,
    /// Pods have both families, and so should it.
    pub both: bool,
    /// An address of the other family alone is of no use.
    pub only_main: bool,
}

/// The node's addresses, the main one first; none if it has none that serve.
#[must_use]
pub fn choose(sight: &Sight, wanted: Wanted) -> Vec<IpAddr> {
    let of = |family| {
        let all = sight.routed.iter().chain(&sight.own);
        all.copied().find(|address| Family::of(*address) == family)
    };
    let other = if wanted.main == Family::V4 { Family::V6 } else { Family::V4 };
    match (of(wanted.main), of(other)) {
        (Some(main), Some(other)) if wanted.both => vec![main, other],
        (Some(main), _) => vec![main],
        (None, Some(other)) if !wanted.only_main => vec![other],
        (None, _) => Vec::new(),
    }
}

/// The addresses it should have in place of those it has, if it is time to change: one of them is gone from the machine,
/// or a family has come that was missing. As long as they are there they stay, whatever else comes.
#[must_use]
pub fn moved(known: &[IpAddr], sight: &Sight, wanted: Wanted) -> Option<Vec<IpAddr>> {
    let now = choose(sight, wanted);
    let gone = known.iter().any(|address| !sight.own.contains(address));
    let has = |addresses: &[IpAddr], of: &IpAddr| {
        addresses.iter().any(|address| Family::of(*address) == Family::of(*of))
    };
    let came = now.iter().any(|address| !has(known, address));
    (!now.is_empty() && now != known && (gone || came)).then_some(now)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const V4: Wanted = Wanted { main: Family::V4, both: false, only_main: false };

    /// Addresses by spaces.
    fn list(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn sight(routed: &str, own: &str) -> Sight {
        Sight { routed: list(routed), own: list(own) }
    }

    fn check(routed: &str, own: &str, wanted: Wanted, expected: Expect) {
        let chosen = choose(&sight(routed, own), wanted);
        expected.assert_eq(&chosen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }

    #[test]
    fn the_way_out_says_which_of_several() {
        check("10.0.0.5", "192.168.0.5 10.0.0.5", V4, expect!["10.0.0.5"]);
        check("10.0.0.5 2001:db8::5", "10.0.0.5 2001:db8::5", V4, expect!["10.0.0.5"]);
        let v6 = Wanted { main: Family::V6, ..V4 };
        check("10.0.0.5 2001:db8::5", "10.0.0.5 2001:db8::5", v6, expect!["2001:db8::5"]);
    }

    #[test]
    fn a_network_without_a_way_out_is_one_too() {
        check("", "192.168.0.5 10.0.0.5", V4, expect!["192.168.0.5"]);
        check("2001:db8::5", "192.168.0.5 2001:db8::5", V4, expect!["192.168.0.5"]);
        check("2001:db8::5", "2001:db8::5", V4, expect!["2001:db8::5"]);
        check("2001:db8::5", "2001:db8::5", Wanted { only_main: true, ..V4 }, expect![""]);
        check("", "", V4, expect![""]);
    }

    #[test]
    fn of_both_families_where_pods_are() {
        let both = Wanted { both: true, ..V4 };
        check("10.0.0.5 2001:db8::5", "10.0.0.5 2001:db8::5", both, expect!["10.0.0.5 2001:db8::5"]);
        check("10.0.0.5", "10.0.0.5", both, expect!["10.0.0.5"]);
    }

    #[test]
    fn what_is_there_stays() {
        let moved = |known: &str, routed: &str, own: &str, wanted| {
            let now = moved(&list(known), &sight(routed, own), wanted);
            now.map(|now| now.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        let (one, both) = (V4, Wanted { both: true, ..V4 });
        assert_eq!(moved("10.0.0.5", "10.0.0.5", "10.0.0.5", one), None);
        assert_eq!(
            moved("10.0.0.5", "10.9.0.5", "10.0.0.5 10.9.0.5", one),
            None,
            "another way out is no reason"
        );
        assert_eq!(moved("10.0.0.5", "", "", one), None, "a cable that was pulled is put in again");
        assert_eq!(moved("10.0.0.5", "10.0.0.6", "10.0.0.6", one).unwrap(), "10.0.0.6", "another lease");
        assert_eq!(moved("10.0.0.5", "", "fd00::5", one).unwrap(), "fd00::5");
        assert_eq!(moved("fd00::5", "10.0.0.5", "10.0.0.5 fd00::5", one).unwrap(), "10.0.0.5", "it was late");
        assert_eq!(moved("10.0.0.5", "fd00::5", "10.0.0.5 fd00::5", one), None);
        assert_eq!(moved("10.0.0.5", "10.0.0.5", "10.0.0.5 fd00::5", both).unwrap(), "10.0.0.5 fd00::5");
        let lent = Wanted { only_main: true, ..one };
        assert_eq!(moved("10.42.0.1", "fd00::5", "fd00::5", lent), None);
        assert_eq!(moved("10.42.0.1", "", "10.0.0.5 fd00::5", lent).unwrap(), "10.0.0.5");
    }
}
