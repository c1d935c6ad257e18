//! Counters of one cgroup from the texts of its files. Pure.

use super::pressure::Pressures;

/// What summaries and evictions look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    /// CPU time used so far, in nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory in use, caches included.
    pub memory_usage: u64,
    /// Without what the kernel could drop at once (inactive files): what counts for eviction.
    pub memory_working_set: u64,
    /// Anonymous memory.
    pub memory_rss: u64,
    /// For how long its tasks waited.
    pub pressure: Pressures,
}

fn field(text: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

impl Stats {
    pub(crate) fn v2(cpu_stat: &str, memory_current: &str, memory_stat: &str) -> Stats {
        let usage = memory_current.trim().parse().unwrap_or(0);
        Stats {
            cpu_ns: field(cpu_stat, "usage_usec") * 1000,
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(field(memory_stat, "inactive_file")),
            memory_rss: field(memory_stat, "anon"),
            ..Stats::default()
        }
    }

    pub(crate) fn v1(cpuacct_usage: &str, memory_usage: &str, memory_stat: &str) -> Stats {
        let usage = memory_usage.trim().parse().unwrap_or(0);
        Stats {
            cpu_ns: cpuacct_usage.trim().parse().unwrap_or(0),
            memory_usage: usage,
            memory_working_set: usage.saturating_sub(field(memory_stat, "total_inactive_file")),
            memory_rss: field(memory_stat, "total_rss"),
            ..Stats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_say_the_same() {
        let (memory_usage, memory_working_set, memory_rss) = (100, 70, 40);
        let expected =
            Stats { cpu_ns: 5_000, memory_usage, memory_working_set, memory_rss, ..Stats::default() };
        let v1 = "rss 4\ntotal_rss 40\ntotal_inactive_file 30\n";
        assert_eq!(Stats::v1("5000\n", "100\n", v1), expected);
        let v2 = "anon 40\ninactive_file 30\n";
        assert_eq!(Stats::v2("usage_usec 5\nuser_usec 1\n", "100\n", v2), expected);
        assert_eq!(Stats::v2("", "x", ""), Stats::default());
    }
}
