//! What the node contributes to every pod: its names, addresses, directories and sizes.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use super::{backoff, resources::PERIOD_US};

/// Facts about the node and choices of its operator; the same for all pods.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `spec.nodeName` of our pods.
    pub node_name: String,
    /// Labels of the node, for pods that name a node and select another.
    pub node_labels: BTreeMap<String, String>,
    /// Addresses of the node, first one first.
    pub node_ips: Vec<IpAddr>,
    /// Pods' directories are `<state_dir>/pods/<uid>`.
    pub state_dir: PathBuf,
    /// Secrets of pods are below `<run_dir>/volumes`, which is kept in memory.
    pub run_dir: PathBuf,
    /// Logs are `<log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
    /// Localhost seccomp profiles are relative to this.
    pub seccomp_dir: PathBuf,
    /// Our subtree of every cgroup hierarchy, relative.
    pub cgroup_root: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Name servers of `ClusterFirst`.
    pub cluster_dns: Vec<IpAddr>,
    /// Content of the node's `resolv.conf`.
    pub node_resolv: String,
    /// Content of the node's `hosts` file.
    pub node_hosts: String,
    /// What pods may use together; stands in for limits that are not set.
    pub allocatable: Allocatable,
    /// Bytes of memory of the machine.
    pub memory_capacity: i64,
    /// Bytes of swap of the machine.
    pub swap_capacity: i64,
    /// Sizes of huge pages that the machine has some of, in bytes.
    pub hugepages: Vec<i64>,
    /// What operators want of pods' resources.
    pub policy: ResourcePolicy,
    /// The kernel confines by AppArmor profiles.
    pub apparmor: bool,
    /// Sysctls outside the safe set that pods may ask for; a trailing `*` stands for any rest.
    pub allowed_unsafe_sysctls: Vec<String>,
}

/// What operators want of pods' resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourcePolicy {
    /// Kept from pods.
    pub reserved: Reserved,
    /// Pods together are held to the rest.
    pub enforce: bool,
    /// `pids.max` of every pod; `None` is no limit.
    pub pod_pids_limit: Option<i64>,
    /// Burstable pods may swap in proportion to their requests (KEP-2400).
    pub limited_swap: bool,
    /// Out of memory ends one process, not the container.
    pub single_process_oom_kill: bool,
    /// KEP-2570.
    pub memory_qos: bool,
    /// How far from request to limit memory is throttled then, in thousandths.
    pub throttling: u32,
    /// Microseconds of the periods over which limits of processor time hold; `None`: they do not.
    pub cfs_period_us: Option<u64>,
    /// Longest time before a container that fails is started again.
    pub longest_restart: Duration,
    /// Containers of Guaranteed pods have whole processors for themselves: these cannot change while they run.
    pub static_cpus: bool,
    /// Containers that say nothing of seccomp are unconfined, instead of RuntimeDefault.
    pub seccomp_unconfined: bool,
}

impl Default for ResourcePolicy {
    fn default() -> Self {
        ResourcePolicy {
            reserved: Reserved::default(),
            enforce: false,
            pod_pids_limit: None,
            limited_swap: false,
            single_process_oom_kill: false,
            memory_qos: false,
            throttling: 900,
            cfs_period_us: Some(PERIOD_US),
            longest_restart: backoff::CAP,
            static_cpus: false,
            seccomp_unconfined: false,
        }
    }
}

/// Amounts that pods do not get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
}

impl Reserved {
    /// Both together.
    pub fn plus(self, other: Reserved) -> Reserved {
        Reserved {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory: self.memory.saturating_add(other.memory),
            ephemeral_storage: self.ephemeral_storage.saturating_add(other.ephemeral_storage),
        }
    }
}

/// What pods of a node may use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a processor.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
    /// Number of pods.
    pub pods: i64,
}

impl Settings {
    /// Settings for tests.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Settings {
        Settings {
            node_name: "node-a".into(),
            node_labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
            node_ips: vec![IpAddr::from([192, 168, 0, 1])],
            state_dir: "/state".into(),
            run_dir: "/run".into(),
            log_dir: "/logs".into(),
            seccomp_dir: "/state/seccomp".into(),
            cgroup_root: "orlop".into(),
            cluster_domain: "cluster.local".into(),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            node_resolv: "nameserver 192.0.2.53\nsearch example.org\n".into(),
            node_hosts: "127.0.0.1 localhost\n".into(),
            allocatable: Allocatable {
                cpu_milli: 2000,
                memory: 4 << 30,
                ephemeral_storage: 1 << 30,
                pods: 110,
            },
            memory_capacity: 4 << 30,
            swap_capacity: 2 << 30,
            hugepages: Vec::new(),
            policy: ResourcePolicy::default(),
            apparmor: false,
            allowed_unsafe_sysctls: Vec::new(),
        }
    }
}
