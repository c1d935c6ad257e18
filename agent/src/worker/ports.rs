//! The doors of the pod workers to the outside world, each a small trait with a fake beside it (`fakes`).
//!
//! Methods return boxed futures so that the composition root can hand over trait objects: every call here costs
//! milliseconds of kernel work, an allocation does not show. Texts inside errors end up verbatim in pod statuses and
//! events, where users search for them: an adapter prints the whole chain of causes into them, without ids and paths
//! that differ from run to run.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service};

pub use crate::pod::machine::{
    Attached, Container, ContainerSpec, ContainerState, ExecOutput, ExecRequest, Exit, Image, ImageConfig,
    Keyring, Mount, PodRef, Propagation, Resources, RuntimeEvent, Sandbox, SandboxSpec, Seccomp, User,
    Wishes,
};

pub use crate::pod::{observed::Volumes, refs::ObjectRef};
use crate::{exclusive::Exclusive, pod::container::MountPlan};

/// Sandboxes and containers. Every method is idempotent: it is named after the end state.
pub trait Runtime: Send + Sync {
    /// All sandboxes on this machine.
    fn pods(&self) -> BoxFuture<'_, Vec<Sandbox>>;
    /// Makes the sandbox, or returns the one that exists.
    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, Failure>>;
    /// Kills what is left and removes every trace.
    fn remove_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
    /// Creates and starts the container, or returns the one with this name and attempt.
    fn start_container<'a>(
        &'a self,
        uid: &'a str,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<Container, StartFailure>>;
    /// Asks for the end: signal, grace, SIGKILL. The end itself arrives as [`RuntimeEvent::Exited`].
    fn stop_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        signal: Option<&'a str>,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), Failure>>;
    /// Removes a dead container; its log stays.
    fn remove_container<'a>(&'a self, uid: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
    /// What a container, or its pod as a whole, is limited to as the kernel says it.
    fn limits<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<Resources, Failure>>;
    /// Bytes of memory that a container, or its pod as a whole, uses.
    fn memory_usage<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<u64, Failure>>;
    /// Changes limits of a container that runs, and adds to its labels.
    fn update_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        limits: &'a Resources,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>>;
    /// Changes limits of a pod as a whole.
    fn update_pod<'a>(&'a self, uid: &'a str, limits: &'a Resources) -> BoxFuture<'a, Result<(), Failure>>;
    /// Adds to the labels of a sandbox; they are on disk when this returns.
    fn label_sandbox<'a>(
        &'a self,
        uid: &'a str,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>>;
    /// Runs a command in a container and waits for its end.
    fn exec<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<ExecOutput, ExecFailure>>;
}

/// Images on this machine and from registries.
pub trait Images: Send + Sync {
    /// The image, if it is here. References are normalized (`nginx` is `docker.io/library/nginx:latest`).
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageFailure>>;
    /// Whether a pod with these credentials may use what is here without a pull of its own.
    fn allowed<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a Keyring,
    ) -> BoxFuture<'a, Result<bool, ImageFailure>>;
    /// Fetches the image: with the pod's credentials, then the node's, then none.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a Keyring,
    ) -> BoxFuture<'a, Result<Pulled, ImageFailure>>;
}

/// A pull that worked.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// How long it took, once its turn had come.
    pub took: Duration,
}

/// The pod network.
pub trait Network: Send + Sync {
    /// Connects the pod's network namespace; idempotent.
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        wishes: &'a Wishes,
        netns: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>>;
    /// Disconnects it; idempotent, works when the namespace is gone.
    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>>;
    /// UIDs of the pods that hold addresses, with them.
    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>>;
    /// Why pods cannot be attached now.
    fn ready(&self) -> Result<(), Failure>;
    /// Whether it opens ports of the host itself.
    fn opens_ports(&self) -> bool {
        false
    }
}

/// Objects that pods refer to. Each is asked for on behalf of a pod, and is in that pod's namespace.
pub trait Objects: Send + Sync {
    /// A ConfigMap as fresh as the last change that was announced.
    fn config_map<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>>;
    /// A Secret likewise.
    fn secret<'a>(
        &'a self,
        pod: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>>;
    /// A service-account token bound to the pod.
    fn token<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<Token, ObjectFailure>>;
    /// The Services of the pod's namespace; `None` before the first list.
    fn services(&self, pod: &PodRef) -> Option<Vec<Arc<Service>>>;
    /// The Service of the API itself, if there is one.
    fn kubernetes(&self) -> Option<Arc<Service>>;
    /// The objects a pod uses from now on (replaces what was said before; empty releases them). Their changes are
    /// announced through the channel the implementation was built with.
    fn follow(&self, uid: &str, objects: BTreeSet<ObjectRef>);
}

/// Volumes and files of pods on the node's disk. [`crate::volume::Disk`] is the real one.
pub trait PodFiles: Send + Sync {
    /// Makes all volumes of the pod, or brings their content up to date.
    fn make_volumes(&self, pod: Arc<Pod>) -> BoxFuture<'_, Result<Volumes, Vec<VolumeFailure>>>;
    /// Everything a container sees mounted: volumes with their sub paths, hosts, resolv.conf, termination log.
    fn mounts<'a>(&'a self, request: MountRequest<'a>) -> BoxFuture<'a, Result<Vec<Mount>, String>>;
    /// The text of a file in a volume; nothing where there is none.
    fn read<'a>(
        &'a self,
        volumes: &'a Volumes,
        volume: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>>;
    /// What an ended container left as its last words.
    fn last_words<'a>(&'a self, request: LastWords<'a>) -> BoxFuture<'a, Option<String>>;
    /// Removes volumes and directory of the pod.
    fn clear_volumes<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>>;
    /// Removes volumes, directory and logs of the pod.
    fn remove_pod<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>>;
    /// UIDs of pods that have a directory here.
    fn pods(&self) -> BoxFuture<'_, Vec<String>>;
}

/// A volume could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeFailure {
    /// Of the event.
    pub reason: &'static str,
    /// What the event says.
    pub text: String,
    /// What went wrong, without the volume.
    pub error: String,
}

/// For [`PodFiles::mounts`].
pub struct MountRequest<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a k8s_openapi::api::core::v1::Container,
    /// Restart count.
    pub attempt: u32,
    /// Its volume mounts.
    pub plans: &'a [MountPlan],
    /// The pod's volumes.
    pub volumes: &'a Volumes,
    /// The pod's addresses.
    pub pod_ips: &'a [IpAddr],
}

/// For [`PodFiles::last_words`].
pub struct LastWords<'a> {
    /// The pod.
    pub pod: &'a PodRef,
    /// The container.
    pub container: &'a k8s_openapi::api::core::v1::Container,
    /// Restart count.
    pub attempt: u32,
    /// Whether it failed (the log may stand in then).
    pub failed: bool,
    /// CRI log file.
    pub log_path: &'a Path,
}

/// Wall-clock time. Waiting is tokio's, so that tests can pause it.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Where events for users go; never waits.
pub trait EventSink: Send + Sync {
    /// Queues the event; drops it if the queue is full.
    fn record(&self, event: PodEvent);
}

/// Where statuses go; never waits. Confirmation comes back as [`Written`].
pub trait StatusSink: Send + Sync {
    /// Replaces the status to be written for this pod.
    fn publish(&self, pod: &Arc<Pod>, status: Arc<PodStatus>);
    /// Deletes the API object (grace 0, this UID) after the last published status was written.
    fn delete(&self, pod: &Arc<Pod>);
    /// The pod is gone from the API: forget it.
    fn forget(&self, uid: &str);
}

/// A status that reached the API server.
#[derive(Clone, Debug)]
pub struct Written {
    /// Pod UID.
    pub uid: String,
    /// What was written.
    pub status: Arc<PodStatus>,
}

/// An operation failed; the text is for users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

/// At which step a container did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    /// The request itself cannot be met (`CreateContainerConfigError`).
    #[error("{0}")]
    Config(String),
    /// Root file system, mounts, cgroup, namespaces (`CreateContainerError`).
    #[error("{0}")]
    Create(String),
    /// The program could not be started (`RunContainerError`, exit code 128, `StartError`).
    #[error("{text}")]
    Run {
        /// Why.
        text: String,
        /// Who it would have run as.
        user: Option<User>,
    },
}

/// A command in a container could not be run or did not end in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExecFailure {
    /// Killed after the time-out; what it had written until then.
    #[error("command timed out")]
    TimedOut {
        /// Output so far.
        output: Vec<u8>,
    },
    /// It could not be run at all.
    #[error("{0}")]
    NotRun(String),
}

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageFailure {
    /// The reference cannot be parsed.
    #[error("{0}")]
    InvalidName(String),
    /// The store cannot tell.
    #[error("{0}")]
    Inspect(String),
    /// The registry refused or cannot be reached.
    #[error("{0}")]
    Pull(String),
}

/// Why there is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectFailure {
    /// `configmap "x" not found`.
    #[error("{kind} \"{name}\" not found")]
    NotFound {
        /// Lower case: configmap, secret, serviceaccount.
        kind: &'static str,
        /// Name of the object.
        name: String,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// A wish for a service-account token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The pod it is bound to.
    pub pod: PodRef,
    /// The service account, in the pod's namespace.
    pub service_account: String,
    /// `None`: the API server's own.
    pub audience: Option<String>,
    /// Wished life.
    pub expiration_seconds: i64,
}

/// A service-account token.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Token {
    /// The JWT.
    pub token: String,
    /// As the API server reports it.
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// An event about a pod.
#[derive(Clone, Debug)]
pub struct PodEvent {
    /// The pod.
    pub pod: Arc<Pod>,
    /// `spec.containers{name}`, `spec.initContainers{name}` …, if it is about one container.
    pub field_path: Option<String>,
    /// Warning rather than Normal.
    pub warning: bool,
    /// `Pulled`, `Killing` …
    pub reason: &'static str,
    /// Text for users.
    pub message: String,
    /// For programs that read it.
    pub annotations: BTreeMap<String, String>,
}

/// All doors together, as every worker holds them.
#[derive(Clone)]
pub struct Ports {
    /// Sandboxes and containers.
    pub runtime: Arc<dyn Runtime>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Pod network.
    pub network: Arc<dyn Network>,
    /// Volumes and files.
    pub files: Arc<dyn PodFiles>,
    /// API objects.
    pub objects: Arc<dyn Objects>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Events for users.
    pub events: Arc<dyn EventSink>,
    /// Statuses.
    pub statuses: Arc<dyn StatusSink>,
    /// What single containers have for themselves.
    pub exclusive: Arc<Exclusive>,
}
