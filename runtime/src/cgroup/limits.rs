//! Limits of a cgroup as files and their contents, for new ones and for running ones. Pure.
//!
//! Not for: where the files are, and writing them (`cgroup`).

use crate::api::Resources;

/// What is written to one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Whose file it is: says in which hierarchy to look.
    pub(crate) controller: &'static str,
    pub(crate) file: String,
    pub(crate) value: String,
}

fn set(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string() }
}

/// Whose cgroup it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Pod,
    /// Swap is limited along with memory, where the kernel can. A container that runs already has this memory limit:
    /// v1 keeps the sum of memory and swap above memory alone at every moment.
    Container {
        swap: bool,
        memory_now: Option<i64>,
    },
}

/// v1, in the order of writing.
pub(crate) fn v1(limits: &Resources, level: Level) -> Vec<Setting> {
    let Resources { cpu_shares, cpu_quota_us, cpu_period_us, memory_limit, pids_limit, hugepages, .. } =
        limits;
    let mut files = Vec::new();
    files.extend(cpu_shares.map(|shares| set("cpu", "cpu.shares", shares)));
    files.extend(cpu_period_us.map(|period| set("cpu", "cpu.cfs_period_us", period)));
    files.extend(cpu_quota_us.map(|quota| set("cpu", "cpu.cfs_quota_us", quota)));
    if let Some(limit) = *memory_limit {
        let mut memory = vec![set("memory", "memory.limit_in_bytes", limit)];
        if let Level::Container { swap: true, memory_now } = level {
            memory.push(set("memory", "memory.memsw.limit_in_bytes", limit));
            if memory_now.is_some_and(|now| now >= 0 && (limit < 0 || limit > now)) {
                memory.reverse();
            }
        }
        files.extend(memory);
    }
    files.extend(pids_limit.map(|limit| set("pids", "pids.max", unlimited(limit))));
    for (size, limit) in hugepages {
        files.push(set("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit));
        files.push(set("hugetlb", format!("hugetlb.{size}.rsvd.limit_in_bytes"), limit));
    }
    files
}

/// v2, in the order of writing.
pub(crate) fn v2(limits: &Resources, level: Level) -> Vec<Setting> {
    let Resources { cpu_shares, cpu_quota_us, cpu_period_us, memory_limit, pids_limit, hugepages, .. } =
        limits;
    let mut files = Vec::new();
    let weight = |shares| if level == Level::Pod { pod_weight(shares) } else { weight(shares) };
    files.extend(cpu_shares.map(|shares| set("cpu", "cpu.weight", weight(shares))));
    if cpu_quota_us.is_some() || cpu_period_us.is_some() {
        let (quota, period) = (cpu_quota_us.unwrap_or(-1), cpu_period_us.unwrap_or(100_000));
        files.push(set("cpu", "cpu.max", format!("{} {period}", unlimited(quota))));
    }
    if let Some(limit) = *memory_limit {
        if let Level::Container { swap: true, .. } = level {
            // Swap alone, not the sum: none, unless memory has no limit either.
            let swap = if limit < 0 { "max" } else { "0" };
            files.push(set("memory", "memory.swap.max", swap));
        }
        files.push(set("memory", "memory.max", unlimited(limit)));
    }
    files.extend(pids_limit.map(|limit| set("pids", "pids.max", unlimited(limit))));
    for (size, limit) in hugepages {
        files.push(set("hugetlb", format!("hugetlb.{size}.max"), unlimited(*limit)));
        files.push(set("hugetlb", format!("hugetlb.{size}.rsvd.max"), unlimited(*limit)));
    }
    files
}

fn unlimited(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// 2…262144 to 1…10000, as Kubernetes does for pods.
fn pod_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// The same for containers, as OCI runtimes do since 2025: both defaults, 1024 and 100, are the same.
/// <https://github.com/opencontainers/cgroups/pull/20>
fn weight(shares: u64) -> u64 {
    let shares = f64::from(u32::try_from(shares.clamp(2, 262_144)).unwrap_or(2)).log2();
    let exponent = (shares * shares + 125.0 * shares) / 612.0 - 7.0 / 34.0;
    let wanted = 10_f64.powf(exponent).ceil();
    // There is no lossless way from a float; the range is small.
    (1..=10_000_u32).find(|weight| f64::from(*weight) >= wanted).map_or(10_000, u64::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, pod, container) in
            [(0, 1, 1), (2, 1, 1), (512, 20, 59), (1024, 39, 100), (2048, 79, 174), (262_144, 10_000, 10_000)]
        {
            assert_eq!((pod_weight(shares), weight(shares)), (pod, container), "{shares}");
        }
    }

    fn check(limits: &Resources, level: Level, old: Expect, new: Expect) {
        let text = |settings: Vec<Setting>| {
            let line = |Setting { controller, file, value }| format!("{controller} {file}={value}\n");
            settings.into_iter().map(line).collect::<String>()
        };
        old.assert_eq(&text(v1(limits, level)));
        new.assert_eq(&text(v2(limits, level)));
    }

    const NEW: Level = Level::Container { swap: true, memory_now: None };

    #[test]
    fn only_what_is_set_is_written() {
        check(&Resources::default(), NEW, expect![""], expect![""]);
        check(&Resources::default(), Level::Pod, expect![""], expect![""]);
    }

    fn all() -> Resources {
        Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit: Some(1 << 20),
            pids_limit: Some(16),
            hugepages: BTreeMap::from([("2MB".to_owned(), 4 << 20)]),
            oom_score_adj: Some(7),
        }
    }

    #[test]
    fn everything_a_container_can_be_limited_in() {
        check(
            &all(),
            NEW,
            expect![[r#"
                cpu cpu.shares=512
                cpu cpu.cfs_period_us=100000
                cpu cpu.cfs_quota_us=50000
                memory memory.limit_in_bytes=1048576
                memory memory.memsw.limit_in_bytes=1048576
                pids pids.max=16
                hugetlb hugetlb.2MB.limit_in_bytes=4194304
                hugetlb hugetlb.2MB.rsvd.limit_in_bytes=4194304
            "#]],
            expect![[r#"
                cpu cpu.weight=59
                cpu cpu.max=50000 100000
                memory memory.swap.max=0
                memory memory.max=1048576
                pids pids.max=16
                hugetlb hugetlb.2MB.max=4194304
                hugetlb hugetlb.2MB.rsvd.max=4194304
            "#]],
        );
    }

    #[test]
    fn a_pod_has_its_own_weight_and_no_word_on_swap() {
        let limits = Resources { cpu_shares: Some(512), memory_limit: Some(7), ..Resources::default() };
        check(
            &limits,
            Level::Pod,
            expect![[r#"
                cpu cpu.shares=512
                memory memory.limit_in_bytes=7
            "#]],
            expect![[r#"
                cpu cpu.weight=20
                memory memory.max=7
            "#]],
        );
    }

    #[test]
    fn no_limit_has_a_word_of_its_own() {
        let limits = Resources {
            cpu_quota_us: Some(-1),
            memory_limit: Some(-1),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        check(
            &limits,
            NEW,
            expect![[r#"
                cpu cpu.cfs_quota_us=-1
                memory memory.limit_in_bytes=-1
                memory memory.memsw.limit_in_bytes=-1
                pids pids.max=max
            "#]],
            expect![[r#"
                cpu cpu.max=max 100000
                memory memory.swap.max=max
                memory memory.max=max
                pids pids.max=max
            "#]],
        );
    }

    #[test]
    fn while_it_runs_the_sum_never_falls_below_memory_alone() {
        let order = |limit, memory_now| {
            let limits = Resources { memory_limit: Some(limit), ..Resources::default() };
            let level = Level::Container { swap: true, memory_now: Some(memory_now) };
            let first = v1(&limits, level).swap_remove(0).file;
            if first.contains("memsw") { "sum first" } else { "memory first" }
        };
        assert_eq!(order(20, 10), "sum first");
        assert_eq!(order(-1, 10), "sum first");
        assert_eq!(order(5, 10), "memory first");
        assert_eq!(order(5, -1), "memory first");
    }
}
