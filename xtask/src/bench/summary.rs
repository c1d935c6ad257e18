//! Many samples of one thing in a few numbers. Pure.

use serde_json::{Value, json};

/// The lowest, the median, the 90th and 99th percentile and the highest of some samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) count: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        // The nearest rank: always a value that was seen.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { count: sorted.len(), min, p50: rank(50), p90: rank(90), p99: rank(99), max })
    }

    /// One sample, or a figure that does not vary.
    pub(crate) fn single(value: f64) -> Self {
        Self { count: 1, min: value, p50: value, p90: value, p99: value, max: value }
    }

    /// The same in another unit.
    pub(crate) fn scaled(self, by: f64) -> Self {
        let Self { count, min, p50, p90, p99, max } = self;
        Self { count, min: min * by, p50: p50 * by, p90: p90 * by, p99: p99 * by, max: max * by }
    }

    pub(crate) fn json(&self) -> Value {
        let Self { count, min, p50, p90, p99, max } = self;
        json!({ "count": count, "min": min, "p50": p50, "p90": p90, "p99": p99, "max": max })
    }

    /// `min/p50/p99`, or only the value of a single sample.
    pub(crate) fn text(&self) -> String {
        if self.count == 1 {
            return number(self.p50);
        }
        format!("{} / {} / {}", number(self.min), number(self.p50), number(self.p99))
    }
}

/// Three significant digits, no exponent.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(samples: &[f64], expected: Option<&str>) {
        assert_eq!(Summary::of(samples).map(|summary| summary.text()).as_deref(), expected, "{samples:?}");
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        check(&[], None);
        check(&[3.0], Some("3.00"));
        check(&[4.0, 1.0], Some("1.00 / 1.00 / 4.00"));
        check(&[10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], Some("1.00 / 5.00 / 10.0"));
        check(&[123.456, 0.0149, 12.345], Some("0.01 / 12.3 / 123"));
    }
}
