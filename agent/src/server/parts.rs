//! What the kubelet API is made of, and how often and how long it is asked. Not for: the answers.

use std::{collections::BTreeMap, sync::Arc};

use http::{Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use orlop_runtime::{Runtime, image::Images};
use prometheus::{HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Registry, core::Collector};
use tokio::time::Instant;

use super::{
    Body, Logs, Places, Reviews,
    access::{Access, Identity},
    answer, cadvisor,
    health::Checks,
    parts_of,
    route::Route,
};
use crate::{
    metrics::{counters, gauges, histograms, register},
    node::report::Facts,
    usage::Usage,
    worker::Desk,
};

/// Whom it asks for what it answers.
pub struct Sources {
    /// Logs of containers.
    pub logs: Logs,
    /// Containers.
    pub runtime: Runtime,
    /// What they use.
    pub usage: Usage,
    /// Images.
    pub images: Images,
    /// Pods.
    pub desk: Desk,
    /// Who callers are, and what they may.
    pub reviews: Arc<dyn Reviews>,
    /// What the parts of the node count.
    pub registry: Registry,
    /// What probes count.
    pub probes: Registry,
    /// This node.
    pub node: String,
    /// This machine.
    pub facts: Facts,
    /// Where things are.
    pub places: Places,
    /// The answer of `/configz`.
    pub configz: serde_json::Value,
    /// That of `/flagz`.
    pub flags: BTreeMap<String, String>,
    /// Whether the machine's log directory is served.
    pub system_logs: bool,
    /// Until when the certificate holds that the API server knows this node by, if there is one.
    pub client_expires: Option<Timestamp>,
}

/// The same, with what it keeps itself.
pub(super) struct Parts {
    pub(super) access: Access,
    pub(super) logs: Logs,
    pub(super) runtime: Runtime,
    pub(super) usage: Usage,
    pub(super) images: Images,
    pub(super) desk: Desk,
    pub(super) registry: Registry,
    pub(super) probes: Registry,
    pub(super) node: String,
    pub(super) names: cadvisor::Names,
    pub(super) places: Places,
    pub(super) configz: String,
    pub(super) flags: BTreeMap<String, String>,
    pub(super) system_logs: bool,
    /// Until when the certificates hold, the client's and the server's.
    pub(super) expires: [Option<Timestamp>; 2],
    pub(super) checks: Checks,
    pub(super) started: Timestamp,
    requests: IntCounterVec,
    inflight: IntGaugeVec,
    durations: HistogramVec,
}

impl Parts {
    pub(super) fn new(sources: Sources, server_expires: Option<Timestamp>) -> Parts {
        let Sources {
            logs,
            runtime,
            usage,
            images,
            desk,
            reviews,
            registry,
            probes,
            node,
            facts,
            places,
            configz,
            flags,
            system_logs,
            client_expires,
        } = sources;
        let labels = &["long_running", "method", "path", "server_type"];
        let requests =
            counters("kubelet_http_requests_total", "Number of the http requests received", labels);
        let inflight =
            gauges("kubelet_http_inflight_requests", "Number of the inflight http requests", labels);
        let durations = histograms(
            "kubelet_http_requests_duration_seconds",
            "Duration in seconds to serve http requests",
            labels,
            prometheus::DEFAULT_BUCKETS.to_vec(),
        );
        let all: [Box<dyn Collector>; 3] =
            [Box::new(requests.clone()), Box::new(inflight.clone()), Box::new(durations.clone())];
        register(&registry, all);
        let names = cadvisor::Names {
            boot_id: facts.boot_id,
            machine_id: facts.machine_id,
            system_uuid: facts.system_uuid,
            cpus: facts.cpus,
        };
        let (access, configz) = (Access::new(reviews), configz.to_string());
        let checks = Checks::new(desk.clone());
        Parts {
            access,
            logs,
            runtime,
            usage,
            images,
            desk,
            registry,
            probes,
            node,
            names,
            places,
            configz,
            flags,
            system_logs,
            expires: [client_expires, server_expires],
            checks,
            started: Timestamp::now(),
            requests,
            inflight,
            durations,
        }
    }
}

/// Answers, and counts that. Streams count until they are begun.
pub(super) async fn counted(
    identity: Option<&Identity>,
    parts: &Parts,
    request: Request<Incoming>,
) -> Response<Body> {
    let path: Vec<&str> = parts_of(request.uri().path());
    let route = Route::of(&path);
    let follows = request.uri().query().is_some_and(|query| query.contains("follow=true"));
    let long = matches!(route, Route::Stream(_)) || (matches!(route, Route::Logs(_)) && follows);
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    };
    let labels = [if long { "true" } else { "false" }, method, route.name(), "readwrite"].map(str::to_owned);
    parts.requests.with_label_values(&labels).inc();
    let _inflight = Inflight::new(parts.inflight.with_label_values(&labels));
    let began = Instant::now();
    let answer = answer(identity, parts, request).await;
    parts.durations.with_label_values(&labels).observe(began.elapsed().as_secs_f64());
    answer
}

/// A request that is being answered. A caller that leaves ends it anywhere.
struct Inflight(IntGauge);

impl Inflight {
    fn new(gauge: IntGauge) -> Inflight {
        gauge.inc();
        Inflight(gauge)
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
