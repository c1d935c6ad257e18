//! Counters of all pods and containers, read in one go: those of the cgroups, and what their processes have open.

use std::{fs, path::PathBuf};

use jiff::Timestamp;

use crate::{
    api::{ContainerState, Resources, Sandbox},
    cgroup::{Details, Stats},
    client::{Runtime, blocking},
    records::directories,
};

/// What the processes of a pod or a container have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    /// How many they are.
    pub count: u64,
    /// Open files of all of them.
    pub descriptors: u64,
    /// Those of them that are sockets.
    pub sockets: u64,
    /// How many the first one may open.
    pub max_descriptors: Option<u64>,
}

/// All that is counted of a pod or a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Its cgroup, in every hierarchy.
    pub cgroup: String,
    /// The cgroup's counters.
    pub details: Details,
    /// Its processes.
    pub processes: Processes,
}

/// How much is looked at: each more costs more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Counters of the cgroups.
    Details,
    /// And what processes have open.
    Processes,
}

/// Counters of a pod or a container, and what it is limited to.
#[derive(Clone, Debug)]
pub struct Counters {
    /// When they were read.
    pub at: Timestamp,
    /// Those that summaries look at.
    pub stats: Stats,
    /// The others.
    pub counted: Counted,
    /// Limits as the kernel says them.
    pub limits: Resources,
}

/// A pod with the counters of what of it runs.
#[derive(Clone, Debug)]
pub struct PodCounters {
    /// The pod.
    pub sandbox: Sandbox,
    /// Of the pod as a whole; they may be there still when all of it has ended.
    pub pod: Option<Counters>,
    /// Of those of its containers that run, by their place in the sandbox's list.
    pub containers: Vec<(usize, Counters)>,
}

impl Runtime {
    /// All pods with their counters: every record is read once. What ends meanwhile is left out.
    pub async fn measure(&self, depth: Depth) -> Vec<PodCounters> {
        let runtime = self.clone();
        blocking(move || {
            let uids = directories(&runtime.layout().pods()).into_iter();
            uids.filter_map(|uid| runtime.measure_pod(&uid, depth)).collect()
        })
        .await
    }

    fn measure_pod(&self, uid: &str, depth: Depth) -> Option<PodCounters> {
        let layout = self.layout();
        let record = layout.sandbox(uid).ok()??;
        let records = layout.pod_records(uid);
        let (cgroup, of_pod) = (record.spec.cgroup.clone(), record.spec.resources.clone());
        let mut containers = Vec::new();
        let mut all = Vec::new();
        for (at, record) in records.into_iter().enumerate() {
            let state = layout.container_state(uid, &record.id);
            if matches!(state, ContainerState::Running { .. }) {
                let path = format!("{cgroup}/{}", record.id);
                let limits = |path: &str| self.hierarchies().container_limits(path, &record.resources);
                containers.extend(self.counters(path, depth, limits).map(|counters| (at, counters)));
            }
            all.push(record.container(state));
        }
        let pod = self.counters(cgroup, depth, |path| self.hierarchies().pod_limits(path, &of_pod));
        Some(PodCounters { sandbox: self.describe(record, all), pod, containers })
    }

    fn counters(
        &self,
        cgroup: String,
        depth: Depth,
        limits: impl FnOnce(&str) -> Resources,
    ) -> Option<Counters> {
        let hierarchies = self.hierarchies();
        let stats = hierarchies.stats(&cgroup).ok()?;
        let at = Timestamp::now();
        let (details, pids) = (hierarchies.details(&cgroup), hierarchies.processes(&cgroup));
        let limits = limits(&cgroup);
        let processes = if depth == Depth::Processes { look(&pids) } else { count(&pids) };
        Some(Counters { at, stats, counted: Counted { cgroup, details, processes }, limits })
    }
}

fn count(pids: &[u32]) -> Processes {
    Processes { count: u64::try_from(pids.len()).unwrap_or(u64::MAX), ..Processes::default() }
}

/// Processes come and go meanwhile.
fn look(pids: &[u32]) -> Processes {
    let mut all = count(pids);
    for pid in pids {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            all.descriptors += 1;
            let to = fs::read_link(entry.path()).unwrap_or_else(|_| PathBuf::new());
            all.sockets += u64::from(to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    let limits = pids.first().and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    all.max_descriptors = limits.as_deref().and_then(max_descriptors);
    all
}

/// `Max open files            1024                 1048576              files`
fn max_descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::UdpSocket};

    use super::*;

    #[test]
    fn open_files_of_this_process() {
        let held = (UdpSocket::bind("127.0.0.1:0").unwrap(), File::open("/dev/null").unwrap());
        let found = look(&[std::process::id()]);
        assert!(found.count == 1 && found.sockets >= 1 && found.descriptors > found.sockets, "{found:?}");
        let (limit, _) = (rustix::process::getrlimit(rustix::process::Resource::Nofile), held);
        assert_eq!(found.max_descriptors, limit.current);
        assert_eq!(look(&[u32::MAX]), Processes { count: 1, ..Processes::default() });
    }
}
