//! Counters of pods and containers: read when asked for. Use of CPU needs two looks; the one before is remembered.

use std::{
    collections::{HashMap, HashSet},
    sync::{MutexGuard, PoisonError},
};

use orlop_cri_api::v1::{
    ContainerMetrics, ContainerStats, NetworkUsage, PodSandboxMetadata, PodSandboxMetrics, PodSandboxStats,
};
use orlop_runtime::{Container, ContainerState, Depth, Sandbox};
use tonic::Status;

use super::{
    Cri, blocking,
    pods::now,
    words::{
        metrics,
        stats::{self, Sample, Written},
        status,
    },
};
use crate::usage::{
    PodUse,
    series::{Measured, Whose},
};

impl Cri {
    pub(super) fn samples(&self) -> MutexGuard<'_, HashMap<String, Sample>> {
        self.0.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what is gone are of no use any more.
    pub(super) fn forget_gone(&self, pods: &[Sandbox]) {
        let ids = |pod: &Sandbox| {
            let containers: Vec<String> =
                pod.containers.iter().map(|container| container.id.clone()).collect();
            containers.into_iter().chain([pod.pod.uid.clone()])
        };
        let known: HashSet<String> = pods.iter().flat_map(ids).collect();
        self.samples().retain(|id, _| known.contains(id));
    }

    /// The counters now, and those of the look before. `None` when there is nothing to count any more.
    async fn sample(&self, uid: &str, id: Option<&str>) -> Option<(Option<Sample>, Sample)> {
        let read = match id {
            Some(id) => self.runtime().container_stats(uid, id).await,
            None => self.runtime().pod_stats(uid).await,
        };
        let now = Sample { at: now(), stats: read.ok()? };
        let before = self.samples().insert(id.unwrap_or(uid).to_owned(), now);
        Some((before, now))
    }

    pub(super) async fn container_stats(
        &self,
        pod: &Sandbox,
        container: &Container,
    ) -> Result<ContainerStats, Status> {
        let gone = || Status::not_found(format!("container {} has no counters", container.id));
        let (before, now) = self.sample(&pod.pod.uid, Some(&container.id)).await.ok_or_else(gone)?;
        let written = self.runtime().written(&container.id).await;
        let written = Written {
            mount_point: self.0.setup.state_dir.join("containers").to_string_lossy().into_owned(),
            bytes: written.bytes,
            inodes: written.inodes,
        };
        Ok(stats::container(&status::container(pod, container), before.as_ref(), &now, &written))
    }

    /// Of those that run.
    pub(super) async fn stats_of_containers(&self, pod: &Sandbox) -> Vec<ContainerStats> {
        let mut all = Vec::new();
        for container in pod.containers.iter().filter(|container| pid(container).is_some()) {
            // It may end meanwhile.
            all.extend(self.container_stats(pod, container).await.ok());
        }
        all
    }

    pub(super) async fn pod_stats(&self, pod: &Sandbox) -> Result<PodSandboxStats, Status> {
        let gone = || Status::not_found(format!("pod sandbox {} has no counters", pod.pod.uid));
        let (before, now) = self.sample(&pod.pod.uid, None).await.ok_or_else(gone)?;
        let (network, containers) = (network(pod).await, self.stats_of_containers(pod).await);
        Ok(stats::pod(&status::pod(pod), before.as_ref(), &now, network, containers))
    }

    pub(super) async fn metrics(&self) -> Vec<PodSandboxMetrics> {
        let used = self.0.usage.gather(Depth::Processes).await;
        used.iter().filter_map(of_pod).collect()
    }
}

/// `None` where there is nothing to count any more.
fn of_pod(used: &PodUse) -> Option<PodSandboxMetrics> {
    let (pod, uid) = (&used.sandbox, &used.sandbox.pod.uid);
    let PodSandboxMetadata { namespace, name, .. } = status::pod(pod).metadata.unwrap_or_default();
    let whose = Whose { container: "", image: "", id: uid, namespace: &namespace, pod: &name };
    let of_container = |(container, seen): (&Container, &Measured)| {
        let (shown, id) = (status::container(pod, container), &container.id);
        let (name, image) = (shown.metadata.unwrap_or_default().name, shown.image.unwrap_or_default().image);
        let whose = Whose { container: &name, image: &image, id, ..whose };
        ContainerMetrics { container_id: id.clone(), metrics: metrics::metrics(&whose, seen) }
    };
    Some(PodSandboxMetrics {
        pod_sandbox_id: uid.clone(),
        metrics: metrics::metrics(&whose, used.pod.as_ref()?),
        container_metrics: used.running().map(of_container).collect(),
    })
}

fn pid(container: &Container) -> Option<u32> {
    match container.state {
        ContainerState::Running { pid, .. } => Some(pid),
        _ => None,
    }
}

/// Counters of the pod's interface.
async fn network(pod: &Sandbox) -> Option<NetworkUsage> {
    stats::network(now(), &net_dev(pod).await?)
}

/// Counters of the pod's interfaces, as one of its processes sees them.
async fn net_dev(pod: &Sandbox) -> Option<String> {
    pod.netns.as_ref()?;
    let path = format!("/proc/{}/net/dev", pod.containers.iter().find_map(pid)?);
    blocking(move || std::fs::read_to_string(path)).await.ok()?.ok()
}
