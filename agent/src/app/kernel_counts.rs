//! What the programs in the kernel count of services and policies, as metrics: read from their maps when somebody asks. Not for:
//! how long user space takes (`service_metrics`).

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use orlop_dataplane::{
    Counted, Status, counted,
    policy::{
        model::{Direction, Key},
        tables::Names,
    },
};
use prometheus::{
    IntCounterVec,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tokio::sync::watch;

use orlop::metrics::counters;

/// What the programs count, read when it is asked for.
pub(super) struct Kernel {
    bpffs: PathBuf,
    /// Which names numbers of policies stand for.
    status: watch::Receiver<Status>,
    descriptions: Vec<Desc>,
}

/// Name, help and the field of what went through a service port.
type Field = (&'static str, &'static str, fn(&orlop_dataplane::Counters) -> u64);
const FIELDS: [Field; 4] = [
    ("orlop_service_connections_total", "New connections of a service port, by its first address.", |c| {
        c.connections
    }),
    (
        "orlop_service_packets_total",
        "Packets translated at devices (none of connections made at a socket).",
        |c| c.packets,
    ),
    ("orlop_service_bytes_total", "Bytes of those packets, from the IP header on.", |c| c.bytes),
    ("orlop_service_rejected_total", "Refused or dropped: no endpoint, or the source may not.", |c| {
        c.rejected
    }),
];
const DROPS: (&str, &str) = ("orlop_dropped_packets_total", "Packets that the programs dropped, by reason.");
const ALLOWED: (&str, &str) = ("orlop_policy_allowed_flows_total", "Flows that a NetworkPolicy let through.");
const DENIED: (&str, &str) = (
    "orlop_policy_denied_packets_total",
    "Packets that none of these NetworkPolicies lets through, which select the same pods.",
);

impl Kernel {
    /// Of the programs that are pinned there.
    pub(super) fn new(bpffs: PathBuf, status: watch::Receiver<Status>) -> Self {
        let nothing = Counted { services: Vec::new(), drops: BTreeMap::new(), hits: BTreeMap::new() };
        let families = families(&nothing, &Names::default());
        Self {
            bpffs,
            status,
            descriptions: families.iter().flat_map(|one| one.desc().into_iter().cloned()).collect(),
        }
    }
}

impl Collector for Kernel {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let names = Arc::clone(&self.status.borrow().policy_names);
        match counted(&self.bpffs) {
            Ok(counted) => families(&counted, &names).iter().flat_map(Collector::collect).collect(),
            Err(error) => {
                tracing::debug!(%error, "read what the programs counted");
                Vec::new()
            }
        }
    }
}

fn families(counted: &Counted, names: &Names) -> Vec<IntCounterVec> {
    let per_service = FIELDS.map(|(name, help, field)| {
        let family = counters(name, help, &["address", "protocol"]);
        for (vip, counters) in &counted.services {
            let text = vip.to_string();
            let (address, protocol) = text.rsplit_once('/').unwrap_or((&text, ""));
            family.with_label_values(&[address, protocol]).inc_by(field(counters));
        }
        family
    });
    let (name, help) = DROPS;
    let drops = counters(name, help, &["reason"]);
    for (reason, count) in &counted.drops {
        drops.with_label_values(&[reason]).inc_by(*count);
    }
    per_service.into_iter().chain([drops]).chain(of_policies(counted, names)).collect()
}

/// What nobody knows the name of is of a policy that is gone.
fn of_policies(counted: &Counted, names: &Names) -> [IntCounterVec; 2] {
    let (name, help) = ALLOWED;
    let allowed = counters(name, help, &["policy"]);
    let (name, help) = DENIED;
    let denied = counters(name, help, &["direction", "policies"]);
    for (number, hits) in &counted.hits {
        if let Some(policy) = names.policies.get(number) {
            allowed.with_label_values(&[name_of(policy)]).inc_by(hits.allowed);
        }
        if let Some((direction, policies)) = names.sets.get(number) {
            let direction = match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            };
            let policies: Vec<_> = policies.iter().map(name_of).collect();
            denied.with_label_values(&[direction, &policies.join(",")]).inc_by(hits.denied);
        }
    }
    [allowed, denied]
}

fn name_of(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

#[cfg(test)]
mod tests {
    use orlop::metrics::register;
    use prometheus::Registry;

    use super::*;

    #[test]
    fn what_the_kernel_counts_is_by_service_reason_and_policy() {
        let vip = orlop_dataplane::tables::Vip {
            host: orlop_dataplane::tables::Host::Ip([10, 96, 0, 1].into()),
            port: 80,
            protocol: orlop_dataplane::model::Protocol::Tcp,
        };
        let counters = orlop_dataplane::Counters { connections: 1, packets: 2, bytes: 3, rejected: 0 };
        let hits = |allowed, denied| orlop_dataplane::Hits { allowed, denied };
        let counted = Counted {
            services: vec![(vip, counters)],
            drops: [("no-endpoint", 4)].into(),
            hits: [(1, hits(5, 0)), (2, hits(0, 6)), (3, hits(7, 7))].into(),
        };
        let key = |name: &str| Key { namespace: "shop".into(), name: name.into() };
        let names = Names {
            policies: [(1, key("front"))].into(),
            sets: [(2, (Direction::Ingress, [key("back"), key("front")].into()))].into(),
            ..Names::default()
        };
        let registry = Registry::new();
        register(
            &registry,
            families(&counted, &names).into_iter().map(|one| Box::new(one) as Box<dyn Collector>),
        );
        let text = orlop::metrics::text(&registry);
        assert!(
            text.contains("orlop_service_bytes_total{address=\"10.96.0.1:80\",protocol=\"TCP\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("orlop_dropped_packets_total{reason=\"no-endpoint\"} 4\n"), "{text}");
        let line =
            "orlop_policy_denied_packets_total{direction=\"ingress\",policies=\"shop/back,shop/front\"} 6\n";
        assert!(
            text.contains("orlop_policy_allowed_flows_total{policy=\"shop/front\"} 5\n")
                && text.contains(line),
            "{text}"
        );
        assert!(!text.contains(" 7\n"), "{text}");
    }
}
