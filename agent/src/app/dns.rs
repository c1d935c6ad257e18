//! The name server in its two places: the cluster's own (standalone), or in front of the cluster's on one node.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{Api, Client, runtime::watcher};
use orlop_model::event::Event;
use prometheus::Registry;
use tokio::task::JoinSet;

use orlop::{
    config::Config,
    dns::{
        self, Dns, Setup, Upstreams,
        clients::Clients,
        publish::{self, Place},
        redirect::Redirect,
    },
    memory::{Key, Kind, Memory},
    source,
};

/// Where upstream's DNS shows its metrics.
const METRICS_PORT: u16 = 9153;

/// What the name server of a node is for.
pub(super) enum Role {
    /// It is the cluster's.
    Cluster {
        /// Where pods reach it, by each family.
        addresses: Vec<IpAddr>,
        /// May do everything: the Service is the cluster's, not the node's.
        admin: Client,
    },
    /// It stands in front of the cluster's.
    NodeLocal,
}

/// The name server, and what leads questions to it on this node.
pub(super) struct Served {
    pub(super) dns: Dns,
    pub(super) redirect: Option<Redirect>,
}

/// Where the cluster's DNS is reached when it is ours: the tenth addresses of the Services' ranges, as everywhere, of
/// the families that this node has. None where it is switched off, or the operator has pods ask somebody else.
pub(super) fn cluster_addresses(config: &Config) -> Vec<IpAddr> {
    let tenth = config.service_cidrs.iter().filter_map(|net| net.nth(10));
    let served = |address: &IpAddr| config.node_ips.iter().any(|own| own.is_ipv4() == address.is_ipv4());
    let given = &config.cluster_dns;
    let wanted = |address: &IpAddr| given.is_empty() || given.contains(address);
    tenth.filter(|address| config.dns.port != 0 && served(address) && wanted(address)).collect()
}

/// Binds the sockets, and serves in `tasks`. Services and EndpointSlices come by way of the dataplane's watches.
///
/// # Errors
/// When the port cannot be had.
pub(super) async fn start(
    config: &Config,
    role: Role,
    memory: Option<&Memory>,
    registry: &Registry,
    tasks: &mut JoinSet<()>,
) -> Result<Served> {
    let own_addresses = |port| match &role {
        Role::Cluster { addresses, .. } => {
            let own =
                |address: &IpAddr| config.node_ips.iter().find(|own| own.is_ipv4() == address.is_ipv4());
            addresses.iter().filter_map(own).map(|own| SocketAddr::new(*own, port)).collect::<Vec<_>>()
        }
        Role::NodeLocal => config.node_ips.iter().map(|own| SocketAddr::new(*own, port)).collect(),
    };
    let listen = own_addresses(config.dns.port);
    let domain = dns::zone::domain(&config.cluster_domain)
        .map_err(|why| anyhow!("--cluster-domain {:?}: {why}", config.cluster_domain))?;
    let own = config.cluster_dns.clone();
    let upstreams = match config.dns.upstreams.as_slice() {
        // The operator wants pods to have none of the node's, and so they ask none of them here.
        [] if config.kubelet.resolv_conf.as_os_str().is_empty() => Upstreams::Given(Vec::new()),
        [] => Upstreams::File { path: config.kubelet.resolv_conf.clone(), own: own.clone() },
        given => Upstreams::Given(given.to_vec()),
    };
    let metrics = match role {
        Role::Cluster { .. } => own_addresses(METRICS_PORT),
        Role::NodeLocal => Vec::new(),
    };
    let setup = Setup {
        listen: listen.clone(),
        metrics,
        zone: dns::zone::Settings { domain, ttl: config.dns.ttl, servers: own.clone() },
        // Greater after each start, as a zone's serial number has to be.
        serial: u32::try_from(Timestamp::now().as_second()).unwrap_or_default(),
        upstreams,
        clients: Clients::new(config.cluster_cidrs.clone(), config.node_ips.clone()),
    };
    let bound = Dns::bind(setup, registry).await.with_context(|| format!("DNS on {listen:?}"))?;
    let dns = bound.dns();
    let listeners = bound.addresses().context("DNS socket")?;
    let metrics = bound.metrics_addresses();
    tasks.spawn(bound.serve());
    tracing::info!(addresses = ?listeners, "DNS server ready");
    match role {
        Role::NodeLocal => {
            // Pods have addresses of the node's part, which the API server may be too far away to say.
            let known = memory
                .and_then(|memory| memory.recall::<Node>(&Key::one(Kind::Node, config.node_name.as_ref())));
            if let Some(node) = known {
                dns.nodes(&Event::Apply(Arc::new(node)));
            }
            Ok(Served { dns, redirect: Some(Redirect::new(own, listeners)) })
        }
        Role::Cluster { addresses, admin } => {
            let place = Place { addresses, listeners, metrics };
            tasks.spawn(publish::run(admin.clone(), place));
            tasks.spawn(follow(admin, dns.clone()));
            Ok(Served { dns, redirect: None })
        }
    }
}

/// Which namespaces there are, and whose questions are answered.
async fn follow(client: Client, dns: Dns) {
    let all = watcher::Config::default;
    let namespaces = source::watch(Api::<Namespace>::all(client.clone()), all());
    let namespaces = namespaces.for_each(|event| {
        dns.namespaces(&event);
        std::future::ready(())
    });
    let nodes = source::watch(Api::<Node>::all(client), all());
    let nodes = nodes.for_each(|event| {
        dns.nodes(&event);
        std::future::ready(())
    });
    tokio::join!(namespaces, nodes);
}
