//! Processors of the machine: sets of them, and (static policy) who has which for itself.

pub mod set;
