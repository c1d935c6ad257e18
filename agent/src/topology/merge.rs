//! From what each resource says to where all of them come from.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Hint, Hints, Nodes, Policy};

/// What comes of the hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Where everything is had from; `None`: from anywhere.
    pub nodes: Option<Nodes>,
    /// The policy lets the pod in.
    pub admitted: bool,
}

/// The best place for all resources together. `machine` are its memory nodes.
#[must_use]
pub fn merge(policy: Policy, machine: Nodes, said: &[Hints]) -> Merged {
    if policy == Policy::None {
        return Merged { nodes: None, admitted: true };
    }
    let said: Vec<Vec<Hint>> = said.iter().map(|hints| usable(policy, hints)).collect();
    let best = best(machine, &said).unwrap_or(Hint { nodes: Some(machine), preferred: false });
    let admitted = policy == Policy::BestEffort || best.preferred;
    // All of the machine is no restriction.
    Merged { nodes: best.nodes.filter(|nodes| *nodes != machine), admitted }
}

/// What says nothing fits everywhere, what cannot be had nowhere.
fn usable(policy: Policy, hints: &Hints) -> Vec<Hint> {
    let hints = match hints {
        None => vec![Hint { nodes: None, preferred: true }],
        Some(hints) if hints.is_empty() => vec![Hint { nodes: None, preferred: false }],
        Some(hints) => hints.clone(),
    };
    let single = |hint: &Hint| hint.preferred && hint.nodes.is_none_or(|nodes| nodes.len() == 1);
    hints.into_iter().filter(|hint| policy != Policy::SingleNode || single(hint)).collect()
}

/// One hint of each resource, in all combinations. Of a combination only its common nodes and whether it is preferred
/// count, so there are few to remember, however many combinations there are.
fn best(machine: Nodes, said: &[Vec<Hint>]) -> Option<Hint> {
    let mut all = BTreeSet::from([Hint { nodes: None, preferred: true }]);
    for hints in said {
        let with = |one: &Hint| hints.iter().map(|hint| both(*one, *hint)).collect::<Vec<_>>();
        all = all.iter().flat_map(with).collect();
    }
    let least = |hints: &Vec<Hint>| hints.iter().filter_map(|hint| hint.nodes).map(Nodes::len).min();
    // As many nodes as the resource needs that needs most.
    let needed = said.iter().filter_map(least).max().unwrap_or(0);
    let all = all.into_iter().map(|hint| Hint { nodes: Some(hint.nodes.unwrap_or(machine)), ..hint });
    let some = all.filter(|hint| hint.nodes.is_some_and(|nodes| !nodes.is_empty()));
    some.min_by_key(|hint| rank(*hint, needed))
}

/// Preferred is only what all prefer, and on the same nodes.
fn both(one: Hint, other: Hint) -> Hint {
    let same = one.nodes.zip(other.nodes).is_none_or(|(one, other)| one == other);
    let nodes = match (one.nodes, other.nodes) {
        (Some(one), Some(other)) => Some(one.and(other)),
        (one, other) => one.or(other),
    };
    Hint { nodes, preferred: one.preferred && other.preferred && same }
}

/// Lower is better: what is preferred, on few nodes; else on as many as are needed, then on fewer, then on more.
fn rank(hint: Hint, needed: usize) -> (bool, u8, Reverse<usize>, usize, Option<Nodes>) {
    let nodes = hint.nodes.map_or(0, Nodes::len);
    let (class, fewer, more) = match nodes.cmp(&needed) {
        _ if hint.preferred => (0, 0, nodes),
        std::cmp::Ordering::Equal => (0, 0, nodes),
        std::cmp::Ordering::Less => (1, nodes, 0),
        std::cmp::Ordering::Greater => (2, 0, nodes),
    };
    (!hint.preferred, class, Reverse(fewer), more, hint.nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hints of resources as `0! 0,1`, or `any`, or `none`, separated by `/`; what each policy makes of them.
    fn check(said: &str, expected: [&str; 3]) {
        let read = |text: &str| -> Hints {
            match text.trim() {
                "any" => None,
                "none" => Some(Vec::new()),
                list => Some(
                    list.split(' ')
                        .map(|word| Hint {
                            nodes: Some(
                                word.trim_end_matches('!')
                                    .split(',')
                                    .map(|n| n.parse::<u32>().unwrap())
                                    .collect(),
                            ),
                            preferred: word.ends_with('!'),
                        })
                        .collect(),
                ),
            }
        };
        let hints: Vec<Hints> = said.split('/').map(read).collect();
        let machine = Nodes::from_iter([0, 1]);
        let shown = [Policy::BestEffort, Policy::Restricted, Policy::SingleNode].map(|policy| {
            let Merged { nodes, admitted } = merge(policy, machine, &hints);
            let nodes = nodes.map_or("anywhere".to_owned(), |nodes| nodes.to_string());
            if admitted { nodes } else { format!("no ({nodes})") }
        });
        assert_eq!(shown, expected, "{said}");
    }

    #[test]
    fn one_resource() {
        check("any", ["anywhere", "anywhere", "anywhere"]);
        check("none", ["anywhere", "no (anywhere)", "no (anywhere)"]);
        check("0! 1! 0,1", ["0", "0", "0"]);
        check("1! 0,1", ["1", "1", "1"]);
        // It needs both, also on an empty machine.
        check("0,1!", ["anywhere", "anywhere", "no (anywhere)"]);
        // One would do on an empty machine.
        check("0,1", ["anywhere", "no (anywhere)", "no (anywhere)"]);
    }

    #[test]
    fn two_resources_meet_where_both_are() {
        check("0! 1! 0,1 / 1! 0,1", ["1", "1", "1"]);
        check("0! 0,1 / 1! 0,1", ["0", "no (0)", "no (anywhere)"]);
        check("0! 1! / any", ["0", "0", "0"]);
        check("0! 1! / none", ["0", "no (0)", "no (anywhere)"]);
        check("0! 0,1 / 0,1!", ["anywhere", "no (anywhere)", "no (anywhere)"]);
    }

    #[test]
    fn without_a_policy_nobody_asks() {
        let merged = merge(Policy::None, Nodes::from_iter([0]), &[Some(Vec::new())]);
        assert_eq!(merged, Merged { nodes: None, admitted: true });
    }
}
