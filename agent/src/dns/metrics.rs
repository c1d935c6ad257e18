//! What the name server counts, by the names of CoreDNS where they mean the same.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

use super::wire::Transport;
use crate::metrics::{counter, counters, histograms, register};

/// CoreDNS', in seconds: quarters of a millisecond, doubled.
fn duration_buckets() -> Vec<f64> {
    std::iter::successors(Some(0.00025), |bucket| Some(bucket * 2.0)).take(16).collect()
}

/// Counters of the name server. Cheap to clone.
#[derive(Clone)]
pub(super) struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    duration: Histogram,
    durations: HistogramVec,
    pub(super) refused: IntCounter,
    pub(super) forwarded: HistogramVec,
    pub(super) rejected: IntCounter,
    pub(super) hits: IntCounterVec,
    pub(super) misses: IntCounter,
    pub(super) stale: IntCounter,
    pub(super) evictions: IntGauge,
    pub(super) entries: IntGauge,
}

impl Metrics {
    pub(super) fn new() -> Metrics {
        let durations = histograms(
            "coredns_dns_request_duration_seconds",
            "Histogram of the time (in seconds) each request took.",
            &["server", "zone"],
            duration_buckets(),
        );
        let gauge = |name: &str, help: &str| {
            IntGauge::with_opts(Opts::new(name, help))
                .expect("name and help are constants that Prometheus accepts")
        };
        Metrics {
            requests: counters(
                "coredns_dns_requests_total",
                "Counter of DNS requests made per protocol and family.",
                &["server", "zone", "proto", "family", "type"],
            ),
            responses: counters(
                "coredns_dns_responses_total",
                "Counter of response status codes.",
                &["server", "zone", "rcode", "plugin"],
            ),
            duration: durations.with_label_values(&[SERVER, ZONE]),
            durations,
            refused: counter(
                "orlop_dns_refused_clients_total",
                "Counter of requests of clients outside the cluster, which are refused.",
            ),
            forwarded: histograms(
                "coredns_proxy_request_duration_seconds",
                "Histogram of the time each proxied request took.",
                &["proxy_name", "to", "rcode"],
                duration_buckets(),
            ),
            rejected: counter(
                "coredns_forward_max_concurrent_rejects_total",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            ),
            hits: counters("coredns_cache_hits_total", "The count of cache hits.", &["server", "type"]),
            misses: counter("coredns_cache_misses_total", "The count of cache misses."),
            stale: counter(
                "coredns_cache_served_stale_total",
                "The number of requests served from stale cache entries.",
            ),
            evictions: gauge("coredns_cache_evictions_total", "The count of cache evictions."),
            entries: gauge("coredns_cache_entries", "The number of elements in the cache."),
        }
    }

    pub(super) fn register(&self, registry: &Registry) {
        register(
            registry,
            [
                Box::new(self.requests.clone()) as Box<dyn Collector>,
                Box::new(self.responses.clone()),
                Box::new(self.durations.clone()),
                Box::new(self.refused.clone()),
                Box::new(self.forwarded.clone()),
                Box::new(self.rejected.clone()),
                Box::new(self.hits.clone()),
                Box::new(self.misses.clone()),
                Box::new(self.stale.clone()),
                Box::new(self.evictions.clone()),
                Box::new(self.entries.clone()),
            ],
        );
    }

    pub(super) fn asked(&self, transport: Transport, v4: bool, kind: RecordType) {
        let proto = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let family = if v4 { "1" } else { "2" };
        self.requests.with_label_values(&[SERVER, ZONE, proto, family, type_word(kind)]).inc();
    }

    pub(super) fn answered(&self, code: ResponseCode, who: &str, took: Duration) {
        self.responses.with_label_values(&[SERVER, ZONE, code_word(code), who]).inc();
        self.duration.observe(took.as_secs_f64());
    }
}

const SERVER: &str = "dns://:53";
const ZONE: &str = ".";

/// Upstream's words; a label that strangers choose must not grow without bound.
fn type_word(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::HTTPS => "HTTPS",
        RecordType::MX => "MX",
        RecordType::NS => "NS",
        RecordType::PTR => "PTR",
        RecordType::SOA => "SOA",
        RecordType::SRV => "SRV",
        RecordType::TXT => "TXT",
        _ => "other",
    }
}

pub(super) fn code_word(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::BADVERS => "BADVERS",
        _ => "other",
    }
}
