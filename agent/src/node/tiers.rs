//! The cgroups above those of pods: what pods have together, and how the classes share it.
//!
//! ```text
//!  <root>/kubepods              memory and processor of the machine without what is reserved
//!         ├─ pod<uid>           Guaranteed
//!         ├─ burstable/pod<uid> shares: what its pods ask for together
//!         └─ besteffort/pod…    shares: the least there is
//! ```
//! Not for: the cgroups of pods (they are made with their sandboxes).

use std::{sync::Arc, time::Duration};

use orlop_runtime::{Resources, Runtime};
use tokio::sync::watch;

use crate::{
    images::collect::NodeEvents,
    pod::{resources, settings::Settings},
};

/// As often as a kubelet puts back what somebody else has changed.
const AGAIN: Duration = Duration::from_secs(60);

/// Keeps them as they should be.
pub struct Tiers {
    /// Where they are.
    pub runtime: Runtime,
    /// The node.
    pub settings: Arc<Settings>,
    /// Thousandths of a processor that Burstable pods ask for together.
    pub burstable: watch::Receiver<i64>,
    /// For the news that pods are held to what is theirs, or cannot be.
    pub events: Arc<dyn NodeEvents>,
}

impl Tiers {
    /// Never ends.
    pub async fn run(mut self) {
        self.tell_missing().await;
        self.enforce().await;
        loop {
            let asked = *self.burstable.borrow_and_update();
            for (path, limits) in resources::tiers(&self.settings, asked) {
                if let Err(error) = self.runtime.limit_group(&path, &limits).await {
                    tracing::warn!(path, error = &error as &dyn std::error::Error, "limit a class of pods");
                }
            }
            let changed = tokio::time::timeout(AGAIN, self.burstable.changed()).await;
            if let Ok(Err(_)) = changed {
                // Nobody will tell any more; what is there stays.
                return std::future::pending().await;
            }
        }
    }

    async fn enforce(&self) {
        let (path, limits) = resources::of_all_pods(&self.settings);
        let what = match self.runtime.limit_group(&path, &limits).await {
            Err(error) => {
                let text = format!(
                    "Failed to update Node Allocatable Limits {path:?}: {}",
                    crate::wire::chain(&error)
                );
                return self.events.tell(true, "FailedNodeAllocatableEnforcement", text).await;
            }
            Ok(()) if limits == Resources::default() => return,
            Ok(()) => "Updated Node Allocatable limit across pods",
        };
        self.events.tell(false, "NodeAllocatableEnforced", what.to_owned()).await;
    }

    /// Pods go without what the kernel cannot limit, or we may not set: that is said once.
    async fn tell_missing(&self) {
        let missing = self.runtime.missing_controllers();
        if !missing.is_empty() {
            let text = format!(
                "cgroup controllers are missing, limits of these do not hold: {}",
                missing.join(", ")
            );
            tracing::warn!("{text}");
            self.events.tell(true, "MissingCgroupControllers", text).await;
        }
        let floor = self.runtime.lowest_oom_score_adj();
        if floor > resources::LOWEST_OOM_SCORE {
            let text = format!(
                "no privilege (CAP_SYS_RESOURCE) for an oom_score_adj below {floor}: Guaranteed and critical \
                 containers get {floor} instead of {}",
                resources::LOWEST_OOM_SCORE
            );
            tracing::warn!("{text}");
            self.events.tell(true, "OOMScoreAdjClamped", text).await;
        }
        for limit in self.runtime.clamped_rlimits() {
            let text = format!(
                "no privilege (CAP_SYS_RESOURCE) for the ulimit {limit}: containers get the hard limit of the agent"
            );
            tracing::warn!("{text}");
            self.events.tell(true, "UlimitClamped", text).await;
        }
    }
}
