//! From what a caller asks for to what libcontainer and the last steps before exec need. Pure.
//!
//! Not for: reading the image's files, asking the kernel what it can do, or writing the bundle: all of that comes in
//! as [`Host`] and goes out as [`Bundle`].

pub mod capabilities;
mod mounts;
mod process;
pub mod user;

use std::path::{Path, PathBuf};

use orlop_shim::records::ProcessSpec;
use serde_json::{Value, json};

use self::{
    capabilities::{Capabilities, UnknownCapability},
    user::{Accounts, UserError},
};
use crate::api::{ContainerSpec, Resources};

/// What the machine and the sandbox bring.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Host name in the pod.
    pub hostname: String,
    /// Mount point of the root file system.
    pub rootfs: PathBuf,
    /// Pinned network namespace, if the pod has its own.
    pub netns: Option<PathBuf>,
    /// Pinned IPC namespace.
    pub ipcns: Option<PathBuf>,
    /// Pinned UTS namespace.
    pub utsns: Option<PathBuf>,
    /// Containers see the processes of the host.
    pub host_pid: bool,
    /// The pod's `/dev/shm`.
    pub shm: Option<PathBuf>,
    /// Cgroup of the container, relative to the hierarchies' mount points.
    pub cgroup: String,
    /// Accounts of the image.
    pub accounts: Accounts,
    /// Compiled filter; empty is none.
    pub seccomp: String,
    /// What this process may give away.
    pub capabilities: Capabilities,
    /// Lowest `oom_score_adj` the kernel lets us set.
    pub oom_floor: i32,
    /// Whether the kernel limits swap (`memory.memsw` or v2).
    pub swap_limit: bool,
    /// Whether memory is limited by cgroup v2.
    pub memory_v2: bool,
    /// Devices of the host, for privileged containers.
    pub devices: Vec<DeviceNode>,
}

/// A device node of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What is written into the bundle directory.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// `config.json`.
    pub config: Value,
    /// `process`.
    pub process: ProcessSpec,
}

/// A request that cannot be met.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither image nor container name a program.
    #[error("no command specified")]
    NoCommand,
    /// Terminals come later.
    #[error("container {0} asks for a tty, which is not supported yet")]
    Tty(String),
    /// User or group of the image.
    #[error(transparent)]
    User(#[from] UserError),
    /// In add or drop.
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
}

/// The capabilities a container ends up with.
pub fn capabilities(spec: &ContainerSpec, host: Capabilities) -> Result<Capabilities, UnknownCapability> {
    let wanted = Capabilities::resolve(&spec.add_capabilities, &spec.drop_capabilities)?;
    Ok(if spec.privileged { host } else { wanted.and(host) })
}

/// Builds both files.
pub fn bundle(spec: &ContainerSpec, host: &Host) -> Result<Bundle, SpecError> {
    if spec.tty {
        return Err(SpecError::Tty(spec.name.clone()));
    }
    let args = process::arguments(&spec.command, &spec.args, &spec.image.config);
    if args.is_empty() {
        return Err(SpecError::NoCommand);
    }
    let resolved = host.accounts.resolve(spec.user.as_ref(), &spec.image.config.user)?;
    let capabilities = capabilities(spec, host.capabilities)?;
    let process = ProcessSpec {
        args,
        env: process::environment(spec, &host.hostname, &resolved.home),
        cwd: process::directory(spec),
        uid: resolved.user.uid,
        gid: resolved.user.gid,
        groups: resolved.user.additional_gids,
        capabilities: capabilities.0,
        no_new_privs: spec.no_new_privileges,
        seccomp: host.seccomp.clone(),
        oom_score_adj: spec.resources.oom_score_adj.map(|score| score.max(host.oom_floor)),
    };
    Ok(Bundle { config: config(spec, host, &process, capabilities), process })
}

/// No `seccomp` and no `noNewPrivileges`: both are done by our own last steps, after which the two capabilities
/// they need are gone again.
fn config(spec: &ContainerSpec, host: &Host, process: &ProcessSpec, capabilities: Capabilities) -> Value {
    let during = capabilities.with("SYS_ADMIN").with("SETPCAP").names();
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": { "path": host.rootfs, "readonly": spec.read_only_rootfs },
        "process": {
            "terminal": false,
            "user": { "uid": process.uid, "gid": process.gid, "additionalGids": process.groups },
            "args": process.args,
            "env": process.env,
            "cwd": process.cwd,
            "capabilities": { "bounding": during, "effective": during, "permitted": during },
        },
        "mounts": mounts::table(spec, host.shm.as_deref()),
        "linux": {
            "namespaces": namespaces(host),
            "cgroupsPath": format!("/{}", host.cgroup.trim_start_matches('/')),
            "resources": resources(&spec.resources, host, spec.privileged),
            "rootfsPropagation": mounts::root_propagation(spec),
        },
    });
    if let Some(score) = process.oom_score_adj {
        config["process"]["oomScoreAdj"] = score.into();
    }
    if spec.privileged {
        config["linux"]["devices"] = host.devices.iter().map(device).collect();
    } else {
        config["linux"]["maskedPaths"] = json!(mounts::MASKED);
        config["linux"]["readonlyPaths"] = json!(mounts::READ_ONLY);
    }
    config
}

fn device(DeviceNode { path, kind, major, minor, mode, uid, gid }: &DeviceNode) -> Value {
    json!({
        "path": path, "type": kind, "major": major, "minor": minor,
        "fileMode": mode, "uid": uid, "gid": gid,
    })
}

fn namespaces(host: &Host) -> Vec<Value> {
    let joined = |kind: &str, path: &Option<PathBuf>| {
        path.as_deref().map(|path: &Path| json!({ "type": kind, "path": path }))
    };
    let mut list = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    if !host.host_pid {
        list.push(json!({ "type": "pid" }));
    }
    list.extend(joined("network", &host.netns));
    list.extend(joined("ipc", &host.ipcns));
    list.extend(joined("uts", &host.utsns));
    list
}

fn resources(limits: &Resources, host: &Host, privileged: bool) -> Value {
    let mut out = json!({ "devices": [{ "allow": privileged, "access": "rwm" }] });
    let cpu = [
        ("shares", limits.cpu_shares.map(Value::from)),
        ("quota", limits.cpu_quota_us.map(Value::from)),
        ("period", limits.cpu_period_us.map(Value::from)),
    ];
    for (name, value) in cpu {
        if let Some(value) = value {
            out["cpu"][name] = value;
        }
    }
    if let Some(limit) = limits.memory_limit {
        out["memory"]["limit"] = limit.into();
        if host.swap_limit {
            // Memory and swap together: equal means no swap.
            out["memory"]["swap"] = limit.into();
        }
    }
    if host.memory_v2 {
        // Out of memory ends the container as a whole, as Kubernetes has it on v2.
        out["unified"]["memory.oom.group"] = "1".into();
    }
    if let Some(limit) = limits.pids_limit {
        out["pids"]["limit"] = limit.into();
    }
    out
}

#[cfg(test)]
mod tests;
