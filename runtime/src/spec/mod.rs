//! From what a caller asks for to what the creator and the last steps before exec need. Pure.
//!
//! Not for: reading the image's files, asking the kernel what it can do, or writing the bundle: all of that comes in
//! as [`Host`] and goes out as [`Bundle`].

pub mod capabilities;
mod mounts;
pub mod plan;
mod process;
pub mod user;

use std::path::PathBuf;

use orlop_shim::records::ProcessSpec;
use serde::{Deserialize, Serialize};

use self::{
    capabilities::{Capabilities, UnknownCapability},
    plan::{Hierarchy, Plan, Users},
    user::{Accounts, UserError},
};
use crate::{
    api::{ContainerSpec, Propagation, User},
    devices::Rule,
};

/// What the machine and the sandbox bring.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Host name in the pod.
    pub hostname: String,
    /// Mount point of the root file system.
    pub rootfs: PathBuf,
    /// Directory of all pods.
    pub pods: PathBuf,
    /// Pinned network namespace, if the pod has its own.
    pub netns: Option<PathBuf>,
    /// Pinned IPC namespace.
    pub ipcns: Option<PathBuf>,
    /// Pinned UTS namespace.
    pub utsns: Option<PathBuf>,
    /// The pod's user namespace, if it has its own.
    pub users: Option<Users>,
    /// Containers see the processes of the host.
    pub host_pid: bool,
    /// The process namespace to be in, if it is not to be a new one.
    pub pidns: Option<PathBuf>,
    /// The pod's `/dev/shm`.
    pub shm: Option<PathBuf>,
    /// Files of the container's cgroups and what is written to them.
    pub limits: Vec<(PathBuf, String)>,
    /// Cgroup hierarchies, as the container sees them.
    pub hierarchies: Vec<Hierarchy>,
    /// Where the container's image volumes are, in their order.
    pub images: Vec<PathBuf>,
    /// Accounts of the image.
    pub accounts: Accounts,
    /// Compiled filter; empty is none.
    pub seccomp: String,
    /// AppArmor profile; empty is none.
    pub apparmor: String,
    /// What this process may give away.
    pub capabilities: Capabilities,
    /// Lowest `oom_score_adj` the kernel lets us set.
    pub oom_floor: i32,
    /// Number, soft and hard value.
    pub rlimits: Vec<(u32, u64, u64)>,
    /// Devices of the host, for privileged containers.
    pub devices: Vec<DeviceNode>,
    /// Those that the container asked for.
    pub asked: Vec<AskedDevice>,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    /// Absolute path.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A device of the host that a container asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedDevice {
    /// Its node on the host.
    pub source: PathBuf,
    /// What it is; the path is the container's.
    pub node: DeviceNode,
    /// What may be done with it.
    pub rule: Rule,
}

/// Nodes that every container has.
const USUAL: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/tty", "/dev/random", "/dev/urandom", "/dev/console"];

impl AskedDevice {
    /// Whether the host's node is bound in place of one of its own: who has users of its own can make none, and only below
    /// `/dev` is it certain that no link of the image leads elsewhere.
    fn is_bound(&self, host: &Host) -> bool {
        let at = self.node.path.as_str();
        host.users.is_some() || !at.starts_with("/dev/") || USUAL.contains(&at)
    }
}

/// What is written into the bundle directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// `plan.json`.
    pub plan: Plan,
    /// `process`.
    pub process: ProcessSpec,
    /// Who the container runs as.
    pub user: User,
}

/// A request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither image nor container name a program.
    #[error("no command specified")]
    NoCommand,
    /// User or group of the image.
    #[error(transparent)]
    User(#[from] UserError),
    /// In add or drop.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    /// The pod's user namespace has no such id.
    #[error("{what} {id} is not among the ids 0 to {last} of the pod's user namespace")]
    Unmapped {
        /// `user` or `group`.
        what: &'static str,
        /// The id.
        id: u32,
        /// The highest one there is.
        last: u32,
    },
}

/// The capabilities a container ends up with.
pub fn capabilities(spec: &ContainerSpec, host: Capabilities) -> Result<Capabilities, UnknownCapability> {
    let wanted = Capabilities::resolve(&spec.add_capabilities, &spec.drop_capabilities)?;
    Ok(if spec.privileged { host } else { wanted.and(host) })
}

/// Builds both files.
pub fn bundle(spec: &ContainerSpec, host: &Host) -> Result<Bundle, SpecError> {
    let args = process::arguments(&spec.command, &spec.args, &spec.image.config);
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let resolved = host.accounts.resolve(&spec.user, &spec.image.config.user)?;
    if let Some(users) = &host.users {
        mapped(&resolved.user, users)?;
    }
    let capabilities = capabilities(spec, host.capabilities)?;
    let process = ProcessSpec {
        args,
        env: process::environment(spec, &host.hostname, &resolved.home),
        cwd: process::directory(spec),
        uid: resolved.user.uid,
        gid: resolved.user.gid,
        groups: resolved.user.additional_gids.clone(),
        capabilities: capabilities.0,
        no_new_privs: spec.no_new_privileges,
        seccomp: host.seccomp.clone(),
        apparmor: host.apparmor.clone(),
        oom_score_adj: spec.resources.oom_score_adj.map(|score| score.max(host.oom_floor)),
        rlimits: host.rlimits.clone(),
    };
    Ok(Bundle { plan: plan(spec, host), process, user: resolved.user })
}

fn mapped(User { uid, gid, additional_gids }: &User, users: &Users) -> Result<(), SpecError> {
    let groups = [gid].into_iter().chain(additional_gids).map(|gid| ("group", gid));
    let missing = |(what, id): (&'static str, &u32)| (*id >= users.ids.count).then_some((what, *id));
    match [("user", uid)].into_iter().chain(groups).find_map(missing) {
        Some((what, id)) => Err(SpecError::Unmapped { what, id, last: users.ids.count.saturating_sub(1) }),
        None => Ok(()),
    }
}

fn plan(spec: &ContainerSpec, host: &Host) -> Plan {
    let none = spec.privileged || spec.unmasked_proc;
    let paths = |said: &Option<Vec<String>>, usual: &[&str]| match said {
        Some(said) => said.clone(),
        None if none => Vec::new(),
        None => usual.iter().map(|path| (*path).to_owned()).collect(),
    };
    Plan {
        rootfs: host.rootfs.clone(),
        pods: host.pods.clone(),
        namespaces: [&host.netns, &host.ipcns, &host.utsns].into_iter().flatten().cloned().collect(),
        users: host.users.clone(),
        host_pid: host.host_pid,
        pidns: host.pidns.clone(),
        limits: host.limits.clone(),
        hierarchies: host.hierarchies.clone(),
        usual_devices: !spec.privileged,
        allowed: host.asked.iter().map(|device| device.rule.clone()).collect(),
        devices: devices(spec, host),
        mounts: mounts::table(spec, host.shm.as_deref(), &host.images, &bound(host)),
        shared_root: spec.mounts.iter().any(|mount| mount.propagation == Propagation::Bidirectional),
        masked: paths(&spec.masked_paths, &mounts::MASKED),
        read_only: paths(&spec.read_only_paths, &mounts::READ_ONLY),
        read_only_root: spec.read_only_rootfs,
        terminal: spec.tty,
    }
}

/// One node at each path: what was asked for takes the place of what is there anyway.
fn devices(spec: &ContainerSpec, host: &Host) -> Vec<DeviceNode> {
    let asked = |path: &String| host.asked.iter().any(|device| device.node.path == *path);
    let all = host.devices.iter().filter(|node| spec.privileged && !asked(&node.path));
    let own = host.asked.iter().filter(|device| !device.is_bound(host)).map(|device| &device.node);
    all.chain(own).cloned().collect()
}

fn bound(host: &Host) -> Vec<(String, PathBuf)> {
    let bound = host.asked.iter().filter(|device| device.is_bound(host));
    bound.map(|device| (device.node.path.clone(), device.source.clone())).collect()
}

#[cfg(test)]
mod tests;
