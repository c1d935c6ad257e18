//! A node: everything between a `kube::Client`, if there is one, and the machine.
//!
//! ```text
//!  watch pods ─────────▶ Manager ─▶ workers ─▶ runtime, images, network, volumes
//!  runtime events ────────▲  ▲
//!  changed ConfigMaps … ─────┘         statuses ─▶ Writer, events ─▶ Recorder
//!  watch services, slices ─▶ dataplane      watch nodes ─▶ network, routes
//!  facts, health ─▶ Registration, Lease     kubelet API ◀─ API server
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use orlop_runtime::{
    Runtime, RuntimeConfig,
    image::{Images, PullOptions},
};
use prometheus::Registry;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{dataplane, dns, guarded::Guarded, host_ports, network, plugins};
use orlop::{
    config::Config,
    cpu::{self, pool::Pool, reconcile::Reconcile},
    credential::NodeCredentials,
    cri,
    csi::{self, Csi},
    device::{self, Devices, ledger::Counts},
    events::{Recorder, log::EventLog, node::NodeRecorder},
    evict::{self, Evictor},
    exclusive::Exclusive,
    images::{
        collect::{self, Collector, NodeEvents},
        import::Importer,
        rate::Bucket,
    },
    memory::Memory,
    mirror::Mirrors,
    node::{
        facts, lease,
        register::Registration,
        report::{self, Facts, Health, Identity},
        tiers::Tiers,
    },
    pod::{
        node_state::NodeState,
        settings::{Allocatable, Settings},
    },
    server::{Logs, Places, Server, Sources, configz},
    shutdown::{Shutdown, logind},
    source::{
        objects::ApiObjects,
        pods::PodSources,
        static_pods::{Directory, objects::NodeObjects},
        storage::ApiStorage,
    },
    status::{Outlet, Writer},
    topology::{Nodes, Policy},
    usage::Usage,
    volume::{Disk, own_dirs, storage::StorageObjects},
    wire::{
        images::{PullDurations, Store},
        logs::ContainerLogs,
        requests,
        reviews::NodeReviews,
        runtime::Containers,
    },
    worker::{
        manager::{Inputs, Manager},
        ports::{Clock, EventSink, Network, Ports},
        traces::Traces,
    },
};

/// Pod changes between the watch and the manager.
const POD_QUEUE: usize = 64;
/// How often the image store is looked at for the node's status: as often as a kubelet looks.
const IMAGES_AGAIN: Duration = Duration::from_secs(10);

struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// What a node belongs to.
pub(super) struct ControlPlane {
    pub(super) client: Client,
    /// PEM of the CA of the kubelet API's clients.
    pub(super) ca: Vec<u8>,
    /// Until when the certificate holds that this node shows, if it shows one.
    pub(super) expires: Option<Timestamp>,
    /// For when it cannot be reached.
    pub(super) memory: Option<Memory>,
    /// What its name server is for, where it has one.
    pub(super) dns: Option<dns::Role>,
}

/// Runs the node until told to stop. Pods, networks and services go on without it. Without a control plane it runs the
/// pods of its own files.
pub(super) async fn run(
    config: Config,
    control: Option<ControlPlane>,
    stop: CancellationToken,
) -> Result<()> {
    for dir in [&config.state_dir, &config.run_dir, &config.log_dir] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let (registry, probes) = (Registry::new(), Registry::new());
    let mut control = control.map(|control| {
        let client = requests::counted(control.client, &registry);
        ControlPlane { client, ..control }
    });
    let client_expires = control.as_ref().and_then(|control| control.expires);
    let facts = facts::read(&config.state_dir);
    let images = Images::open(config.state_dir.join("images")).context("open the image store")?;
    let (runtime, mut runtime_events) =
        Runtime::open(runtime_config(&config)?).await.context("open the container runtime")?;
    load_default_profile(&runtime).await;
    let user_namespaces = runtime.user_namespaces().await;
    if let Err(error) = &user_namespaces {
        tracing::warn!(error = orlop::wire::chain(error), "pods cannot have users of their own here");
    }
    let identity = identity(&config, user_namespaces.is_ok());
    let mut tasks = JoinSet::new();
    let waiting = Health {
        not_ready: vec![network::NOT_READY.to_owned()],
        images: listed_images(&images),
        volumes_in_use: csi::left_in_use(&config.state_dir).into_iter().collect(),
        ..Health::default()
    };
    let exclusive = Arc::new(exclusive(&config)?);
    let counts = exclusive.devices().counts();
    let waiting = Health { devices: counts.borrow().clone(), ..waiting };
    let (health, health_seen) = watch::channel(waiting);
    tasks.spawn(follow_images(images.clone(), health.clone()));
    tasks.spawn(follow_devices(counts, health.clone()));
    tasks.spawn(local_sockets(config.kubelet_dir.clone(), Arc::clone(&exclusive), stop.clone()));
    tasks.spawn(rotate_logs(runtime.clone(), config.kubelet.log_monitor));
    let node_name = config.node_name.to_string();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (changes, changed) = mpsc::unbounded_channel();
    let (written_to, written) = mpsc::unbounded_channel();
    let client = control.as_ref().map(|control| control.client.clone());
    let memory = control.as_ref().and_then(|control| control.memory.clone());
    let dns = match control.as_mut().and_then(|control| control.dns.take()) {
        Some(role) => Some(dns::start(&config, role, memory.as_ref(), &registry, &mut tasks).await?),
        None => None,
    };
    let (mut server, mut api_objects, mut writer) = (None, None, None);
    let (mut pod_events, mut events): (Arc<dyn EventSink>, Arc<dyn NodeEvents>) =
        (Arc::new(EventLog), Arc::new(EventLog));
    let plugins = plugins::open(&config, Some(health.clone())).context("CNI")?;
    let plugins = plugins.map(|plugins| Arc::new(plugins) as Arc<dyn Network>);
    let network: Arc<dyn Network> = match &control {
        None => match plugins {
            Some(plugins) => plugins,
            None => Arc::new(network::alone(&config).await.context("open the pod network")?),
        },
        Some(ControlPlane { client, ca, memory, expires: _, dns: _ }) => {
            let source = Arc::new(ContainerLogs {
                runtime: runtime.clone(),
                client: client.clone(),
                log_dir: config.log_dir.clone(),
            });
            let every = config.kubelet.all_addresses;
            let own = if every { config.every_address() } else { config.node_ip() };
            let address = (config.kubelet.address.unwrap_or(own), config.kubelet_port).into();
            let client_ca = match &config.kubelet.client_ca {
                Some(path) => {
                    &fs::read(path).with_context(|| format!("read the clients' CA {}", path.display()))?
                }
                None => ca,
            };
            let health_port = config.healthz_port;
            let plain = (health_port > 0).then(|| (Ipv4Addr::LOCALHOST, health_port).into());
            let bound = Server::bind(address, plain, &node_name, client_ca).await?;
            let bound = match &config.kubelet.tls {
                None => bound,
                Some((certificate, key)) => {
                    let read =
                        |path: &PathBuf| fs::read(path).with_context(|| format!("read {}", path.display()));
                    bound.with_certificate(&read(certificate)?, &read(key)?, client_ca).with_context(
                        || format!("serve with {} and {}", certificate.display(), key.display()),
                    )?
                }
            };
            let reviews = Arc::new(NodeReviews { client: client.clone(), node: node_name.clone() });
            server = Some((bound, Logs::new(source), reviews));
            let registration = Registration {
                client: client.clone(),
                identity: identity.clone(),
                state_dir: config.state_dir.clone(),
                health: health_seen,
            };
            tasks.spawn(registration.run());
            let lease_seconds = identity.object.lease_seconds;
            tasks.spawn(lease::run(client.clone(), node_name.clone(), lease_seconds));
            let known = ApiObjects::new(client.clone(), changes.clone(), memory.clone(), Arc::clone(&clock));
            api_objects = Some(Arc::new(known));
            writer = Some(Writer::new(client.clone(), written_to.clone()).registered(&registry));
            let (recorder, _recording) =
                Recorder::start(client.clone(), node_name.clone(), Arc::clone(&clock), config.kubelet.events);
            pod_events = Arc::new(recorder);
            events = Arc::new(NodeRecorder::new(client.clone(), node_name.clone(), Arc::clone(&clock)));
            let own = || network::start(&config, client.clone(), memory.clone(), health.clone());
            plugins.unwrap_or_else(|| Arc::new(own()))
        }
    };
    let (pods_changed, pods_change) = watch::channel(0);
    let (network, attached) = Guarded::new(network, pods_changed, memory.as_ref(), &config.run_dir);
    let network: Arc<dyn Network> = Arc::new(network);
    let mirrors = Mirrors::default();
    let objects = NodeObjects::new(api_objects.clone().map(|objects| objects as _));
    let settings = Arc::new(settings(&config, &identity, &facts));
    let image_store = images.clone();
    let store = self::image_store(&config, images)?;
    store.durations.register(&registry);
    if let Some(socket) = config.cri_socket.clone() {
        let setup = cri::Setup {
            runtime: runtime.clone(),
            images: store.clone(),
            network: Arc::clone(&network),
            pod_cidrs: None,
            run_dir: config.run_dir.clone(),
            state_dir: config.state_dir.clone(),
            cgroup_root: config.cgroup_root.clone(),
        };
        let cri = cri::Cri::open(setup, stop.clone()).await.context("CRI")?;
        let (tee, events) = mpsc::unbounded_channel();
        tasks.spawn(cri.clone().listen(std::mem::replace(&mut runtime_events, events), Some(tee)));
        tasks.spawn(async move {
            if let Err(error) = cri.serve(socket).await {
                tracing::error!(error = &error as &dyn std::error::Error, "CRI");
            }
        });
    }
    let storage: Arc<dyn StorageObjects> = Arc::new(ApiStorage(client.clone()));
    csi::prepare(&settings.state_dir, &config.kubelet_dir);
    let (name, dir) = (settings.node_name.clone(), settings.state_dir.clone());
    let csi = Arc::new(Csi::new(name, dir, Arc::clone(&storage), Arc::new(objects.clone())));
    if let Some(client) = &client {
        tasks.spawn(own_dirs::run(client.clone(), Arc::clone(&settings)));
        tasks.spawn(csi::run(Arc::clone(&csi), client.clone(), config.kubelet_dir.clone()));
        tasks.spawn(follow_volumes(csi.in_use(), health.clone()));
    }
    let objects_of_pods = Arc::new(objects.clone());
    let clock_of_files = Arc::clone(&clock);
    let files = Disk::open(Arc::clone(&settings), objects_of_pods, storage, csi, clock_of_files)
        .context("make the pods' directories ready")?;
    let ports = Ports {
        runtime: Arc::new(Containers::new(runtime.clone(), &registry)),
        images: Arc::new(store),
        network: Arc::clone(&network),
        files: Arc::new(files),
        objects: Arc::new(objects.clone()),
        clock: Arc::clone(&clock),
        events: Arc::clone(&pod_events),
        statuses: Arc::new(Outlet {
            writer: writer.clone(),
            memory: memory.clone(),
            mirrors: mirrors.clone(),
            written: written_to,
        }),
        exclusive: Arc::clone(&exclusive),
    };
    let importer = Importer { images: image_store.clone(), dir: config.image_dir.clone() };
    tasks.spawn(importer.run());
    let static_pods = config.static_pod_path.clone().map(|dir| {
        let (found_to, found) = mpsc::channel(1);
        let directory = Directory {
            dir,
            period: config.kubelet.static_pods_again,
            node: node_name.clone(),
            rules: orlop_apiserver::manifest::admit,
            objects,
            changes,
            events: client.is_some().then(|| Arc::clone(&events)),
            clock,
        };
        tasks.spawn(directory.run(found_to));
        found
    });
    if let (Some(_), Some(client), Some(writer)) = (&static_pods, &client, writer) {
        tasks.spawn(mirrors.clone().run(client.clone(), node_name.clone(), writer));
    }
    if let Some(memory) = memory.clone() {
        tasks.spawn(memory.run());
    }
    let (pods_to, pods) = mpsc::channel(POD_QUEUE);
    let sources = PodSources {
        node: node_name,
        api: client.clone().map(|client| (client, memory.clone())),
        files: static_pods,
        mirrors,
    };
    tasks.spawn(sources.run(pods_to));
    let state = Arc::new(watch::Sender::new(NodeState::default()));
    tasks.spawn(show_state(state.subscribe(), health));
    let inputs = Inputs { pods, runtime: runtime_events, written, changed, state: state.subscribe() };
    let containers = runtime;
    let (runtime, clock) = (Arc::clone(&ports.runtime), Arc::clone(&ports.clock));
    let of_cpus = Arc::clone(&runtime);
    let manager = Manager::new(Arc::clone(&settings), ports);
    manager.register(&registry, &probes);
    if let Some((server, logs, reviews)) = server {
        let sources = Sources {
            logs,
            runtime: containers.clone(),
            usage: Usage::new(containers.clone(), &config.state_dir),
            images: image_store.clone(),
            desk: manager.desk(),
            reviews,
            registry: registry.clone(),
            probes,
            node: config.node_name.to_string(),
            facts,
            places: Places {
                state_dir: config.state_dir.clone(),
                run_dir: config.run_dir.clone(),
                log_dir: config.log_dir.clone(),
                cgroup_root: config.cgroup_root.clone(),
            },
            configz: configz(&config),
            flags: config.said.clone(),
            system_logs: config.kubelet.system_logs,
            client_expires,
        };
        tasks.spawn(server.run(sources, stop.clone()));
    }
    let traces =
        manager.traces().listen(&Traces::socket(&config.run_dir)).context("make the trace socket")?;
    tasks.spawn(traces);
    let tiers = Tiers {
        runtime: containers.clone(),
        settings: Arc::clone(&settings),
        burstable: manager.burstable(),
        events: Arc::clone(&events),
    };
    let collector = Collector {
        images: image_store,
        thresholds: config.image_gc,
        period: config.image_gc_period,
        needed: manager.needed(),
        runtime,
        events: Arc::clone(&events),
        clock: Arc::clone(&clock),
        collected: collect::collected(&registry),
    };
    let evictor = Evictor {
        eviction: config.kubelet.eviction.clone(),
        local_storage: config.kubelet.local_storage_isolation,
        images: config.state_dir.join("images"),
        collector: collector.clone(),
        runtime: containers,
        settings,
        desk: manager.desk(),
        state: Arc::clone(&state),
        pod_events,
        events: Arc::clone(&events),
        clock,
        metrics: evict::Metrics::new(&registry),
    };
    let desk = manager.desk();
    tasks.spawn(evictor.run());
    if !config.kubelet.shutdown.is_empty() {
        let shutdown = Shutdown { phases: config.kubelet.shutdown.clone(), desk, state, events };
        let notice = signal(SignalKind::from_raw(SIGPWR)).context("listen for SIGPWR")?;
        tasks.spawn(shut_down(notice, shutdown, stop.clone()));
    }
    let reconcile = Reconcile {
        runtime: of_cpus,
        changed: exclusive.shared(),
        exclusive,
        all: cpu::read::topology().map(|machine| machine.all()).unwrap_or_default(),
        period: config.kubelet.static_cpus.map_or(cpu::reconcile::PERIOD, |cpus| cpus.again),
    };
    tasks.spawn(reconcile.run());
    tasks.spawn(collector.run());
    tasks.spawn(tiers.run());
    let desk_of_ports = manager.desk();
    tasks.spawn(manager.run(inputs));

    let host_ports = match network.opens_ports() {
        true => futures::stream::pending().boxed(),
        false => host_ports::follow(desk_of_ports, Arc::clone(&network), pods_change).boxed(),
    };
    let of_pods = futures::stream::select(host_ports, attached).boxed();
    let services = async {
        match &client {
            Some(client) => {
                let also = dataplane::Also { objects: api_objects, dns };
                dataplane::run(&config, client, also, memory.clone(), of_pods, stop.clone()).await
            }
            None => {
                // Nobody enforces policies: pods shall not wait for them.
                drop(of_pods);
                stop.cancelled().await;
                Ok(())
            }
        }
    };
    tracing::info!(node = %config.node_name, address = %config.node_ip(), "node started");
    let ended = tokio::select! {
        ended = services => ended,
        () = stop.cancelled() => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Err(panicked)) => Err(panicked).context("a part of the node ended unexpectedly"),
            _ if stop.is_cancelled() => Ok(()),
            _ => Err(anyhow::anyhow!("a part of the node ended unexpectedly")),
        },
    };
    tasks.shutdown().await;
    if let Some(memory) = memory {
        memory.write();
    }
    ended
}

/// A node without it is still a node.
pub(super) async fn load_default_profile(runtime: &Runtime) {
    if let Err(error) = runtime.load_default_profile().await {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "containers are confined by no AppArmor profile"
        );
    }
}

pub(super) fn runtime_config(config: &Config) -> Result<RuntimeConfig> {
    Ok(RuntimeConfig {
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        shim: config.shim.clone(),
        creator: std::env::current_exe().context("find the path of this program")?,
        ids: config.user_namespace_ids,
        rlimits: config.rlimits.clone(),
        logs: config.container_logs,
    })
}

/// The store with what the configuration says of registries and credentials.
pub(super) fn image_store(config: &Config, images: Images) -> Result<Store> {
    let options = PullOptions {
        plain_http: config.plain_http_registries.clone(),
        registries: Arc::new(config.registries.clone()),
        ..PullOptions::default()
    };
    let providers = config.credential_providers.as_ref().map(|(file, dir)| (file.as_path(), dir.as_path()));
    let credentials = NodeCredentials::open(config.docker_config.clone(), providers)
        .context("make the credential providers ready")?;
    Ok(Store {
        images,
        options: Arc::new(options),
        credentials: Arc::new(credentials),
        verification: Arc::new(config.verification.clone()),
        turns: Arc::new(Semaphore::new(config.max_parallel_image_pulls)),
        durations: PullDurations::default(),
        rate: config.pull_rate.map(|rate| Arc::new(Mutex::new(Bucket::new(rate, Instant::now())))),
    })
}

/// The node's conditions follow its state.
async fn show_state(mut state: watch::Receiver<NodeState>, health: watch::Sender<Health>) {
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        health.send_modify(|health| health.state = now);
    }
    // The node is ending, and says how itself.
    std::future::pending().await
}

/// What containers can have for themselves, as the configuration wants it.
fn exclusive(config: &Config) -> Result<Exclusive> {
    let cpus = match config.kubelet.static_cpus {
        None => None,
        Some(wanted) => {
            let machine = cpu::read::topology().context("read the processors of this machine")?;
            let reserved = config.kubelet.reserved_cpus.clone();
            let milli = config.resources.reserved.cpu_milli;
            let count = usize::try_from(milli.unsigned_abs().div_ceil(1000)).unwrap_or(usize::MAX);
            Some(Pool::new(machine, reserved, count, wanted.how, wanted.strict))
        }
    };
    let known = config.state_dir.join("device-resources.json");
    let nodes = match config.kubelet.alignment.policy {
        Policy::None => Nodes::default(),
        _ => cpu::read::topology().context("read the memory nodes of this machine")?.nodes(),
    };
    let devices = Devices::open(config.kubelet_dir.join("device-plugins"), Some(known));
    Ok(Exclusive::new(cpus, devices).aligned(config.kubelet.alignment, nodes))
}

/// The sockets for device plugins and for monitoring agents. A node is of use without.
async fn local_sockets(dir: PathBuf, exclusive: Arc<Exclusive>, stop: CancellationToken) {
    let registry = device::serve(exclusive.devices().clone(), stop.clone());
    let path = dir.join("pod-resources/kubelet.sock");
    let lister = device::pod_resources::serve(&path, exclusive, stop.clone());
    let (registry, lister) = tokio::join!(registry, lister);
    for (what, served) in [("device plugins", registry), ("pod resources", lister)] {
        if let Err(error) = served {
            tracing::error!(%error, dir = %dir.display(), "the socket for {what}");
        }
    }
    stop.cancelled().await;
}

/// Devices come and go: the node's status follows.
async fn follow_devices(
    mut counts: watch::Receiver<BTreeMap<String, Counts>>,
    health: watch::Sender<Health>,
) {
    while counts.changed().await.is_ok() {
        let now = counts.borrow_and_update().clone();
        health.send_modify(|health| health.devices = now);
    }
    // The node is ending, and says how itself.
    std::future::pending().await
}

/// What power supplies and init systems send when the power fails.
const SIGPWR: i32 = 30;

/// After the pods the agent ends too: whoever sent the signal sees that the machine may go.
async fn shut_down(mut notice: Signal, shutdown: Shutdown, stop: CancellationToken) {
    tokio::select! {
        _ = notice.recv() => {}
        () = logind::follow(&shutdown) => {}
    }
    shutdown.run().await;
    stop.cancel();
    std::future::pending().await
}

/// Puts logs aside that have grown too large, at most so often: who writes a lot shall not lose what was just written.
async fn rotate_logs(runtime: Runtime, every: Duration) {
    loop {
        runtime.full_logs().await;
        // Those of a CRI client's containers are the client's.
        let ours = |uid: &str| !cri::owns(uid);
        for error in runtime.rotate_logs(Timestamp::now(), ours).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "log not rotated");
        }
        tokio::time::sleep(every).await;
    }
}

/// Images come and go, also without us (`orlop image load`): the node's status follows.
async fn follow_images(images: Images, health: watch::Sender<Health>) {
    loop {
        tokio::time::sleep(IMAGES_AGAIN).await;
        let images = images.clone();
        let Ok(listed) = tokio::task::spawn_blocking(move || listed_images(&images)).await else { continue };
        health.send_if_modified(|health| {
            let changed = health.images != listed;
            health.images = listed;
            changed
        });
    }
}

/// Who attaches volumes must know which of them the node still uses.
async fn follow_volumes(mut in_use: watch::Receiver<BTreeSet<String>>, health: watch::Sender<Health>) {
    while in_use.changed().await.is_ok() {
        let now: Vec<_> = in_use.borrow_and_update().iter().cloned().collect();
        health.send_modify(|health| health.volumes_in_use = now);
    }
}

fn identity(config: &Config, user_namespaces: bool) -> Identity {
    Identity {
        name: config.node_name.to_string(),
        addresses: config.node_ips.clone(),
        kubelet_port: config.kubelet_port,
        max_pods: config.max_pods,
        reserved: config.resources.reserved,
        eviction: config.kubelet.eviction.clone(),
        object: config.kubelet.node.clone(),
        labels: config.node_labels.clone(),
        user_namespaces,
        local_volumes: own_dirs::directory(&config.state_dir).display().to_string(),
    }
}

fn settings(config: &Config, identity: &Identity, facts: &Facts) -> Settings {
    let bytes = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let text = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let room = report::allocatable(facts, identity);
    Settings {
        node_name: config.node_name.to_string(),
        node_labels: report::labels(identity, facts),
        node_ips: config.node_ips.clone(),
        state_dir: config.state_dir.clone(),
        run_dir: config.run_dir.clone(),
        log_dir: config.log_dir.clone(),
        seccomp_dir: config.state_dir.join("seccomp"),
        cgroup_root: config.cgroup_root.clone(),
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns: config.cluster_dns.clone(),
        node_resolv: text(&config.kubelet.resolv_conf),
        node_hosts: text(Path::new("/etc/hosts")),
        allocatable: Allocatable {
            cpu_milli: room.cpu_milli,
            memory: bytes(room.memory),
            ephemeral_storage: bytes(room.storage),
            pods: i64::from(config.max_pods),
        },
        memory_capacity: bytes(facts.memory_bytes),
        swap_capacity: bytes(facts.swap_bytes),
        apparmor: facts.apparmor,
        hugepages: facts.hugepages.iter().map(|(size, _)| bytes(*size)).collect(),
        policy: config.resources,
        allowed_unsafe_sysctls: config.kubelet.unsafe_sysctls.clone(),
    }
}

fn listed_images(images: &Images) -> Vec<(Vec<String>, u64)> {
    let listed = images.list().unwrap_or_default();
    listed
        .into_iter()
        .map(|image| (image.digests.into_iter().chain(image.tags).collect(), image.size))
        .collect()
}
