//! What the workers count, by the names of the kubelet.

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry, core::Collector};

use crate::{
    metrics::{common_buckets, counter, counters, histogram, histograms, register},
    pod::desired::Kind,
};

/// Upstream's for starts of pods, in seconds.
const START_BUCKETS: [f64; 25] = [
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];

/// For resizes, in milliseconds: here they take less than ten.
const RESIZE_BUCKETS: [f64; 12] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0, 10_240.0, 40_960.0];

/// Counters of all workers together. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) started_pods: IntCounter,
    pub(crate) started_pods_errors: IntCounter,
    pub(crate) started_containers: IntCounterVec,
    pub(crate) started_containers_errors: IntCounterVec,
    pub(crate) orphaned_pods: IntCounter,
    pub(crate) admission_rejections: IntCounterVec,
    pub(crate) sandbox_duration: HistogramVec,
    pub(crate) sandbox_errors: IntCounterVec,
    pub(crate) worker_start: Histogram,
    pub(crate) pod_start: Histogram,
    pub(crate) pod_start_sli: Histogram,
    pub(crate) pod_start_total: Histogram,
    pub(crate) preemptions: IntCounterVec,
    pub(crate) resizes_asked: IntCounterVec,
    pub(crate) resizes_infeasible: IntCounterVec,
    pub(crate) resizes_granted_late: IntCounterVec,
    pub(crate) resize_duration: HistogramVec,
    pub(crate) probes: IntCounterVec,
    pub(crate) probe_duration: HistogramVec,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let start = |name: &str, help: &str| histogram(name, help, START_BUCKETS.to_vec());
        Metrics {
            started_pods: counter("kubelet_started_pods_total", "Cumulative number of pods started"),
            started_pods_errors: counter(
                "kubelet_started_pods_errors_total",
                "Cumulative number of errors when starting pods",
            ),
            started_containers: counters(
                "kubelet_started_containers_total",
                "Cumulative number of containers started",
                &["container_type"],
            ),
            started_containers_errors: counters(
                "kubelet_started_containers_errors_total",
                "Cumulative number of errors when starting containers",
                &["code", "container_type"],
            ),
            orphaned_pods: counter(
                "kubelet_orphaned_runtime_pods_total",
                "Number of pods that were on this machine without the API naming them",
            ),
            admission_rejections: counters(
                "kubelet_admission_rejections_total",
                "Cumulative number of pods that this node refused",
                &["reason"],
            ),
            sandbox_duration: histograms(
                "kubelet_run_podsandbox_duration_seconds",
                "Time from the beginning of a sandbox until it has a network, in seconds",
                &["runtime_handler"],
                common_buckets(),
            ),
            sandbox_errors: counters(
                "kubelet_run_podsandbox_errors_total",
                "Cumulative number of sandboxes that could not be made",
                &["runtime_handler"],
            ),
            worker_start: histogram(
                "kubelet_pod_worker_start_duration_seconds",
                "Time from the first sight of a pod until its worker begins, in seconds",
                prometheus::DEFAULT_BUCKETS.to_vec(),
            ),
            pod_start: start(
                "kubelet_pod_start_duration_seconds",
                "Time from the first sight of a pod until all of its containers had started, in seconds",
            ),
            pod_start_sli: start(
                "kubelet_pod_start_sli_duration_seconds",
                "Time from the creation of a pod until its start was told, without pulls of images, in seconds",
            ),
            pod_start_total: start(
                "kubelet_pod_start_total_duration_seconds",
                "Time from the creation of a pod until its start was told, with pulls of images, in seconds",
            ),
            preemptions: counters(
                "kubelet_preemptions",
                "Cumulative number of pods that made room for critical ones, by the resource that was short",
                &["preemption_signal"],
            ),
            resizes_asked: counters(
                "kubelet_container_requested_resizes_total",
                "Cumulative number of changes of resources that were asked for, of each container and resource",
                &["resource", "requirement", "operation"],
            ),
            resizes_infeasible: counters(
                "kubelet_pod_infeasible_resizes_total",
                "Cumulative number of resizes that this node can never do",
                &["reason_detail"],
            ),
            resizes_granted_late: counters(
                "kubelet_pod_deferred_accepted_resizes_total",
                "Cumulative number of resizes that were granted after they had to wait, by what made room",
                &["retry_trigger"],
            ),
            resize_duration: histograms(
                "kubelet_pod_resize_duration_milliseconds",
                "Time from the beginning of a resize until it is in the kernel, in milliseconds",
                &["success"],
                RESIZE_BUCKETS.to_vec(),
            ),
            probes: counters(
                "prober_probe_total",
                "Cumulative number of probes of a container by result",
                &["probe_type", "result", "container", "pod", "namespace", "pod_uid"],
            ),
            probe_duration: histograms(
                "prober_probe_duration_seconds",
                "Duration of probes, in seconds",
                &["probe_type", "container", "pod", "namespace"],
                prometheus::DEFAULT_BUCKETS.to_vec(),
            ),
        }
    }

    pub(super) fn register(&self, kubelet: &Registry, probes: &Registry) {
        let all: [Box<dyn Collector>; 17] = [
            Box::new(self.started_pods.clone()),
            Box::new(self.started_pods_errors.clone()),
            Box::new(self.started_containers.clone()),
            Box::new(self.started_containers_errors.clone()),
            Box::new(self.orphaned_pods.clone()),
            Box::new(self.admission_rejections.clone()),
            Box::new(self.sandbox_duration.clone()),
            Box::new(self.sandbox_errors.clone()),
            Box::new(self.worker_start.clone()),
            Box::new(self.pod_start.clone()),
            Box::new(self.pod_start_sli.clone()),
            Box::new(self.pod_start_total.clone()),
            Box::new(self.preemptions.clone()),
            Box::new(self.resizes_asked.clone()),
            Box::new(self.resizes_infeasible.clone()),
            Box::new(self.resizes_granted_late.clone()),
            Box::new(self.resize_duration.clone()),
        ];
        register(kubelet, all);
        let all: [Box<dyn Collector>; 2] =
            [Box::new(self.probes.clone()), Box::new(self.probe_duration.clone())];
        register(probes, all);
    }
}

/// Upstream's word for a kind of container.
pub(crate) fn container_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Init | Kind::Sidecar => "init_container",
        Kind::Regular => "container",
        Kind::Ephemeral => "ephemeral_container",
    }
}
