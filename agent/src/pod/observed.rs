//! What is there of one pod, and what is under way.
//!
//! The planner reads it, the status is derived from it, and only `apply` and `started` (in `events`) change it.
//! After a restart of the agent it is rebuilt by [`Observed::adopt`] (in `adopt`) from what the runtime finds; decisions
//! are never stored. Not for: anything about other pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;

use super::{
    allocation::{Allocation, Granted},
    backoff::BackOff,
    desired::{Desired, Kind},
    ending::Ending,
    machine::{self, ContainerState, Exit, Image, Resources, User},
};

/// Label of our containers: the signal that stops them.
pub const LABEL_STOP_SIGNAL: &str = "orlop/stop-signal";
/// Label of our containers: the image's name as shown in the status.
pub const LABEL_IMAGE: &str = "orlop/image";
/// Label of our containers: the image's id as shown in the status.
pub const LABEL_IMAGE_ID: &str = "orlop/image-id";

/// Everything known about one pod on this node.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Namespaces, pod cgroup, shim.
    pub sandbox: Step<Option<PathBuf>>,
    /// Addresses; stays absent with the node's network.
    pub network: Step<Vec<IpAddr>>,
    /// Volumes on the node's file system.
    pub volumes: Step<Arc<Volumes>>,
    /// By name; a container that was never touched may be missing.
    /// Boxed: a map makes room for eleven at once, and most pods have one.
    pub containers: BTreeMap<String, Box<Instances>>,
    /// Longest time before a container is started again, if the operator says so.
    pub longest_restart: Option<Duration>,
    /// Pull back-off by image reference.
    pub pulls: BTreeMap<String, BackOff>,
    /// When this node first saw the pod.
    pub started_at: Option<Timestamp>,
    /// A terminal phase was told, which is for ever.
    pub over: bool,
    /// The API server confirmed a terminal phase with all containers ended.
    pub told_end: bool,
    /// Volumes of a pod that has ended are removed; its logs stay for those who ask why.
    pub cleared: bool,
    /// Volumes, directories and logs of the pod are removed.
    pub cleaned: bool,
    /// Everything on the node is gone and the API object was asked to go.
    pub delete_asked: bool,
    /// The event about the deadline was sent.
    pub told_deadline: bool,
    /// The sandbox was lost; it has to be removed before a new one is made.
    pub lost: bool,
    /// What is written down as granted; unknown before there is a sandbox.
    pub granted: Option<Allocation>,
    /// Other limits are being written.
    pub resizing: bool,
    /// Limits of what was found running are not looked at yet.
    pub unchecked: bool,
    /// Why the last change of limits failed.
    pub resize_trouble: Option<Trouble>,
    /// The node ends the pod.
    pub ending: Option<Box<Ending>>,
    /// When the API server said the pod is deleted by, and when that is as this node's clock goes since it was heard.
    pub deletion: Option<(Timestamp, Timestamp)>,
    /// Since when nothing of a pod that the node ends runs any more.
    pub quiet_since: Option<Timestamp>,
    /// The pod was refused: reason and text. Nothing was ever made for it.
    pub refused: Option<(String, String)>,
}

/// Something that is made once and undone once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step<T> {
    /// Nothing there.
    #[default]
    Absent,
    /// Being made.
    Making {
        /// How often it failed before, in a row.
        tries: u32,
    },
    /// There.
    Done(T),
    /// Could not be made.
    Failed {
        /// For users.
        message: String,
        /// When to try again.
        retry_at: Timestamp,
        /// How often it failed in a row.
        tries: u32,
    },
    /// Being removed.
    Undoing,
}

impl<T> Step<T> {
    /// The thing, if it is there.
    pub fn done(&self) -> Option<&T> {
        match self {
            Step::Done(value) => Some(value),
            _ => None,
        }
    }

    /// Work is under way.
    pub fn busy(&self) -> bool {
        matches!(self, Step::Making { .. } | Step::Undoing)
    }

    /// Nothing is there and nothing is under way.
    pub fn absent(&self) -> bool {
        matches!(self, Step::Absent)
    }

    /// How often it failed in a row.
    pub fn tries(&self) -> u32 {
        match self {
            Step::Failed { tries, .. } | Step::Making { tries } => *tries,
            _ => 0,
        }
    }
}

/// Volumes made for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Volumes {
    /// Path on the node by volume name.
    pub paths: BTreeMap<String, PathBuf>,
    /// Those that no container may write.
    pub read_only: BTreeSet<String>,
    /// Volumes that are devices.
    pub devices: BTreeMap<String, BlockDevice>,
    /// Groups that may use the volumes.
    pub gids: BTreeSet<i64>,
    /// When their content has to be looked at again (token rotation).
    pub refresh_at: Option<Timestamp>,
    /// Persistent volumes that use what they have grown by, since this time.
    pub grown: Vec<String>,
}

/// A volume without a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its node on the host.
    pub path: PathBuf,
    /// No container may write to it.
    pub read_only: bool,
}

/// The instances of one container: the one that counts and the one before.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    /// The newest instance of this sandbox, running or ended.
    pub current: Option<Instance>,
    /// The last ended instance before `current`.
    pub last: Option<Instance>,
    /// Number of the next instance.
    pub next_attempt: u32,
    /// The image for the next instance.
    pub image: ImageState,
    /// The image that could not be had last: its own, or a volume's.
    pub missing_image: Option<String>,
    /// A start is under way.
    pub starting: bool,
    /// The postStart hook of the current instance goes on; the next container waits for it, an end does not.
    pub hook: bool,
    /// Why the last start failed.
    pub trouble: Option<Trouble>,
    /// Restart back-off.
    pub backoff: Option<BackOff>,
    /// Since when the current instance is over; the back-off counts from there.
    pub ended_at: Option<Timestamp>,
    /// The back-off in force was told to users.
    pub told_backoff: bool,
    /// When the grace period of the stop under way ends.
    pub stopping: Option<Timestamp>,
    /// Ended instances to be removed.
    pub garbage: Vec<String>,
    /// An older instance is being removed.
    pub removing: bool,
}

/// The image for the next instance of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageState {
    /// Not looked for since the last instance.
    #[default]
    Unknown,
    /// Looked for, or pulled.
    Ensuring {
        /// What the pod asked for.
        reference: String,
    },
    /// On this node.
    Ready {
        /// What the pod asked for.
        reference: String,
        /// What it resolved to, and those of its volumes.
        images: Images,
    },
    /// Not to be had.
    Failed {
        /// What the pod asked for.
        reference: String,
        /// When.
        at: Timestamp,
    },
}

/// What a container is made from: its image, and those that it mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Its own.
    pub own: Arc<Image>,
    /// It was fetched just now, which users were told.
    pub pulled: bool,
    /// Of the volumes that it mounts.
    pub volumes: Vec<VolumeImage>,
}

/// The image of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeImage {
    /// Name of the volume.
    pub volume: String,
    /// What the pod asked for.
    pub reference: String,
    /// What it resolved to.
    pub image: Arc<Image>,
    /// It was fetched just now, which users were told.
    pub pulled: bool,
}

/// Why a container has no image, or no image of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageTrouble {
    /// Which one, as the pod asked for it.
    pub reference: String,
    /// `ErrImagePull` …
    pub reason: &'static str,
    /// Text for users.
    pub message: String,
}

/// One run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// 64 hex digits.
    pub id: String,
    /// Restart count.
    pub attempt: u32,
    /// What the pod asked for at the time.
    pub image_ref: String,
    /// For the status.
    pub image: String,
    /// For the status.
    pub image_id: String,
    /// Who its first process runs as.
    pub user: Option<User>,
    /// The signal that stops it, if the image names one.
    pub stop_signal: Option<String>,
    /// CRI log file.
    pub log_path: PathBuf,
    /// Running or ended.
    pub life: Life,
    /// The startup probe passed, or there is none.
    pub started: bool,
    /// Result of the readiness probe; `None` before its first result.
    pub ready: Option<bool>,
    /// A liveness or startup probe gave up on it.
    pub unhealthy: Option<Unhealthy>,
    /// It is ended so that a new one can take its place: another image, or limits that need it.
    pub replaced: bool,
    /// What its limits follow from; unknown for one of an earlier version.
    pub granted: Option<Granted>,
    /// Its limits as the kernel had them when they were last looked at.
    pub limits: Option<Resources>,
}

/// Which probe gave up on a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unhealthy {
    /// The liveness probe.
    Liveness,
    /// The startup probe.
    Startup,
    /// The postStart hook.
    PostStart,
}

/// Running or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended.
    Ended(Ended),
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit status, signal, times.
    pub exit: Exit,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// Termination message.
    pub message: Option<String>,
}

/// Why a container does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// `ErrImagePull`, `CreateContainerConfigError` …
    pub reason: &'static str,
    /// Text for users.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
    /// Not before this.
    pub retry_at: Timestamp,
    /// How often in a row.
    pub tries: u32,
}

impl Instance {
    /// Whether it runs.
    pub fn running(&self) -> bool {
        matches!(self.life, Life::Running { .. })
    }

    /// How it ended.
    pub fn ended(&self) -> Option<&Ended> {
        match &self.life {
            Life::Ended(ended) => Some(ended),
            Life::Running { .. } => None,
        }
    }
}

impl Ended {
    /// With the reason that follows from the exit.
    pub fn from_exit(exit: Exit, message: Option<String>) -> Ended {
        let reason = match &exit {
            Exit { oom_killed: true, code, .. } if *code != 0 => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        Ended { exit, reason: reason.into(), message }
    }

    /// An init container that ended like this lets the next one start.
    pub fn succeeded(&self) -> bool {
        self.exit.code == 0 && self.reason != "OOMKilled"
    }
}

impl Instances {
    /// The instance that speaks for the container. After the loss of a sandbox everything starts anew, except
    /// what has ended well and must not run twice.
    pub fn effective(&self, desired: &Desired, kind: Kind, container: &Container) -> Option<&Instance> {
        let keeps = |last: &&Instance| match kind {
            Kind::Regular => last.ended().is_some() && !desired.follows(kind, container, last),
            Kind::Ephemeral => true,
            Kind::Init | Kind::Sidecar => false,
        };
        self.current.as_ref().or_else(|| self.last.as_ref().filter(keeps))
    }

    /// The image that could not be had last; `own` is the container's.
    pub fn missing_image<'a>(&'a self, own: &'a str) -> &'a str {
        self.missing_image.as_deref().unwrap_or(own)
    }

    /// The running instance.
    pub fn running(&self) -> Option<&Instance> {
        self.current.as_ref().filter(|instance| instance.running())
    }

    /// The running instance, once its postStart hook has passed.
    pub fn up(&self) -> Option<&Instance> {
        let hooked = !self.starting && !self.hook;
        self.running().filter(|instance| hooked && instance.unhealthy != Some(Unhealthy::PostStart))
    }

    /// How the newest instance ended, if it did.
    pub fn ended(&self) -> Option<&Ended> {
        self.current.as_ref()?.ended()
    }
}

static UNTOUCHED: std::sync::LazyLock<Instances> = std::sync::LazyLock::new(Instances::default);

impl Observed {
    /// A container; one that was never touched looks untouched.
    pub fn container(&self, name: &str) -> &Instances {
        self.containers.get(name).map_or(&UNTOUCHED, |instances| &**instances)
    }

    /// The container whose current instance has this id.
    pub fn name_of(&self, id: &str) -> Option<&str> {
        let has =
            |instances: &Instances| instances.current.as_ref().is_some_and(|instance| instance.id == id);
        self.containers.iter().find(|(_, instances)| has(instances)).map(|(name, _)| &**name)
    }

    /// Some container runs or may be about to.
    pub fn anything_runs(&self) -> bool {
        self.containers.values().any(|c| c.starting || c.running().is_some())
    }
}

/// A container counts as started at once unless a startup probe has to say so.
pub fn started_without_probe(desired: &Desired, kind: Option<Kind>, name: &str) -> bool {
    let probed = kind != Some(Kind::Init)
        && desired.container(name).is_some_and(|(_, container)| container.startup_probe.is_some());
    !probed
}

impl Instance {
    /// From what the runtime says.
    pub fn new(container: machine::Container, started: bool) -> Instance {
        let machine::Container {
            id, attempt, image_ref, image_id, user, log_path, state, mut labels, ..
        } = container;
        let life = match state {
            ContainerState::Created => Life::Running { started_at: Timestamp::UNIX_EPOCH },
            ContainerState::Running { started_at, .. } => Life::Running { started_at },
            ContainerState::Exited(exit) => Life::Ended(Ended::from_exit(exit, None)),
        };
        Instance {
            granted: Granted::from_labels(&labels),
            limits: None,
            id,
            attempt,
            image: labels.remove(LABEL_IMAGE).unwrap_or_else(|| image_ref.clone()),
            image_id: labels.remove(LABEL_IMAGE_ID).unwrap_or(image_id),
            image_ref,
            user,
            stop_signal: labels.remove(LABEL_STOP_SIGNAL),
            log_path,
            life,
            started,
            ready: None,
            unhealthy: None,
            replaced: false,
        }
    }
}
