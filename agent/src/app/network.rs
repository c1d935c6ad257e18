//! The pod network as it becomes available: after the node has its pod CIDR, and with routes to the other nodes.
//!
//! ```text
//!  watch of Nodes ──own spec.podCIDRs──▶ Network::open ──▶ workers that wait in attach()
//!                 └─others' podCIDRs + InternalIPs──▶ Network::set_peers
//! ```

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use k8s_openapi::{
    api::core::v1::{Node, NodeSpec, NodeStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, runtime::watcher};
use orlop_cni::{Attachment, Bandwidth, Network, NetworkConfig, Peer};
use orlop_model::{event::Event, net::IpNet};
use tokio::{
    sync::watch,
    time::{interval, timeout},
};

use orlop::{
    config::Config,
    memory::{Kind, Memory},
    node::report::Health,
    source::{self, Heard, Remember},
    wire::chain,
    worker::ports::{self, Attached, Failure, PodRef, Wishes},
};

/// Why pods cannot be attached before the CIDR is known, in the kubelet's words.
pub(super) const NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                                    message:no pod CIDR assigned to this node yet";

/// How long a pod waits for the network before it says so.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often routes are looked at even when no Node changed.
const ROUTES_AGAIN: Duration = Duration::from_secs(60);

/// The network, once there is one.
#[derive(Clone)]
pub(super) struct LateNetwork {
    opened: watch::Receiver<Option<Arc<Network>>>,
}

impl LateNetwork {
    /// Waits for the network, but not for ever: the caller says why its pod waits, and asks again.
    async fn get(&self) -> Result<Arc<Network>, Failure> {
        let mut opened = self.opened.clone();
        let network = timeout(PATIENCE, opened.wait_for(Option::is_some)).await;
        let network = network.ok().and_then(Result::ok).and_then(|network| network.clone());
        network.ok_or_else(|| Failure(NOT_READY.to_owned()))
    }
}

/// Starts to follow the Nodes. `health` hears when the network is ready.
pub(super) fn start(
    config: &Config,
    client: Client,
    memory: Option<Memory>,
    health: watch::Sender<Health>,
) -> LateNetwork {
    let (sender, opened) = watch::channel(None);
    let remember = memory.map(|memory| Remember { memory, kind: Kind::Node, part: matters });
    let nodes = source::remembered(Api::<Node>::all(client), watcher::Config::default(), remember);
    tokio::spawn(follow(config.clone(), nodes.map(Heard::trusted).boxed(), sender, health));
    LateNetwork { opened }
}

/// The network of a node that is alone.
///
/// # Errors
/// When it cannot be opened.
pub(super) async fn alone(config: &Config) -> Result<LateNetwork, orlop_cni::OpenError> {
    let network = Arc::new(open(config, config.pod_cidrs.clone()).await?);
    let followed = Arc::clone(&network);
    tokio::spawn(async move {
        let mut again = interval(ROUTES_AGAIN);
        loop {
            again.tick().await;
            refresh_mtu(&followed).await;
        }
    });
    let (_opened_for_good, opened) = watch::channel(Some(network));
    Ok(LateNetwork { opened })
}

/// Nodes change with every heartbeat; this does not.
fn matters(node: &Arc<Node>) -> Arc<Node> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.clone());
    let spec = node.spec.clone().unwrap_or_default();
    let (pod_cidr, pod_cidrs) = (spec.pod_cidr, spec.pod_cidrs);
    Arc::new(Node {
        metadata: ObjectMeta { name: node.metadata.name.clone(), ..ObjectMeta::default() },
        spec: Some(NodeSpec { pod_cidr, pod_cidrs, ..NodeSpec::default() }),
        status: Some(NodeStatus { addresses, ..NodeStatus::default() }),
    })
}

async fn follow(
    config: Config,
    mut events: BoxStream<'static, Event<Arc<Node>>>,
    sender: watch::Sender<Option<Arc<Network>>>,
    health: watch::Sender<Health>,
) {
    let mut again = interval(ROUTES_AGAIN);
    let (mut nodes, mut applied) = (BTreeMap::<String, Peer>::new(), None);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => apply(&mut nodes, event),
                None => return,
            },
            // The kernel drops routes whose link went down for a moment, and nobody says when a link's MTU changes.
            _ = again.tick() => {
                applied = None;
                let network = sender.borrow().clone();
                if let Some(network) = network {
                    refresh_mtu(&network).await;
                }
            }
        }
        if sender.borrow().is_none() {
            let own = nodes.get(config.node_name.as_str()).filter(|place| !place.pod_cidrs.is_empty());
            let Some(Peer { pod_cidrs, .. }) = own.cloned() else { continue };
            match open(&config, pod_cidrs).await {
                Ok(network) => {
                    sender.send_replace(Some(Arc::new(network)));
                    health.send_modify(|health| health.not_ready.clear());
                }
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "open the pod network");
                    let why = format!("container runtime network not ready: {}", chain(&error));
                    health.send_modify(|health| health.not_ready = vec![why]);
                    continue;
                }
            }
        }
        let network = sender.borrow().clone();
        let Some(network) = network else { continue };
        let others = nodes.iter().filter(|(name, _)| name.as_str() != config.node_name.as_str());
        let peers: Vec<_> = others.map(|(_, peer)| peer.clone()).collect();
        if applied.as_ref() == Some(&peers) {
            continue;
        }
        match network.set_peers(peers.clone()).await {
            Ok(()) => {
                applied = Some(peers);
                health.send_if_modified(|health| !std::mem::replace(&mut health.routed, true));
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "routes to other nodes");
            }
        }
    }
}

async fn refresh_mtu(network: &Network) {
    for error in network.refresh_mtu().await.err().into_iter().flatten() {
        tracing::warn!(error = &error as &dyn std::error::Error, "MTU of pods");
    }
}

fn apply(nodes: &mut BTreeMap<String, Peer>, event: Event<Arc<Node>>) {
    let entry = |node: &Arc<Node>| (node.metadata.name.clone().unwrap_or_default(), place(node));
    match event {
        Event::Reset(all) => *nodes = all.iter().map(entry).collect(),
        Event::Apply(node) => {
            let (name, place) = entry(&node);
            nodes.insert(name, place);
        }
        Event::Delete(node) => {
            nodes.remove(&entry(&node).0);
        }
    }
}

/// What of a Node matters here: its pods' addresses and its own.
fn place(node: &Node) -> Peer {
    let spec = node.spec.clone().unwrap_or_default();
    let listed = spec.pod_cidrs.filter(|listed| !listed.is_empty());
    let pod_cidrs = listed.unwrap_or_else(|| spec.pod_cidr.into_iter().collect());
    let addresses = node.status.iter().filter_map(|status| status.addresses.as_ref()).flatten();
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    Peer {
        pod_cidrs: pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
        addresses: internal.filter_map(|address| address.address.parse().ok()).collect(),
    }
}

pub(super) async fn open(config: &Config, pod_cidrs: Vec<IpNet>) -> Result<Network, orlop_cni::OpenError> {
    Network::open(NetworkConfig {
        name: None,
        state_dir: config.state_dir.join("network"),
        pod_cidrs,
        cluster_cidrs: config.cluster_cidrs.clone(),
        node_ips: config.node_ips.clone(),
        overlay: config.overlay,
        mtu: config.mtu,
    })
    .await
}

/// The network's words for the port's.
pub(super) async fn attach(
    network: &Network,
    pod: &PodRef,
    wishes: &Wishes,
    netns: &Path,
) -> Result<Attached, Failure> {
    let Wishes { ips, ingress, egress, ports: _, packets_only: _ } = wishes;
    let attachment = Attachment {
        addresses: ips.clone(),
        bandwidth: Bandwidth { ingress: *ingress, egress: *egress },
        ..Attachment::of_pod(&pod.uid, &pod.namespace, &pod.name, netns)
    };
    let attached = network.attach(&attachment).await.map_err(|error| Failure(chain(&error)))?;
    Ok(Attached { addresses: attached.addresses })
}

impl ports::Network for LateNetwork {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        async move { attach(&*self.get().await?, pod, wishes, netns).await }.boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move { self.get().await?.detach(uid).await.map_err(|error| Failure(chain(&error))) }.boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        async move {
            match self.get().await {
                Ok(network) => network.attached().await,
                Err(_) => Vec::new(),
            }
        }
        .boxed()
    }

    fn ready(&self) -> Result<(), Failure> {
        if self.opened.borrow().is_some() { Ok(()) } else { Err(Failure(NOT_READY.to_owned())) }
    }
}
