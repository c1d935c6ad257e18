//! Devices that plugins offer (the kubelet's device plugin API, v1beta1), and which containers have them.
//!
//! ```text
//!  plugin ──Register──▶ registry ─▶ Devices ◀──ListAndWatch── plugin
//!                                     │  ledger: what is offered, who has what
//!  pod, at admission ──reserve────────┤
//!                     ──Allocate──────┼─▶ plugin: environment, mounts, device nodes
//!  container, at its start ◀──Grant───┘     (PreStartContainer)
//!  Node status ◀── capacity, allocatable
//! ```
//!
//! What a pod was granted is written down with its sandbox (`exclusive`): it outlives this program, and what is not
//! there cannot hold anything. `ledger` and `grant` are pure. Not for: devices that CRI clients name themselves.

pub mod grant;
pub mod ledger;
mod plugin;
pub mod pod_resources;
mod registry;
pub(crate) mod socket;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::PodSpec;
use tokio::sync::watch;

use grant::{Grant, Grants};
use ledger::{Counts, Ledger, Wanted};
use plugin::Plugin;
pub use registry::serve;

/// Upstream's `endpointStopGracePeriod`: a plugin that comes back within it changes no capacity.
const GONE_AFTER: Duration = Duration::from_secs(5 * 60);

/// All devices of this node. Cheap to clone.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

struct Inner {
    /// Where plugins have their sockets.
    dir: PathBuf,
    /// Names of the resources that there were plugins for; the node has none of them until these come again.
    known: Option<PathBuf>,
    state: Mutex<State>,
    counts: watch::Sender<BTreeMap<String, Counts>>,
}

#[derive(Default)]
struct State {
    ledger: Ledger,
    /// By resource.
    plugins: BTreeMap<String, Plugin>,
    /// How many plugins registered so far: tells one from its successor.
    registrations: u64,
}

impl Devices {
    /// Without plugins yet. `dir` is where they have their sockets, `known` a file.
    #[must_use]
    pub fn open(dir: PathBuf, known: Option<PathBuf>) -> Devices {
        let mut state = State::default();
        for name in known.as_deref().map(read_known).unwrap_or_default() {
            state.ledger.expect(&name);
        }
        let counts = watch::Sender::new(state.ledger.counts());
        Devices(Arc::new(Inner { dir, known, state: Mutex::new(state), counts }))
    }

    /// Capacity and allocatable, by resource.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<BTreeMap<String, Counts>> {
        self.0.counts.subscribe()
    }

    /// Sets devices aside for a pod, all or none.
    ///
    /// # Errors
    /// There are not enough; in upstream's words.
    pub fn reserve(&self, uid: &str, spec: &PodSpec) -> Result<Vec<Wanted>, String> {
        self.state().ledger.reserve(uid, spec)
    }

    /// With nothing else happening meanwhile.
    pub fn with_ledger<T>(&self, work: impl FnOnce(&mut Ledger) -> T) -> T {
        work(&mut self.state().ledger)
    }

    /// Asks the plugins for what was set aside.
    ///
    /// # Errors
    /// A plugin is gone, refuses, or answers what cannot be done here.
    pub async fn allocate(&self, uid: &str, wanted: &[Wanted]) -> Result<(), String> {
        for one in wanted {
            let Wanted { container, resource, .. } = one;
            let plugin = self.state().plugins.get(resource).cloned();
            let Some(plugin) = plugin else {
                return Err(format!(
                    "no healthy devices present; cannot allocate unhealthy devices {resource}"
                ));
            };
            if plugin.options.get_preferred_allocation_available {
                self.prefer(&plugin, uid, one).await?;
            }
            let ids = self.state().ledger.held(uid, container, resource);
            let answer = plugin.allocate(&ids).await?;
            self.state().ledger.fill(uid, container, grant::read(answer)?);
        }
        Ok(())
    }

    /// Takes other devices than those set aside, if the plugin would rather have it so and they are still free.
    async fn prefer(&self, plugin: &Plugin, uid: &str, wanted: &Wanted) -> Result<(), String> {
        let choice = self.state().ledger.choice(uid, wanted);
        let preferred = plugin.preferred(&choice).await?;
        self.state().ledger.swap(uid, wanted, &preferred);
        Ok(())
    }

    /// What a container was granted.
    #[must_use]
    pub fn grant(&self, uid: &str, container: &str) -> Option<Grant> {
        self.state().ledger.of_pod(uid)?.get(container).cloned()
    }

    /// What all containers of a pod were granted.
    #[must_use]
    pub fn of_pod(&self, uid: &str) -> Option<Grants> {
        self.state().ledger.of_pod(uid).cloned()
    }

    /// Takes over what a pod that is there already was granted.
    pub fn adopt(&self, uid: &str, grants: Grants) {
        self.state().ledger.adopt(uid, grants);
    }

    /// Gives back what pods held that are no more.
    pub fn retain(&self, active: &HashSet<String>) {
        self.state().ledger.retain(active);
    }

    /// Gives back what one pod held.
    pub fn release(&self, uid: &str) {
        self.state().ledger.release(uid);
    }

    /// Tells plugins that want to know that a container is about to start.
    ///
    /// # Errors
    /// A plugin does not want it to.
    pub async fn before_start(&self, grant: &Grant) -> Result<(), String> {
        for (resource, ids) in &grant.resources {
            let plugin = self.state().plugins.get(resource).cloned();
            if let Some(plugin) = plugin.filter(|plugin| plugin.options.pre_start_required) {
                plugin.before_start(ids).await?;
            }
        }
        Ok(())
    }

    /// What there is of each resource, with the memory nodes of each device: healthy ones.
    #[must_use]
    pub fn healthy(&self) -> BTreeMap<String, BTreeMap<String, Vec<i64>>> {
        self.state().ledger.healthy()
    }

    /// Memory nodes of one device.
    #[must_use]
    pub fn nodes_of(&self, resource: &str, id: &str) -> Vec<i64> {
        self.state().ledger.nodes_of(resource, id)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let counts = self.state().ledger.counts();
        self.0.counts.send_if_modified(|known| {
            let news = *known != counts;
            *known = counts;
            news
        });
    }

    /// Takes a plugin that has registered, in the place of one of the same resource; then follows its devices.
    fn welcome(&self, resource: String, mut plugin: Plugin) {
        {
            let mut state = self.state();
            state.registrations += 1;
            plugin.registration = state.registrations;
            state.ledger.expect(&resource);
            state.plugins.insert(resource.clone(), plugin.clone());
        }
        self.remember();
        self.tell();
        let devices = self.clone();
        tokio::spawn(async move { devices.follow(resource, plugin).await });
    }

    async fn follow(self, resource: String, plugin: Plugin) {
        let registration = plugin.registration;
        let ended = match plugin.watch().await {
            Err(error) => error,
            Ok(mut lists) => loop {
                match lists.next().await {
                    Ok(list) => {
                        if !self.is_current(&resource, registration) {
                            return;
                        }
                        self.state().ledger.offer(&resource, list);
                        self.tell();
                    }
                    Err(error) => break error,
                }
            },
        };
        if !self.is_current(&resource, registration) {
            return;
        }
        tracing::warn!(
            resource,
            error = ended,
            "the device plugin is gone: its devices do not count until it comes back"
        );
        {
            let mut state = self.state();
            state.ledger.none_healthy(&resource);
            state.plugins.remove(&resource);
        }
        self.tell();
        tokio::time::sleep(GONE_AFTER).await;
        let gone = {
            let mut state = self.state();
            let gone = !state.plugins.contains_key(&resource);
            if gone {
                state.ledger.forget(&resource);
            }
            gone
        };
        if gone {
            self.tell();
        }
    }

    fn is_current(&self, resource: &str, registration: u64) -> bool {
        self.state().plugins.get(resource).is_some_and(|plugin| plugin.registration == registration)
    }

    fn remember(&self) {
        let Some(path) = &self.0.known else { return };
        let names: Vec<_> = self.state().ledger.counts().into_keys().collect();
        if read_known(path) == names {
            return;
        }
        let text = serde_json::to_string(&names).unwrap_or_default();
        let temporary = path.with_extension("new");
        let written = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "write down which devices there are plugins for");
        }
    }
}

/// A file that is damaged is as good as none: the plugins say it again.
fn read_known(path: &Path) -> Vec<String> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the list of known devices cannot be read and is made anew");
        Vec::new()
    })
}

#[cfg(test)]
mod tests {
    use orlop_cri_api::device_plugin::{
        device_plugin_server::{DevicePlugin, DevicePluginServer},
        registration_server::Registration as _,
        *,
    };
    use tokio_util::sync::CancellationToken;
    use tonic::{Request, Response, Status};

    use super::*;

    const NAME: &str = "v.example/x";

    /// Has one device, `a`, and refuses to give it.
    struct Stubborn;

    #[tonic::async_trait]
    impl DevicePlugin for Stubborn {
        type ListAndWatchStream =
            std::pin::Pin<Box<dyn futures::Stream<Item = Result<ListAndWatchResponse, Status>> + Send>>;

        async fn get_device_plugin_options(
            &self,
            _: Request<Empty>,
        ) -> Result<Response<DevicePluginOptions>, Status> {
            Ok(Response::new(DevicePluginOptions::default()))
        }

        async fn list_and_watch(
            &self,
            _: Request<Empty>,
        ) -> Result<Response<Self::ListAndWatchStream>, Status> {
            let device = Device { id: "a".to_owned(), health: "Healthy".to_owned(), topology: None };
            let list = Ok(ListAndWatchResponse { devices: vec![device] });
            let lists = futures::StreamExt::chain(
                futures::stream::iter([list]),
                futures::stream::pending::<Result<ListAndWatchResponse, Status>>(),
            );
            Ok(Response::new(Box::pin(lists)))
        }

        async fn get_preferred_allocation(
            &self,
            _: Request<PreferredAllocationRequest>,
        ) -> Result<Response<PreferredAllocationResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        async fn allocate(&self, _: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
            Err(Status::unknown("it is mine"))
        }

        async fn pre_start_container(
            &self,
            _: Request<PreStartContainerRequest>,
        ) -> Result<Response<PreStartContainerResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }
    }

    async fn counted(devices: &Devices, capacity: u64, allocatable: u64) {
        let wanted = Counts { capacity, allocatable };
        devices.counts().wait_for(|counts| counts.get(NAME) == Some(&wanted)).await.unwrap();
    }

    fn register(endpoint: &str) -> Request<RegisterRequest> {
        Request::new(RegisterRequest {
            version: "v1beta1".to_owned(),
            endpoint: endpoint.to_owned(),
            resource_name: NAME.to_owned(),
            options: None,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_plugin_comes_refuses_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, known) = (dir.path().join("x.sock"), dir.path().join("known.json"));
        let devices = Devices::open(dir.path().to_owned(), Some(known.clone()));
        let stop = CancellationToken::new();
        let served = stop.clone();
        let server = tokio::spawn(async move {
            socket::serve(&path, DevicePluginServer::new(Stubborn), served).await.unwrap();
        });
        assert!(devices.register(register("../x.sock")).await.is_err());
        devices.register(register("x.sock")).await.unwrap();
        counted(&devices, 1, 1).await;
        assert_eq!(read_known(&known), [NAME]);

        let spec: PodSpec =
            serde_norway::from_str("{containers: [{name: c, resources: {limits: {v.example/x: 1}}}]}")
                .unwrap();
        let wanted = devices.reserve("uid", &spec).unwrap();
        let refused = devices.allocate("uid", &wanted).await.unwrap_err();
        assert_eq!(refused, "rpc error: code = Unknown desc = it is mine");

        stop.cancel();
        server.await.unwrap();
        counted(&devices, 1, 0).await;
        let gone = tokio::time::Instant::now();
        counted(&devices, 0, 0).await;
        assert!(gone.elapsed() >= GONE_AFTER - Duration::from_secs(1), "{:?}", gone.elapsed());
        // The next agent knows the name, and that there are none.
        let next = Devices::open(dir.path().to_owned(), Some(known));
        counted(&next, 0, 0).await;
        assert!(next.reserve("uid", &spec).unwrap_err().starts_with("no healthy devices present"));
    }
}
