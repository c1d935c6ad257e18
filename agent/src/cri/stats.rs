//! Counters of pods and containers: read when asked for. Use of CPU needs two looks; the one before is remembered.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt as _,
    sync::{MutexGuard, PoisonError},
};

use orlop_cri_api::v1::{
    ContainerMetrics, ContainerStats, NetworkUsage, PodSandboxMetadata, PodSandboxMetrics, PodSandboxStats,
};
use orlop_runtime::{Container, ContainerState, Sandbox};
use tonic::Status;

use super::{
    Cri, blocking,
    pods::now,
    words::{
        metrics::{self, Measured, Whose},
        stats::{self, Sample, Written},
        status,
    },
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
        let mut all = Vec::new();
        for pod in self.runtime().pods().await {
            let (uid, seen) = (&pod.pod.uid, status::pod(&pod));
            let PodSandboxMetadata { namespace, name, .. } = seen.metadata.unwrap_or_default();
            let whose = Whose { container: "", image: "", id: uid, namespace: &namespace, pod: &name };
            // Nothing to count any more.
            let Ok(measured) = self.measure(&pod, None).await else { continue };
            let mut of_pod = PodSandboxMetrics {
                pod_sandbox_id: uid.clone(),
                metrics: metrics::metrics(&whose, &measured),
                container_metrics: Vec::new(),
            };
            for container in pod.containers.iter().filter(|container| pid(container).is_some()) {
                let Ok(measured) = self.measure(&pod, Some(container)).await else { continue };
                let (seen, id) = (status::container(&pod, container), &container.id);
                let (name, image) =
                    (seen.metadata.unwrap_or_default().name, seen.image.unwrap_or_default().image);
                let whose = Whose { container: &name, image: &image, id, ..whose };
                let metrics = metrics::metrics(&whose, &measured);
                of_pod.container_metrics.push(ContainerMetrics { container_id: id.clone(), metrics });
            }
            all.push(of_pod);
        }
        all
    }

    /// All that is known of a pod, or of one container of it.
    async fn measure(&self, pod: &Sandbox, container: Option<&Container>) -> std::io::Result<Measured> {
        let (runtime, uid) = (self.runtime(), &pod.pod.uid);
        let id = container.map(|container| container.id.as_str());
        let counted = runtime.details(uid, id).await?;
        let (stats, limits) = match id {
            Some(id) => (runtime.container_stats(uid, id).await?, runtime.container_limits(uid, id).await),
            None => (runtime.pod_stats(uid).await?, runtime.pod_limits(uid).await),
        };
        let disks = counted.details.disks.iter().map(|disk| (device(disk.device), *disk)).collect();
        let files = match id {
            Some(id) => self.files_of(id).await,
            None => None,
        };
        let interfaces = match container {
            None => net_dev(pod).await.map(|text| metrics::interfaces(&text)).unwrap_or_default(),
            Some(_) => Vec::new(),
        };
        Ok(Measured {
            at: now(),
            started: container.map_or(pod.created_at, |container| match &container.state {
                ContainerState::Running { started_at, .. } => *started_at,
                _ => pod.created_at,
            }),
            stats,
            limits: limits.unwrap_or_default(),
            disks,
            interfaces,
            files,
            counted,
        })
    }

    async fn files_of(&self, id: &str) -> Option<metrics::Files> {
        let dir = self.0.setup.state_dir.join("containers");
        let written = self.runtime().written(id).await;
        let written = Written {
            mount_point: dir.to_string_lossy().into_owned(),
            bytes: written.bytes,
            inodes: written.inodes,
        };
        let looked = blocking(move || {
            let (system, meta) = (rustix::fs::statvfs(&dir).ok()?, dir.metadata().ok()?);
            let of = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
            Some((system, device(of)))
        });
        let (system, device) = looked.await.ok()??;
        Some(metrics::Files {
            device,
            written,
            size: system.f_blocks.saturating_mul(system.f_frsize),
            inodes: system.f_files,
            free_inodes: system.f_ffree,
        })
    }
}

/// The name of a block device; its numbers where it has none.
fn device((major, minor): (u32, u32)) -> String {
    let numbers = format!("{major}:{minor}");
    let text = std::fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or(numbers, |name| format!("/dev/{name}"))
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
