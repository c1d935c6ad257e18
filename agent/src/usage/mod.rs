//! What pods, containers and the machine use, read once for everybody who asks: the kubelet API and the CRI socket.
//!
//! ```text
//!  runtime: records and cgroups ─┐
//!  /proc/<pid>/net/dev, disks ───┼▶ Usage::gather ─▶ PodUse ─▶ series [p], server::{resource_metrics, summary, cadvisor} [p]
//!  directories on the disk ──────┘
//! ```
//! Read when asked for; nothing is counted in the background. Not for: what pods may use, how it is written down.

pub(crate) mod machine;
pub(crate) mod series;
mod trees;

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use orlop_runtime::{Container, ContainerState, Depth, PodCounters, Runtime, Sandbox, cgroup};

use self::{
    machine::{Machine, Process, Texts},
    series::{FileSystem, Files, Interface, Measured},
    trees::Trees,
};

/// A pod, and what of it is counted.
#[derive(Clone, Debug)]
pub(crate) struct PodUse {
    pub(crate) sandbox: Sandbox,
    /// Of the pod as a whole.
    pub(crate) pod: Option<Measured>,
    /// Of its containers that run, by their place in the sandbox's list.
    pub(crate) containers: Vec<(usize, Measured)>,
}

impl PodUse {
    /// The containers that run.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&Container, &Measured)> {
        let container = |at: &usize| self.sandbox.containers.get(*at);
        self.containers.iter().filter_map(move |(at, seen)| Some((container(at)?, seen)))
    }
}

/// Looks at what is used.
pub struct Usage {
    runtime: Runtime,
    /// Where the writable layers of containers lie.
    writables: PathBuf,
    trees: Trees,
    /// Processor time at the last look, by the id of a pod or a container.
    rates: Mutex<HashMap<String, Rate>>,
}

/// Two looks at a processor time: use is what lies between them.
#[derive(Clone, Copy, Debug)]
struct Rate {
    at: Timestamp,
    cpu_ns: u64,
    /// Billionths of a core up to then.
    used: Option<u64>,
}

/// Looks that follow each other closer than this are one: two who ask at the same time shall not spoil each other's.
const APART: jiff::SignedDuration = jiff::SignedDuration::from_secs(1);

impl Rate {
    /// After a look at `cpu_ns`.
    fn next(before: Option<Rate>, at: Timestamp, cpu_ns: u64) -> Rate {
        let Some(before) = before else { return Rate { at, cpu_ns, used: None } };
        let elapsed = at.duration_since(before.at);
        if elapsed < APART {
            return before;
        }
        let elapsed = u128::try_from(elapsed.as_nanos()).unwrap_or(u128::MAX);
        let used = u128::from(cpu_ns.saturating_sub(before.cpu_ns)) * 1_000_000_000 / elapsed;
        Rate { at, cpu_ns, used: u64::try_from(used).ok() }
    }
}

impl Usage {
    /// Of what runs here; `state_dir` is the runtime's.
    pub fn new(runtime: Runtime, state_dir: &Path) -> Usage {
        let writables = state_dir.join("containers");
        Usage { runtime, writables, trees: Trees::default(), rates: Mutex::default() }
    }

    /// All pods, with what their cgroups count alone.
    pub(crate) async fn counters(&self) -> Vec<PodUse> {
        self.runtime.measure(Depth::Details).await.into_iter().map(pod_use).collect()
    }

    /// All pods, with disks, interfaces and what containers wrote too.
    pub(crate) async fn gather(&self, depth: Depth) -> Vec<PodUse> {
        let mut all: Vec<PodUse> = self.runtime.measure(depth).await.into_iter().map(pod_use).collect();
        let ids = all.iter().flat_map(|pod| pod.running().map(|(container, _)| container.id.clone()));
        let written = self.trees.of(ids.map(|id| self.writables.join(id).join("upper")).collect()).await;
        let writables = self.writables.clone();
        let look = move || {
            let system = file_system(&writables);
            let device = fs::metadata(&writables).map(|meta| device(numbers(meta.dev()))).unwrap_or_default();
            let mut names = HashMap::new();
            let mut written = written.into_iter();
            for PodUse { sandbox, pod, containers } in &mut all {
                for measured in pod.iter_mut().chain(containers.iter_mut().map(|(_, seen)| seen)) {
                    for disk in &measured.counted.details.disks {
                        let name = names.entry(disk.device).or_insert_with(|| self::device(disk.device));
                        measured.disks.push((name.clone(), *disk));
                    }
                }
                if let Some(pod) = pod {
                    pod.interfaces = interfaces(sandbox);
                }
                for (_, measured) in containers {
                    let written = written.next().unwrap_or_default();
                    let files = |system| Files { device: device.clone(), written, system };
                    measured.files = system.map(files);
                }
            }
            all
        };
        blocking(look).await
    }

    /// What directory trees take on the disk, in their order. Those that take long to look through are looked at rarely.
    pub(crate) async fn trees(&self, paths: Vec<PathBuf>) -> Vec<orlop_runtime::Usage> {
        self.trees.of(paths).await
    }

    /// Use of processors up to now, in billionths of one; `None` at the first look.
    pub(crate) fn rate(&self, id: &str, at: Timestamp, cpu_ns: u64) -> Option<u64> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = Rate::next(rates.get(id).copied(), at, cpu_ns);
        rates.insert(id.to_owned(), rate);
        rate.used
    }

    /// Looks at what is gone are of no use any more.
    pub(crate) fn forget_gone(&self, here: impl Fn(&str) -> bool) {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| here(id));
    }
}

fn pod_use(counters: PodCounters) -> PodUse {
    let PodCounters { sandbox, pod, containers } = counters;
    let created = sandbox.created_at;
    let started = |at: usize| match sandbox.containers.get(at).map(|container| &container.state) {
        Some(ContainerState::Running { started_at, .. }) => *started_at,
        _ => created,
    };
    let containers =
        containers.into_iter().map(|(at, seen)| (at, Measured::new(seen, started(at)))).collect();
    PodUse { pod: pod.map(|seen| Measured::new(seen, created)), containers, sandbox }
}

/// Counters of the pod's interfaces, as one of its processes sees them.
fn interfaces(pod: &Sandbox) -> Vec<Interface> {
    let pid = |container: &Container| match container.state {
        ContainerState::Running { pid, .. } => Some(pid),
        _ => None,
    };
    if pod.netns.is_none() {
        return Vec::new();
    }
    let Some(pid) = pod.containers.iter().find_map(pid) else { return Vec::new() };
    series::interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default())
}

/// The machine now.
pub(crate) fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (stat, meminfo, vmstat) = (read("/proc/stat"), read("/proc/meminfo"), read("/proc/vmstat"));
    let texts = Texts { stat: &stat, meminfo: &meminfo, vmstat: &vmstat, loadavg: &read("/proc/loadavg") };
    let mut seen = Machine::of(&texts);
    seen.stats.pressure = cgroup::node_pressure();
    seen
}

/// Interfaces of the machine.
pub(crate) fn machine_interfaces() -> Vec<Interface> {
    series::interfaces(&fs::read_to_string("/proc/net/dev").unwrap_or_default())
}

/// This process.
pub(crate) fn own_process() -> Option<Process> {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
    machine::process(&read("stat")?, &read("status")?)
}

/// Open files of this process, and how many it may have.
pub(crate) fn own_files() -> (u64, Option<u64>) {
    // The directory that is being read is one of them.
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    (u64::try_from(open).unwrap_or(0), rustix::process::getrlimit(rustix::process::Resource::Nofile).current)
}

/// The file system that holds a path.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(FileSystem {
        size: found.f_blocks.saturating_mul(found.f_frsize),
        available: found.f_bavail.saturating_mul(found.f_frsize),
        inodes: found.f_files,
        free_inodes: found.f_ffree,
    })
}

fn numbers(device: u64) -> (u32, u32) {
    (rustix::fs::major(device), rustix::fs::minor(device))
}

/// The name of a block device; its numbers where it has none.
fn device((major, minor): (u32, u32)) -> String {
    let numbers = format!("{major}:{minor}");
    let text = fs::read_to_string(format!("/sys/dev/block/{numbers}/uevent")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or(numbers, |name| format!("/dev/{name}"))
}

/// Runs work on files off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_of_processors_is_between_two_looks() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = Rate::next(None, at(10), 2_000_000_000);
        assert_eq!(first.used, None);
        assert_eq!(Rate::next(Some(first), at(10), 9_000_000_000).used, None);
        let second = Rate::next(Some(first), at(12), 3_000_000_000);
        assert_eq!(second.used, Some(500_000_000));
        // Soon after, it is still what it was.
        assert_eq!(Rate::next(Some(second), at(12), 8_000_000_000).used, Some(500_000_000));
        assert_eq!(Rate::next(Some(second), at(14), 0).used, Some(0));
    }
}
