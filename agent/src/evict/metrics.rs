//! What evictions count, by the names of the kubelet.

use prometheus::{HistogramVec, IntCounterVec, Registry, core::Collector};

use crate::metrics::{counters, histograms, register};

/// Counters of the evictor. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) evictions: IntCounterVec,
    pub(super) stats_age: HistogramVec,
}

impl Metrics {
    /// Registered.
    #[must_use]
    pub fn new(registry: &Registry) -> Metrics {
        let metrics = Metrics {
            evictions: counters(
                "kubelet_evictions",
                "Cumulative number of evicted pods by the signal that led to it",
                &["eviction_signal"],
            ),
            stats_age: histograms(
                "kubelet_eviction_stats_age_seconds",
                "Time from a measurement until a pod is evicted for it, in seconds",
                &["eviction_signal"],
                prometheus::DEFAULT_BUCKETS.to_vec(),
            ),
        };
        let all: [Box<dyn Collector>; 2] =
            [Box::new(metrics.evictions.clone()), Box::new(metrics.stats_age.clone())];
        register(registry, all);
        metrics
    }
}
