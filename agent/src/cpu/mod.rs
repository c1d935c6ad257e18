//! Processors of the machine, and (static policy) which containers have some for themselves.
//!
//! ```text
//!  read (sysfs) ─▶ Topology ─┐
//!  pod, at admission ────────┴▶ Pool: choose, hold ─┬▶ container's cpuset, at its start
//!                                                   └▶ what is left, for all others ─▶ reconcile: cpusets of what runs
//! ```
//!
//! Who holds what is written down with the pod's sandbox (`exclusive`), not in a file of its own: it cannot disagree
//! with what runs. `set`, `topology`, `choose` and `pool` are pure. Not for: shares and quotas (`pod::resources`).

pub mod choose;
pub mod pool;
pub mod read;
pub mod reconcile;
pub mod set;
pub mod topology;
