//! Processors and devices of a container near to each other: the policies of upstream's topology manager. Pure.
//!
//! ```text
//!  cpu::pool, device::ledger ── where could it be had? ─▶ hints ─▶ merge ─▶ memory nodes ─▶ the same two: had from there
//!                                                                    └▶ by the policy: the pod is refused
//! ```
//! Source of the rules: kubelet 1.34 (`pkg/kubelet/cm/topologymanager`). Not for: choosing processors or devices.

mod merge;
mod nodes;

pub use merge::{Merged, merge};
pub use nodes::Nodes;

/// How strict alignment is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody asks.
    #[default]
    None,
    /// As near as it can be.
    BestEffort,
    /// As near as it could be on an empty machine, or not at all.
    Restricted,
    /// On one memory node, or not at all.
    SingleNode,
}

/// What is aligned with what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Each container by itself.
    #[default]
    Container,
    /// All that a pod has.
    Pod,
}

/// The topology manager's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alignment {
    /// How strict.
    pub policy: Policy,
    /// Of what.
    pub scope: Scope,
}

/// A way to have a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// From these memory nodes; `None`: from any.
    pub nodes: Option<Nodes>,
    /// From no more of them than would be needed on an empty machine.
    pub preferred: bool,
}

/// All ways to have a resource. `None`: it does not matter where; an empty list: it cannot be had.
pub type Hints = Option<Vec<Hint>>;

/// The ways to have `count` of a resource: `all` and `free` say how much of it there is on some memory nodes.
pub fn ways(
    machine: Nodes,
    count: usize,
    all: impl Fn(Nodes) -> usize,
    free: impl Fn(Nodes) -> usize,
) -> Vec<Hint> {
    let fewest = machine.parts().filter(|nodes| all(*nodes) >= count).map(Nodes::len).min();
    let some = machine.parts().filter(|nodes| free(*nodes) >= count);
    some.map(|nodes| Hint { nodes: Some(nodes), preferred: Some(nodes.len()) == fewest }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_do_with_fewer_nodes_is_not_preferred() {
        let machine = Nodes::from_iter([0, 1]);
        // Four on each; one is free on the first, four on the second.
        let free = |nodes: Nodes| nodes.iter().map(|node| if node == 0 { 1 } else { 4 }).sum();
        let shown = |count| {
            let ways = ways(machine, count, |nodes| nodes.len() * 4, free);
            let one =
                |hint: &Hint| format!("{}{}", hint.nodes.unwrap(), if hint.preferred { "!" } else { "" });
            ways.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown(1), "0! 1! 0,1");
        assert_eq!(shown(2), "1! 0,1");
        assert_eq!(shown(5), "0,1!");
        assert_eq!(shown(6), "");
    }
}
