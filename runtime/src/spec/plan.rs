//! What the creator does around libcontainer, as data: the content of a bundle's `plan.json`. Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DeviceNode;
use crate::{api::Propagation, devices::Rule, ids::IdRange};

/// Everything about one container but its program (that is `process`) and the list of its cgroup directories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Mount point of the root file system, on the host.
    pub rootfs: PathBuf,
    /// The pods' directory: its mounts are nobody's business but their pod's.
    pub pods: PathBuf,
    /// Namespaces of the pod, pinned there.
    pub namespaces: Vec<PathBuf>,
    /// The pod has users of its own.
    #[serde(default)]
    pub users: Option<Users>,
    /// Processes of the host are in sight.
    pub host_pid: bool,
    /// The process namespace to be in; else it is a new one.
    pub pidns: Option<PathBuf>,
    /// Files of the container's cgroups and what is written to them, in this order.
    pub limits: Vec<(PathBuf, String)>,
    /// What the container sees of its cgroups.
    pub hierarchies: Vec<Hierarchy>,
    /// Only the usual devices may be opened, and those below.
    pub usual_devices: bool,
    /// What is allowed besides.
    #[serde(default)]
    pub allowed: Vec<Rule>,
    /// Nodes of the host's devices.
    pub devices: Vec<DeviceNode>,
    /// Mounted one after the other.
    pub mounts: Vec<Mount>,
    /// Mounts made by the container below a volume reach the host: its root is shared then, as other runtimes have it.
    pub shared_root: bool,
    /// Hidden, where they exist.
    pub masked: Vec<String>,
    /// Made read-only, where they exist.
    pub read_only: Vec<String>,
    /// Nothing of the root file system can be changed.
    pub read_only_root: bool,
    /// Its standard streams are a terminal of its own, which is `/dev/console` too.
    pub terminal: bool,
}

/// Users of a pod that are other ones on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// The user namespace, pinned there.
    pub namespace: PathBuf,
    /// Its map.
    pub ids: IdRange,
}

impl Plan {
    /// The pod's root, as the host calls it.
    pub fn root(&self) -> u32 {
        self.users.as_ref().map_or(0, |users| users.ids.first)
    }
}

/// A cgroup hierarchy as a container sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Name of the directory below `/sys/fs/cgroup`; empty is that itself.
    pub name: String,
    /// What is there.
    pub of: Whose,
}

/// Which directory of a hierarchy it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whose {
    /// The container's own.
    Own(PathBuf),
    /// The creator's, below this mount point of the hierarchy of that name.
    Creators(String, PathBuf),
}

/// One mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, inside the container.
    pub at: String,
    /// What is mounted.
    pub what: What,
    /// With which restrictions; a bind keeps those it has besides.
    pub flags: Vec<Flag>,
}

/// The content of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// An instance of a kernel file system in the container's namespaces, with parameters; an empty value is none.
    New(String, Vec<(String, String)>),
    /// A file or a directory of the host with all that is mounted below it.
    Bind(PathBuf, Propagation),
    /// The same with the owners that its files have, whoever the pod's users are.
    AsIs(PathBuf, Propagation),
    /// The container's own cgroups, as they are laid out on the host.
    Cgroups,
}

/// A restriction of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flag {
    /// `ro`
    ReadOnly,
    /// The same, also of all that is mounted below.
    RecursiveReadOnly,
    /// `nosuid`
    NoSuid,
    /// `nodev`
    NoDev,
    /// `noexec`
    NoExec,
    /// `strictatime`
    StrictAtime,
}
