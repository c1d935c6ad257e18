//! The mount table of a container. Pure.

use std::path::Path;

use serde_json::{Value, json};

use crate::api::{ContainerSpec, Mount, Propagation};

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

fn special(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// The usual ones, then the container's own in the order of depth, so that none hides another.
/// A destination that the container mounts itself is left to it.
pub(crate) fn table(spec: &ContainerSpec, shm: Option<&Path>) -> Vec<Value> {
    let access = if spec.privileged { "rw" } else { "ro" };
    let kernel = ["nosuid", "noexec", "nodev"];
    let with = |more: &[&'static str]| [&kernel[..], more].concat();
    let mut mounts = vec![
        special("/proc", "proc", "proc", &kernel),
        special("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        special("/dev/mqueue", "mqueue", "mqueue", &kernel),
        special("/sys", "sysfs", "sysfs", &with(&[access])),
        special("/sys/fs/cgroup", "cgroup", "cgroup", &with(&["relatime", access])),
    ];
    if let Some(shm) = shm {
        let options = ["rbind", "rw", "nosuid", "nodev", "noexec"];
        mounts.push(special("/dev/shm", "bind", &shm.to_string_lossy(), &options));
    }
    let own = |destination: &str| spec.mounts.iter().any(|mount| mount.destination == Path::new(destination));
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(own));
    let mut volumes: Vec<&Mount> = spec.mounts.iter().collect();
    volumes.sort_by_key(|mount| mount.destination.components().count());
    mounts.extend(volumes.into_iter().map(volume));
    mounts
}

fn volume(Mount { source, destination, read_only, propagation }: &Mount) -> Value {
    let propagation = match propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = if *read_only { "ro" } else { "rw" };
    json!({
        "destination": destination, "type": "bind", "source": source,
        "options": ["rbind", access, propagation],
    })
}

/// The widest that any volume asks for: without it the volume's own could not reach the host.
pub(crate) fn root_propagation(spec: &ContainerSpec) -> &'static str {
    let any = |wanted: Propagation| spec.mounts.iter().any(|mount| mount.propagation == wanted);
    if any(Propagation::Bidirectional) {
        "shared"
    } else if any(Propagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}
