//! A pod that the node ends on its own account: eviction, preemption, shutdown.
//!
//! Not for: deletion, which is the API's word.

use std::time::Duration;

use super::{desired::Desired, observed::Observed};

/// The reason of those that the node ends because it runs short.
pub const EVICTED: &str = "Evicted";

/// Why a pod is ended, and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// `status.reason`: `Evicted`, `Preempting`, `Terminated`.
    pub reason: &'static str,
    /// `status.message`, and that of the condition DisruptionTarget.
    pub message: String,
    /// Its containers get no more time than this; the pod's own grace period otherwise.
    pub grace: Option<Duration>,
}

/// The time that the containers of a pod get to end: what was asked for, and less where the node is in a hurry.
pub fn grace(desired: &Desired, observed: &Observed) -> Duration {
    let least = observed.ending.as_ref().and_then(|ending| ending.grace);
    // A second is upstream's least.
    least.map_or(desired.grace(), |least| desired.grace().min(least.max(Duration::from_secs(1))))
}
