//! `[p]` Counters in the words of CRI.

use jiff::Timestamp;
use orlop_cri_api::v1::{
    Container, ContainerAttributes, ContainerStats, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandbox, PodSandboxAttributes,
    PodSandboxStats, UInt64Value,
};
use orlop_runtime::cgroup::Stats;

use super::status::nanos;

/// Counters and when they were read.
#[derive(Clone, Copy, Debug)]
pub(in crate::cri) struct Sample {
    pub(in crate::cri) at: Timestamp,
    pub(in crate::cri) stats: Stats,
}

/// What a container has written besides its image.
#[derive(Clone, Debug, Default)]
pub(in crate::cri) struct Written {
    pub(in crate::cri) mount_point: String,
    pub(in crate::cri) bytes: u64,
    pub(in crate::cri) inodes: u64,
}

fn number(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Use of CPU between two samples, in billionths of a core.
fn rate(before: Option<&Sample>, now: &Sample) -> Option<u64> {
    let before = before?;
    let elapsed = now.at.duration_since(before.at).as_nanos();
    let elapsed = u128::try_from(elapsed).ok().filter(|elapsed| *elapsed > 0)?;
    let used = u128::from(now.stats.cpu_ns.saturating_sub(before.stats.cpu_ns));
    u64::try_from(used * 1_000_000_000 / elapsed).ok()
}

fn cpu(before: Option<&Sample>, now: &Sample) -> CpuUsage {
    CpuUsage {
        timestamp: nanos(now.at),
        usage_core_nano_seconds: number(now.stats.cpu_ns),
        usage_nano_cores: rate(before, now).and_then(number),
    }
}

fn memory(now: &Sample) -> MemoryUsage {
    MemoryUsage {
        timestamp: nanos(now.at),
        working_set_bytes: number(now.stats.memory_working_set),
        usage_bytes: number(now.stats.memory_usage),
        rss_bytes: number(now.stats.memory_rss),
        ..MemoryUsage::default()
    }
}

pub(in crate::cri) fn container(
    seen: &Container,
    before: Option<&Sample>,
    now: &Sample,
    written: &Written,
) -> ContainerStats {
    ContainerStats {
        attributes: Some(ContainerAttributes {
            id: seen.id.clone(),
            metadata: seen.metadata.clone(),
            labels: seen.labels.clone(),
            annotations: seen.annotations.clone(),
        }),
        cpu: Some(cpu(before, now)),
        memory: Some(memory(now)),
        writable_layer: Some(filesystem(now.at, written)),
        ..ContainerStats::default()
    }
}

pub(in crate::cri) fn filesystem(at: Timestamp, written: &Written) -> FilesystemUsage {
    FilesystemUsage {
        timestamp: nanos(at),
        fs_id: Some(FilesystemIdentifier { mountpoint: written.mount_point.clone() }),
        used_bytes: number(written.bytes),
        inodes_used: number(written.inodes),
    }
}

pub(in crate::cri) fn pod(
    seen: &PodSandbox,
    before: Option<&Sample>,
    now: &Sample,
    network: Option<NetworkUsage>,
    containers: Vec<ContainerStats>,
) -> PodSandboxStats {
    PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: seen.id.clone(),
            metadata: seen.metadata.clone(),
            labels: seen.labels.clone(),
            annotations: seen.annotations.clone(),
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(before, now)),
            memory: Some(memory(now)),
            network,
            containers,
            ..LinuxPodSandboxStats::default()
        }),
        ..PodSandboxStats::default()
    }
}

/// `eth0` in the text of a process's `/proc/<pid>/net/dev`.
pub(in crate::cri) fn network(at: Timestamp, dev: &str) -> Option<NetworkUsage> {
    let line = dev.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let field = |at: usize| fields.get(at).copied().and_then(number);
    let eth0 = NetworkInterfaceUsage {
        name: "eth0".to_owned(),
        rx_bytes: field(0),
        rx_errors: field(2),
        tx_bytes: field(8),
        tx_errors: field(10),
    };
    Some(NetworkUsage { timestamp: nanos(at), default_interface: Some(eth0.clone()), interfaces: vec![eth0] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, cpu_ns: u64) -> Sample {
        Sample { at: Timestamp::from_second(second).unwrap(), stats: Stats { cpu_ns, ..Stats::default() } }
    }

    #[test]
    fn use_of_cpu_is_between_two_looks() {
        let now = sample(12, 3_000_000_000);
        assert_eq!(rate(Some(&sample(10, 2_000_000_000)), &now), Some(500_000_000));
        assert_eq!(rate(None, &now), None);
        assert_eq!(rate(Some(&now), &now), None);
        assert_eq!(rate(Some(&sample(10, 4_000_000_000)), &now), Some(0));
    }

    #[test]
    fn bytes_of_the_pods_interface() {
        let dev = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 626 7 2 0 0 0 0 0 516 6 3 0 0 0 0 0\n";
        let seen = network(Timestamp::UNIX_EPOCH, dev).unwrap().default_interface.unwrap();
        let value = |field: Option<UInt64Value>| field.unwrap().value;
        let all = [value(seen.rx_bytes), value(seen.rx_errors), value(seen.tx_bytes), value(seen.tx_errors)];
        assert_eq!(all, [626, 2, 516, 3]);
        assert_eq!(network(Timestamp::UNIX_EPOCH, "lo: 1"), None);
    }
}
