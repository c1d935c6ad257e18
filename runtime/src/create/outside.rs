//! What the creator does before libcontainer clones: it joins the pod's namespaces, opens what the container will get
//! from the host, and leaves the mounts of the host but for a small world in which libcontainer finds only what is cheap.
//!
//! ```text
//!  <pods>/            tmpfs in place of the pods' directory, in our own mount namespace; goes with us
//!    config.json      libcontainer's bundle         state/<id>/    its state, its notify socket
//!    rootfs/          the container's root          rootfs/dev/    tmpfs, filled by libcontainer
//!  /sys/fs/cgroup     a cgroup2 directory, read-only, `cgroup.procs` covered: what libcontainer wants there is done
//! ```
//! In a pod with users of its own, the world is its root's, and lies where that may go: not below directories that are for
//! root of the host only.
//!
//! libcontainer reads the mount table, and every pod adds four mounts to it; it copies the namespace and takes it down
//! again. So the pods' mounts go first, all at once: the pods' directory is a mount of its own (`view`).

use std::{
    fs, io,
    io::Write as _,
    os::{
        fd::{AsFd, IntoRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
};

use orlop_shim::{process::Failure, records::ProcessSpec};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    thread::UnshareFlags,
};

use super::{
    cgroups::{self, Cgroups},
    config, failed, tree,
};
use crate::{
    api::Propagation,
    spec::plan::{Hierarchy, Mount, Plan, What, Whose},
    sys,
};

/// What the container needs from here; descriptors go over by fork.
pub(super) struct Outside {
    /// For each mount of the plan: its tree, if it comes from the host or has to be made here.
    pub(super) sources: Vec<Option<OwnedFd>>,
    /// In a user namespace only who sees a /proc may mount one: the host's, for that moment.
    pub(super) proc: Option<OwnedFd>,
    /// For each hierarchy of the plan: the directory's tree.
    pub(super) hierarchies: Vec<OwnedFd>,
    world: PathBuf,
    /// libcontainer's.
    state: OwnedFd,
    id: String,
}

/// Directory of libcontainer's state, beside its `config.json`.
pub(super) fn state(bundle: &Path) -> PathBuf {
    bundle.join("state")
}

impl Outside {
    /// What libcontainer takes for the bundle.
    pub(super) fn bundle(&self) -> PathBuf {
        self.world.clone()
    }

    /// libcontainer waits for a word after all is done. Whoever may say so is in here already: it finds the word when it
    /// begins to wait, if it gets that far, and the way back through the creator and its bookkeeping is saved.
    pub(super) fn go_on(&self) -> io::Result<()> {
        rustix::process::fchdir(&self.state)?;
        let said = UnixStream::connect(format!("{}/notify.sock", self.id))
            .and_then(|mut word| word.write_all(b"start container"));
        std::env::set_current_dir("/").and(said)
    }
}

pub(super) fn prepare(
    plan: &Plan,
    process: &ProcessSpec,
    cgroups: &Cgroups,
    id: &str,
) -> Result<Outside, Failure> {
    for path in &plan.namespaces {
        join(path).map_err(failed(format_args!("join namespace {}", path.display())))?;
    }
    let users = plan.users.as_ref().map(|users| open(&users.namespace)).transpose();
    let users = users.map_err(failed("open the pod's user namespace"))?;
    let pidns = plan.pidns.as_deref().map(open).transpose();
    let pidns = pidns.map_err(failed("open the process namespace to be in"))?;
    sys::unshare(UnshareFlags::NEWNS).map_err(failed("leave the mounts of the host"))?;
    // Copies of what is shared with the host are shared too, as long as we are. From a user namespace no mount may reach
    // the host.
    let mut sources = Vec::new();
    for mount in &plan.mounts {
        sources.push(match &mount.what {
            What::Bind(path, propagation) => {
                let shared = *propagation == Propagation::Bidirectional && users.is_none();
                let early = shared || path.starts_with(&plan.pods);
                if early { Some(source(path, mount, users.as_ref())?) } else { None }
            }
            What::AsIs(path, _) if path.starts_with(&plan.pods) => Some(as_is(path)?),
            // Asks for a sight of one too, but not here.
            What::New(kind, _) if kind == "sysfs" && users.is_some() => {
                let new = tree::new(kind, &[], tree::attributes(&mount.flags));
                Some(new.map_err(failed(format_args!("mount {}", mount.at)))?)
            }
            What::New(..) | What::Cgroups | What::AsIs(..) => None,
        });
    }
    let proc = users.as_ref().map(|_| tree::copy_alone(Path::new("/proc"))).transpose();
    let proc = proc.map_err(failed("open /proc"))?;
    let root = tree::copy(&plan.rootfs).map_err(failed("open the root file system"))?;
    let hierarchies = plan.hierarchies.iter().map(|hierarchy| view(hierarchy, cgroups));
    let hierarchies = hierarchies.collect::<Result<_, _>>()?;
    let cgroup2 = cgroup2(cgroups.unified.as_deref()).map_err(failed("open the cgroup2 directory"))?;
    leave_pods(&plan.pods).map_err(failed("leave the mounts of other pods"))?;
    for (mount, source_of) in plan.mounts.iter().zip(&mut sources) {
        match (&mount.what, &source_of) {
            (What::Bind(path, _), None) => *source_of = Some(source(path, mount, users.as_ref())?),
            (What::AsIs(path, _), None) => *source_of = Some(as_is(path)?),
            _ => {}
        }
    }
    let world = match &users {
        Some(_) => plan.pods.iter().take(2).collect(),
        None => plan.pods.clone(),
    };
    let state = furnish(&world, &root, &cgroup2, plan, process, [("user", users), ("pid", pidns)])
        .map_err(failed("prepare for libcontainer"))?;
    Ok(Outside { sources, proc, hierarchies, world, state, id: id.to_owned() })
}

fn join(path: &Path) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(open(path)?.as_fd(), None)?)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn as_is(path: &Path) -> Result<OwnedFd, Failure> {
    tree::copy(path).map_err(failed(format_args!("volume source {}", path.display())))
}

fn source(path: &Path, mount: &Mount, users: Option<&OwnedFd>) -> Result<OwnedFd, Failure> {
    let tree = as_is(path)?;
    if let Some(users) = users {
        let what = format_args!("volume source {} for {}: hostUsers: false", path.display(), mount.at);
        tree::map_owners(&tree, users).map_err(failed(what))?;
    }
    Ok(tree)
}

fn view(hierarchy: &Hierarchy, cgroups: &Cgroups) -> Result<OwnedFd, Failure> {
    let path = match &hierarchy.of {
        Whose::Own(path) => path.clone(),
        Whose::Creators(name, point) => point.join(cgroups::path_in(&cgroups.own, name).unwrap_or_default()),
    };
    tree::copy(&path).map_err(failed(format_args!("open cgroup {}", path.display())))
}

/// Never a new instance where there is one: it would take its options for everybody's, and wait for a grace period.
fn cgroup2(unified: Option<&Path>) -> io::Result<OwnedFd> {
    let tree = match unified {
        Some(path) => tree::copy(path)?,
        None => tree::new("cgroup2", &[], MountAttrFlags::empty())?,
    };
    tree::restrict(&tree, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(tree)
}

/// Mounts of the host still arrive (volumes may ask for that); ours go nowhere.
fn leave_pods(pods: &Path) -> io::Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    match unmount(pods, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // The pods of an older version lie in a plain directory.
        Err(rustix::io::Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The small world; gives the state directory.
fn furnish(
    world: &Path,
    root: &OwnedFd,
    cgroup2: &OwnedFd,
    plan: &Plan,
    process: &ProcessSpec,
    joined: [(&str, Option<OwnedFd>); 2],
) -> io::Result<OwnedFd> {
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let none = MountAttrFlags::empty();
    let owner = plan.root().to_string();
    let owned = [("uid", owner.as_str()), ("gid", owner.as_str())];
    tree::attach(&tree::new("tmpfs", &[&owned[..], &[("mode", "0700")]].concat(), none)?, &open(world)?)?;
    let (rootfs, state) = (world.join("rootfs"), state(world));
    if plan.users.is_some() {
        // The socket of the word to go on is made by libcontainer on this side, and the word is said on the other.
        rustix::process::umask(Mode::empty());
    }
    fs::create_dir(&rootfs)?;
    fs::create_dir(&state)?;
    // By descriptor: its own place went with the mounts of the pods. Left open for libcontainer.
    let path = |fd: OwnedFd| format!("/proc/self/fd/{}", fd.into_raw_fd());
    let joined: Vec<_> = joined.into_iter().filter_map(|(kind, fd)| Some((kind, path(fd?)))).collect();
    let config = config::config(plan, process, &rootfs, &joined);
    fs::write(world.join("config.json"), config.to_string())?;
    tree::attach(root, &open(&rootfs)?)?;
    let dev = tree::plain_directory(open(&rootfs)?.as_fd(), "dev", plan.root()).map_err(named("/dev"))?;
    let parameters = [&owned[..], &[("mode", "755"), ("size", "65536k")]].concat();
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    tree::attach(&tree::new("tmpfs", &parameters, flags)?, &dev)?;
    let cgroups = Path::new("/sys/fs/cgroup");
    tree::attach(cgroup2, &open(cgroups)?).map_err(named("/sys/fs/cgroup"))?;
    mount_bind("/dev/null", cgroups.join("cgroup.procs")).map_err(|e| named("cgroup.procs")(e.into()))?;
    Ok(rustix::fs::openat(CWD, &state, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn named(what: &str) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
