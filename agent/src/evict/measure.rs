//! How much there is: of the node, of all pods, and what one pod uses.
//!
//! The node costs a few system calls; a pod's disk is walked, so that is asked only of those that matter.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Container;
use orlop_runtime::{Runtime, Usage, cgroup::Hierarchies};
use rustix::fs::statvfs;

use super::{
    choose::{ContainerUse, PodUse},
    judge::{Measure, Measured, Measures},
    local::DiskUse,
};
use crate::{
    config::kubelet::eviction::Signal,
    node::facts,
    pod::{container::log_dir, desired::Desired, resources, settings::Settings},
    volume::layout::Layout,
};

/// Where to look.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) state_dir: PathBuf,
    pub(super) images: PathBuf,
    pub(super) pods_cgroup: String,
    /// What all pods may use together, bytes; 0 where nobody holds them to it.
    pub(super) pods_memory: u64,
}

/// Everything that can be measured now.
pub(super) fn node(places: &Places) -> Measures {
    let mut measures = Measures::new();
    let capacity = facts::meminfo("MemTotal");
    let available = facts::meminfo("MemFree").saturating_add(facts::meminfo("Inactive(file)"));
    if capacity > 0 {
        measures.insert(Measure::Node(Signal::MemoryAvailable), Measured { available, capacity });
    }
    let of_pods = Hierarchies::discover().ok().and_then(|groups| groups.stats(&places.pods_cgroup).ok());
    if let Some(stats) = of_pods.filter(|_| places.pods_memory > 0) {
        let capacity = places.pods_memory;
        let available = capacity.saturating_sub(stats.memory_working_set);
        measures.insert(Measure::PodsMemory, Measured { available, capacity });
    }
    let disks = [
        (&places.state_dir, Signal::NodefsAvailable, Signal::NodefsInodesFree),
        // Writable layers are in the state directory.
        (&places.state_dir, Signal::ContainerfsAvailable, Signal::ContainerfsInodesFree),
        (&places.images, Signal::ImagefsAvailable, Signal::ImagefsInodesFree),
    ];
    for (dir, bytes, inodes) in disks {
        let Ok(found) = statvfs(dir) else { continue };
        let units = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let measured = Measured { available: units(found.f_bavail), capacity: units(found.f_blocks) };
        measures.insert(Measure::Node(bytes), measured);
        // Some file systems make inodes as they need them.
        if found.f_files > 0 {
            let measured = Measured { available: found.f_favail, capacity: found.f_files };
            measures.insert(Measure::Node(inodes), measured);
        }
    }
    if let Some(measured) = processes() {
        measures.insert(Measure::Node(Signal::PidAvailable), measured);
    }
    measures
}

fn processes() -> Option<Measured> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let capacity = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let loadavg = fs::read_to_string("/proc/loadavg").ok()?;
    let running = loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some(Measured { available: capacity.saturating_sub(running), capacity })
}

/// What a pod uses; its disk only if somebody wants to know.
pub(super) async fn pod(runtime: &Runtime, settings: &Settings, desired: &Desired, disk: bool) -> PodUse {
    let spec = desired.spec();
    let uid = desired.uid();
    let bytes = |amount: i64| u64::try_from(amount).unwrap_or(0);
    let request = |container: &Container, name: &str| {
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        bytes(resources::value(asked, name))
    };
    let on_disk = if disk { disk_use(runtime, settings, desired).await } else { DiskUse::default() };
    let mut containers = Vec::new();
    for (_, container) in desired.containers() {
        let id = running(runtime, uid, &container.name).await;
        let stats = match &id {
            Some(id) => runtime.container_stats(uid, id).await.unwrap_or_default(),
            None => orlop_runtime::cgroup::Stats::default(),
        };
        let disk = on_disk.containers.iter().find(|(name, _)| *name == container.name);
        containers.push(ContainerUse {
            name: container.name.clone(),
            memory: stats.memory_working_set,
            memory_request: request(container, "memory"),
            disk: disk.map_or(0, |(_, bytes)| *bytes),
            disk_request: request(container, "ephemeral-storage"),
        });
    }
    let volumes: u64 = on_disk.volumes.iter().map(|(_, bytes)| *bytes).sum();
    let cgroup = resources::cgroup(settings, spec, uid);
    let pids = Hierarchies::discover().map_or(0, |groups| groups.processes(&cgroup).len());
    PodUse {
        uid: uid.to_owned(),
        priority: spec.priority.unwrap_or(0),
        memory: runtime.pod_stats(uid).await.map_or(0, |stats| stats.memory_working_set),
        memory_request: bytes(resources::requests_of_pod(spec).1),
        disk: containers.iter().map(|container| container.disk).sum::<u64>() + volumes,
        disk_request: containers.iter().map(|container| container.disk_request).sum(),
        inodes: if disk { inodes(runtime, settings, desired).await } else { 0 },
        pids: pids as u64,
        containers,
    }
}

/// What a pod has written on this node's disk.
pub(super) async fn disk_use(runtime: &Runtime, settings: &Settings, desired: &Desired) -> DiskUse {
    let mut usage = DiskUse::default();
    for (_, container) in desired.containers() {
        let written = match running(runtime, desired.uid(), &container.name).await {
            Some(id) => runtime.written(&id).await,
            None => Usage::default(),
        };
        let logs = walked(log_dir(&settings.log_dir, &desired.pod_ref()).join(&container.name)).await;
        usage.containers.push((container.name.clone(), written.bytes + logs.bytes));
    }
    for (name, dir) in empty_dirs(settings, desired) {
        usage.volumes.push((name, walked(dir).await.bytes));
    }
    usage
}

async fn inodes(runtime: &Runtime, settings: &Settings, desired: &Desired) -> u64 {
    let mut all = 0;
    for (_, container) in desired.containers() {
        if let Some(id) = running(runtime, desired.uid(), &container.name).await {
            all += runtime.written(&id).await.inodes;
        }
    }
    for (_, dir) in empty_dirs(settings, desired) {
        all += walked(dir).await.inodes;
    }
    all
}

fn empty_dirs(settings: &Settings, desired: &Desired) -> Vec<(String, PathBuf)> {
    let layout = Layout::new(settings);
    let volumes = desired.spec().volumes.iter().flatten().filter(|volume| volume.empty_dir.is_some());
    volumes
        .map(|volume| (volume.name.clone(), layout.volume(desired.uid(), "empty-dir", &volume.name)))
        .collect()
}

async fn walked(dir: PathBuf) -> Usage {
    let walk = move || Usage::of(Path::new(&dir));
    tokio::task::spawn_blocking(walk).await.unwrap_or_default()
}

async fn running(runtime: &Runtime, uid: &str, name: &str) -> Option<String> {
    let sandbox = runtime.pod(uid).await?;
    let of_name = sandbox.containers.into_iter().filter(|container| container.name == name);
    of_name.max_by_key(|container| container.attempt).map(|container| container.id)
}
