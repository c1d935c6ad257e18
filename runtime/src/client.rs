//! The runtime as its caller sees it.
//!
//! ```text
//!  Runtime ── one connection per pod ──▶ shims
//!     │  files: records, namespaces, mounts, cgroups (all of it idempotent, named after the end state)
//!     └─ one watcher per pod ── Exited, Oom, ShimLost ──▶ the caller's channel
//! ```
//! There is no state here that could not be read again from the directories: a new process opens the same run
//! directory and goes on. Not for: deciding what should run.

use std::{
    collections::HashMap,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use orlop_shim::protocol::{self, Request, Response};
use tokio::sync::mpsc;

use crate::{
    ProfileError,
    api::{
        Container, ContainerState, ExecOutput, ExecRequest, RuntimeConfig, RuntimeEvent, Sandbox, SandboxSpec,
    },
    apparmor,
    bundle::{self, Layout},
    cgroup::{Hierarchies, Stats},
    ends::Ends,
    errors::{BoxError, ExecError, OpenError, SandboxError, ShimError, StopError},
    host,
    ids::IdRange,
    image::{Image, Images},
    log::FullLogs,
    records::{self, SandboxRecord},
    sandbox,
    shim::{self, Shim},
    signal, sysctl, userns, view,
};

/// Where layers come from. A seam so that the runtime can be used and tested without an image store.
pub trait Layers: Send + Sync + 'static {
    /// Unpacked layers, top first.
    fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>, BoxError>;
    /// From now on this container needs the images, the first one as its own.
    fn hold(&self, container: &str, images: &[&Image]) -> Result<(), BoxError>;
    /// No more.
    fn release(&self, container: &str) -> Result<(), BoxError>;
}

impl Layers for Images {
    fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>, BoxError> {
        Ok(Images::layer_paths(self, image)?)
    }
    fn hold(&self, container: &str, images: &[&Image]) -> Result<(), BoxError> {
        Ok(Images::hold(self, container, images)?)
    }
    fn release(&self, container: &str) -> Result<(), BoxError> {
        Ok(Images::release(self, container)?)
    }
}

/// A shim that takes longer to greet, on however busy a machine, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers on this machine, under one run directory. Cheap to clone.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: RuntimeConfig,
    pub(crate) layout: Layout,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) layers: Box<dyn Layers>,
    pub(crate) limits: host::Limits,
    shims: Mutex<HashMap<String, Shim>>,
    /// What shims that die would have told.
    pub(crate) ends: Ends,
    pub(crate) full_logs: FullLogs,
    pods_mount: Mutex<()>,
    /// They were seen to work.
    user_namespaces: OnceLock<()>,
    events: mpsc::UnboundedSender<RuntimeEvent>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.0.config).finish_non_exhaustive()
    }
}

/// Runs blocking work (files, mounts) off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Runtime {
    /// Finds what exists under the run directory and connects to its shims. Pods whose shim is gone are marked dead:
    /// what is left of their containers is killed, so that nothing can ever run twice.
    pub async fn open(
        config: RuntimeConfig,
    ) -> Result<(Runtime, mpsc::UnboundedReceiver<RuntimeEvent>), OpenError> {
        let images = Images::open(config.state_dir.join("images"));
        let images = images.map_err(|error| OpenError::Images(error.into()))?;
        Runtime::open_with(config, images).await
    }

    /// With layers from elsewhere.
    pub async fn open_with(
        config: RuntimeConfig,
        layers: impl Layers,
    ) -> Result<(Runtime, mpsc::UnboundedReceiver<RuntimeEvent>), OpenError> {
        let layout = Layout { state_dir: config.state_dir.clone(), run_dir: config.run_dir.clone() };
        for path in [layout.pods(), layout.seccomp(), layout.writables()] {
            // Environments and sockets lie there: nobody else's business.
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(|source| OpenError::Directory { path, source })?;
        }
        let hierarchies = Hierarchies::discover().map_err(OpenError::Cgroups)?;
        let (events, receiver) = mpsc::unbounded_channel();
        let runtime = Runtime(Arc::new(Inner {
            config,
            layout,
            hierarchies,
            layers: Box::new(layers),
            limits: host::limits(),
            shims: Mutex::new(HashMap::new()),
            ends: Ends::default(),
            full_logs: FullLogs::default(),
            pods_mount: Mutex::new(()),
            user_namespaces: OnceLock::new(),
            events,
        }));
        let sweeper = runtime.clone();
        blocking(move || sweeper.sweep()).await;
        let uids = records::directories(&runtime.0.layout.pods());
        futures::future::join_all(uids.iter().map(|uid| runtime.find(uid))).await;
        Ok((runtime, receiver))
    }

    /// Has the kernel confine containers that do not say by what, where it can.
    ///
    /// # Errors
    /// When the profile cannot be loaded: containers are then confined by none, unless they ask for it.
    pub async fn load_default_profile(&self) -> Result<(), ProfileError> {
        let run_dir = self.0.layout.run_dir.clone();
        blocking(move || apparmor::bring(&run_dir)).await
    }

    /// Takes away what [`Runtime::load_default_profile`] brought.
    ///
    /// # Errors
    /// When it cannot be taken away: a container is still confined by it, say.
    pub async fn unload_default_profile(&self) -> Result<(), ProfileError> {
        let run_dir = self.0.layout.run_dir.clone();
        blocking(move || apparmor::take_away(&run_dir)).await
    }

    async fn find(&self, uid: &str) {
        let lost = match tokio::time::timeout(PATIENCE, self.connect(uid)).await {
            Ok(Ok(())) => {
                let (runtime, uid) = (self.clone(), uid.to_owned());
                return blocking(move || runtime.hold_running(&uid)).await;
            }
            Ok(Err(error)) => error,
            Err(_) => ShimError::Lost(uid.to_owned()),
        };
        tracing::warn!(uid, error = &lost as &dyn std::error::Error, "pod without a shim");
        self.bury(uid).await;
    }

    /// Pods whose shims are too old to tell when a log is full.
    pub(crate) fn silent_about_logs(&self) -> Vec<String> {
        let silent = |(uid, shim): (&String, &Shim)| (!shim.tells_of_logs()).then(|| uid.clone());
        self.shims().iter().filter_map(silent).collect()
    }

    fn shims(&self) -> MutexGuard<'_, HashMap<String, Shim>> {
        self.0.shims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn hierarchies(&self) -> &Hierarchies {
        &self.0.hierarchies
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Held while the mount of the pods' directory and the directory of a pod come or go.
    pub(crate) fn pods_mount(&self) -> MutexGuard<'_, ()> {
        self.0.pods_mount.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection to a pod's shim.
    pub(crate) fn shim(&self, uid: &str) -> Result<Shim, ShimError> {
        self.shims().get(uid).cloned().ok_or_else(|| ShimError::Lost(uid.to_owned()))
    }

    /// From now on its end is no surprise.
    pub(crate) fn forget_shim(&self, uid: &str) -> Option<Shim> {
        self.shims().remove(uid)
    }

    async fn connect(&self, uid: &str) -> Result<(), ShimError> {
        let limit = self.0.config.logs.max_size;
        let (shim, events) = Shim::connect(&self.0.layout.pod(uid), uid, limit).await?;
        self.shims().insert(uid.to_owned(), shim);
        tokio::spawn(watch(Arc::downgrade(&self.0), uid.to_owned(), events));
        Ok(())
    }

    fn tell(&self, uid: &str, event: Response) {
        let uid = uid.to_owned();
        let event = match event {
            Response::Exited { id, exit } => {
                self.0.ends.forget(&id);
                RuntimeEvent::Exited { uid, container_id: id, exit: records::exit_of(&exit) }
            }
            Response::Oom { id } => RuntimeEvent::Oom { uid, container_id: id },
            Response::LogFull { id } => return self.0.full_logs.add(uid, id),
            other => {
                tracing::warn!(uid, ?other, "unexpected event of a shim");
                return;
            }
        };
        // Without a receiver nobody wants to know.
        drop(self.0.events.send(event));
    }

    /// Ends that happened while nobody listened.
    fn tell_exits(&self, uid: &str) {
        for container in self.0.layout.pod_containers(uid) {
            if let ContainerState::Exited(exit) = container.state {
                let (uid, container_id) = (uid.to_owned(), container.id);
                drop(self.0.events.send(RuntimeEvent::Exited { uid, container_id, exit }));
            }
        }
    }

    /// Everything under the run directory, as it is now.
    pub async fn pods(&self) -> Vec<Sandbox> {
        let runtime = self.clone();
        let list = move || {
            let uids = records::directories(&runtime.0.layout.pods()).into_iter();
            uids.filter_map(|uid| runtime.look(&uid)).collect()
        };
        blocking(list).await
    }

    /// One pod as it is now.
    pub async fn pod(&self, uid: &str) -> Option<Sandbox> {
        let (runtime, uid) = (self.clone(), uid.to_owned());
        blocking(move || runtime.look(&uid)).await
    }

    /// The newest pod of that name.
    pub async fn pod_named(&self, namespace: &str, name: &str) -> Option<Sandbox> {
        let (runtime, namespace, name) = (self.clone(), namespace.to_owned(), name.to_owned());
        blocking(move || {
            let layout = &runtime.0.layout;
            let records = records::directories(&layout.pods()).into_iter();
            let records = records.filter_map(|uid| layout.sandbox(&uid).ok().flatten());
            let named = records
                .filter(|record| record.spec.pod.namespace == namespace && record.spec.pod.name == name);
            named.max_by_key(|record| record.created_at).map(|record| runtime.with_containers(record))
        })
        .await
    }

    fn look(&self, uid: &str) -> Option<Sandbox> {
        match self.0.layout.sandbox(uid) {
            Ok(record) => Some(self.with_containers(record?)),
            Err(error) => {
                tracing::error!(uid, %error, "unreadable sandbox record");
                None
            }
        }
    }

    fn with_containers(&self, record: SandboxRecord) -> Sandbox {
        let containers = self.0.layout.pod_containers(&record.spec.pod.uid);
        self.describe(record, containers)
    }

    pub(crate) fn describe(&self, record: SandboxRecord, containers: Vec<Container>) -> Sandbox {
        let SandboxRecord { spec, created_at, .. } = record;
        let netns = sandbox::pin(&self.0.layout, &spec, "net");
        let shim_alive = self.shims().contains_key(&spec.pod.uid);
        Sandbox { pod: spec.pod, netns, created_at, shim_alive, containers, labels: spec.labels }
    }

    /// Makes what containers of a pod share: cgroup, namespaces, shared memory, shim. Asked again, it makes what is
    /// missing. The record is written first, so that a removal finds whatever was made.
    pub async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Sandbox, SandboxError> {
        let uid = spec.pod.uid.clone();
        if !bundle::is_file_name(&uid) {
            return Err(SandboxError::Uid(uid));
        }
        let (runtime, wanted) = (self.clone(), spec.clone());
        let record = blocking(move || runtime.make_sandbox(wanted)).await?;
        if self.shim(&uid).is_err() && self.connect(&uid).await.is_err() {
            let dir = self.0.layout.pod(&uid);
            let RuntimeConfig { shim, creator, .. } = &self.0.config;
            if let Err(text) = shim::start(shim, &dir, &record.spec, creator).await {
                // One that a former agent had just started may be faster.
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.connect(&uid).await.map_err(|_| SandboxError::ShimStart(text))?;
                return Ok(self.with_containers(record));
            }
            // Not waited for: the kernel may take ten milliseconds to move a process, and nothing depends on it.
            let (runtime, pod, cgroup) = (self.clone(), uid.clone(), record.spec.cgroup.clone());
            tokio::task::spawn_blocking(move || runtime.adopt_shim(&pod, &cgroup));
            self.connect(&uid).await?;
        }
        Ok(self.with_containers(record))
    }

    fn make_sandbox(&self, spec: SandboxSpec) -> Result<SandboxRecord, SandboxError> {
        let Inner { layout, hierarchies, .. } = &*self.0;
        let parameters = sysctl::files(&spec)?;
        let uid = &spec.pod.uid;
        let (dir, containers) = (layout.pod(uid), layout.containers(uid));
        let files = |path: PathBuf| move |source| SandboxError::Files { path, source };
        {
            let _alone = self.pods_mount();
            view::bind(&layout.pods()).map_err(files(layout.pods()))?;
            std::fs::create_dir_all(&containers).map_err(files(containers.clone()))?;
        }
        let path = dir.join(bundle::SANDBOX);
        let record = match layout.sandbox(uid).map_err(files(path.clone()))? {
            Some(record) if record.stopped => return Err(SandboxError::Stopped),
            Some(record) => record,
            None => {
                // Held until the record tells which ids are taken.
                let _alone = self.pods_mount();
                let ids = if spec.user_namespace { Some(self.ids_for(&spec)?) } else { None };
                let record = SandboxRecord { spec, ids, stopped: false, created_at: Timestamp::now() };
                records::write_json(&path, &record).map_err(files(path))?;
                record
            }
        };
        hierarchies.create(&record.spec.cgroup, &record.spec.resources)?;
        sandbox::make_namespaces(layout, &record, parameters, &self.0.config.shim)
            .map_err(SandboxError::Namespaces)?;
        sandbox::make_shm(layout, &record.spec).map_err(SandboxError::Shm)?;
        Ok(record)
    }

    /// Whether pods can have user namespaces of their own on this machine.
    ///
    /// # Errors
    /// They cannot, and why.
    pub async fn user_namespaces(&self) -> Result<(), SandboxError> {
        let runtime = self.clone();
        blocking(move || runtime.try_user_namespaces()).await
    }

    /// Tried until it works once: an administrator may switch them on.
    fn try_user_namespaces(&self) -> Result<(), SandboxError> {
        let Inner { config, user_namespaces, .. } = &*self.0;
        if user_namespaces.get().is_none() {
            userns::possible(&config.shim, &config.state_dir).map_err(SandboxError::UserNamespaces)?;
        }
        user_namespaces.get_or_init(|| ());
        Ok(())
    }

    /// Ids that no pod has which is there: those it shall have, or any. A record that cannot be read may hold all of them.
    fn ids_for(&self, spec: &SandboxSpec) -> Result<IdRange, SandboxError> {
        if spec.host_network || spec.host_ipc || spec.host_pid {
            return Err(SandboxError::HostNamespace);
        }
        self.try_user_namespaces()?;
        let mut taken = Vec::new();
        for uid in records::directories(&self.0.layout.pods()) {
            let path = self.0.layout.pod(&uid).join(bundle::SANDBOX);
            let record = self.0.layout.sandbox(&uid);
            let record = record.map_err(|source| SandboxError::Files { path, source })?;
            let ids = record.filter(|record| !record.stopped).and_then(|record| record.ids);
            taken.extend(ids.map(|ids| (uid, ids)));
        }
        let Some(range) = spec.ids else {
            let (pool, taken) =
                (self.0.config.ids, taken.into_iter().map(|(_, ids)| ids).collect::<Vec<_>>());
            return pool.free(&taken).ok_or(SandboxError::NoIds { pods: pool.pods() });
        };
        match taken.into_iter().find(|(_, ids)| ids.overlaps(range)) {
            Some((pod, _)) => Err(SandboxError::TakenIds { range, pod }),
            None => Ok(range),
        }
    }

    /// Moves a new shim out of the cgroup of this process, so that nobody who stops this one stops the pods with it.
    fn adopt_shim(&self, uid: &str, pod_cgroup: &str) {
        let pid = std::fs::read_to_string(self.0.layout.pod(uid).join(bundle::PID));
        let pid = pid.ok().and_then(|text| orlop_shim::records::PidRecord::from_text(&text));
        if let Some(record) = pid {
            self.0.hierarchies.adopt(&shims_cgroup(pod_cgroup), record.pid);
        }
    }

    /// Asks a container to end: `signal` (else the image's, else TERM), and KILL for all of it after `grace`. Returns
    /// when asked; the end comes as an event. One that has ended already is no error.
    pub async fn stop_container(
        &self,
        uid: &str,
        id: &str,
        signal: Option<&str>,
        grace: Duration,
    ) -> Result<(), StopError> {
        let record = self.0.layout.record(uid, id).ok().flatten();
        let of_image = record.and_then(|record| record.stop_signal).filter(|name| !name.is_empty());
        let name = signal.map(str::to_owned).or(of_image).unwrap_or_else(|| "TERM".to_owned());
        let signal = signal::parse(&name).ok_or(StopError::Signal(name))?;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        match self.shim(uid)?.done(Request::Stop { id: id.to_owned(), signal, grace_ms }).await {
            Err(ShimError::Refused { step: protocol::Step::NotRunning, .. }) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Sends one signal to a container's first process.
    pub async fn signal_container(&self, uid: &str, id: &str, signal: &str) -> Result<(), StopError> {
        let signal = signal::parse(signal).ok_or_else(|| StopError::Signal(signal.to_owned()))?;
        Ok(self.shim(uid)?.done(Request::Kill { id: id.to_owned(), signal }).await?)
    }

    /// Opens the log file anew, after it was renamed.
    pub async fn reopen_log(&self, uid: &str, id: &str) -> Result<(), ShimError> {
        self.shim(uid)?.done(Request::Reopen { id: id.to_owned() }).await
    }

    /// Runs a command inside a container, as the container's user, and waits for its end.
    pub async fn exec(&self, uid: &str, id: &str, request: ExecRequest) -> Result<ExecOutput, ExecError> {
        let ExecRequest { command, env, timeout, max_output } = request;
        let millis = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        let request = Request::Exec(protocol::ExecRequest {
            id: id.to_owned(),
            args: command,
            env: env.into_iter().map(|(name, value)| format!("{name}={value}")).collect(),
            timeout_ms: timeout.map_or(0, millis),
            max_output: u32::try_from(max_output).unwrap_or(u32::MAX).min(1 << 20),
        });
        match self.shim(uid)?.ask(request).await? {
            Response::Exec { timed_out: true, output, .. } => Err(ExecError::Timeout(output)),
            Response::Exec { code, output, .. } => Ok(ExecOutput { exit_code: code, output }),
            other => Err(ExecError::Shim(ShimError::Unexpected(other))),
        }
    }

    /// Counters of a whole pod.
    pub async fn pod_stats(&self, uid: &str) -> std::io::Result<Stats> {
        let (runtime, uid) = (self.clone(), uid.to_owned());
        blocking(move || runtime.stats_of(&uid, None)).await
    }

    /// Counters of one container.
    pub async fn container_stats(&self, uid: &str, id: &str) -> std::io::Result<Stats> {
        let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
        blocking(move || runtime.stats_of(&uid, Some(&id))).await
    }

    /// Counters of a cgroup that this node has made for several pods.
    pub async fn group_stats(&self, path: &str) -> std::io::Result<Stats> {
        let (runtime, path) = (self.clone(), path.to_owned());
        blocking(move || runtime.0.hierarchies.stats(&path)).await
    }

    fn stats_of(&self, uid: &str, id: Option<&str>) -> std::io::Result<Stats> {
        self.0.hierarchies.stats(&self.cgroup_of(uid, id)?)
    }

    /// The cgroup of a pod, or of one container of it.
    pub(crate) fn cgroup_of(&self, uid: &str, id: Option<&str>) -> std::io::Result<String> {
        let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "no such pod");
        let cgroup = self.0.layout.sandbox(uid)?.ok_or_else(missing)?.spec.cgroup;
        Ok(id.map_or(cgroup.clone(), |id| format!("{cgroup}/{id}")))
    }

    /// The pods that may have containers whose id begins so, with nothing else read.
    pub async fn pods_of_container(&self, id: &str) -> Vec<String> {
        let (runtime, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let layout = &runtime.0.layout;
            let has = |uid: &String| {
                records::directories(&layout.containers(uid)).iter().any(|name| name.starts_with(&id))
            };
            records::directories(&layout.pods()).into_iter().filter(has).collect()
        })
        .await
    }

    /// A container as it is now.
    pub async fn container(&self, uid: &str, id: &str) -> Option<Container> {
        let pod = self.pod(uid).await?;
        pod.containers.into_iter().find(|container| container.id == id)
    }
}

/// Passes on what a shim tells; finds out what the end of its connection means. Holds no runtime while it waits: the
/// last clone's end closes the connections.
async fn watch(runtime: Weak<Inner>, uid: String, mut events: shim::Events) {
    loop {
        while let Some(event) = events.next().await {
            let Some(inner) = runtime.upgrade() else { return };
            Runtime(inner).tell(&uid, event);
        }
        let Some(runtime) = runtime.upgrade().map(Runtime) else { return };
        if !runtime.shims().contains_key(&uid) {
            return;
        }
        let limit = runtime.0.config.logs.max_size;
        match Shim::connect(&runtime.0.layout.pod(&uid), &uid, limit).await {
            Ok((shim, more)) => {
                runtime.shims().insert(uid.clone(), shim);
                runtime.tell_exits(&uid);
                events = more;
            }
            Err(error) => {
                tracing::error!(uid, error = &error as &dyn std::error::Error, "shim lost");
                runtime.forget_shim(&uid);
                runtime.bury(&uid).await;
                runtime.tell_exits(&uid);
                drop(runtime.0.events.send(RuntimeEvent::ShimLost { uid }));
                return;
            }
        }
    }
}

/// Beside the pods, under the node's own root.
pub(crate) fn shims_cgroup(pod_cgroup: &str) -> String {
    let path = pod_cgroup.trim_start_matches('/');
    let root = match path.find("kubepods") {
        Some(at) => path[..at].trim_end_matches('/'),
        None => path.rsplit_once('/').map_or("", |(parent, _)| parent),
    };
    if root.is_empty() { "orlop-shims".to_owned() } else { format!("{root}/shims") }
}

#[cfg(test)]
mod tests {
    use super::shims_cgroup;

    #[test]
    fn shims_stay_under_the_nodes_root() {
        for (pod, expected) in [
            ("node1/kubepods/burstable/podx", "node1/shims"),
            ("/kubepods/podx", "orlop-shims"),
            ("test/podx", "test/shims"),
            ("podx", "orlop-shims"),
        ] {
            assert_eq!(shims_cgroup(pod), expected, "{pod}");
        }
    }
}
