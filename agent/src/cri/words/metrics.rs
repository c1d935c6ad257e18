//! `[p]` The series of `crate::usage::series` in the words of CRI.

use orlop_cri_api::v1::{Metric, MetricDescriptor, MetricType, UInt64Value};

use super::status::nanos;
use crate::usage::series::{Kind, LABELS, METRICS, Measured, Row, Value, Whose};

/// All series there may be.
pub(in crate::cri) fn descriptors() -> Vec<MetricDescriptor> {
    let descriptor = |row: &Row| MetricDescriptor {
        name: row.name.to_owned(),
        help: row.help.to_owned(),
        label_keys: LABELS.iter().chain(row.labels()).map(|label| (*label).to_owned()).collect(),
    };
    METRICS.iter().map(descriptor).collect()
}

/// The series of a pod or a container.
pub(in crate::cri) fn metrics(whose: &Whose<'_>, seen: &Measured) -> Vec<Metric> {
    let labels = whose.labels(seen);
    let series = |row: &'static Row| row.values(seen).into_iter().map(move |(own, value)| (row, own, value));
    METRICS
        .iter()
        .flat_map(series)
        .map(|(row, own, value)| Metric {
            name: row.name.to_owned(),
            timestamp: nanos(seen.at),
            metric_type: match row.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            }
            .into(),
            label_values: labels.iter().cloned().chain(own).collect(),
            value: Some(UInt64Value { value: whole(value) }),
        })
        .collect()
}

/// CRI has whole numbers only.
fn whole(value: Value) -> u64 {
    match value {
        Value::Count(count) => count,
        Value::Nanos(nanos) => nanos / 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use orlop_runtime::{Counted, Counters, Resources, cgroup::Stats};

    use super::*;

    #[test]
    fn every_series_has_a_value_for_each_of_its_keys() {
        let counters = Counters {
            at: Timestamp::from_second(20).unwrap(),
            stats: Stats { cpu_ns: 3_500_000_000, ..Stats::default() },
            counted: Counted { cgroup: "kubepods/u/c1".into(), ..Counted::default() },
            limits: Resources::default(),
        };
        let seen = Measured::new(counters, Timestamp::from_second(10).unwrap());
        let whose = Whose { container: "c", image: "i", id: "c1", namespace: "ns", pod: "p" };
        let (all, described) = (metrics(&whose, &seen), descriptors());
        for metric in &all {
            let keys = &described.iter().find(|one| one.name == metric.name).unwrap().label_keys;
            assert_eq!(metric.label_values.len(), keys.len(), "{}", metric.name);
            assert_eq!(metric.label_values[..6], ["c", "/kubepods/u/c1", "i", "c1", "ns", "p"]);
        }
        let cpu = all.iter().find(|metric| metric.name == "container_cpu_usage_seconds_total").unwrap();
        assert_eq!(cpu.value.as_ref().map(|value| value.value), Some(3));
    }
}
