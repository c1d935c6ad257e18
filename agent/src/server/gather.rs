//! Looks at everything that an endpoint shows, once for each question. Not for: how it is shown (`summary`, `cadvisor`,
//! `resource_metrics`, `node_metrics`).

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as ApiPod;
use orlop_runtime::{Container, ContainerState, Depth, Sandbox, Usage as Tree, image::Images};
use serde_json::Value;

use super::{
    Parts, cadvisor,
    expiry::seconds_left,
    node_metrics, resource_metrics,
    summary::{Disk, Node, Pod, Volume, summary},
    volumes::{Found, claim, has_claims, volumes},
};
use crate::{
    usage::{self, PodUse, blocking, file_system},
    worker::Known,
};

/// Where things of the node are.
#[derive(Clone, Debug)]
pub struct Places {
    /// What survives a reboot: images, volumes, what containers write.
    pub state_dir: PathBuf,
    /// What does not: volumes in memory.
    pub run_dir: PathBuf,
    /// Logs.
    pub log_dir: PathBuf,
    /// The node's cgroup subtree.
    pub cgroup_root: String,
}

impl Parts {
    pub(super) async fn resource_metrics(&self) -> String {
        let pods = self.usage.counters().await;
        resource_metrics::text(&usage::machine(), Timestamp::now(), &pods)
    }

    pub(super) async fn cadvisor(&self) -> String {
        let pods = self.usage.gather(Depth::Processes).await;
        cadvisor::text(&self.names, &usage::machine(), Timestamp::now(), &pods)
    }

    /// `short` is for those who want processors and memory alone.
    pub(super) async fn summary(&self, short: bool) -> Value {
        let mut used =
            if short { self.usage.counters().await } else { self.usage.gather(Depth::Details).await };
        used.retain(|pod| !pod.containers.is_empty());
        let known = self.desk.pods().await.unwrap_or_default();
        let known: HashMap<String, Arc<ApiPod>> = known
            .into_iter()
            .filter_map(|known| Some((known.pod.metadata.uid.clone()?, known.pod)))
            .collect();
        let node = self.node(short).await;
        let mut extras = Vec::new();
        if !short {
            extras = self.extras(&used, &known).await;
        }
        extras.resize_with(used.len(), Extra::default);
        let log_disk = file_system(&self.places.log_dir).unwrap_or_default();
        let pods: Vec<Pod<'_>> = used
            .iter()
            .zip(extras)
            .map(|(used, extra)| {
                let started = known
                    .get(&used.sandbox.pod.uid)
                    .and_then(|pod| pod.status.as_ref()?.start_time.as_ref().map(|time| time.0));
                let rate = |id: &str, seen: &usage::series::Measured| {
                    self.usage.rate(id, seen.at, seen.stats.cpu_ns)
                };
                let logs = extra.logs.into_iter().chain(std::iter::repeat(Tree::default()));
                let containers = used.running().zip(logs);
                Pod {
                    started: started.unwrap_or(used.sandbox.created_at),
                    rate: used.pod.as_ref().and_then(|seen| rate(&used.sandbox.pod.uid, seen)),
                    containers: containers
                        .map(|((container, seen), logs)| (rate(&container.id, seen), logs))
                        .collect(),
                    logs: log_disk,
                    volumes: extra.volumes,
                    used,
                }
            })
            .collect();
        let here = |id: &str| {
            [NODE, OWN, PODS].contains(&id)
                || used.iter().any(|pod| {
                    pod.sandbox.pod.uid == id || pod.running().any(|(container, _)| container.id == id)
                })
        };
        self.usage.forget_gone(here);
        summary(&node, &pods, short)
    }

    async fn node(&self, short: bool) -> Node {
        let (places, images) = (self.places.clone(), self.images.clone());
        let writables = places.state_dir.join("containers");
        let written = if short { Vec::new() } else { self.usage.trees(vec![writables.clone()]).await };
        let look = move || {
            let system = |path: &Path| file_system(path).unwrap_or_default();
            let disk = |path: &Path, used| Disk { system: system(path), used };
            Node {
                at: Timestamp::now(),
                machine: usage::machine(),
                interfaces: usage::machine_interfaces(),
                disk: system(&places.state_dir),
                images: if short {
                    Disk::default()
                } else {
                    disk(&places.state_dir.join("images"), stored(&images))
                },
                writables: disk(&writables, written.into_iter().next().unwrap_or_default()),
                max_tasks: max_tasks(),
                own: usage::own_process().map(|own| (own, None)),
                ..Node::default()
            }
        };
        let mut node = blocking(look).await;
        let at = node.at;
        node.name.clone_from(&self.node);
        node.rate = self.usage.rate(NODE, at, node.machine.stats.cpu_ns);
        if let Some((own, rate)) = &mut node.own {
            *rate = self.usage.rate(OWN, at, own.cpu_ns);
        }
        let pods = self.runtime.group_stats(&format!("{}/kubepods", self.places.cgroup_root)).await;
        node.pods = pods.ok().map(|stats| (stats, self.usage.rate(PODS, at, stats.cpu_ns)));
        node
    }

    /// Logs and volumes.
    async fn extras(&self, used: &[PodUse], known: &HashMap<String, Arc<ApiPod>>) -> Vec<Extra> {
        let places = self.places.clone();
        let uids: Vec<String> = used.iter().map(|pod| pod.sandbox.pod.uid.clone()).collect();
        let found =
            blocking(move || uids.iter().map(|uid| volumes(&places, uid)).collect::<Vec<Vec<Found>>>());
        let found = found.await;
        let logs = used.iter().flat_map(|pod| pod.running().map(|(container, _)| log_dir(container)));
        let walked = found.iter().flatten().filter(|volume| !volume.own).map(|volume| volume.path.clone());
        let trees = logs.chain(walked).collect();
        let mut trees = self.usage.trees(trees).await.into_iter();
        let mut extras: Vec<Extra> = used
            .iter()
            .map(|pod| Extra {
                logs: trees.by_ref().take(pod.containers.len()).collect(),
                volumes: Vec::new(),
            })
            .collect();
        for ((extra, found), pod) in extras.iter_mut().zip(found).zip(used) {
            let known = known.get(&pod.sandbox.pod.uid);
            for volume in found {
                let claim = known.and_then(|pod| claim(pod, &volume.name));
                let used = match volume.own {
                    true => volume.system.used(),
                    false => trees.next().unwrap_or_default(),
                };
                let disk = Disk { system: volume.system, used };
                // What a claim holds is no part of the pod, wherever it lies.
                let local = volume.local && claim.is_none();
                extra.volumes.push(Volume { name: volume.name, claim, disk, local });
            }
        }
        extras
    }

    /// Volumes that belong to claims, each once however many pods have it.
    async fn claims(&self, known: &[Known]) -> BTreeMap<(String, String), Disk> {
        let uids: Vec<(String, Arc<ApiPod>)> = known
            .iter()
            .filter(|known| has_claims(&known.pod))
            .filter_map(|known| Some((known.pod.metadata.uid.clone()?, Arc::clone(&known.pod))))
            .collect();
        if uids.is_empty() {
            return BTreeMap::new();
        }
        let places = self.places.clone();
        let found = blocking(move || {
            let of_pod = |(uid, pod): (String, Arc<ApiPod>)| {
                let namespace = pod.metadata.namespace.clone().unwrap_or_default();
                let volumes = volumes(&places, &uid).into_iter();
                let claimed = volumes.filter_map(|volume| Some((claim(&pod, &volume.name)?, volume)));
                claimed.map(|(claim, volume)| ((namespace.clone(), claim), volume)).collect::<Vec<_>>()
            };
            uids.into_iter().flat_map(of_pod).collect::<BTreeMap<_, _>>()
        });
        let mut all = BTreeMap::new();
        for (name, volume) in found.await {
            let used = match volume.own {
                true => volume.system.used(),
                false => self.usage.trees(vec![volume.path]).await.into_iter().next().unwrap_or_default(),
            };
            all.insert(name, Disk { system: volume.system, used });
        }
        all
    }

    /// The part of `/metrics` that nobody counts.
    pub(super) async fn node_metrics(&self) -> String {
        let (known, sandboxes) = tokio::join!(self.desk.pods(), self.runtime.pods());
        let runs = |container: &&Container| matches!(container.state, ContainerState::Running { .. });
        let mut places: Vec<(&Sandbox, &Container)> = Vec::new();
        for pod in &sandboxes {
            places.extend(pod.containers.iter().filter(runs).map(|container| (pod, container)));
        }
        let sizes = self.usage.trees(places.iter().map(|(_, container)| log_dir(container)).collect()).await;
        let logs: Vec<_> = places
            .into_iter()
            .zip(sizes)
            .map(|((pod, container), size)| (pod, container.name.as_str(), size))
            .collect();
        let own = usage::own_process().map(|own| (own, usage::machine().booted));
        let claims = self.claims(known.as_deref().unwrap_or_default()).await;
        let seen = node_metrics::Seen {
            node: &self.node,
            known: known.as_deref(),
            sandboxes: &sandboxes,
            logs: &logs,
            claims: &claims,
            own,
            files: usage::own_files(),
            certificates: self.expires.map(|end| seconds_left(end, Timestamp::now())),
        };
        node_metrics::text(&seen)
    }
}

/// Names in the place of ids of pods and containers: those are longer.
const NODE: &str = "node";
const OWN: &str = "own";
const PODS: &str = "pods";

#[derive(Default)]
struct Extra {
    /// By container.
    logs: Vec<Tree>,
    volumes: Vec<Volume>,
}

/// All logs of a container's instances lie together.
fn log_dir(container: &Container) -> PathBuf {
    container.log_path.parent().map(Path::to_path_buf).unwrap_or_default()
}

fn stored(images: &Images) -> Tree {
    images.stored().unwrap_or_else(|error| {
        tracing::warn!(%error, "what images take on the disk");
        Tree::default()
    })
}

/// Most tasks that the kernel allows.
fn max_tasks() -> u64 {
    let read = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
    };
    [read("pid_max"), read("threads-max")].into_iter().flatten().min().unwrap_or(0)
}
