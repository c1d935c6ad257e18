//! What can be counted of services: kube-proxy's metrics, on its port, where they mean the same here; and beside them what the
//! programs in the kernel count (`kernel_counts`). Not for: DNS, or the kubelet's metrics (its own port).
//!
//! One write of the maps is of both families, so there is no `ip_family`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use orlop_dataplane::measure::Synced;
use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGaugeVec, Registry, core::Collector, exponential_buckets,
};
use tokio::sync::mpsc;

use super::kernel_counts::Kernel;
use orlop::metrics::{counter, counters, gauges, histogram, register, scrape};

/// kube-proxy's `metricsBindAddress`.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);

/// Upstream's: quarters of a second, then seconds, and so on until five minutes.
fn programming_buckets() -> Vec<f64> {
    let linear = |start: u32, width: u32, count: u32| (0..count).map(move |n| f64::from(start + width * n));
    [0.25, 0.5]
        .into_iter()
        .chain(linear(1, 1, 59))
        .chain(linear(60, 5, 12))
        .chain(linear(120, 30, 7))
        .collect()
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Metrics {
    registry: Registry,
    syncs: Histogram,
    full: Histogram,
    partial: Histogram,
    programming: Histogram,
    services: IntCounter,
    endpoints: IntCounter,
    last: IntGaugeVec,
    queued: IntGaugeVec,
    unserved: IntGaugeVec,
    pub(super) healthz: IntCounterVec,
    pub(super) livez: IntCounterVec,
}

impl Metrics {
    /// Of the programs that are pinned there.
    pub(super) fn new(kernel: Kernel) -> Self {
        let took = |name: &str, help: &str| {
            let buckets = exponential_buckets(0.001, 2.0, 15).unwrap_or_default();
            histogram(&format!("kubeproxy_sync_{name}_duration_seconds"), help, buckets)
        };
        let seconds =
            |name: &str, help: &str| gauges(&format!("kubeproxy_sync_proxy_rules_{name}"), help, &[]);
        let changes = |of: &str| {
            let name = format!("kubeproxy_sync_proxy_rules_{of}_changes_total");
            counter(&name, &format!("Changes of a {of} that were taken in."))
        };
        let answers = |of: &str| {
            counters(
                &format!("kubeproxy_proxy_{of}_total"),
                "Answers about the health of the service dataplane, by status.",
                &["code"],
            )
        };
        let metrics = Self {
            registry: Registry::new(),
            syncs: took("proxy_rules", "How long writing the service maps took, in seconds."),
            full: took("full_proxy_rules", "Of these, those that compared everything."),
            partial: took("partial_proxy_rules", "Of these, those of what had changed."),
            programming: histogram(
                "kubeproxy_network_programming_duration_seconds",
                "From a change of endpoints until it was in the service maps, in seconds.",
                programming_buckets(),
            ),
            services: changes("service"),
            endpoints: changes("endpoint"),
            last: seconds("last_timestamp_seconds", "When the service maps were last written."),
            queued: seconds("last_queued_timestamp_seconds", "When that write was begun."),
            unserved: gauges(
                "orlop_services_unserved",
                "Services that are not, or not wholly, in the service maps.",
                &[],
            ),
            healthz: answers("healthz"),
            livez: answers("livez"),
        };
        metrics.unserved(0);
        let m = &metrics;
        let timed = [&m.syncs, &m.full, &m.partial, &m.programming];
        let all = timed.map(|one| Box::new(one.clone()) as Box<dyn Collector>).into_iter();
        let counted = [&m.services, &m.endpoints].map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let at = [&m.last, &m.queued, &m.unserved].map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let health = [&m.healthz, &m.livez].map(|one| Box::new(one.clone()) as Box<dyn Collector>);
        let kernel: Box<dyn Collector> = Box::new(kernel);
        register(&m.registry, all.chain(counted).chain(at).chain(health).chain([kernel]));
        metrics
    }

    /// So many are not, or not wholly, in the maps.
    pub(super) fn unserved(&self, count: usize) {
        self.unserved.with_label_values::<&str>(&[]).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Takes in every write, and shows itself to programs of this machine.
    pub(super) async fn run(self, mut synced: mpsc::UnboundedReceiver<Synced>) {
        let show = async {
            match scrape::bind(ADDRESS).await {
                Some(listener) => scrape::serve(listener, self.registry.clone(), |_| true).await,
                None => std::future::pending().await,
            }
        };
        let count = async {
            while let Some(one) = synced.recv().await {
                self.count(&one);
            }
            std::future::pending().await
        };
        tokio::select! {
            () = show => {}
            () = count => {}
        }
    }

    fn count(&self, synced: &Synced) {
        let took = synced.took.as_secs_f64();
        self.syncs.observe(took);
        if synced.full { &self.full } else { &self.partial }.observe(took);
        synced.programmed.iter().for_each(|late| self.programming.observe(late.as_secs_f64()));
        self.services.inc_by(synced.services);
        self.endpoints.inc_by(synced.slices);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = |at: std::time::Duration| i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
        self.last.with_label_values::<&str>(&[]).set(seconds(now));
        self.queued.with_label_values::<&str>(&[]).set(seconds(now.saturating_sub(synced.took)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use orlop_dataplane::Status;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn a_write_is_counted_under_kube_proxys_names() {
        let (_, status) = watch::channel(Status::default());
        let metrics = Metrics::new(Kernel::new("/nowhere".into(), status));
        let programmed = vec![Duration::from_millis(300), Duration::from_secs(2)];
        let took = Duration::from_millis(3);
        metrics.count(&Synced { full: false, took, services: 1, slices: 2, programmed });
        metrics.healthz.with_label_values(&["200"]).inc();
        let text = orlop::metrics::text(&metrics.registry);
        for line in [
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{le=\"0.004\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count 0",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"0.5\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{le=\"2\"} 2",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line} in\n{text}");
        }
        assert_eq!(programming_buckets().len(), 80);
    }
}
