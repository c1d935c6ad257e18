//! Counters of pods and containers that cost more to read than [`crate::cgroup::Stats`]: all of the cgroup's, and what its
//! processes have open.

use std::{fs, io, path::PathBuf};

use crate::{
    cgroup::Details,
    client::{Runtime, blocking},
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

impl Runtime {
    /// Of a whole pod, or of one container.
    pub async fn details(&self, uid: &str, id: Option<&str>) -> io::Result<Counted> {
        let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.map(str::to_owned));
        blocking(move || {
            let cgroup = runtime.cgroup_of(&uid, id.as_deref())?;
            let hierarchies = runtime.hierarchies();
            let (details, pids) = (hierarchies.details(&cgroup), hierarchies.processes(&cgroup));
            Ok(Counted { details, processes: look(&pids), cgroup })
        })
        .await
    }
}

/// Processes come and go meanwhile.
fn look(pids: &[u32]) -> Processes {
    let mut all = Processes { count: u64::try_from(pids.len()).unwrap_or(u64::MAX), ..Processes::default() };
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
