//! One error per operation of the runtime; a variant names the step.

use std::{fmt, io, path::PathBuf};

use orlop_shim::protocol::{Response, Step};

use crate::{
    api::User, apparmor::AppArmorError, cgroup::CgroupError, ids::IdRange, seccomp::SeccompError,
    spec::SpecError, sysctl::NotThePods,
};

/// An error of somebody else's type.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// [`crate::Runtime::open`].
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The run or state directory.
    #[error("prepare {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing to limit containers with.
    #[error("find the cgroup hierarchies")]
    Cgroups(#[source] io::Error),
    /// The image store.
    #[error("open the image store")]
    Images(#[source] BoxError),
}

/// Other limits for what runs.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// There is no such pod or container.
    #[error("{0} is not known")]
    Unknown(String),
    /// A record.
    #[error("read or write {}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused, or cannot limit this.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// A shim could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It does not answer.
    #[error("connect to the shim in {}", dir.display())]
    Connect {
        /// The pod's directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection ended before the answer.
    #[error("the shim of pod {0} is gone")]
    Lost(String),
    /// A pod that was started by an earlier version keeps its shim.
    #[error("the pod was started by an earlier version of orlop, whose shim cannot do this; a new pod can")]
    TooOld,
    /// It speaks otherwise.
    #[error("unexpected answer of the shim: {0:?}")]
    Unexpected(Response),
    /// It refused.
    #[error("{text}")]
    Refused {
        /// Where.
        step: Step,
        /// Why.
        text: String,
    },
}

/// Making and removing sandboxes.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It would lead elsewhere as a directory name.
    #[error("pod uid {0:?} cannot be a directory name")]
    Uid(String),
    /// A directory or record.
    #[error("write {}", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pod's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A kernel parameter that is the machine's.
    #[error(transparent)]
    Sysctl(#[from] NotThePods),
    /// `hostUsers: false` together with a namespace of the host.
    #[error("a pod with a user namespace of its own cannot use other namespaces of the host")]
    HostNamespace,
    /// The kernel cannot or shall not, or a file system cannot.
    #[error("can't set `spec.hostUsers: false`, runtime does not support user namespaces")]
    UserNamespaces(#[source] io::Error),
    /// All parts of the pool belong to pods.
    #[error("could not find an empty slot to allocate a user namespace: the node has ids for {pods} pods")]
    NoIds {
        /// How many parts there are.
        pods: u32,
    },
    /// Another pod has some of the ids that the caller chose.
    #[error("ids {} to {} for the pod's users: some are those of pod {pod}", range.first, range.last())]
    TakenIds {
        /// Those asked for.
        range: IdRange,
        /// UID of the other one.
        pod: String,
    },
    /// It was stopped, which cannot be undone.
    #[error("the pod's sandbox was stopped, and can only be removed")]
    Stopped,
    /// Network, IPC, UTS or user namespace.
    #[error("make the namespaces of the pod")]
    Namespaces(#[source] io::Error),
    /// The pod's shared memory.
    #[error("mount /dev/shm of the pod")]
    Shm(#[source] io::Error),
    /// The shim did not start.
    #[error("start the shim: {0}")]
    ShimStart(String),
    /// The shim does not answer.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// Some steps of a removal failed; the others were done.
    #[error("left behind: {}", .0.join("; "))]
    LeftBehind(Vec<String>),
}

/// Starting a container. The steps up to `Bundle` are what Kubernetes calls creating (CreateContainerError).
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such pod here.
    #[error("pod {0} has no sandbox")]
    NoSandbox(String),
    /// The layers of the image are not there.
    #[error("find the layers of image {image}")]
    Image {
        /// Its id.
        image: String,
        /// Why.
        source: BoxError,
    },
    /// An image cannot be mounted to be read, or has no such part.
    #[error("mount image volume at {}{}", destination.display(), of_part(sub_path))]
    ImageVolume {
        /// Where it was to be in the container.
        destination: PathBuf,
        /// The part of it; empty is all.
        sub_path: String,
        /// Why.
        source: io::Error,
    },
    /// Something that cannot be done was asked for.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The system call filter.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A device of the host.
    #[error("device {}", path.display())]
    Device {
        /// Its path on the host.
        path: PathBuf,
        /// Why it cannot be given to a container.
        source: io::Error,
    },
    /// The AppArmor profile.
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    /// A limit that this machine has no controller for.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The overlay.
    #[error("mount the root file system")]
    Rootfs(#[source] io::Error),
    /// A volume's path on the host.
    #[error("volume source {}", path.display())]
    VolumeSource {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Whose processes were to be seen.
    #[error("target container {0} is not running")]
    ProcessTarget(String),
    /// Files for creator and shim.
    #[error("write {}", path.display())]
    Bundle {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim does not answer.
    #[error(transparent)]
    Shim(ShimError),
    /// Namespaces, mounts, cgroups: libcontainer's words (RunContainerError).
    #[error("{0}")]
    Create(String),
    /// The program is not in the image (StartError, exit code 127 by convention).
    #[error("{0}")]
    NotFound(NotRun),
    /// The program may not be run or is none (StartError, 126 by convention).
    #[error("{0}")]
    NotExecutable(NotRun),
    /// The last steps before the program (StartError).
    #[error("{0}")]
    Start(NotRun),
}

/// A container was made, and its program did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRun {
    /// Why.
    pub text: String,
    /// Who it would have run as.
    pub user: Option<User>,
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StartError {
    /// The same error, with who the program would have run as.
    pub(crate) fn of_user(mut self, of: Option<User>) -> StartError {
        if let StartError::NotFound(not_run)
        | StartError::NotExecutable(not_run)
        | StartError::Start(not_run) = &mut self
        {
            not_run.user = of;
        }
        self
    }

    /// Whether the container was never created, in the sense of Kubernetes (CreateContainerError).
    pub fn before_create(&self) -> bool {
        match self {
            StartError::NoSandbox(_)
            | StartError::Image { .. }
            | StartError::ImageVolume { .. }
            | StartError::Spec(_)
            | StartError::Seccomp(_)
            | StartError::AppArmor(_)
            | StartError::Device { .. }
            | StartError::Cgroup(_)
            | StartError::Rootfs(_)
            | StartError::VolumeSource { .. }
            | StartError::ProcessTarget(_)
            | StartError::Bundle { .. } => true,
            StartError::Shim(_)
            | StartError::Create(_)
            | StartError::NotFound(_)
            | StartError::NotExecutable(_)
            | StartError::Start(_) => false,
        }
    }
}

impl From<ShimError> for StartError {
    fn from(error: ShimError) -> StartError {
        match error {
            ShimError::Refused { step, text } => match step {
                Step::NotFound => StartError::NotFound(NotRun { text, user: None }),
                Step::NotExecutable => StartError::NotExecutable(NotRun { text, user: None }),
                Step::Start => StartError::Start(NotRun { text, user: None }),
                Step::Create | Step::Shim | Step::NotRunning | Step::Protocol => StartError::Create(text),
            },
            other => StartError::Shim(other),
        }
    }
}

/// Stopping or signalling a container.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Not the name of a signal.
    #[error("unknown signal {0:?}")]
    Signal(String),
    /// The shim does not answer or refused.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// Removing a container.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// Only dead ones are removed.
    #[error("container {0} is running")]
    Running(String),
    /// Some steps failed; the others were done.
    #[error("left behind: {}", .0.join("; "))]
    LeftBehind(Vec<String>),
}

/// Running a command inside a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It does not run.
    #[error("{0}")]
    NotRunning(String),
    /// The command is not there or may not be run: probes count this as a failure of the command.
    #[error("{0}")]
    Command(String),
    /// Killed when its time was over; what it had written until then.
    #[error("command timed out")]
    Timeout(Vec<u8>),
    /// The shim does not answer, or could not enter the container.
    #[error(transparent)]
    Shim(ShimError),
    /// Pipes or a socket of this process.
    #[error("make the streams of the command")]
    Streams(#[source] io::Error),
}

impl From<ShimError> for ExecError {
    fn from(error: ShimError) -> ExecError {
        match error {
            ShimError::Refused { step: Step::NotRunning, text } => ExecError::NotRunning(text),
            ShimError::Refused { step: Step::NotFound | Step::NotExecutable, text } => {
                ExecError::Command(text)
            }
            other => ExecError::Shim(other),
        }
    }
}

fn of_part(sub_path: &str) -> String {
    if sub_path.is_empty() { String::new() } else { format!(": subPath {sub_path:?}") }
}
