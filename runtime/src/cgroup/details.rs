//! What a cgroup counts besides [`Stats`], from the texts of its files: for whoever keeps series of everything. Pure.
//!
//! What a kernel does not tell is 0. Not for: looking at the processes (`crate::details`).

/// Bytes and operations of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Major and minor number of the device.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Counters of a cgroup with all below it, but where said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// Nanoseconds in programs.
    pub cpu_user_ns: u64,
    /// Nanoseconds in the kernel.
    pub cpu_system_ns: u64,
    /// Periods of the CPU limit.
    pub periods: u64,
    /// Those in which it was reached.
    pub throttled_periods: u64,
    /// Nanoseconds that tasks waited for the next one.
    pub throttled_ns: u64,
    /// Bytes of cached files.
    pub cache: u64,
    /// Bytes of files that are mapped.
    pub mapped_file: u64,
    /// Bytes of the kernel's own.
    pub kernel: u64,
    /// Bytes in swap.
    pub swap: u64,
    /// Most bytes of memory at any time.
    pub peak: u64,
    /// How often the memory limit was in the way.
    pub limit_hits: u64,
    /// Page faults, of this cgroup alone (where the kernel tells) and of all.
    pub page_faults: [u64; 2],
    /// The same of those that had to read from a disk.
    pub major_faults: [u64; 2],
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
    /// Tasks there are.
    pub tasks: u64,
    /// Tasks there may be; 0 is no limit.
    pub max_tasks: u64,
    /// By disk.
    pub disks: Vec<DiskUse>,
}

/// Ticks of the clock that v1 counts user and system time with: the kernel's interface has had 100 a second for ever.
const TICK_NS: u64 = 1_000_000_000 / 100;

fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Details {
    /// `read` gives the text of a file of the cgroup; empty where there is none.
    pub(crate) fn v2(read: impl Fn(&str) -> String) -> Details {
        let (cpu, memory, events) = (read("cpu.stat"), read("memory.stat"), read("memory.events"));
        let both = |name: &str| [field(&memory, name); 2];
        Details {
            cpu_user_ns: field(&cpu, "user_usec") * 1000,
            cpu_system_ns: field(&cpu, "system_usec") * 1000,
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: field(&cpu, "throttled_usec") * 1000,
            cache: field(&memory, "file"),
            mapped_file: field(&memory, "file_mapped"),
            kernel: field(&memory, "kernel"),
            swap: number(&read("memory.swap.current")),
            peak: number(&read("memory.peak")),
            limit_hits: field(&events, "max"),
            page_faults: both("pgfault"),
            major_faults: both("pgmajfault"),
            oom_kills: field(&events, "oom_kill"),
            tasks: number(&read("pids.current")),
            max_tasks: number(&read("pids.max")),
            disks: read("io.stat").lines().filter_map(disk).collect(),
        }
    }

    /// `read` gives the text of a file by controller and name; empty where there is none.
    pub(crate) fn v1(read: impl Fn(&str, &str) -> String) -> Details {
        let (times, cpu) = (read("cpuacct", "cpuacct.stat"), read("cpu", "cpu.stat"));
        let memory = read("memory", "memory.stat");
        let all = |name: &str| field(&memory, &format!("total_{name}"));
        let both = |name: &str| [field(&memory, name), all(name)];
        let bytes = read("blkio", "blkio.throttle.io_service_bytes_recursive");
        let counts = read("blkio", "blkio.throttle.io_serviced_recursive");
        Details {
            cpu_user_ns: field(&times, "user") * TICK_NS,
            cpu_system_ns: field(&times, "system") * TICK_NS,
            periods: field(&cpu, "nr_periods"),
            throttled_periods: field(&cpu, "nr_throttled"),
            throttled_ns: field(&cpu, "throttled_time"),
            cache: all("cache"),
            mapped_file: all("mapped_file"),
            kernel: number(&read("memory", "memory.kmem.usage_in_bytes")),
            swap: all("swap"),
            peak: number(&read("memory", "memory.max_usage_in_bytes")),
            limit_hits: number(&read("memory", "memory.failcnt")),
            page_faults: both("pgfault"),
            major_faults: both("pgmajfault"),
            oom_kills: field(&read("memory", "memory.oom_control"), "oom_kill"),
            tasks: number(&read("pids", "pids.current")),
            max_tasks: number(&read("pids", "pids.max")),
            disks: disks(&bytes, &counts),
        }
    }
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`
fn disk(line: &str) -> Option<DiskUse> {
    let (of, words) = line.split_once(' ')?;
    let word = |name: &str| {
        let value = |word: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
        words.split(' ').find_map(value).unwrap_or(0)
    };
    Some(DiskUse {
        device: device(of)?,
        read_bytes: word("rbytes"),
        written_bytes: word("wbytes"),
        reads: word("rios"),
        writes: word("wios"),
    })
}

/// Lines of `8:0 Read 1` and `8:0 Write 2`, in two files.
fn disks(bytes: &str, counts: &str) -> Vec<DiskUse> {
    let value = |text: &str, of: &str, operation: &str| {
        let prefix = format!("{of} {operation}");
        field(text, &prefix)
    };
    let reads = bytes.lines().filter_map(|line| line.split_once(" Read ").map(|(of, _)| of));
    let one = |of: &str| {
        Some(DiskUse {
            device: device(of)?,
            read_bytes: value(bytes, of, "Read"),
            written_bytes: value(bytes, of, "Write"),
            reads: value(counts, of, "Read"),
            writes: value(counts, of, "Write"),
        })
    };
    reads.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let v2 = |name: &str| match name {
            "cpu.stat" => {
                "usage_usec 70\nuser_usec 40000\nsystem_usec 30000\nnr_periods 5\nnr_throttled 2\nthrottled_usec 9\n"
            }
            "memory.stat" => "anon 1\nfile 11\nkernel 12\nfile_mapped 13\npgfault 20\npgmajfault 3\n",
            "memory.events" => "low 0\nhigh 0\nmax 6\noom 1\noom_kill 4\n",
            "memory.swap.current" => "14\n",
            "memory.peak" => "15\n",
            "pids.current" => "7\n",
            "pids.max" => "max\n",
            "io.stat" => "8:16 rbytes=100 wbytes=200 rios=3 wios=4 dbytes=0 dios=0\n7:0\n",
            _ => "",
        };
        let v1 = |controller: &str, name: &str| match (controller, name) {
            ("cpuacct", "cpuacct.stat") => "user 4\nsystem 3\n",
            ("cpu", "cpu.stat") => "nr_periods 5\nnr_throttled 2\nthrottled_time 9000\n",
            ("memory", "memory.stat") => {
                "cache 1\npgfault 20\npgmajfault 3\ntotal_cache 11\ntotal_mapped_file 13\ntotal_swap 14\ntotal_pgfault 20\ntotal_pgmajfault 3\n"
            }
            ("memory", "memory.kmem.usage_in_bytes") => "12\n",
            ("memory", "memory.max_usage_in_bytes") => "15\n",
            ("memory", "memory.failcnt") => "6\n",
            ("memory", "memory.oom_control") => "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            ("pids", "pids.current") => "7\n",
            ("pids", "pids.max") => "max\n",
            ("blkio", "blkio.throttle.io_service_bytes_recursive") => {
                "8:16 Read 100\n8:16 Write 200\n8:16 Sync 1\n8:16 Total 300\nTotal 300\n"
            }
            ("blkio", "blkio.throttle.io_serviced_recursive") => "8:16 Read 3\n8:16 Write 4\nTotal 7\n",
            _ => "",
        };
        let expected = Details {
            cpu_user_ns: 40_000_000,
            cpu_system_ns: 30_000_000,
            periods: 5,
            throttled_periods: 2,
            throttled_ns: 9000,
            cache: 11,
            mapped_file: 13,
            kernel: 12,
            swap: 14,
            peak: 15,
            limit_hits: 6,
            page_faults: [20; 2],
            major_faults: [3; 2],
            oom_kills: 4,
            tasks: 7,
            max_tasks: 0,
            disks: vec![DiskUse {
                device: (8, 16),
                read_bytes: 100,
                written_bytes: 200,
                reads: 3,
                writes: 4,
            }],
        };
        assert_eq!(Details::v1(|controller, name| v1(controller, name).to_owned()), expected);
        assert_eq!(Details::v2(|name| v2(name).to_owned()), expected);
        assert_eq!(Details::v2(|_| "x y z".to_owned()), Details::default());
    }
}
