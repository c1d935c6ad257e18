//! The name server in its two places: the cluster's own (standalone), or in front of the cluster's on one node.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
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
        /// Where pods reach it.
        address: Ipv4Addr,
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

/// Where the cluster's DNS is reached when it is ours: the tenth address of the Services' range, as everywhere. `None`
/// where it is switched off, or the operator has pods ask somebody else.
pub(super) fn cluster_address(config: &Config) -> Option<Ipv4Addr> {
    let address = config.service_cidr.nth(10).filter(|_| config.dns.port != 0)?;
    let given = &config.cluster_dns;
    (given.is_empty() || given.contains(&IpAddr::V4(address))).then_some(address)
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
    let listen = SocketAddr::from((config.node_ip(), config.dns.port));
    let domain = dns::zone::domain(&config.cluster_domain)
        .map_err(|why| anyhow!("--cluster-domain {:?}: {why}", config.cluster_domain))?;
    let own = config.cluster_dns.clone();
    let upstreams = match config.dns.upstreams.as_slice() {
        // The operator wants pods to have none of the node's, and so they ask none of them here.
        [] if config.kubelet.resolv_conf.as_os_str().is_empty() => Upstreams::Given(Vec::new()),
        [] => Upstreams::File { path: config.kubelet.resolv_conf.clone(), own: own.clone() },
        given => Upstreams::Given(given.to_vec()),
    };
    let metrics = matches!(role, Role::Cluster { .. }).then(|| (config.node_ip(), METRICS_PORT).into());
    let setup = Setup {
        listen,
        metrics,
        zone: dns::zone::Settings { domain, ttl: config.dns.ttl, servers: own.clone() },
        // Greater after each start, as a zone's serial number has to be.
        serial: u32::try_from(Timestamp::now().as_second()).unwrap_or_default(),
        upstreams,
        clients: Clients::new(config.cluster_cidrs.clone(), config.node_ips.clone()),
    };
    let bound = Dns::bind(setup, registry).await.with_context(|| format!("DNS on {listen}"))?;
    let dns = bound.dns();
    let address = bound.address().context("DNS socket")?;
    let metrics = bound.metrics_port();
    tasks.spawn(bound.serve());
    tracing::info!(%address, "DNS server ready");
    match role {
        Role::NodeLocal => {
            // Pods have addresses of the node's part, which the API server may be too far away to say.
            let known = memory
                .and_then(|memory| memory.recall::<Node>(&Key::one(Kind::Node, config.node_name.as_ref())));
            if let Some(node) = known {
                dns.nodes(&Event::Apply(Arc::new(node)));
            }
            Ok(Served { dns, redirect: Some(Redirect::new(own, address)) })
        }
        Role::Cluster { address: service, admin } => {
            let place = Place { address: service, listener: address, metrics };
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
