//! Making metrics in one line. Whoever owns a fact makes its metric and registers it; the kubelet API writes the registry down.
//!
//! Names and buckets are upstream's, so that dashboards for the kubelet fit. Not for: what is read from the kernel at each
//! question (`usage`).

pub mod scrape;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

/// Upstream's buckets for what takes milliseconds to minutes, in seconds.
#[must_use]
pub fn common_buckets() -> Vec<f64> {
    std::iter::successors(Some(0.005), |bucket| Some(bucket * 2.5)).take(14).collect()
}

const CONSTANT: &str = "name, help and labels are constants that Prometheus accepts";

/// A counter.
#[must_use]
pub fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect(CONSTANT)
}

/// Counters by labels.
#[must_use]
pub fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(CONSTANT)
}

/// Gauges by labels.
#[must_use]
pub fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect(CONSTANT)
}

/// A histogram.
#[must_use]
pub fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect(CONSTANT)
}

/// Histograms by labels.
#[must_use]
pub fn histograms(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels).expect(CONSTANT)
}

/// Makes metrics known to those who ask. A name that is taken is a mistake of ours, and no reason to stop a node.
pub fn register(registry: &Registry, metrics: impl IntoIterator<Item = Box<dyn Collector>>) {
    for metric in metrics {
        if let Err(error) = registry.register(metric) {
            tracing::error!(%error, "register a metric");
        }
    }
}

/// Text of all metrics of a registry.
#[must_use]
pub fn text(registry: &Registry) -> String {
    match prometheus::TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "write metrics down");
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_registered_is_written_down() {
        let registry = Registry::new();
        let (one, two) = (counter("a_total", "A."), counters("b_total", "B.", &["l"]));
        register(&registry, [Box::new(one.clone()) as Box<dyn Collector>, Box::new(two.clone())]);
        one.inc();
        two.with_label_values(&["x\"y\n"]).inc_by(3);
        expect_test::expect![[r#"
            # HELP a_total A.
            # TYPE a_total counter
            a_total 1
            # HELP b_total B.
            # TYPE b_total counter
            b_total{l="x\"y\n"} 3
        "#]]
        .assert_eq(&text(&registry));
        assert_eq!(common_buckets().len(), 14);
    }
}
