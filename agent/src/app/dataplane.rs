//! Feeds the dataplane from watches of Services, EndpointSlices and NetworkPolicies.

use std::{net::IpAddr, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use futures::{Stream, StreamExt as _, stream::BoxStream};
use k8s_openapi::api::{core::v1::Node, discovery::v1::EndpointSlice};
use kube::{Api, Client, runtime::watcher};
use orlop_dataplane::{DataplaneConfig, Update, health::Eligibility, loader::Callers, model::Settings};
use orlop_model::event::Event;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{dns::Served, other_nodes, service_health, take_over, unserved};
use super::{kernel_counts::Kernel, service_metrics::Metrics};
use orlop::{
    config::Config,
    memory::{Kind, Memory},
    policy_names,
    source::{self, Heard, Remember, objects::ApiObjects},
};

/// Updates waiting for the dataplane: it is faster than any watch, this only evens out bursts.
const QUEUE: usize = 256;

/// Who else hears of what is watched here, so that one watch serves all.
#[derive(Default)]
pub(super) struct Also {
    /// Every Service.
    pub(super) objects: Option<Arc<ApiObjects>>,
    /// Services and their endpoints.
    pub(super) dns: Option<Served>,
}

/// Runs until told to stop; the programs stay. `of_pods` says what becomes of this node's pods.
pub(super) async fn run(
    config: &Config,
    client: &Client,
    also: Also,
    memory: Option<Memory>,
    of_pods: BoxStream<'static, Update>,
    stop: CancellationToken,
) -> Result<()> {
    let (updates, received) = mpsc::channel(QUEUE);
    let Also { objects, dns } = also;
    let (dns, mut redirect) = dns.map_or((None, None), |served| (Some(served.dns), served.redirect));
    let (names, own_dns) = (dns.clone(), dns.as_ref().filter(|_| redirect.is_some()).cloned());
    let services = watch(client, memory.as_ref(), Kind::Service).map(move |event| {
        if let Some(objects) = &objects {
            objects.apply_service(&event);
        }
        if let Some(dns) = &dns {
            dns.services(&event);
        }
        Update::Service(event.map(Arc::unwrap_or_clone))
    });
    let slices = watch(client, memory.as_ref(), Kind::EndpointSlice);
    let slices = slices.map(move |event: Event<Arc<EndpointSlice>>| {
        if let Some(dns) = &names {
            dns.endpoint_slices(&event);
        }
        Update::EndpointSlice(event.map(Arc::unwrap_or_clone))
    });
    let own = watcher::Config::default().fields(&format!("metadata.name={}", config.node_name));
    let node = source::watch(Api::<Node>::all(client.clone()), own).filter_map(move |event| {
        if let Some(dns) = &own_dns {
            dns.nodes(&event);
        }
        std::future::ready(node_of(&event))
    });
    let mut merged = futures::stream::select_all([services.boxed(), slices.boxed(), node.boxed(), of_pods]);
    if config.disable_kube_proxy {
        // What is watched here others hear of all the same.
        let unheard = merged.for_each(|_| std::future::ready(()));
        tokio::select! {
            () = unheard => {}
            () = stop.cancelled() => {}
        }
        return Ok(());
    }
    merged.push(other_nodes::watch(client, config).boxed());
    merged.push(super::policies::watch(client, memory.clone()).boxed());
    let feed = async move {
        while let Some(update) = merged.next().await {
            let passed = match &mut redirect {
                Some(redirect) => redirect.pass(update),
                None => vec![update],
            };
            for update in passed {
                if updates.send(update).await.is_err() {
                    return;
                }
            }
        }
    };
    let (measured, synced) = mpsc::unbounded_channel();
    let dataplane = DataplaneConfig {
        bpffs: config.bpffs.clone(),
        callers: callers(config)?,
        node_name: config.node_name.to_string(),
        primary: config.node_ips.clone(),
        settings: settings(config),
        named: config.service_rules.devices.clone(),
        measured: Some(measured),
        sizes: config.service_maps,
    };
    let (status, seen) = tokio::sync::watch::channel(orlop_dataplane::Status::default());
    let metrics = Metrics::new(Kernel::new(config.bpffs.clone(), seen.clone()));
    let beside = async {
        tokio::join!(
            unserved::run(seen.clone(), client, config.node_name.as_str(), &metrics),
            policy_names::keep(config.run_dir.clone(), seen.clone()),
            take_over::run(config.cleanup_kube_proxy, seen.clone()),
            service_health::run(seen.clone(), &metrics),
            metrics.clone().run(synced),
            feed,
        );
        // They end when the dataplane does, and it is the one that says why.
        std::future::pending().await
    };
    tokio::select! {
        ended = orlop_dataplane::run(dataplane, received, status, stop) => ended.context("service dataplane"),
        () = beside => Ok(()),
    }
}

/// What kube-proxy's configuration would say.
fn settings(config: &Config) -> Settings {
    let rules = &config.service_rules;
    Settings {
        // Networks whose addresses are pods'.
        pods: config.cluster_cidrs.iter().filter_map(|net| net.to_string().parse().ok()).collect(),
        node_port_addresses: rules.node_ports.clone(),
        loopback_node_ports: rules.at_localhost,
        masquerade_all: rules.masquerade_all,
        load_balancing: rules.load_balancing,
        host_sockets_only: rules.host_sockets_only,
        ..Settings::default()
    }
}

/// All objects of a kind. Services that were known go on being served where there is no API server: no older list can
/// do more harm than none.
fn watch<K>(
    client: &Client,
    memory: Option<&Memory>,
    kind: Kind,
) -> impl Stream<Item = Event<Arc<K>>> + Send + use<K>
where
    K: source::Object,
{
    let remember = memory.cloned().map(|memory| Remember { memory, kind, part: Arc::clone });
    source::remembered(Api::<K>::all(client.clone()), watcher::Config::default(), remember)
        .map(Heard::trusted)
}

/// What hints and masquerading are about: the zone and the addresses of this node.
fn node_of(event: &Event<Arc<Node>>) -> Option<Update> {
    let node = match event {
        Event::Apply(node) => node,
        Event::Reset(nodes) => nodes.first()?,
        Event::Delete(_) => return None,
    };
    let labels = node.metadata.labels.as_ref();
    Some(Update::Node {
        zone: labels.and_then(|labels| labels.get("topology.kubernetes.io/zone")).cloned(),
        primary: addresses(node).collect(),
        eligibility: eligibility(node),
    })
}

/// The addresses of a node, as its status says.
pub(super) fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    let ips = addresses.filter(|at| at.type_ == "InternalIP" || at.type_ == "ExternalIP");
    ips.filter_map(|at| at.address.parse().ok())
}

/// KEP-3836: balancers are told to go elsewhere before the node goes.
fn eligibility(node: &Node) -> Eligibility {
    const REMOVED: &str = "ToBeDeletedByClusterAutoscaler";
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let removed = taints.into_iter().flatten().any(|taint| taint.key == REMOVED);
    match removed || node.metadata.deletion_timestamp.is_some() {
        true => Eligibility::Leaving,
        false => Eligibility::Eligible,
    }
}

/// Pods, and where the node is the machine itself, and no box on it, all processes in the machine's network namespace.
fn callers(config: &Config) -> Result<Callers> {
    let cgroup = cgroup2_dir(&config.cgroup_root)?;
    let machine = is_machines_network().then(cgroup2_mount).transpose()?;
    tracing::info!(cgroup = %cgroup.display(), machine = machine.is_some(), "translating sockets");
    Ok(Callers { cgroup, machine })
}

/// The inode of the machine's first namespace of process ids (`PROC_PID_INIT_INO`). In any other, process 1 says nothing of the machine.
const FIRST_PROCESS_IDS: u64 = 0xEFFF_FFFC;

/// Whether the network namespace of this process is that of the machine's first.
fn is_machines_network() -> bool {
    let of = |path: &str| std::fs::metadata(path).map(|at| (at.dev(), at.ino()));
    let sees_first = of("/proc/self/ns/pid").is_ok_and(|(_, ids)| ids == FIRST_PROCESS_IDS);
    sees_first
        && matches!((of("/proc/self/ns/net"), of("/proc/1/ns/net")), (Ok(own), Ok(first)) if own == first)
}

/// The cgroup of the pods of a kubelet that runs here, by the names its two drivers give it.
pub(super) fn cgroup_of_kubelet() -> Result<Option<&'static str>> {
    let mount = cgroup2_mount()?;
    Ok(["kubepods.slice", "kubepods"].into_iter().find(|root| mount.join(root).is_dir()))
}

/// The node's directory in the cgroup v2 hierarchy, which the programs are attached to. Made if it is not there.
pub(super) fn cgroup2_dir(root: &str) -> Result<PathBuf> {
    let dir = cgroup2_mount()?.join(root);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(point)
    });
    let mount = mount
        .context("no cgroup v2 hierarchy is mounted: the service dataplane attaches its programs to one")?;
    Ok(mount.into())
}
