//! The loop: events in, map writes out, and a read-back from time to time that repairs what somebody else changed.
//!
//! ```text
//! rx: Update ─▶ index ─▶ sync (only dirty services) ─▶ maps
//! devices ────▶ programs at each, addresses of the node ─▶ maps
//! tick ───────▶ repair (everything, against what the maps really hold) ─▶ maps
//! ```
//! Nothing is written before both first lists are in: what is pinned goes on serving meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use orlop_model::event::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::devices::{self, Named, Seen};
use crate::health::Eligibility;
use crate::kube_proxy;
use crate::loader::{self, Callers, Devices, LoadError};
use crate::maps::{Maps, Removed, Routes};
use crate::measure::{Step, Synced};
use crate::model::{HostPort, Node, ServiceKey, Settings};
use crate::policy;
use crate::sizes::Sizes;
use crate::status::Status;
use crate::sweep;
use crate::sys;

mod claims;
mod policies;
mod state;
mod untranslated;

pub use state::State;
pub(crate) use state::chain;
pub use untranslated::Sockets;

/// How often the maps are read back.
pub const REPAIR_EVERY: Duration = Duration::from_secs(60);

/// How long the first look at the node's devices may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Updates that are taken in before the maps are written.
const BURST: usize = 1024;

/// Where the dataplane lives.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// Directory for pins; a bpffs is mounted there if it is on none.
    pub bpffs: PathBuf,
    /// Whose sockets are translated.
    pub callers: Callers,
    /// Name of this node, as endpoints call it.
    pub node_name: String,
    /// Addresses of the node, as its status will say: until the Node is heard of.
    pub primary: Vec<IpAddr>,
    /// What kube-proxy's configuration would say.
    pub settings: Settings,
    /// Devices that get other programs than all.
    pub named: Named,
    /// Who hears of every write.
    pub measured: Option<mpsc::UnboundedSender<Synced>>,
    /// How much fits into the maps.
    pub sizes: Sizes,
}

/// Something changed.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, through a channel; a box would be one more allocation each"
)]
pub enum Update {
    /// Services.
    Service(Event<Service>),
    /// Their endpoints.
    EndpointSlice(Event<EndpointSlice>),
    /// What the Node object says. Until it is known, zone hints match nothing.
    Node {
        /// The zone label.
        zone: Option<String>,
        /// Addresses in the status.
        primary: Vec<IpAddr>,
        /// Whether balancers may send traffic here.
        eligibility: Eligibility,
    },
    /// The addresses of the other nodes, as their status says: who may send packets on as they came.
    Nodes(BTreeSet<IpAddr>),
    /// The host ports of this node's pods: all of them, by pod. A pod's key is never a service's.
    HostPorts(BTreeMap<ServiceKey, Vec<HostPort>>),
    /// NetworkPolicies, and the pods and namespaces they are about.
    Policy(policy::Change),
    /// A pod of this node got addresses. The sender is told once the policies about them are in force.
    Attached(policy::model::Key, BTreeSet<IpAddr>, mpsc::Sender<()>),
    /// Pods whose sockets are left alone.
    Sockets(Sockets),
    /// The addresses that the node's network devices have, without loopback.
    Addresses(BTreeSet<IpAddr>),
}

/// Why the loop could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Programs and maps.
    #[error("start the service dataplane")]
    Load(#[from] LoadError),
    /// The thread the loop ran on.
    #[error("the service dataplane ended unexpectedly")]
    Thread(#[from] tokio::task::JoinError),
}

/// Brings the dataplane up (or adopts it) and keeps it in step with `rx` until `stop`. Programs and maps stay.
///
/// # Errors
/// When programs or maps cannot be brought into the kernel.
pub async fn run(
    cfg: DataplaneConfig,
    rx: mpsc::Receiver<Update>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let runtime = tokio::runtime::Handle::current();
    let node = Node {
        name: cfg.node_name.clone(),
        primary: cfg.primary.clone(),
        settings: cfg.settings.clone(),
        netns: sys::netns_cookie().unwrap_or(0),
        ..Node::default()
    };
    let (seen, devices) = watch::channel(None);
    let watching = tokio::spawn(devices::follow(cfg.named.clone(), seen));
    let (removed, gone) = mpsc::unbounded_channel();
    let sweeping = tokio::spawn(sweep::follow(cfg.bpffs.clone(), cfg.callers.cgroup.clone(), gone));
    // A thread of its own: a big sync is many system calls in a row.
    let ended = tokio::task::spawn_blocking(move || {
        let loaded = loader::load_sized(&cfg.bpffs, &cfg.callers, &cfg.sizes)?;
        let (mut programs, beside) = (loaded.devices, Beside::new(&loaded.maps, &cfg));
        if beside.is_some() {
            programs.hold(true);
        }
        let place = Place {
            devices,
            programs,
            named: cfg.named.clone(),
            removed,
            beside,
            measured: cfg.measured.clone(),
        };
        let mut routes = Routes::open(&loader::pins(&cfg.bpffs)).map_err(LoadError::from)?;
        let routes = runtime.spawn(devices::follow_routes(move || {
            if let Err(error) = routes.changed() {
                tracing::warn!(error = chain(&error), "packets may take an old way for a second");
            }
        }));
        runtime.block_on(follow(State::new(loaded.maps, node), rx, Some(place), status, stop, REPAIR_EVERY));
        routes.abort();
        Ok(())
    })
    .await;
    watching.abort();
    sweeping.abort();
    ended?
}

/// Where packets come in, and the programs that go there.
pub(crate) struct Place {
    devices: watch::Receiver<Option<Seen>>,
    programs: Devices,
    named: Named,
    /// To whoever ends their sockets.
    removed: mpsc::UnboundedSender<BTreeSet<Removed>>,
    beside: Option<Beside>,
    measured: Option<mpsc::UnboundedSender<Synced>>,
}

/// A first start, perhaps beside a kube-proxy: connections of netfilter's keep their ports, and their way through the stack.
struct Beside {
    bpffs: PathBuf,
}

impl Beside {
    fn new(maps: &impl Maps, cfg: &DataplaneConfig) -> Option<Self> {
        let first = maps.dump().is_ok_and(|tables| tables.services.is_empty());
        let beside = Self { bpffs: cfg.bpffs.clone() };
        first.then(|| {
            beside.reserve();
            beside
        })
    }

    fn reserve(&self) {
        match kube_proxy::reserve(&self.bpffs) {
            Ok(0) => {}
            Ok(ports) => tracing::info!(ports, "ports of netfilter's connections are left to them"),
            Err(error) => {
                tracing::warn!(error = chain(&error), "connections of netfilter's may lose their ports")
            }
        }
    }
}

impl Place {
    /// Does not wait for the news of a device that must be there.
    fn look(&mut self) {
        match devices::look(&self.named) {
            Ok(seen) => self.programs.set(&seen.devices),
            Err(error) => tracing::warn!(error = chain(&error), "look for a new pod's device"),
        }
    }

    /// Nothing is written before it is known which addresses the node has: what is pinned would lose them for a moment, and
    /// with them its node ports. The change is still to be taken in.
    async fn first<M: Maps>(&mut self, state: &mut State<M>) {
        match timeout(PATIENCE, self.devices.wait_for(Option::is_some)).await {
            Ok(Ok(seen)) => {
                let addresses = seen.as_ref().map(|seen| seen.addresses.clone()).unwrap_or_default();
                state.ingest(Update::Addresses(addresses));
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("the node's addresses are not known yet; going on without"),
        }
        self.devices.mark_changed();
    }

    /// Tells of a write that is done.
    fn measure(&self, step: Step, full: bool) {
        if let Some(measured) = &self.measured {
            // Nobody listens at the end of the process only.
            let _ended = measured.send(step.end(full, SystemTime::now()));
        }
    }

    /// Waits for a change; without a place, for ever.
    async fn changed(place: &mut Option<Self>) -> Option<Seen> {
        let Some(place) = place else { return std::future::pending().await };
        if place.devices.changed().await.is_err() {
            return std::future::pending().await;
        }
        place.devices.borrow_and_update().clone()
    }
}

/// The loop itself, on any maps; with the node's devices, if there are any to follow.
pub(crate) async fn follow<M: Maps>(
    mut state: State<M>,
    mut rx: mpsc::Receiver<Update>,
    mut place: Option<Place>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
    repair_every: Duration,
) {
    // What was just read at the start is not read again.
    let mut tick = interval_at(Instant::now() + repair_every, repair_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut updates = Vec::new();
    let begun = SystemTime::now();
    if let Some(place) = &mut place {
        tokio::select! {
            () = stop.cancelled() => return,
            () = place.first(&mut state) => {}
        }
    }
    loop {
        let mut sweep = false;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                state.repair();
                sweep = true;
            }
            Some(seen) = Place::changed(&mut place) => {
                if let Some(place) = &mut place {
                    place.programs.set(&seen.devices);
                    state.bare_devices(place.programs.refused());
                }
                state.ingest(Update::Addresses(seen.addresses));
                state.sync();
            }
            taken = rx.recv_many(&mut updates, BURST) => {
                if taken == 0 {
                    return;
                }
                let attached = updates.iter().any(|update| matches!(update, Update::Attached(..)));
                let (step, full) = (Step::of(&updates, begun), !state.adopted());
                updates.drain(..).for_each(|update| state.ingest(update));
                // A policy is in force where its programs are: at the pod's device before the pod is told to go on.
                if let Some(place) = place.as_mut().filter(|_| attached && state.has_policies()) {
                    place.look();
                }
                // A burst's worth of objects is large; it is not kept for the next one.
                updates.shrink_to(0);
                state.sync();
                if let Some(place) = place.as_ref().filter(|_| state.adopted()) {
                    place.measure(step, full);
                }
            }
        }
        // Those that began until the programs were in their places, too.
        if let Some(place) = place.as_mut().filter(|_| state.status().synced && state.status().placed)
            && let Some(beside) = place.beside.take()
        {
            beside.reserve();
            place.programs.hold(false);
        }
        let removed = state.maps_mut().take_removed();
        if let Some(place) = place.as_ref().filter(|_| sweep || !removed.is_empty()) {
            // Nobody listens at the end of the process only.
            let _ended = place.removed.send(removed);
        }
        status.send_if_modified(|known| {
            let fresh = state.status();
            let changed = *known != fresh;
            *known = fresh;
            changed
        });
    }
}
