//! The words the runtime and its caller share: what to run, what runs, how it ended.
//!
//! Plain data with serde where it is kept on disk; behaviour is elsewhere. Not for: Kubernetes types.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{ids::IdRange, image::Image, log::Limits, rlimits::Rlimit};

/// Where the runtime keeps its things and which programs it starts.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Survives a reboot: images, upper layers of root file systems.
    pub state_dir: PathBuf,
    /// Does not survive a reboot: sockets, records, namespace pins.
    pub run_dir: PathBuf,
    /// The `orlop-shim` binary.
    pub shim: PathBuf,
    /// The program run as `<creator> create …`; it calls [`crate::create::create_main`] first thing.
    pub creator: PathBuf,
    /// Ids of the host for pods with a user namespace of their own; each gets a part.
    pub ids: IdRange,
    /// What processes of containers get, in place of this process's own. A hard limit above ours needs CAP_SYS_RESOURCE
    /// here and no user namespace of the pod's own; else it becomes ours.
    pub rlimits: Vec<Rlimit>,
    /// How large logs of containers may be.
    pub logs: Limits,
}

/// Which pod a sandbox belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodRef {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID: the identity; names directories and cgroups.
    pub uid: String,
}

/// What containers of a pod share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod.
    pub pod: PodRef,
    /// Host name inside the pod.
    pub hostname: String,
    /// Pod-level cgroup, relative to every hierarchy's mount point: `<root>/kubepods/burstable/pod<uid>`.
    pub cgroup: String,
    /// Limits of the pod-level cgroup.
    pub resources: Resources,
    /// Use the network namespace of this process instead of a new one.
    pub host_network: bool,
    /// Use the IPC namespace of this process.
    pub host_ipc: bool,
    /// Containers see the processes of the host.
    pub host_pid: bool,
    /// Containers see each other's processes, below a first process that does nothing else.
    #[serde(default)]
    pub share_pid: bool,
    /// A user namespace of its own, which the others belong to: root of the pod is nobody on the host. Goes with none of
    /// the host's namespaces above.
    #[serde(default)]
    pub user_namespace: bool,
    /// Its ids, where the caller chooses them; else those are the first free ones of [`RuntimeConfig::ids`].
    #[serde(default)]
    pub ids: Option<IdRange>,
    /// Namespaced sysctls, set once when the namespaces are made.
    pub sysctls: BTreeMap<String, String>,
    /// Kept with the sandbox and given back.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Limits of one cgroup, in the units of cgroup v1 and OCI. `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// 2…262144; translated to `cpu.weight` on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; −1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// Period in microseconds.
    pub cpu_period_us: Option<u64>,
    /// Bytes. −1 is no limit. Swap beyond it is not allowed unless `memory_swap` says so.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; −1 is no limit. Containers only.
    #[serde(default)]
    pub memory_swap: Option<i64>,
    /// Number of tasks; −1 is no limit.
    pub pids_limit: Option<i64>,
    /// Bytes of huge pages by their size (`2MB`, `1GB`).
    #[serde(default)]
    pub hugepages: BTreeMap<String, i64>,
    /// Processors, as a list (`0-3,7`).
    #[serde(default)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list.
    #[serde(default)]
    pub cpuset_mems: Option<String>,
    /// Files of v2 and what is written to them, after everything else (`memory.high`, `memory.min`, `memory.swap.max`).
    /// A machine without v2 goes without.
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
    /// −1000…1000; raised to the floor of this process where the kernel would refuse it. Containers only.
    pub oom_score_adj: Option<i32>,
}

/// A sandbox as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The pod.
    pub pod: PodRef,
    /// Pinned network namespace; `None` with the host's network.
    pub netns: Option<PathBuf>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether the shim answers. A dead shim means its containers are lost.
    pub shim_alive: bool,
    /// All containers with a record, dead ones too, oldest first.
    pub containers: Vec<Container>,
    /// As given when it was made, or by the last [`crate::Runtime::label_sandbox`].
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One container to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// What the pod asked for.
    pub image_ref: String,
    /// What it resolved to; shared by all containers of one image.
    pub image: Arc<Image>,
    /// Replaces the image's entrypoint (and then its `cmd` too) when not empty.
    pub command: Vec<String>,
    /// Replaces the image's `cmd` when not empty.
    pub args: Vec<String>,
    /// Added to and overriding the image's environment, in this order.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory.
    pub working_dir: Option<String>,
    /// Who it runs as, as far as it was said.
    pub user: UserRequest,
    /// Volumes and files of the host.
    pub mounts: Vec<Mount>,
    /// Images to be read, where there is nothing else of them.
    #[serde(default)]
    pub image_volumes: Vec<ImageVolume>,
    /// All capabilities and devices, nothing masked, no seccomp.
    pub privileged: bool,
    /// Nothing below `/proc` and `/sys` is masked or made read-only (`procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Devices of the host that it may use.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Names with or without `CAP_`; `ALL` is understood.
    pub add_capabilities: Vec<String>,
    /// Names with or without `CAP_`; `ALL` is understood. Applied before `add`.
    pub drop_capabilities: Vec<String>,
    /// Sees the processes of this container (by id) of the same pod, whose first process stays the first.
    pub process_target: Option<String>,
    /// Sets no_new_privs.
    pub no_new_privileges: bool,
    /// Mounts the root file system read-only.
    pub read_only_rootfs: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// AppArmor profile.
    #[serde(default)]
    pub apparmor: AppArmor,
    /// Limits of the container's cgroup.
    pub resources: Resources,
    /// A terminal for all three standard streams, the controlling one of its session.
    pub tty: bool,
    /// Keeps stdin open (without a writer it blocks) instead of `/dev/null`.
    pub stdin: bool,
    /// Closes it when the first that was attached to it leaves.
    pub stdin_once: bool,
    /// CRI log file; its directory is made.
    pub log_path: PathBuf,
    /// Kept with the container and given back.
    pub labels: BTreeMap<String, String>,
    /// Replaces the image's signal to stop.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Paths that are hidden; the usual ones if not said.
    #[serde(default)]
    pub masked_paths: Option<Vec<String>>,
    /// Paths that are read-only; the usual ones if not said.
    #[serde(default)]
    pub read_only_paths: Option<Vec<String>>,
}

/// Who a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
}

/// Who a container shall run as: what is not said is the image's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRequest {
    /// User id; else the image's user.
    pub uid: Option<u32>,
    /// A user of the image by name, where no id is said.
    #[serde(default)]
    pub name: Option<String>,
    /// Primary group; else the image's group, or that of the user in the image's passwd.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub additional_gids: Vec<u32>,
    /// Only these: the groups that the image gives its user do not count (supplementalGroupsPolicy Strict).
    pub strict: bool,
}

impl From<User> for UserRequest {
    fn from(User { uid, gid, additional_gids }: User) -> UserRequest {
        UserRequest { uid: Some(uid), name: None, gid: Some(gid), additional_gids, strict: false }
    }
}

/// A bind mount from the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host; a file or a directory that exists.
    pub source: PathBuf,
    /// Absolute path in the container.
    pub destination: PathBuf,
    /// Read-only.
    pub read_only: bool,
    /// Read-only with all that is mounted below it.
    pub recursive_read_only: bool,
    /// Which way later mounts travel.
    pub propagation: Propagation,
    /// In a pod with users of its own: its files keep the owners that they have on the host, who are nobody in there.
    #[serde(default)]
    pub keep_owners: bool,
}

/// A device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its node on the host, or a directory with several.
    pub host_path: PathBuf,
    /// Where the node, or the directory, is in the container.
    pub container_path: PathBuf,
    /// Of `r`, `w` and `m`: what may be done with it.
    pub permissions: String,
}

/// An image, or a part of it, to be read and run by a container: nothing of it can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolume {
    /// The image.
    pub image: Arc<Image>,
    /// A file or a directory of it; empty is all of it.
    pub sub_path: String,
    /// Absolute path in the container.
    pub destination: PathBuf,
}

/// Mount propagation in the words of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// `None`: private.
    #[default]
    Private,
    /// rslave.
    HostToContainer,
    /// rshared.
    Bidirectional,
}

/// Which system calls a container may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Our allow list, resolved for the container's capabilities.
    #[default]
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// An OCI/Docker JSON profile on the host.
    Localhost(PathBuf),
}

/// By which AppArmor profile a container is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// The default one where the machine has it, and none for privileged containers.
    #[default]
    Usual,
    /// The default one.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that is loaded into the kernel, by its name.
    Localhost(String),
}

/// A container as it is on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// 64 hex digits, the SHA-256 of pod UID, name and attempt.
    pub id: String,
    /// Name in the pod.
    pub name: String,
    /// Restart count.
    pub attempt: u32,
    /// What the pod asked for.
    pub image_ref: String,
    /// `sha256:<config digest>`.
    pub image_id: String,
    /// Who it runs as; not known until its image was looked at.
    pub user: Option<User>,
    /// It has a terminal of its own.
    pub tty: bool,
    /// CRI log file.
    pub log_path: PathBuf,
    /// Where it is in its life.
    pub state: ContainerState,
    /// As given at its start.
    pub labels: BTreeMap<String, String>,
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// There is a record, but no process was ever reported.
    Created,
    /// It runs.
    Running {
        /// Process id on the host.
        pid: u32,
        /// When the process was started.
        started_at: Timestamp,
    },
    /// It ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 + signal. 137 where nobody saw the end: the shim was lost, and the kernel (before 6.15) does not
    /// tell, or this process was not there either.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed a process of this container for want of memory.
    pub oom_killed: bool,
    /// When the process was started.
    pub started_at: Timestamp,
    /// When its end was seen.
    pub finished_at: Timestamp,
}

/// What the runtime tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended. May come twice (reconnects); the record is the truth.
    Exited {
        /// Pod UID.
        uid: String,
        /// Container id.
        container_id: String,
        /// How.
        exit: Exit,
    },
    /// The kernel killed a process for want of memory; the container may go on.
    Oom {
        /// Pod UID.
        uid: String,
        /// Container id.
        container_id: String,
    },
    /// The shim of a pod is gone, its containers with it; their ends were told before.
    ShimLost {
        /// Pod UID.
        uid: String,
    },
}

/// A command to run inside a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// Program and arguments; the program is looked up in the container's PATH.
    pub command: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<(String, String)>,
    /// After this the command and its children are killed.
    pub timeout: Option<Duration>,
    /// Bytes of output kept; the rest is read and thrown away.
    pub max_output: usize,
}

/// How a command inside a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit status, or 128 + signal.
    pub exit_code: i32,
    /// stdout and stderr, in the order they arrived.
    pub output: Vec<u8>,
}
