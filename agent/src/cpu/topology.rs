//! Which processors share a core, a socket and a memory node. Pure.

use std::collections::BTreeMap;

use super::set::CpuSet;
use crate::topology::Nodes;

/// Where a processor is. Numbers are unique on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The lowest processor of its core.
    pub core: u32,
    /// Socket.
    pub socket: u32,
    /// Memory node.
    pub node: u32,
}

/// All processors that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology(pub BTreeMap<u32, Place>);

/// A part of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Processors that share an execution unit.
    Core,
    /// A package.
    Socket,
    /// What has memory of its own.
    Node,
}

impl Topology {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> CpuSet {
        self.0.keys().copied().collect()
    }

    /// The processors of each unit, by its number.
    #[must_use]
    pub fn units(&self, unit: Unit) -> BTreeMap<u32, CpuSet> {
        let mut units: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (cpu, place) in &self.0 {
            units.entry(number(place, unit)).or_default().push(*cpu);
        }
        units.into_iter().map(|(number, cpus)| (number, cpus.into_iter().collect())).collect()
    }

    /// The memory nodes.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        self.units(Unit::Node).into_keys().collect()
    }

    /// In which unit a processor is.
    #[must_use]
    pub fn of(&self, cpu: u32, unit: Unit) -> Option<u32> {
        self.0.get(&cpu).map(|place| number(place, unit))
    }

    /// Processors in a core: the most there are in one.
    #[must_use]
    pub fn per_core(&self) -> usize {
        self.units(Unit::Core).values().map(CpuSet::len).max().unwrap_or(1)
    }
}

fn number(place: &Place, unit: Unit) -> u32 {
    match unit {
        Unit::Core => place.core,
        Unit::Socket => place.socket,
        Unit::Node => place.node,
    }
}

#[cfg(test)]
impl Topology {
    /// Nodes, each a socket of so many cores of so many threads; numbered as Linux does, first threads first.
    pub(crate) fn regular(nodes: u32, cores: u32, threads: u32) -> Topology {
        let mut cpus = BTreeMap::new();
        for thread in 0..threads {
            for node in 0..nodes {
                for core in 0..cores {
                    let first = node * cores + core;
                    let place = Place { core: first, socket: node, node };
                    cpus.insert(thread * nodes * cores + first, place);
                }
            }
        }
        Topology(cpus)
    }
}
