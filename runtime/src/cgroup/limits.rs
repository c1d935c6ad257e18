//! Limits of a cgroup as files and their contents, for new ones and for running ones. Pure.
//!
//! Not for: where the files are, and writing them (`cgroup`); reading them back (`actual`).

use crate::api::Resources;

/// What is written to one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Whose file it is: says in which hierarchy to look.
    pub(crate) controller: String,
    pub(crate) file: String,
    pub(crate) value: String,
}

fn set(controller: impl Into<String>, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller: controller.into(), file: file.into(), value: value.to_string() }
}

/// Whose cgroup it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Pod,
    /// Swap is limited along with memory, where the kernel can.
    Container {
        swap: bool,
    },
}

/// What one that runs already is limited to: the kernel refuses some steps from there to other limits. A new one has
/// nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Memory and swap together: v1 keeps it above memory alone at every moment.
    pub(crate) memory_swap: Option<i64>,
    /// v1 holds quota by period against the cgroup above at every moment.
    pub(crate) cpu_period_us: Option<u64>,
}

/// v1, in the order of writing.
pub(crate) fn v1(limits: &Resources, level: Level, now: Now) -> Vec<Setting> {
    let Resources {
        cpu_shares,
        cpu_quota_us,
        cpu_period_us,
        memory_limit,
        memory_swap,
        pids_limit,
        hugepages,
        cpuset_cpus,
        cpuset_mems,
        unified: _,
        oom_score_adj: _,
    } = limits;
    let mut files = Vec::new();
    files.extend(cpu_shares.map(|shares| set("cpu", "cpu.shares", shares)));
    let period_changes =
        cpu_period_us.is_some_and(|period| now.cpu_period_us.is_some_and(|now| now != period));
    if period_changes {
        // No limit is always within that of the cgroup above.
        files.push(set("cpu", "cpu.cfs_quota_us", -1));
    }
    files.extend(cpu_period_us.map(|period| set("cpu", "cpu.cfs_period_us", period)));
    files.extend(cpu_quota_us.map(|quota| set("cpu", "cpu.cfs_quota_us", quota)));
    if let Some(limit) = *memory_limit {
        let mut memory = vec![set("memory", "memory.limit_in_bytes", limit)];
        if level == (Level::Container { swap: true }) {
            let sum = if limit < 0 { -1 } else { memory_swap.unwrap_or(limit) };
            memory.push(set("memory", "memory.memsw.limit_in_bytes", sum));
            if now.memory_swap.is_some_and(|now| now >= 0 && (limit < 0 || limit > now)) {
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
    files.extend(cpuset(cpuset_cpus.as_deref(), cpuset_mems.as_deref()));
    files
}

/// v2, in the order of writing.
pub(crate) fn v2(limits: &Resources, level: Level) -> Vec<Setting> {
    let Resources {
        cpu_shares,
        cpu_quota_us,
        cpu_period_us,
        memory_limit,
        memory_swap,
        pids_limit,
        hugepages,
        cpuset_cpus,
        cpuset_mems,
        unified,
        oom_score_adj: _,
    } = limits;
    let mut files = Vec::new();
    files.extend(cpu_shares.map(|shares| set("cpu", "cpu.weight", weight_at(level, shares))));
    if cpu_quota_us.is_some() || cpu_period_us.is_some() {
        let (quota, period) = (cpu_quota_us.unwrap_or(-1), cpu_period_us.unwrap_or(100_000));
        files.push(set("cpu", "cpu.max", format!("{} {period}", unlimited(quota))));
    }
    if let Some(limit) = *memory_limit {
        if level == (Level::Container { swap: true }) && !unified.contains_key("memory.swap.max") {
            // Swap alone, not the sum: none, unless memory has no limit either.
            let swap = match memory_swap {
                Some(sum) if *sum >= 0 && limit >= 0 => sum.saturating_sub(limit).max(0),
                None if limit >= 0 => 0,
                _ => -1,
            };
            files.push(set("memory", "memory.swap.max", unlimited(swap)));
        }
        files.push(set("memory", "memory.max", unlimited(limit)));
    }
    files.extend(pids_limit.map(|limit| set("pids", "pids.max", unlimited(limit))));
    for (size, limit) in hugepages {
        files.push(set("hugetlb", format!("hugetlb.{size}.max"), unlimited(*limit)));
        files.push(set("hugetlb", format!("hugetlb.{size}.rsvd.max"), unlimited(*limit)));
    }
    files.extend(cpuset(cpuset_cpus.as_deref(), cpuset_mems.as_deref()));
    let named = |(file, value): (&String, &String)| {
        let controller = file.split('.').next().unwrap_or_default();
        set(controller, file, value)
    };
    files.extend(unified.iter().map(named));
    files
}

fn cpuset(cpus: Option<&str>, mems: Option<&str>) -> impl Iterator<Item = Setting> {
    let cpus = cpus.map(|list| set("cpuset", "cpuset.cpus", list));
    cpus.into_iter().chain(mems.map(|list| set("cpuset", "cpuset.mems", list)))
}

/// Shares as v2 has them.
pub(crate) fn weight_at(level: Level, shares: u64) -> u64 {
    if level == Level::Pod { pod_weight(shares) } else { weight(shares) }
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
        old.assert_eq(&text(v1(limits, level, Now::default())));
        new.assert_eq(&text(v2(limits, level)));
    }

    const NEW: Level = Level::Container { swap: true };

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
            cpuset_cpus: Some("0-1".to_owned()),
            cpuset_mems: Some("0".to_owned()),
            unified: BTreeMap::from([("memory.high".to_owned(), "9".to_owned())]),
            memory_swap: None,
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
                cpuset cpuset.cpus=0-1
                cpuset cpuset.mems=0
            "#]],
            expect![[r#"
                cpu cpu.weight=59
                cpu cpu.max=50000 100000
                memory memory.swap.max=0
                memory memory.max=1048576
                pids pids.max=16
                hugetlb hugetlb.2MB.max=4194304
                hugetlb hugetlb.2MB.rsvd.max=4194304
                cpuset cpuset.cpus=0-1
                cpuset cpuset.mems=0
                memory memory.high=9
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
            let now = Now { memory_swap: Some(memory_now), ..Now::default() };
            let first = v1(&limits, NEW, now).swap_remove(0).file;
            if first.contains("memsw") { "sum first" } else { "memory first" }
        };
        assert_eq!(order(20, 10), "sum first");
        assert_eq!(order(-1, 10), "sum first");
        assert_eq!(order(5, 10), "memory first");
        assert_eq!(order(5, -1), "memory first");
    }

    #[test]
    fn swap_is_the_sum_on_v1_and_the_rest_on_v2() {
        for (memory, sum, old, new) in [
            (Some(10), Some(15), Some("15"), Some("5")),
            (Some(10), Some(10), Some("10"), Some("0")),
            (Some(10), Some(5), Some("5"), Some("0")),
            (Some(10), Some(-1), Some("-1"), Some("max")),
            (Some(-1), Some(15), Some("-1"), Some("max")),
            (None, Some(15), None, None),
        ] {
            let limits = Resources { memory_limit: memory, memory_swap: sum, ..Resources::default() };
            let value = |settings: Vec<Setting>, file: &str| {
                settings.into_iter().find(|setting| setting.file == file).map(|setting| setting.value)
            };
            let found = value(v1(&limits, NEW, Now::default()), "memory.memsw.limit_in_bytes");
            assert_eq!(found.as_deref(), old, "{memory:?} {sum:?}");
            assert_eq!(value(v2(&limits, NEW), "memory.swap.max").as_deref(), new, "{memory:?} {sum:?}");
        }
    }

    #[test]
    fn what_is_named_for_v2_alone_wins() {
        let unified = BTreeMap::from([("memory.swap.max".to_owned(), "77".to_owned())]);
        let limits = Resources { memory_limit: Some(10), unified, ..Resources::default() };
        check(
            &limits,
            NEW,
            expect![[r#"
                memory memory.limit_in_bytes=10
                memory memory.memsw.limit_in_bytes=10
            "#]],
            expect![[r#"
                memory memory.max=10
                memory memory.swap.max=77
            "#]],
        );
    }

    #[test]
    fn another_period_goes_by_no_quota_at_all() {
        let limits = Resources { cpu_quota_us: Some(5), cpu_period_us: Some(10), ..Resources::default() };
        let written = |period| {
            let now = Now { cpu_period_us: Some(period), ..Now::default() };
            v1(&limits, NEW, now).into_iter().map(|setting| setting.value).collect::<Vec<_>>()
        };
        assert_eq!(written(10), ["10", "5"]);
        assert_eq!(written(20), ["-1", "10", "5"]);
    }
}
