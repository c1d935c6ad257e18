//! Keeps running containers on the processors that are theirs: those of one alone, or what is left.
//!
//! A container gets its cpuset when it starts; this follows what is left as it shrinks and grows, and looks again every
//! now and then for what a start and a change missed of each other. Not for: containers of CRI clients.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::set::CpuSet;
use crate::{
    cri,
    exclusive::Exclusive,
    worker::ports::{ContainerState, Resources, Runtime},
};

/// Upstream's `cpuManagerReconcilePeriod`.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Follows the pool.
pub struct Reconcile {
    /// Where containers are.
    pub runtime: Arc<dyn Runtime>,
    /// Who has what.
    pub exclusive: Arc<Exclusive>,
    /// Tells that something changed.
    pub changed: watch::Receiver<CpuSet>,
    /// How often it is looked at in any case.
    pub period: Duration,
}

impl Reconcile {
    /// Never ends.
    pub async fn run(mut self) {
        let mut written = HashMap::new();
        loop {
            self.changed.borrow_and_update();
            self.once(&mut written).await;
            let changed = tokio::time::timeout(self.period, self.changed.changed()).await;
            if let Ok(Err(_)) = changed {
                return std::future::pending().await;
            }
        }
    }

    async fn once(&self, written: &mut HashMap<String, CpuSet>) {
        let mut seen = HashMap::new();
        for pod in self.runtime.pods().await {
            let uid = pod.pod.uid.as_str();
            if !pod.shim_alive || cri::owns(uid) {
                continue;
            }
            let running = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
            for container in pod.containers.iter().filter(|container| running(&container.state)) {
                let Some(cpus) = self.exclusive.cpus(uid, &container.name).filter(|cpus| !cpus.is_empty())
                else {
                    continue;
                };
                let known = written.get(&container.id) == Some(&cpus);
                if !known {
                    let limits = Resources { cpuset_cpus: Some(cpus.to_string()), ..Resources::default() };
                    let labels = std::collections::BTreeMap::new();
                    if let Err(error) =
                        self.runtime.update_container(uid, &container.id, &limits, labels).await
                    {
                        tracing::warn!(uid, container = container.name, %error, %cpus, "set processors");
                        continue;
                    }
                }
                seen.insert(container.id.clone(), cpus);
            }
        }
        *written = seen;
    }
}
