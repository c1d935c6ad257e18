//! Keeps running containers on the processors that are theirs: those of one alone, or what is left.
//!
//! A container gets its cpuset when it starts; this follows what is left as it shrinks and grows, and looks again every
//! now and then for what a start and a change missed of each other. Which processors a container was last given is a
//! label of it. Without the static policy it gives back all of them to those that have such a label, once.
//! Not for: containers of CRI clients.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::set::CpuSet;
use crate::{
    cri,
    exclusive::Exclusive,
    worker::ports::{Container, ContainerState, Resources, Runtime},
};

/// Upstream's `cpuManagerReconcilePeriod`.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Label of containers: the list of processors they were last given.
pub const LABEL: &str = "orlop/cpuset";

/// Follows the pool.
pub struct Reconcile {
    /// Where containers are.
    pub runtime: Arc<dyn Runtime>,
    /// Who has what.
    pub exclusive: Arc<Exclusive>,
    /// Tells that something changed; `None` without the static policy.
    pub changed: Option<watch::Receiver<CpuSet>>,
    /// All processors of the machine.
    pub all: CpuSet,
    /// How often it is looked at in any case.
    pub period: Duration,
}

impl Reconcile {
    /// Never ends.
    pub async fn run(mut self) {
        loop {
            if let Some(changed) = &mut self.changed {
                changed.borrow_and_update();
            }
            self.once().await;
            let Some(changed) = &mut self.changed else { return std::future::pending().await };
            if let Ok(Err(_)) = tokio::time::timeout(self.period, changed.changed()).await {
                return std::future::pending().await;
            }
        }
    }

    async fn once(&self) {
        for pod in self.runtime.pods().await {
            let uid = pod.pod.uid.as_str();
            if !pod.shim_alive || cri::owns(uid) {
                continue;
            }
            let running = |container: &&Container| matches!(container.state, ContainerState::Running { .. });
            for container in pod.containers.iter().filter(running) {
                let known = container.labels.get(LABEL);
                let all = || known.map(|_| self.all.clone());
                let wanted = self.exclusive.cpus(uid, &container.name).or_else(all);
                let Some(list) = wanted.filter(|cpus| !cpus.is_empty()).map(|cpus| cpus.to_string()) else {
                    continue;
                };
                if known == Some(&list) {
                    continue;
                }
                let limits = Resources { cpuset_cpus: Some(list.clone()), ..Resources::default() };
                let label = BTreeMap::from([(LABEL.to_owned(), list.clone())]);
                if let Err(error) = self.runtime.update_container(uid, &container.id, &limits, label).await {
                    tracing::warn!(uid, container = container.name, %error, cpus = list, "set processors");
                }
            }
        }
    }
}
