//! What pods that come have to know of the node's state.

use std::collections::BTreeSet;

/// A resource that runs short; in the order in which it is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Pid,
}

impl Pressure {
    /// The node's condition.
    #[must_use]
    pub fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

/// The state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// What runs short.
    pub pressures: BTreeSet<Pressure>,
    /// The machine is going down.
    pub shutting_down: bool,
}
