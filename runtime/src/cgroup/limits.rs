//! Limits of a pod-level cgroup as files and their contents. Pure.
//!
//! Not for: containers (libcontainer writes theirs from the OCI spec).

use crate::api::Resources;

/// v1: controller, file, value, in the order of writing.
pub(crate) fn v1(limits: &Resources) -> Vec<(&'static str, &'static str, String)> {
    let Resources { cpu_shares, cpu_quota_us, cpu_period_us, memory_limit, pids_limit, .. } = limits;
    let mut files = Vec::new();
    let mut add = |controller, file, value: Option<String>| {
        files.extend(value.map(|value| (controller, file, value)));
    };
    add("cpu", "cpu.shares", cpu_shares.map(|v| v.to_string()));
    add("cpu", "cpu.cfs_period_us", cpu_period_us.map(|v| v.to_string()));
    add("cpu", "cpu.cfs_quota_us", cpu_quota_us.map(|v| v.to_string()));
    add("memory", "memory.limit_in_bytes", memory_limit.map(|v| v.to_string()));
    add("pids", "pids.max", pids_limit.map(unlimited));
    files
}

/// v2: file, value.
pub(crate) fn v2(limits: &Resources) -> Vec<(&'static str, String)> {
    let Resources { cpu_shares, cpu_quota_us, cpu_period_us, memory_limit, pids_limit, .. } = limits;
    let mut files = Vec::new();
    files.extend(cpu_shares.map(|shares| ("cpu.weight", weight(shares).to_string())));
    let quota = cpu_quota_us.map(unlimited);
    files.extend(quota.map(|quota| ("cpu.max", format!("{quota} {}", cpu_period_us.unwrap_or(100_000)))));
    files.extend(memory_limit.map(|limit| ("memory.max", unlimited(limit))));
    files.extend(pids_limit.map(|limit| ("pids.max", unlimited(limit))));
    files
}

fn unlimited(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// 2…262144 to 1…10000, as Kubernetes does for pods.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        for (shares, expected) in [(0, 1), (2, 1), (1024, 39), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }

    #[test]
    fn only_what_is_set_is_written() {
        assert_eq!((v1(&Resources::default()), v2(&Resources::default())), (vec![], vec![]));
        let limits = Resources {
            cpu_quota_us: Some(-1),
            memory_limit: Some(7),
            pids_limit: Some(-1),
            ..Resources::default()
        };
        let expected = [("cpu.max", "max 100000"), ("memory.max", "7"), ("pids.max", "max")];
        assert_eq!(v2(&limits), expected.map(|(file, value)| (file, value.to_owned())));
        assert_eq!(v1(&limits)[0], ("cpu", "cpu.cfs_quota_us", "-1".to_owned()));
    }
}
