//! What nodes get from the cluster (pod CIDRs), and what the cluster makes of their silence.

mod evict;
mod ipam;
mod lifecycle;

pub(crate) use evict::run as run_eviction;
pub(crate) use ipam::run as run_ipam;
pub(crate) use lifecycle::run as run_lifecycle;
