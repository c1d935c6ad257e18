//! Limits as the kernel has them, from the texts of a cgroup's files. Pure.
//!
//! The kernel rounds (memory to pages, shares to weights): what it made of a recorded value counts as that value.
//! Not for: finding and reading the files (`cgroup`).

use super::limits::{Level, weight_at};
use crate::api::Resources;

/// From here on v1 means no limit: the largest number of whole pages.
const NO_LIMIT: i64 = i64::MAX - 0xffff;

/// `read` gives the text of a file of v1 or v2, by its controller; what it does not find stays unknown. No limit is −1.
pub(crate) fn v1(recorded: &Resources, page: i64, read: impl Fn(&str, &str) -> Option<String>) -> Resources {
    let number = |controller, file| read(controller, file)?.trim().parse::<i64>().ok();
    Resources {
        cpu_shares: number("cpu", "cpu.shares").and_then(|shares| u64::try_from(shares).ok()),
        cpu_quota_us: number("cpu", "cpu.cfs_quota_us"),
        cpu_period_us: number("cpu", "cpu.cfs_period_us").and_then(|period| u64::try_from(period).ok()),
        memory_limit: number("memory", "memory.limit_in_bytes")
            .map(|bytes| in_pages(if bytes >= NO_LIMIT { -1 } else { bytes }, recorded.memory_limit, page)),
        pids_limit: read("pids", "pids.max").and_then(|text| limit(&text)),
        ..Resources::default()
    }
}

/// The same of v2.
pub(crate) fn v2(
    recorded: &Resources,
    level: Level,
    page: i64,
    read: impl Fn(&str, &str) -> Option<String>,
) -> Resources {
    let quota = read("cpu", "cpu.max");
    let quota = quota.as_deref().and_then(|text| text.trim().split_once(' '));
    let memory = read("memory", "memory.max").and_then(|text| limit(&text));
    Resources {
        cpu_shares: read("cpu", "cpu.weight")
            .and_then(|text| text.trim().parse().ok())
            .map(|weight| shares(recorded.cpu_shares, level, weight)),
        cpu_quota_us: quota.and_then(|(quota, _)| limit(quota)),
        cpu_period_us: quota.and_then(|(_, period)| period.parse().ok()),
        memory_limit: memory.map(|bytes| in_pages(bytes, recorded.memory_limit, page)),
        pids_limit: read("pids", "pids.max").and_then(|text| limit(&text)),
        ..Resources::default()
    }
}

fn limit(text: &str) -> Option<i64> {
    match text.trim() {
        "max" => Some(-1),
        number => number.parse().ok(),
    }
}

fn in_pages(bytes: i64, recorded: Option<i64>, page: i64) -> i64 {
    let page = page.max(1);
    recorded.filter(|recorded| *recorded >= 0 && recorded / page * page == bytes).unwrap_or(bytes)
}

/// The recorded shares if they have this weight, else the least that do.
fn shares(recorded: Option<u64>, level: Level, weight: u64) -> u64 {
    if let Some(recorded) = recorded.filter(|recorded| weight_at(level, *recorded) == weight) {
        return recorded;
    }
    let (mut low, mut high) = (2_u64, 262_144);
    while low < high {
        let middle = low.midpoint(high);
        if weight_at(level, middle) < weight { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVEL: Level = Level::Container { swap: true };

    fn line(found: &Resources) -> String {
        let number = |value: Option<i64>| value.map_or("?".to_owned(), |value| value.to_string());
        let shares = found.cpu_shares.map_or("?".to_owned(), |shares| shares.to_string());
        format!(
            "shares={shares} quota={} memory={} pids={}",
            number(found.cpu_quota_us),
            number(found.memory_limit),
            number(found.pids_limit)
        )
    }

    fn check(files: &[(&str, &str)], recorded: &Resources, old: &str, new: &str) {
        let read = |_: &str, file: &str| {
            files.iter().find(|(name, _)| *name == file).map(|(_, text)| format!("{text}\n"))
        };
        assert_eq!(line(&v1(recorded, 4096, read)), old);
        assert_eq!(line(&v2(recorded, LEVEL, 4096, read)), new);
    }

    #[test]
    fn what_the_kernel_says() {
        let none = Resources::default();
        check(&[], &none, "shares=? quota=? memory=? pids=?", "shares=? quota=? memory=? pids=?");
        check(
            &[
                ("cpu.shares", "512"),
                ("cpu.cfs_quota_us", "-1"),
                ("memory.limit_in_bytes", "9223372036854771712"),
                ("pids.max", "max"),
                ("cpu.weight", "100"),
                ("cpu.max", "max 100000"),
                ("memory.max", "max"),
            ],
            &none,
            "shares=512 quota=-1 memory=-1 pids=-1",
            "shares=1012 quota=-1 memory=-1 pids=-1",
        );
        check(
            &[("cpu.max", "rubbish"), ("memory.max", ""), ("memory.limit_in_bytes", "x"), ("pids.max", "7")],
            &none,
            "shares=? quota=? memory=? pids=7",
            "shares=? quota=? memory=? pids=7",
        );
    }

    #[test]
    fn what_the_kernel_made_of_a_wish_is_the_wish() {
        let files = [
            ("cpu.weight", "100"),
            ("memory.max", "8192"),
            ("memory.limit_in_bytes", "8192"),
            ("cpu.max", "5000 100000"),
        ];
        let recorded = |shares, memory| Resources {
            cpu_shares: Some(shares),
            memory_limit: Some(memory),
            ..Resources::default()
        };
        check(
            &files,
            &recorded(1024, 8200),
            "shares=? quota=? memory=8200 pids=?",
            "shares=1024 quota=5000 memory=8200 pids=?",
        );
        check(
            &files,
            &recorded(2048, 9_000_000),
            "shares=? quota=? memory=8192 pids=?",
            "shares=1012 quota=5000 memory=8192 pids=?",
        );
    }

    #[test]
    fn shares_come_back_from_every_weight() {
        for weight in [1, 2, 59, 100, 5_000, 10_000] {
            for level in [LEVEL, Level::Pod] {
                let back = shares(None, level, weight);
                assert!(weight_at(level, back) >= weight && weight_at(level, back - 1) <= weight, "{weight}");
            }
        }
    }
}
