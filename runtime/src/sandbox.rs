//! What containers of a pod share, without a process that holds it: namespaces pinned by bind mounts, `/dev/shm`.
//!
//! Not for: the pod's cgroup (`cgroup`), its network interfaces (`orlop-cni`), its shim (`shim`).

use std::{
    fs::{self, File},
    io::{Error, Result},
    path::PathBuf,
};

use rustix::{
    mount::{MountFlags, mount, mount_bind},
    thread::UnshareFlags,
};

use crate::{
    api::SandboxSpec,
    bundle::Layout,
    rootfs::{is_mount_point, unmount_all},
    sys,
};

/// Names of the pins, as in /proc/self/ns.
const NET: &str = "net";
const IPC: &str = "ipc";
const UTS: &str = "uts";

/// What a pod has of its own.
fn wanted(spec: &SandboxSpec) -> Vec<(&'static str, UnshareFlags)> {
    let mut list = Vec::new();
    if !spec.host_network {
        // With the host's network goes the host's name.
        list.push((NET, UnshareFlags::NEWNET));
        list.push((UTS, UnshareFlags::NEWUTS));
    }
    if !spec.host_ipc {
        list.push((IPC, UnshareFlags::NEWIPC));
    }
    list
}

/// The pin of a namespace the pod has of its own.
pub(crate) fn pin(layout: &Layout, spec: &SandboxSpec, name: &str) -> Option<PathBuf> {
    let own = wanted(spec).iter().any(|(known, _)| *known == name);
    own.then(|| layout.namespace(&spec.pod.uid, name))
}

/// Makes and pins the namespaces, all in one throw-away thread. Fine if they are there; all anew if some are missing.
/// `parameters` are written inside.
pub(crate) fn make_namespaces(
    layout: &Layout,
    spec: &SandboxSpec,
    parameters: Vec<(PathBuf, String)>,
) -> Result<()> {
    let uid = &spec.pod.uid;
    let pins: Vec<_> =
        wanted(spec).into_iter().map(|(name, flag)| (name, flag, layout.namespace(uid, name))).collect();
    if pins.is_empty() || pins.iter().all(|(_, _, path)| is_mount_point(path)) {
        return Ok(());
    }
    for (_, _, path) in &pins {
        unmount_all(path)?;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        File::create(path)?;
    }
    let hostname = spec.hostname.clone();
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    let made = thread.spawn(move || inside(&pins, &hostname, &parameters))?;
    made.join().map_err(|_| Error::other("the thread that makes namespaces died"))?
}

fn inside(
    pins: &[(&'static str, UnshareFlags, PathBuf)],
    hostname: &str,
    parameters: &[(PathBuf, String)],
) -> Result<()> {
    sys::unshare(pins.iter().fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag))?;
    let has = |name: &str| pins.iter().any(|(known, ..)| *known == name);
    if has(UTS) {
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    if has(NET) {
        sys::loopback_up()?;
    }
    for (path, value) in parameters {
        let failed = |error| Error::other(format!("write {value:?} to {}: {error}", path.display()));
        fs::write(path, value).map_err(failed)?;
    }
    for (name, _, path) in pins {
        mount_bind(format!("/proc/thread-self/ns/{name}"), path)?;
    }
    Ok(())
}

/// The pod's `/dev/shm`: its own, or the host's along with the host's IPC.
pub(crate) fn make_shm(layout: &Layout, spec: &SandboxSpec) -> Result<()> {
    let path = layout.shm(&spec.pod.uid);
    if spec.host_ipc || is_mount_point(&path) {
        return Ok(());
    }
    fs::create_dir_all(&path)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("shm", &path, "tmpfs", flags, c"mode=1777,size=65536k")?)
}

pub(crate) fn shm(layout: &Layout, spec: &SandboxSpec) -> PathBuf {
    if spec.host_ipc { PathBuf::from("/dev/shm") } else { layout.shm(&spec.pod.uid) }
}

/// Takes the mounts away; the namespaces go with the last process in them. Reports every failure.
pub(crate) fn remove_mounts(layout: &Layout, uid: &str) -> Vec<String> {
    let pins = [NET, IPC, UTS].map(|name| layout.namespace(uid, name));
    let all = pins.into_iter().chain([layout.shm(uid)]);
    let failure =
        |path: PathBuf| unmount_all(&path).err().map(|error| format!("unmount {}: {error}", path.display()));
    all.filter_map(failure).collect()
}
