//! `[p]` The series of cAdvisor about pods and containers, by its names and labels: for `/metrics/cadvisor`, and for a
//! kubelet without cAdvisor that gets them from its runtime (KEP-2371).
//!
//! What is counted stands in [`Measured`]; a row of the table says how a series is called and what it shows of that. Not
//! for: how they are written down (`crate::cri`, `crate::server`).

use jiff::Timestamp;
use orlop_runtime::{
    Counted, Counters, Resources, Usage,
    cgroup::{DiskUse, Pressure, Pressures, Stats},
};

use self::Shows::{By, Limit, Nanos, OfFiles, One, PerDisk, PerInterface, Stalled};

/// Labels of all series.
pub(crate) const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// All that is known of a pod or a container.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) at: Timestamp,
    pub(crate) started: Timestamp,
    pub(crate) stats: Stats,
    pub(crate) counted: Counted,
    pub(crate) limits: Resources,
    /// By the names of their devices.
    pub(crate) disks: Vec<(String, DiskUse)>,
    /// Of pods.
    pub(crate) interfaces: Vec<Interface>,
    /// Of containers.
    pub(crate) files: Option<Files>,
}

/// What a container has written, and the file system where it lies.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) device: String,
    pub(crate) written: Usage,
    pub(crate) system: FileSystem,
}

/// A file system as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileSystem {
    pub(crate) size: u64,
    /// Free for everybody.
    pub(crate) available: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

impl FileSystem {
    /// What of it is in use.
    pub(crate) fn used(&self) -> Usage {
        Usage {
            bytes: self.size.saturating_sub(self.available),
            inodes: self.inodes.saturating_sub(self.free_inodes),
        }
    }
}

impl Measured {
    /// Of counters alone.
    pub(crate) fn new(counters: Counters, started: Timestamp) -> Measured {
        let Counters { at, stats, counted, limits } = counters;
        let (disks, interfaces, files) = (Vec::new(), Vec::new(), None);
        Measured { at, started, stats, counted, limits, disks, interfaces, files }
    }
}

/// Counters of a network interface, received and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) bytes: [u64; 2],
    pub(crate) packets: [u64; 2],
    pub(crate) errors: [u64; 2],
    pub(crate) dropped: [u64; 2],
}

/// The interfaces in a process's `/proc/<pid>/net/dev` but the loopback one.
pub(crate) fn interfaces(dev: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> = counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let both = |at: usize| Some([*counters.get(at)?, *counters.get(at + 8)?]);
        Some(Interface {
            name: name.trim().to_owned(),
            bytes: both(0)?,
            packets: both(1)?,
            errors: both(2)?,
            dropped: both(3)?,
        })
    };
    dev.lines().filter_map(interface).filter(|interface| interface.name != "lo").collect()
}

/// A value of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// A number of something.
    Count(u64),
    /// Nanoseconds, which are shown in seconds.
    Nanos(u64),
}

/// Values of a series' own labels, and the value.
type Values = Vec<(Vec<String>, Value)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// A series.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    shows: Shows,
}

/// What a series shows of what is known, and by which labels of its own.
enum Shows {
    One(fn(&Measured) -> u64),
    /// No limit is 0.
    Limit(fn(&Measured) -> Option<i64>),
    Nanos(fn(&Measured) -> u64),
    PerDisk(fn(&DiskUse) -> u64),
    PerInterface(fn(&Interface) -> u64),
    OfFiles(fn(&Files) -> u64),
    /// Of all tasks rather than of some.
    Stalled(fn(&Pressures) -> Option<Pressure>, bool),
    By(&'static [&'static str], fn(&Measured) -> Values),
}

impl Row {
    /// Its own labels, besides [`LABELS`].
    pub(crate) fn labels(&self) -> &'static [&'static str] {
        match self.shows {
            PerDisk(_) | OfFiles(_) => &["device"],
            PerInterface(_) => &["interface"],
            By(labels, _) => labels,
            One(_) | Limit(_) | Nanos(_) | Stalled(..) => &[],
        }
    }

    /// Empty where it is not known.
    pub(crate) fn values(&self, seen: &Measured) -> Values {
        let of = |name: &String, value| (vec![name.clone()], Value::Count(value));
        match self.shows {
            One(value) => vec![(Vec::new(), Value::Count(value(seen)))],
            Limit(value) => {
                let limit = value(seen).and_then(|limit| u64::try_from(limit).ok());
                vec![(Vec::new(), Value::Count(limit.unwrap_or(0)))]
            }
            Nanos(value) => vec![(Vec::new(), Value::Nanos(value(seen)))],
            PerDisk(value) => seen.disks.iter().map(|(name, disk)| of(name, value(disk))).collect(),
            PerInterface(value) => seen.interfaces.iter().map(|one| of(&one.name, value(one))).collect(),
            OfFiles(value) => seen.files.iter().map(|files| of(&files.device, value(files))).collect(),
            Stalled(value, full) => {
                let total = |of: Pressure| if full { of.full.total_us } else { of.some.total_us };
                let nanos = |of| (Vec::new(), Value::Nanos(total(of).saturating_mul(1000)));
                value(&seen.stats.pressure).map(nanos).into_iter().collect()
            }
            By(_, values) => values(seen),
        }
    }
}

fn per_operation(seen: &Measured) -> Values {
    let both = |(name, disk): &(String, DiskUse)| {
        let (major, minor) = disk.device;
        let labels =
            |operation: &str| vec![name.clone(), major.to_string(), minor.to_string(), operation.to_owned()];
        [("Read", disk.read_bytes), ("Write", disk.written_bytes)]
            .map(|(operation, bytes)| (labels(operation), Value::Count(bytes)))
    };
    seen.disks.iter().flat_map(both).collect()
}

fn faults(seen: &Measured) -> Values {
    let details = &seen.counted.details;
    let kinds = [("pgfault", details.page_faults), ("pgmajfault", details.major_faults)];
    let scopes = |(kind, [own, all]): (&str, [u64; 2])| {
        [("container", own), ("hierarchy", all)]
            .map(|(scope, value)| (vec![kind.to_owned(), scope.to_owned()], Value::Count(value)))
    };
    kinds.into_iter().flat_map(scopes).collect()
}

fn open_files(seen: &Measured) -> Values {
    let most = seen.counted.processes.max_descriptors;
    most.map(|most| (vec!["max_open_files".to_owned()], Value::Count(most))).into_iter().collect()
}

const fn counter(name: &'static str, help: &'static str, shows: Shows) -> Row {
    Row { name, help, kind: Kind::Counter, shows }
}

const fn gauge(name: &'static str, help: &'static str, shows: Shows) -> Row {
    Row { name, help, kind: Kind::Gauge, shows }
}

/// All series there may be.
pub(crate) const METRICS: &[Row] = &[
    counter(
        "container_blkio_device_usage_total",
        "Bytes that went to and from block devices",
        By(&["device", "major", "minor", "operation"], per_operation),
    ),
    counter(
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement period intervals.",
        One(|seen| seen.counted.details.periods),
    ),
    counter(
        "container_cpu_cfs_throttled_periods_total",
        "Number of throttled period intervals.",
        One(|seen| seen.counted.details.throttled_periods),
    ),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        Nanos(|seen| seen.counted.details.throttled_ns),
    ),
    counter(
        "container_cpu_system_seconds_total",
        "Cumulative system cpu time consumed in seconds.",
        Nanos(|seen| seen.counted.details.cpu_system_ns),
    ),
    counter(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed in seconds.",
        By(&["cpu"], |seen| vec![(vec!["total".to_owned()], Value::Nanos(seen.stats.cpu_ns))]),
    ),
    counter(
        "container_cpu_user_seconds_total",
        "Cumulative user cpu time consumed in seconds.",
        Nanos(|seen| seen.counted.details.cpu_user_ns),
    ),
    gauge(
        "container_file_descriptors",
        "Number of open file descriptors.",
        One(|seen| seen.counted.processes.descriptors),
    ),
    gauge(
        "container_fs_inodes_free",
        "Number of available inodes",
        OfFiles(|files| files.system.free_inodes),
    ),
    gauge("container_fs_inodes_total", "Number of inodes", OfFiles(|files| files.system.inodes)),
    gauge(
        "container_fs_limit_bytes",
        "Bytes that can be consumed by the container on its file system.",
        OfFiles(|files| files.system.size),
    ),
    counter(
        "container_fs_reads_bytes_total",
        "Cumulative count of bytes read",
        PerDisk(|disk| disk.read_bytes),
    ),
    counter("container_fs_reads_total", "Cumulative count of reads completed", PerDisk(|disk| disk.reads)),
    gauge(
        "container_fs_usage_bytes",
        "Bytes that the container has written besides its image.",
        OfFiles(|files| files.written.bytes),
    ),
    counter(
        "container_fs_writes_bytes_total",
        "Cumulative count of bytes written",
        PerDisk(|disk| disk.written_bytes),
    ),
    counter("container_fs_writes_total", "Cumulative count of writes completed", PerDisk(|disk| disk.writes)),
    gauge(
        "container_last_seen",
        "Last time the container was seen by the runtime, in seconds since the epoch",
        One(|seen| u64::try_from(seen.at.as_second()).unwrap_or(0)),
    ),
    gauge(
        "container_memory_cache",
        "Number of bytes of page cache memory.",
        One(|seen| seen.counted.details.cache),
    ),
    counter(
        "container_memory_failcnt",
        "Number of memory usage hits limits",
        One(|seen| seen.counted.details.limit_hits),
    ),
    counter(
        "container_memory_failures_total",
        "Cumulative count of memory allocation failures.",
        By(&["failure_type", "scope"], faults),
    ),
    gauge(
        "container_memory_kernel_usage",
        "Size of kernel memory allocated in bytes.",
        One(|seen| seen.counted.details.kernel),
    ),
    gauge(
        "container_memory_mapped_file",
        "Size of memory mapped files in bytes.",
        One(|seen| seen.counted.details.mapped_file),
    ),
    gauge(
        "container_memory_max_usage_bytes",
        "Maximum memory usage recorded in bytes",
        One(|seen| seen.counted.details.peak),
    ),
    gauge("container_memory_rss", "Size of RSS in bytes.", One(|seen| seen.stats.memory_rss)),
    gauge("container_memory_swap", "Container swap usage in bytes.", One(|seen| seen.counted.details.swap)),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        One(|seen| seen.stats.memory_usage),
    ),
    gauge(
        "container_memory_working_set_bytes",
        "Current working set in bytes.",
        One(|seen| seen.stats.memory_working_set),
    ),
    counter(
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        PerInterface(|interface| interface.bytes[0]),
    ),
    counter(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        PerInterface(|interface| interface.errors[0]),
    ),
    counter(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        PerInterface(|interface| interface.dropped[0]),
    ),
    counter(
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        PerInterface(|interface| interface.packets[0]),
    ),
    counter(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        PerInterface(|interface| interface.bytes[1]),
    ),
    counter(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        PerInterface(|interface| interface.errors[1]),
    ),
    counter(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        PerInterface(|interface| interface.dropped[1]),
    ),
    counter(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        PerInterface(|interface| interface.packets[1]),
    ),
    counter(
        "container_oom_events_total",
        "Count of out of memory events observed for the container",
        One(|seen| seen.counted.details.oom_kills),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        Stalled(|pressure| pressure.cpu, true),
    ),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        Stalled(|pressure| pressure.cpu, false),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        Stalled(|pressure| pressure.io, true),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        Stalled(|pressure| pressure.io, false),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        Stalled(|pressure| pressure.memory, true),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        Stalled(|pressure| pressure.memory, false),
    ),
    gauge(
        "container_processes",
        "Number of processes running inside the container.",
        One(|seen| seen.counted.processes.count),
    ),
    gauge(
        "container_sockets",
        "Number of open sockets for the container.",
        One(|seen| seen.counted.processes.sockets),
    ),
    gauge(
        "container_spec_cpu_period",
        "CPU period of the container.",
        One(|seen| seen.limits.cpu_period_us.unwrap_or(0)),
    ),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", Limit(|seen| seen.limits.cpu_quota_us)),
    gauge(
        "container_spec_cpu_shares",
        "CPU share of the container.",
        One(|seen| seen.limits.cpu_shares.unwrap_or(0)),
    ),
    gauge(
        "container_spec_memory_limit_bytes",
        "Memory limit for the container.",
        Limit(|seen| seen.limits.memory_limit),
    ),
    gauge(
        "container_spec_memory_swap_limit_bytes",
        "Memory swap limit for the container.",
        Limit(|seen| seen.limits.memory_swap),
    ),
    gauge(
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        One(|seen| u64::try_from(seen.started.as_second()).unwrap_or(0)),
    ),
    gauge(
        "container_threads",
        "Number of threads running inside the container",
        One(|seen| seen.counted.details.tasks),
    ),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, zero if unlimited",
        One(|seen| seen.counted.details.max_tasks),
    ),
    gauge(
        "container_ulimits_soft",
        "Soft ulimit values for the container root process.",
        By(&["ulimit"], open_files),
    ),
];

/// Whose series they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whose<'a> {
    /// Name of the container; empty for the pod as a whole.
    pub(crate) container: &'a str,
    pub(crate) image: &'a str,
    /// Id of the container, or of the pod.
    pub(crate) id: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) pod: &'a str,
}

impl Whose<'_> {
    /// Values of [`LABELS`].
    pub(crate) fn labels(&self, seen: &Measured) -> [String; 6] {
        let Whose { container, image, id, namespace, pod } = self;
        let cgroup = format!("/{}", seen.counted.cgroup.trim_start_matches('/'));
        [container, cgroup.as_str(), image, id, namespace, pod].map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use orlop_runtime::cgroup::{Details, Stall};

    use super::*;

    fn measured() -> Measured {
        let at = |second| Timestamp::from_second(second).unwrap();
        let stall = |total_us| Stall { total_us, ..Stall::default() };
        let cpu = Pressure { some: stall(3_000_000), full: stall(2_000_000) };
        let disk = DiskUse { device: (8, 16), read_bytes: 5, written_bytes: 6, reads: 1, writes: 2 };
        Measured {
            at: at(20),
            started: at(10),
            stats: Stats {
                cpu_ns: 3_500_000_000,
                pressure: Pressures { cpu: Some(cpu), ..Pressures::default() },
                ..Stats::default()
            },
            counted: Counted {
                cgroup: "kubepods/u/c1".into(),
                details: Details { page_faults: [1, 2], ..Details::default() },
                ..Counted::default()
            },
            limits: Resources { memory_limit: Some(-1), cpu_quota_us: Some(20_000), ..Resources::default() },
            disks: vec![("/dev/sdb".into(), disk)],
            interfaces: Vec::new(),
            files: None,
        }
    }

    fn shown(seen: &Measured) -> BTreeMap<&'static str, Vec<String>> {
        let mut all: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for row in METRICS {
            for (own, value) in row.values(seen) {
                assert_eq!(own.len(), row.labels().len(), "{}", row.name);
                let shown = match value {
                    Value::Count(count) => format!("{} {count}", own.join(" ")),
                    Value::Nanos(nanos) => format!("{} {nanos}ns", own.join(" ")),
                };
                all.entry(row.name).or_default().push(shown.trim().to_owned());
            }
        }
        all
    }

    #[test]
    fn series_show_what_was_counted() {
        let all = shown(&measured());
        for (name, expected) in [
            ("container_cpu_usage_seconds_total", &["total 3500000000ns"][..]),
            ("container_start_time_seconds", &["10"]),
            ("container_last_seen", &["20"]),
            ("container_spec_memory_limit_bytes", &["0"]),
            ("container_spec_cpu_quota", &["20000"]),
            ("container_pressure_cpu_waiting_seconds_total", &["3000000000ns"]),
            ("container_pressure_cpu_stalled_seconds_total", &["2000000000ns"]),
            (
                "container_memory_failures_total",
                &[
                    "pgfault container 1",
                    "pgfault hierarchy 2",
                    "pgmajfault container 0",
                    "pgmajfault hierarchy 0",
                ],
            ),
            ("container_blkio_device_usage_total", &["/dev/sdb 8 16 Read 5", "/dev/sdb 8 16 Write 6"]),
            ("container_fs_writes_total", &["/dev/sdb 2"]),
        ] {
            assert_eq!(all[name], expected, "{name}");
        }
        // What is not known has no series.
        for name in [
            "container_network_receive_bytes_total",
            "container_fs_usage_bytes",
            "container_pressure_io_waiting_seconds_total",
        ] {
            assert!(!all.contains_key(name), "{name}");
        }
    }

    #[test]
    fn names_are_told_once() {
        let names: BTreeSet<_> = METRICS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), METRICS.len());
        assert!(METRICS.iter().all(|row| !row.help.is_empty()));
        let whose = Whose { container: "c", image: "i", id: "c1", namespace: "ns", pod: "p" };
        assert_eq!(whose.labels(&measured()), ["c", "/kubepods/u/c1", "i", "c1", "ns", "p"]);
    }

    #[test]
    fn interfaces_but_the_loopback_one() {
        let dev = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 626 7 2 1 0 0 0 0 516 6 3 4 0 0 0 0\n eth1: 1";
        let expected = Interface {
            name: "eth0".into(),
            bytes: [626, 516],
            packets: [7, 6],
            errors: [2, 3],
            dropped: [1, 4],
        };
        assert_eq!(interfaces(dev), [expected]);
    }
}
