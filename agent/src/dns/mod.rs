//! The cluster's name server: names of Services and their endpoints from the watches that the service dataplane has
//! too, all other names from the name servers of the node.
//!
//! ```text
//!  watches of Services, EndpointSlices, Namespaces ─▶ zone [p] ◀─┐
//!  watch of Nodes ─▶ clients [p] ◀─ may they? ─┐                 │
//!  packets ─▶ listen ─▶ wire [p] ──────────────┴─▶ resolver ─────┼─▶ cache [p]
//!  resolv.conf ─▶ upstreams [p] ─▶ forward ◀─────────────────────┘
//! ```
//!
//! The bytes are hickory-proto's; sockets, tasks and bounds are ours. hickory-server and hickory-resolver would bring a
//! second cache, their own catalog of zones with a lock around each, and a megabyte, and neither serves stale answers,
//! nor knows names that change by event. Not for: how pods come to ask here (`publish`, `redirect`).

mod cache;
pub mod clients;
mod forward;
mod listen;
mod metrics;
pub mod publish;
pub mod redirect;
mod resolver;
#[cfg(test)]
mod tests;
pub mod upstreams;
pub mod wire;
pub mod zone;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Service},
    discovery::v1::EndpointSlice,
};
use orlop_model::event::Event;
use prometheus::Registry;
use tokio::{net::TcpListener, time::sleep};

use crate::metrics::scrape;
use clients::Clients;
use forward::Forwarder;
use listen::Listener;
use metrics::Metrics;
use resolver::Resolver;
use zone::Zone;

/// How often the file with the name servers is looked at.
const SERVERS_AGAIN: Duration = Duration::from_secs(10);

/// Who is asked for names that are not the cluster's.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// These.
    Given(Vec<SocketAddr>),
    /// Those of a `resolv.conf`, as it is now and later, but never ourselves.
    File {
        /// The file.
        path: PathBuf,
        /// Addresses under which we are reached.
        own: Vec<IpAddr>,
    },
}

impl Upstreams {
    fn read(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Upstreams::Given(servers) => Ok(servers.clone()),
            Upstreams::File { path, own } => {
                std::fs::read_to_string(path).map(|text| upstreams::of_resolv_conf(&text, own))
            }
        }
    }
}

/// What a name server is given.
#[derive(Debug)]
pub struct Setup {
    /// Its addresses; port 0 is any.
    pub listen: Vec<SocketAddr>,
    /// Where it shows its metrics, besides the registry.
    pub metrics: Vec<SocketAddr>,
    /// The cluster's domain.
    pub zone: zone::Settings,
    /// The first serial number that the zone shows.
    pub serial: u32,
    /// Who is asked for other names.
    pub upstreams: Upstreams,
    /// Who may ask.
    pub clients: Clients,
}

/// The name server. Cheap to clone.
#[derive(Clone)]
pub struct Dns {
    resolver: Arc<Resolver>,
    clients: Arc<RwLock<Clients>>,
}

/// Its sockets, not served yet.
pub struct Bound {
    listener: Listener,
    metrics: Vec<TcpListener>,
    registry: Registry,
    dns: Dns,
    upstreams: Upstreams,
}

impl Dns {
    /// Takes the addresses.
    ///
    /// # Errors
    /// When one cannot be had.
    pub async fn bind(setup: Setup, registry: &Registry) -> io::Result<Bound> {
        let Setup { listen, metrics: scraped, zone, serial, upstreams, clients } = setup;
        let listener = Listener::bind(&listen).await?;
        let metrics = Metrics::new();
        metrics.register(registry);
        let own = Registry::new();
        metrics.register(&own);
        let forwarder = Forwarder::new(Vec::new(), metrics.clone());
        let resolver = Resolver::new(Zone::new(zone, serial), forwarder, metrics);
        let dns = Dns { resolver, clients: Arc::new(RwLock::new(clients)) };
        let scraped = join_all(scraped.into_iter().map(scrape::bind)).await;
        let metrics = scraped.into_iter().flatten().collect();
        Ok(Bound { listener, metrics, registry: own, dns, upstreams })
    }

    /// Takes in what the watch of Services says.
    pub fn services(&self, event: &Event<Arc<Service>>) {
        self.resolver.zone().services(event);
    }

    /// Takes in what the watch of EndpointSlices says.
    pub fn endpoint_slices(&self, event: &Event<Arc<EndpointSlice>>) {
        self.resolver.zone().endpoint_slices(event);
    }

    /// Takes in what the watch of Namespaces says.
    pub fn namespaces(&self, event: &Event<Arc<Namespace>>) {
        self.resolver.zone().namespaces(event);
    }

    /// Takes in what the watch of Nodes says.
    pub fn nodes(&self, event: &Event<Arc<Node>>) {
        self.clients.write().unwrap_or_else(PoisonError::into_inner).nodes(event);
    }
}

impl Bound {
    /// Where it is reached.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listener.addresses()
    }

    /// Where its metrics are, as far as that could be had.
    #[must_use]
    pub fn metrics_addresses(&self) -> Vec<SocketAddr> {
        self.metrics.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The name server, to be told of the cluster.
    #[must_use]
    pub fn dns(&self) -> Dns {
        self.dns.clone()
    }

    /// Serves for good.
    pub async fn serve(self) {
        let Bound { listener, metrics, registry, dns, upstreams } = self;
        let clients = Arc::clone(&dns.clients);
        let scrape = async {
            let allowed = |ip| clients.read().unwrap_or_else(PoisonError::into_inner).may_ask(ip);
            let serve = |listener| scrape::serve(listener, registry.clone(), allowed);
            join_all(metrics.into_iter().map(serve)).await;
            std::future::pending().await
        };
        let follow = async {
            let mut known = None;
            loop {
                match upstreams.read() {
                    Ok(now) if known.as_ref() != Some(&now) => {
                        tracing::info!(servers = ?now, "name servers for names outside the cluster");
                        dns.resolver.forwarder.set_servers(now.clone());
                        known = Some(now);
                    }
                    // Those that were known stay.
                    Err(error) if known.is_none() => {
                        tracing::warn!(%error, "read which name servers there are");
                        known = Some(Vec::new());
                    }
                    Ok(_) | Err(_) => {}
                }
                sleep(SERVERS_AGAIN).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = scrape => {}
            () = listener.serve(Arc::clone(&dns.resolver), Arc::clone(&dns.clients)) => {}
        }
    }
}
