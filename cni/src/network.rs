//! The library's face: what the agent calls. Every call runs its kernel work on a blocking thread.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use orlop_model::net::Ipv4Net;

use crate::{
    attach,
    error::{AttachError, CheckError, DetachError, OpenError, RouteError, RoutesError, UninstallError},
    ipam::Ledger,
    names::{Mac, POD_INTERFACE, fnv1a64},
    netlink::{self, RouteSocket},
    node,
    reap::Reaper,
    route::{self, NodeRoute},
};

/// Pods that share a lock wait for each other; with this many that is rare.
const TURNS: usize = 64;
/// Sockets kept between calls: what one pod at a time needs.
const IDLE_SOCKETS: usize = 2;

/// What a node's network is made from.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Tells this network's pods from those of others on the node: their uids begin with it and a slash. Only the
    /// node's own network has none.
    pub name: Option<String>,
    /// Directory of the address ledger, made if there is none.
    pub state_dir: PathBuf,
    /// Addresses of this node's pods.
    pub pod_cidr: Ipv4Net,
    /// Addresses of all pods; what goes there keeps its source address.
    pub cluster_cidr: Ipv4Net,
    /// MTU of pods' links.
    pub mtu: u32,
}

/// A pod that wants an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Pod uid.
    pub uid: String,
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A path to its network namespace.
    pub netns: PathBuf,
    /// What its interface is called; `eth0` for pods of Kubernetes.
    pub interface: String,
    /// The address it has to have.
    pub address: Option<Ipv4Addr>,
    /// The hardware address it has to have.
    pub mac: Option<Mac>,
    /// Its default route leads through this interface; else only the cluster is reached there.
    pub default_route: bool,
}

impl Attachment {
    /// A pod of Kubernetes: `eth0`, and any address.
    pub fn of_pod(uid: &str, namespace: &str, name: &str, netns: &Path) -> Self {
        Self {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            netns: netns.to_owned(),
            interface: POD_INTERFACE.to_owned(),
            address: None,
            mac: None,
            default_route: true,
        }
    }
}

/// What the pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its address.
    pub address: Ipv4Addr,
    /// The interface that has it.
    pub interface: String,
    /// That interface's hardware address.
    pub mac: Mac,
    /// That interface's MTU.
    pub mtu: u32,
    /// What is reached through it, if not everything.
    pub only: Option<Ipv4Net>,
}

/// The pod network of the node whose network namespace this process runs in. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// Shared by all calls.
pub(crate) struct Inner {
    pub config: NetworkConfig,
    ledger: Mutex<Ledger>,
    sockets: Mutex<Vec<RouteSocket>>,
    turns: [Mutex<()>; TURNS],
    routes: Mutex<()>,
    wiring: Mutex<()>,
    pub(crate) reaper: Reaper,
}

impl Network {
    /// Puts up what is node-wide (forwarding, masquerade, unreachable route) and takes over what earlier runs
    /// left: pods stay attached. The ledger is locked until the last clone is dropped.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing of what was put up before the failing step is removed, for all of it may have
    /// been in use.
    pub async fn open(config: NetworkConfig) -> Result<Self, OpenError> {
        // A predecessor that was just killed, or a child that it forked and that is about to exec, may hold the
        // ledger for a moment longer.
        Self::open_within(config, Duration::from_millis(500)).await
    }

    /// [`Network::open`], with the longest time to wait for the ledger while another process has it.
    ///
    /// # Errors
    /// As there.
    pub async fn open_within(config: NetworkConfig, patience: Duration) -> Result<Self, OpenError> {
        validate(&config)?;
        let open = move || {
            let mut ledger = Ledger::open(&config.state_dir, config.pod_cidr, patience)?;
            node::install(&config, &mut ledger)?;
            let inner = Inner {
                config,
                ledger: Mutex::new(ledger),
                sockets: Mutex::default(),
                turns: [const { Mutex::new(()) }; TURNS],
                routes: Mutex::default(),
                wiring: Mutex::default(),
                reaper: Reaper::default(),
            };
            Ok(Self(Arc::new(inner)))
        };
        blocking(open).await
    }

    /// Gives the pod an address and connects its namespace. Attaching again repairs and returns the same.
    ///
    /// # Errors
    /// See [`AttachError`]; whatever was done is undone.
    #[tracing::instrument(skip_all, fields(pod = %format!("{}/{}", attachment.namespace, attachment.name), uid = %attachment.uid))]
    pub async fn attach(&self, attachment: &Attachment) -> Result<Attached, AttachError> {
        let (inner, attachment) = (Arc::clone(&self.0), attachment.clone());
        blocking(move || attach::attach(&inner, &attachment)).await
    }

    /// Disconnects the pod and frees its address; fine if it or its namespace is gone.
    ///
    /// # Errors
    /// See [`DetachError`]; call again.
    #[tracing::instrument(skip_all, fields(uid))]
    pub async fn detach(&self, uid: &str) -> Result<(), DetachError> {
        let (inner, uid) = (Arc::clone(&self.0), uid.to_owned());
        blocking(move || attach::detach(&inner, &uid)).await
    }

    /// Whether the pod is attached with this address, and nothing about it would have to be repaired. What others may
    /// have changed on purpose is no fault: the MTU, and the route unless it is `routed` still.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check(
        &self,
        attachment: &Attachment,
        address: Ipv4Addr,
        routed: bool,
    ) -> Result<(), CheckError> {
        let (inner, attachment) = (Arc::clone(&self.0), attachment.clone());
        blocking(move || attach::check(&inner, &attachment, address, routed)).await
    }

    /// All pods that hold an address, by address.
    pub async fn attached(&self) -> Vec<(String, Ipv4Addr)> {
        let ledger = self.0.ledger();
        ledger.allocator().assignments().map(|(address, owner)| (owner.uid.clone(), address)).collect()
    }

    /// Makes these the routes to other nodes' pods, and removes all others of ours.
    ///
    /// # Errors
    /// Those that failed; all others hold.
    pub async fn set_node_routes(&self, desired: Vec<NodeRoute>) -> Result<(), RoutesError> {
        let inner = Arc::clone(&self.0);
        let set = move || {
            let _one_at_a_time = lock(&inner.routes);
            let mut socket = inner.socket().map_err(|e| vec![RouteError::List(e)])?;
            let failures = route::reconcile(inner.config.pod_cidr, &desired, &mut socket);
            if !failures.is_empty() {
                return Err(failures);
            }
            inner.put_back(socket);
            Ok(())
        };
        blocking(set).await.map_err(|failures| RoutesError { failures })
    }

    /// Removes everything of the node's own network from this network namespace, pods' links included. Forwarding stays on: others
    /// may rely on it by now. For when no configuration is at hand; no `Network` may be open here.
    ///
    /// # Errors
    /// What could not be removed; everything else is.
    pub async fn sweep() -> Result<(), UninstallError> {
        blocking(node::sweep).await
    }

    /// [`Network::sweep`], and frees all addresses.
    ///
    /// # Errors
    /// What could not be removed; everything else is.
    pub async fn uninstall(&self) -> Result<(), UninstallError> {
        let inner = Arc::clone(&self.0);
        blocking(move || node::uninstall(&inner)).await
    }
}

impl Inner {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Keeps two calls for the same pod apart.
    pub(crate) fn turn(&self, uid: &str) -> MutexGuard<'_, ()> {
        let slot = usize::try_from(fnv1a64(uid.as_bytes()) % TURNS as u64).unwrap_or_default();
        lock(&self.turns[slot])
    }

    /// One pod's links at a time. The kernel has one lock for all of it anyway, and gets slow when many wait
    /// there: thirty pods at once took 250 ms, one after the other 35 ms.
    pub(crate) fn wiring(&self) -> MutexGuard<'_, ()> {
        lock(&self.wiring)
    }

    /// A socket in the node's namespace, used before or new.
    pub(crate) fn socket(&self) -> Result<RouteSocket, netlink::Error> {
        let idle = lock(&self.sockets).pop();
        idle.map_or_else(RouteSocket::open, Ok)
    }

    /// Keeps a socket for the next call. Not after a failure: the socket itself may have been at fault. Not all of a
    /// burst's either: each has a buffer of 64 KiB.
    pub(crate) fn put_back(&self, socket: RouteSocket) {
        let mut idle = lock(&self.sockets);
        if idle.len() < IDLE_SOCKETS {
            idle.push(socket);
        }
    }
}

/// The data under these locks is whole at every point where a panic could happen.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down: nobody will see the answer.
        Err(_) => std::future::pending().await,
    }
}

fn validate(config: &NetworkConfig) -> Result<(), OpenError> {
    let NetworkConfig { name: _, state_dir: _, pod_cidr, cluster_cidr, mtu } = config;
    let link_local = Ipv4Net::new(Ipv4Addr::new(169, 254, 0, 0), 16);
    let fault = |text: String| Err(OpenError::Config(text));
    if !(8..=30).contains(&pod_cidr.prefix()) {
        return fault(format!("pod CIDR {pod_cidr}: the prefix must be between 8 and 30"));
    }
    let network = pod_cidr.network();
    let special = network.is_multicast() || network.is_loopback() || network.is_unspecified();
    if special || link_local.is_ok_and(|net| net.overlaps(pod_cidr)) {
        return fault(format!("pod CIDR {pod_cidr} has no addresses for pods"));
    }
    if !(576..=65535).contains(mtu) {
        return fault(format!("MTU {mtu}: must be between 576 and 65535"));
    }
    if pod_cidr.overlaps(cluster_cidr) || cluster_cidr.prefix() == 32 {
        return Ok(());
    }
    tracing::warn!(%pod_cidr, %cluster_cidr, "the pod CIDR is not part of the cluster CIDR");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod_cidr: &str, mtu: u32, expected: Result<(), &str>) {
        let config = NetworkConfig {
            name: None,
            state_dir: PathBuf::new(),
            pod_cidr: pod_cidr.parse().unwrap(),
            cluster_cidr: "10.244.0.0/16".parse().unwrap(),
            mtu,
        };
        let found = validate(&config).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(|text| format!("network configuration: {text}")));
    }

    #[test]
    fn configurations_that_cannot_work_are_refused() {
        check("10.244.0.0/24", 1500, Ok(()));
        check("10.244.0.0/31", 1500, Err("pod CIDR 10.244.0.0/31: the prefix must be between 8 and 30"));
        check("0.0.0.0/0", 1500, Err("pod CIDR 0.0.0.0/0: the prefix must be between 8 and 30"));
        check("127.0.0.0/24", 1500, Err("pod CIDR 127.0.0.0/24 has no addresses for pods"));
        check("169.254.0.0/24", 1500, Err("pod CIDR 169.254.0.0/24 has no addresses for pods"));
        check("10.244.0.0/24", 500, Err("MTU 500: must be between 576 and 65535"));
    }
}
