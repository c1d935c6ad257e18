//! The mount table of a container. Pure.

use std::path::{Path, PathBuf};

use super::plan::{Flag, Mount, What};
use crate::api::{self, ContainerSpec, Propagation};

/// Kernel views nobody in a container should look at, or make use of.
pub(crate) const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Kernel views that may be read only.
pub(crate) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

const KERNEL: [Flag; 3] = [Flag::NoSuid, Flag::NoExec, Flag::NoDev];

fn new(at: &str, kind: &str, parameters: &[(&str, &str)], flags: &[Flag]) -> Mount {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Mount { at: at.to_owned(), what: What::New(kind.to_owned(), parameters.collect()), flags: flags.to_vec() }
}

/// The usual ones and the container's own in the order of depth, so that none hides another. A destination that the
/// container mounts itself is left to it. `/dev` is there already: libcontainer fills it.
///
/// `images` are the places where the container's image volumes are; `devices` are nodes of the host with their places.
pub(crate) fn table(
    spec: &ContainerSpec,
    shm: Option<&Path>,
    images: &[PathBuf],
    devices: &[(String, PathBuf)],
) -> Vec<Mount> {
    let guarded = if spec.privileged { KERNEL.to_vec() } else { [&KERNEL[..], &[Flag::ReadOnly]].concat() };
    let terminals = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    let mut mounts = vec![
        new("/proc", "proc", &[], &KERNEL),
        new("/dev/pts", "devpts", &terminals, &[Flag::NoSuid, Flag::NoExec]),
        new("/dev/mqueue", "mqueue", &[], &KERNEL),
        new("/sys", "sysfs", &[], &guarded),
        Mount { at: "/sys/fs/cgroup".to_owned(), what: What::Cgroups, flags: guarded },
    ];
    if let Some(shm) = shm {
        let what = What::Bind(shm.to_owned(), Propagation::Private);
        mounts.push(Mount { at: "/dev/shm".to_owned(), what, flags: KERNEL.to_vec() });
    }
    let destinations = || {
        let images = spec.image_volumes.iter().map(|volume| &volume.destination);
        spec.mounts.iter().map(|mount| &mount.destination).chain(images)
    };
    let own = |at: &str| destinations().any(|destination| destination == Path::new(at));
    mounts.retain(|mount| !own(&mount.at));
    mounts.extend(spec.mounts.iter().map(volume));
    mounts.extend(spec.image_volumes.iter().zip(images).map(|(volume, place)| Mount {
        at: volume.destination.to_string_lossy().into_owned(),
        what: What::AsIs(place.clone(), Propagation::Private),
        flags: vec![Flag::NoSuid, Flag::NoDev, Flag::ReadOnly],
    }));
    mounts.extend(devices.iter().map(|(at, node)| Mount {
        at: at.clone(),
        what: What::AsIs(node.clone(), Propagation::Private),
        flags: vec![Flag::NoSuid, Flag::NoExec],
    }));
    mounts.sort_by_key(|mount| Path::new(&mount.at).components().count());
    mounts
}

fn volume(mount: &api::Mount) -> Mount {
    let api::Mount { source, destination, read_only, recursive_read_only, propagation, keep_owners } = mount;
    let flag = match (read_only, recursive_read_only) {
        (_, true) => Some(Flag::RecursiveReadOnly),
        (true, false) => Some(Flag::ReadOnly),
        (false, false) => None,
    };
    Mount {
        at: destination.to_string_lossy().into_owned(),
        what: match keep_owners {
            false => What::Bind(source.clone(), *propagation),
            true => What::AsIs(source.clone(), *propagation),
        },
        flags: flag.into_iter().collect(),
    }
}
