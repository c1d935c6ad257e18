//! What containers of a pod share, without a process that holds it: namespaces pinned by bind mounts, `/dev/shm`.
//!
//! Not for: the pod's cgroup (`cgroup`), its network interfaces (`orlop-cni`), its shim (`shim`).

use std::{
    fs::{self, File},
    io::{Error, Result},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    mount::{MountFlags, mount, mount_bind},
    thread::{Uid, UnshareFlags, move_into_link_name_space, set_thread_res_uid},
};

use crate::{
    api::SandboxSpec,
    bundle::Layout,
    ids::IdRange,
    records::SandboxRecord,
    rootfs::{is_mount_point, unmount_all},
    sys,
    userns::Holder,
};

/// Names of the pins, as in /proc/self/ns.
const NET: &str = "net";
const IPC: &str = "ipc";
const UTS: &str = "uts";
/// Owns the others where it is there.
pub(crate) const USER: &str = "user";

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
    let own = wanted(spec).iter().any(|(known, _)| *known == name) || name == USER && spec.user_namespace;
    own.then(|| layout.namespace(&spec.pod.uid, name))
}

/// Makes and pins the namespaces, all in one throw-away thread. Fine if they are there; all anew if some are missing.
/// `parameters` are written inside.
pub(crate) fn make_namespaces(
    layout: &Layout,
    record: &SandboxRecord,
    parameters: Vec<(PathBuf, String)>,
    shim: &Path,
) -> Result<()> {
    let SandboxRecord { spec, ids, .. } = record;
    let uid = &spec.pod.uid;
    let user = ids.map(|_| (USER, UnshareFlags::NEWUSER));
    let names = wanted(spec).into_iter().chain(user);
    let pins: Vec<_> = names.map(|(name, flag)| (name, flag, layout.namespace(uid, name))).collect();
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
    let held = ids.map(|ids| Holder::start(shim, ids).map(|holder| (holder, ids))).transpose()?;
    let hostname = spec.hostname.clone();
    let thread = std::thread::Builder::new().stack_size(128 << 10);
    let made = thread.spawn(move || inside(&pins, held, &hostname, &parameters))?;
    made.join().map_err(|_| Error::other("the thread that makes namespaces died"))?
}

/// In namespaces of this thread's own, or in those that were made in a user namespace. That one itself it cannot join, and
/// has no need to: root of the host may do everything in there.
fn inside(
    pins: &[(&'static str, UnshareFlags, PathBuf)],
    held: Option<(Holder, IdRange)>,
    hostname: &str,
    parameters: &[(PathBuf, String)],
) -> Result<()> {
    let source = |name: &str| match &held {
        Some((holder, _)) => holder.namespace(name),
        None => format!("/proc/thread-self/ns/{name}").into(),
    };
    match &held {
        None => sys::unshare(pins.iter().fold(UnshareFlags::empty(), |all, (_, flag, _)| all | *flag))?,
        Some(_) => {
            for (name, ..) in pins.iter().filter(|(name, ..)| *name != USER) {
                move_into_link_name_space(File::open(source(name))?.as_fd(), None)?;
            }
        }
    }
    let has = |name: &str| pins.iter().any(|(known, ..)| *known == name);
    if has(UTS) {
        rustix::system::sethostname(hostname.as_bytes())?;
    }
    if has(NET) {
        sys::loopback_up()?;
    }
    let write = |(path, value): &(PathBuf, String)| {
        let failed = |error| Error::other(format!("write {value:?} to {}: {error}", path.display()));
        fs::write(path, value).map_err(failed)
    };
    let (of_net, of_ipc): (Vec<_>, Vec<_>) =
        parameters.iter().partition(|(path, _)| path.starts_with("/proc/sys/net"));
    of_net.into_iter().try_for_each(write)?;
    match &held {
        Some((_, ids)) if !of_ipc.is_empty() => {
            // The kernel asks who one is here, and not what one may: the pod's root.
            let root = Uid::from_raw(ids.first);
            let write_as_root = || {
                set_thread_res_uid(root, root, root)?;
                of_ipc.into_iter().try_for_each(write)
            };
            let done = std::thread::scope(|scope| scope.spawn(write_as_root).join());
            done.map_err(|_| Error::other("the thread that sets kernel parameters died"))??;
        }
        _ => of_ipc.into_iter().try_for_each(write)?,
    }
    for (name, _, path) in pins {
        mount_bind(source(name), path)?;
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
    let pins = [NET, IPC, UTS, USER].map(|name| layout.namespace(uid, name));
    let all = pins.into_iter().chain([layout.shm(uid)]);
    let failure =
        |path: PathBuf| unmount_all(&path).err().map(|error| format!("unmount {}: {error}", path.display()));
    all.filter_map(failure).collect()
}
