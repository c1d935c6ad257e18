//! The library's face: what the agent calls. Every call runs its kernel work on a blocking thread.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
    time::Duration,
};

use orlop_model::hash::fnv64a;
use orlop_model::net::{Family, IpNet};

use crate::{
    attach,
    bandwidth::Bandwidth,
    error::{
        AttachError, CheckError, DetachError, MtuError, OpenError, RouteError, RoutesError, UninstallError,
    },
    ipam::Ledger,
    mtu,
    names::{Mac, POD_INTERFACE},
    netlink::{self, RouteSocket},
    node,
    reap::Reaper,
    route::{self, Overlay, Peer},
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
    /// Addresses of this node's pods: one network of a family, in the order of pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of all pods; what goes there keeps its source address.
    pub cluster_cidrs: Vec<IpNet>,
    /// This node's addresses, as other nodes know them.
    pub node_ips: Vec<IpAddr>,
    /// How pods of other nodes are reached.
    pub overlay: Overlay,
    /// MTU of pods' links; if it is not said, that of the device with the default route.
    pub mtu: Option<u32>,
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
    /// Addresses it has to have, at most one of a family; it gets any of the families that none is of.
    pub addresses: Vec<IpAddr>,
    /// The hardware address it has to have.
    pub mac: Option<Mac>,
    /// Its default route leads through this interface; else only the cluster is reached there.
    pub default_route: bool,
    /// How much it may send and get.
    pub bandwidth: Bandwidth,
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
            addresses: Vec::new(),
            mac: None,
            default_route: true,
            bandwidth: Bandwidth::default(),
        }
    }
}

/// What the pod got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its addresses, one of a family, the main one first.
    pub addresses: Vec<IpAddr>,
    /// The interface that has them.
    pub interface: String,
    /// That interface's hardware address.
    pub mac: Mac,
    /// That interface's MTU.
    pub mtu: u32,
    /// What is reached through it; everything if this is empty.
    pub only: Vec<IpNet>,
}

/// The pod network of the node whose network namespace this process runs in. Cheap to clone.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

/// Shared by all calls.
pub(crate) struct Inner {
    pub config: NetworkConfig,
    /// The MTU of pods' links.
    pub mtu: AtomicU32,
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
        let open = move || Inner::open(config, patience, Care::Whole).map(|inner| Self(Arc::new(inner)));
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

    /// Whether the pod is attached with these addresses, and nothing about it would have to be repaired. What others
    /// may have changed on purpose is no fault: the MTU, and the routes unless they are `routed` still.
    ///
    /// # Errors
    /// What is not so.
    pub async fn check(
        &self,
        attachment: &Attachment,
        addresses: &[IpAddr],
        routed: bool,
    ) -> Result<(), CheckError> {
        let (inner, attachment) = (Arc::clone(&self.0), attachment.clone());
        let addresses = addresses.to_vec();
        blocking(move || attach::check(&inner, &attachment, &addresses, routed)).await
    }

    /// All pods that hold addresses, by the first of them.
    pub async fn attached(&self) -> Vec<(String, Vec<IpAddr>)> {
        self.0.attached()
    }

    /// Looks again which MTU pods' links should have, and changes them where it has become another; returns it.
    ///
    /// # Errors
    /// Those that failed; all others have it.
    pub async fn refresh_mtu(&self) -> Result<u32, Vec<MtuError>> {
        let inner = Arc::clone(&self.0);
        blocking(move || mtu::refresh(&inner)).await
    }

    /// Leads to the pods of these nodes, and of no others. Pods' MTU follows where an overlay came or went with it.
    ///
    /// # Errors
    /// The ways that failed; all others hold.
    pub async fn set_peers(&self, peers: Vec<Peer>) -> Result<(), RoutesError> {
        let inner = Arc::clone(&self.0);
        let set = move || {
            let _one_at_a_time = lock(&inner.routes);
            let mut socket = inner.socket().map_err(|e| vec![RouteError::List(e)])?;
            let under = mtu::outward(&mut socket).map_err(|e| vec![RouteError::List(e)])?;
            let inside = under.saturating_sub(route::overlay::overhead(&inner.config.node_ips));
            let mut failures = route::reconcile(&inner.config, inside, &peers, &mut socket);
            if let Err(errors) = mtu::refresh(&inner) {
                failures.extend(errors.into_iter().map(RouteError::Mtu));
            }
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

/// How much is seen to before a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// The ledger is read.
    Ledger,
    /// What a lost ledger had is learned, what was begun is finished.
    Links,
    /// And what is node-wide is put up.
    Whole,
}

impl Inner {
    /// [`Network::open_within`] on this thread.
    pub(crate) fn open(config: NetworkConfig, patience: Duration, care: Care) -> Result<Self, OpenError> {
        validate(&config)?;
        let mut ledger = Ledger::open(&config.state_dir, &config.pod_cidrs, patience)?;
        match care {
            Care::Ledger => {}
            Care::Links => node::adopt_all(&config, &mut ledger)?,
            Care::Whole => node::install(&config, &mut ledger)?,
        }
        let mtu = RouteSocket::open().and_then(|mut socket| mtu::wanted(&config, &mut socket));
        Ok(Self {
            config,
            mtu: AtomicU32::new(mtu.map_err(OpenError::Adopt)?),
            ledger: Mutex::new(ledger),
            sockets: Mutex::default(),
            turns: [const { Mutex::new(()) }; TURNS],
            routes: Mutex::default(),
            wiring: Mutex::default(),
            reaper: Reaper::default(),
        })
    }

    /// See [`Network::attached`].
    pub(crate) fn attached(&self) -> Vec<(String, Vec<IpAddr>)> {
        let ledger = self.ledger();
        let assignments = ledger.allocator().assignments();
        assignments.map(|(addresses, owner)| (owner.uid.clone(), addresses.to_vec())).collect()
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Keeps two calls for the same pod apart.
    pub(crate) fn turn(&self, uid: &str) -> MutexGuard<'_, ()> {
        let slot = usize::try_from(fnv64a(uid.as_bytes()) % TURNS as u64).unwrap_or_default();
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
    let NetworkConfig { name: _, state_dir: _, pod_cidrs, cluster_cidrs, node_ips: _, overlay: _, mtu } =
        config;
    let fault = |text: String| Err(OpenError::Config(text));
    match pod_cidrs.as_slice() {
        [_] => {}
        [a, b] if a.family() != b.family() => {}
        _ => return fault("pods need one CIDR, or one of either family".to_owned()),
    }
    for pod_cidr in pod_cidrs {
        let (shortest, longest) = match pod_cidr.family() {
            Family::V4 => (8, 30),
            Family::V6 => (16, 126),
        };
        if !(shortest..=longest).contains(&pod_cidr.prefix()) {
            return fault(format!(
                "pod CIDR {pod_cidr}: the prefix must be between {shortest} and {longest}"
            ));
        }
        if !for_pods(pod_cidr) {
            return fault(format!("pod CIDR {pod_cidr} has no addresses for pods"));
        }
        let of_cluster = |cidr: &&IpNet| cidr.family() == pod_cidr.family();
        if !cluster_cidrs.iter().filter(of_cluster).all(|cidr| cidr.overlaps(pod_cidr)) {
            tracing::warn!(%pod_cidr, ?cluster_cidrs, "the pod CIDR is not part of the cluster CIDR");
        }
    }
    let least = mtu::least(pod_cidrs);
    match mtu {
        Some(mtu) if !(least..=65535).contains(mtu) => {
            fault(format!("MTU {mtu}: must be between {least} and 65535"))
        }
        _ => Ok(()),
    }
}

/// Whether a network has addresses that can be routed.
fn for_pods(range: &IpNet) -> bool {
    let link_local = match range.family() {
        Family::V4 => IpNet::new(Ipv4Addr::new(169, 254, 0, 0).into(), 16),
        Family::V6 => IpNet::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(), 10),
    };
    let network = range.network();
    let special = network.is_multicast() || network.is_loopback() || network.is_unspecified();
    !special && !link_local.is_ok_and(|net| net.overlaps(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pod_cidrs: &str, mtu: u32, expected: Result<(), &str>) {
        let config = NetworkConfig {
            name: None,
            state_dir: PathBuf::new(),
            pod_cidrs: pod_cidrs.split_whitespace().map(|net| net.parse().unwrap()).collect(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            node_ips: Vec::new(),
            overlay: Overlay::Auto,
            mtu: Some(mtu),
        };
        let found = validate(&config).map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(|text| format!("network configuration: {text}")));
    }

    #[test]
    fn configurations_that_cannot_work_are_refused() {
        check("10.244.0.0/24", 1500, Ok(()));
        check("fd00::/64 10.244.0.0/24", 1500, Ok(()));
        check("10.244.0.0/31", 1500, Err("pod CIDR 10.244.0.0/31: the prefix must be between 8 and 30"));
        check("0.0.0.0/0", 1500, Err("pod CIDR 0.0.0.0/0: the prefix must be between 8 and 30"));
        check("fd00::/127", 1500, Err("pod CIDR fd00::/127: the prefix must be between 16 and 126"));
        check("127.0.0.0/24", 1500, Err("pod CIDR 127.0.0.0/24 has no addresses for pods"));
        check("169.254.0.0/24", 1500, Err("pod CIDR 169.254.0.0/24 has no addresses for pods"));
        check("fe80::/64", 1500, Err("pod CIDR fe80::/64 has no addresses for pods"));
        check("ff02::/64", 1500, Err("pod CIDR ff02::/64 has no addresses for pods"));
        check("", 1500, Err("pods need one CIDR, or one of either family"));
        check("10.1.0.0/24 10.2.0.0/24", 1500, Err("pods need one CIDR, or one of either family"));
        check("10.244.0.0/24", 500, Err("MTU 500: must be between 576 and 65535"));
        check("fd00::/64", 1200, Err("MTU 1200: must be between 1280 and 65535"));
    }
}
