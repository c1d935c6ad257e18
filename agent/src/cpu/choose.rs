//! Which processors a container gets: as close together as they can be, or evenly over memory nodes. Pure.
//!
//! As upstream's static policy does: whole sockets or nodes, then whole cores, then single threads; where there is a
//! choice, where the least is free, so that large pieces stay whole. Not for: who holds what (`pool`).

use super::{
    set::CpuSet,
    topology::{Topology, Unit},
};

/// How they are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Only whole cores (`full-pcpus-only`).
    pub whole_cores: bool,
    /// Where one memory node does not do, evenly over as many as are needed (`distribute-cpus-across-numa`).
    pub spread: bool,
}

/// So many of those that are free; `None` if there are not enough.
#[must_use]
pub fn choose(machine: &Topology, free: &CpuSet, count: usize, how: How) -> Option<CpuSet> {
    if how.spread
        && let Some(chosen) = spread(machine, free, count, how)
    {
        return Some(chosen);
    }
    pack(machine, free, count, how)
}

fn pack(machine: &Topology, free: &CpuSet, count: usize, how: How) -> Option<CpuSet> {
    let mut chosen = CpuSet::default();
    let (sockets, nodes) = (machine.units(Unit::Socket).len(), machine.units(Unit::Node).len());
    // The larger piece first.
    let pieces = if sockets <= nodes { [Unit::Socket, Unit::Node] } else { [Unit::Node, Unit::Socket] };
    for unit in pieces.into_iter().chain([Unit::Core]) {
        let mut units: Vec<_> = machine.units(unit).into_iter().collect();
        units.sort_by_key(|(number, cpus)| (rank(machine, free, &chosen, cpus), *number));
        for (_, cpus) in units {
            if cpus.is_subset(&(free - &chosen)) && cpus.len() <= count - chosen.len() {
                chosen = &chosen | &cpus;
            }
        }
    }
    if !how.whole_cores {
        while chosen.len() < count {
            let left = free - &chosen;
            let by_rank = |cpu: &u32| {
                let core =
                    machine.of(*cpu, Unit::Core).and_then(|core| machine.units(Unit::Core).remove(&core));
                let core = core.unwrap_or_default();
                (rank(machine, free, &chosen, &core), (&core & &left).len(), *cpu)
            };
            let next = left.iter().min_by_key(by_rank)?;
            chosen = &chosen | &CpuSet::from_iter([next]);
        }
    }
    (chosen.len() == count).then_some(chosen)
}

/// Lower is better: near to what is chosen already, then where the least is free.
fn rank(machine: &Topology, free: &CpuSet, chosen: &CpuSet, cpus: &CpuSet) -> (usize, usize, usize, usize) {
    let around = |unit: Unit, what: &CpuSet| {
        let of = cpus.iter().next().and_then(|cpu| machine.of(cpu, unit));
        of.and_then(|number| machine.units(unit).remove(&number)).map_or(0, |unit| (&unit & what).len())
    };
    let near = |unit| usize::MAX - around(unit, chosen);
    (near(Unit::Node), near(Unit::Socket), around(Unit::Node, free), around(Unit::Socket, free))
}

/// Over the fewest nodes that do, with the same number from each. `None`: one does, or it cannot be done evenly.
fn spread(machine: &Topology, free: &CpuSet, count: usize, how: How) -> Option<CpuSet> {
    let piece = if how.whole_cores { machine.per_core() } else { 1 };
    let mut nodes: Vec<CpuSet> = machine.units(Unit::Node).into_values().map(|node| &node & free).collect();
    if nodes.iter().any(|node| node.len() >= count) {
        return None;
    }
    nodes.sort_by_key(|node| std::cmp::Reverse(node.len()));
    for number in 2..=nodes.len() {
        let share = count / number / piece * piece;
        let mut rest = (count - share * number).div_ceil(piece);
        let mut chosen = CpuSet::default();
        for node in &nodes[..number] {
            let more = if rest > 0 { piece } else { 0 };
            let of_node = pack(machine, node, share + more, how).inspect(|_| rest = rest.saturating_sub(1));
            let of_node = of_node.or_else(|| pack(machine, node, share, how));
            let Some(of_node) = of_node else { break };
            chosen = &chosen | &of_node;
        }
        if chosen.len() == count {
            return Some(chosen);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(machine: &Topology, free: &str, count: usize, how: How, expected: &str) {
        let chosen = choose(machine, &free.parse().unwrap(), count, how);
        let shown = chosen.map_or("none".to_owned(), |cpus| cpus.to_string());
        assert_eq!(shown, expected, "{count} of {free}");
    }

    const PACK: How = How { whole_cores: false, spread: false };
    const WHOLE: How = How { whole_cores: true, spread: false };
    const SPREAD: How = How { whole_cores: false, spread: true };

    #[test]
    fn close_together() {
        // Two nodes of four cores of two threads: node 0 has 0-3 and 8-11.
        let machine = Topology::regular(2, 4, 2);
        for (free, count, expected) in [
            ("0-15", 1, "0"),
            ("0-15", 2, "0,8"),
            ("0-15", 3, "0-1,8"),
            ("0-15", 8, "0-3,8-11"),
            ("0-15", 10, "0-4,8-12"),
            ("0-15", 16, "0-15"),
            ("0-14", 16, "none"),
            // The half of a core that is left goes before one is broken.
            ("1-15", 1, "8"),
            // The node where less is free.
            ("0-3,5-11,13-15", 2, "5,13"),
            ("0-3,5-11,13-15", 8, "0-3,8-11"),
            ("", 1, "none"),
            ("5", 1, "5"),
        ] {
            check(&machine, free, count, PACK, expected);
        }
        check(&Topology::regular(1, 2, 1), "0-1", 1, PACK, "0");
    }

    #[test]
    fn whole_cores_only() {
        let machine = Topology::regular(2, 4, 2);
        check(&machine, "0-15", 4, WHOLE, "0-1,8-9");
        check(&machine, "0-7", 2, WHOLE, "none");
        check(&machine, "0-7,15", 2, WHOLE, "7,15");
    }

    #[test]
    fn evenly_over_nodes() {
        let machine = Topology::regular(2, 4, 2);
        check(&machine, "0-15", 8, SPREAD, "0-3,8-11");
        check(&machine, "0-15", 10, SPREAD, "0-2,4-6,8-9,12-13");
        check(&machine, "0-15", 9, SPREAD, "0-2,4-5,8-9,12-13");
        check(&machine, "0-15", 12, How { whole_cores: true, spread: true }, "0-2,4-6,8-10,12-14");
        // Not evenly: as close as can be.
        check(&machine, "0-3,8-11,4", 9, SPREAD, "0-4,8-11");
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_and_as_much_as_asked_for(
            (nodes, cores, threads) in (1_u32..4, 1_u32..5, 1_u32..3),
            taken in proptest::collection::btree_set(0_u32..24, 0..12),
            count in 1_usize..25,
            (whole_cores, spread) in (any::<bool>(), any::<bool>()),
        ) {
            let machine = Topology::regular(nodes, cores, threads);
            let free = &machine.all() - &taken.into_iter().collect();
            let how = How { whole_cores, spread };
            match choose(&machine, &free, count, how) {
                Some(chosen) => {
                    prop_assert_eq!(chosen.len(), count);
                    prop_assert!(chosen.is_subset(&free));
                    if whole_cores {
                        for core in machine.units(Unit::Core).values() {
                            prop_assert!(core.is_subset(&chosen) || (core & &chosen).is_empty());
                        }
                    }
                }
                None if whole_cores => {
                    let whole = machine.units(Unit::Core).into_values().filter(|core| core.is_subset(&free));
                    let whole: usize = whole.map(|core| core.len()).sum();
                    prop_assert!(whole < count || !count.is_multiple_of(machine.per_core()));
                }
                None => prop_assert!(free.len() < count),
            }
        }
    }
}
