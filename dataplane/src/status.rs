//! What the dataplane says about itself: data, not errors.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::health::{Eligibility, HealthCheck};
use crate::model::ServiceKey;
use crate::policy::tables::Names;

/// The state of the loop after its last step.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Status {
    /// Both first lists are in, and the maps say what they say.
    pub synced: bool,
    /// Services served.
    pub services: usize,
    /// Backends in the maps, counted per service port.
    pub backends: usize,
    /// Services that are not (wholly) in the maps, and why. They are tried again.
    pub failures: BTreeMap<ServiceKey, String>,
    /// Map elements that had to be put right because somebody else changed them.
    pub repaired: u64,
    /// Why the maps could not be read back at the last try.
    pub unreadable: Option<String>,
    /// The programs are at the devices that were found, but for the [bare](Self::bare_devices).
    pub placed: bool,
    /// Devices whose packets are not translated, and why: node ports and load-balancer addresses are not answered there.
    pub bare_devices: Vec<String>,
    /// What load balancers ask about, by service.
    pub health_checks: BTreeMap<ServiceKey, HealthCheck>,
    /// Whether they may send traffic to this node.
    pub eligibility: Eligibility,
    /// What numbers in the maps of policies stand for.
    pub policy_names: Arc<Names>,
    /// Why network policies are not all in force.
    pub policy_failure: Option<String>,
}
