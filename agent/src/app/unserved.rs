//! Services that are not, or not wholly, in the maps: a line of the log, an event on the Service for whoever describes it, and
//! a number for whoever counts. Everything else is served meanwhile.
//!
//! Not for: why, or trying again (the dataplane's own).

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Service};
use kube::{Api, Client, api::PostParams};
use orlop::events::service::{NOT_SERVED, warning};
use orlop_dataplane::{Status, model::ServiceKey};
use tokio::{sync::watch, time::timeout};

use super::service_metrics::Metrics;

/// Events of one change: where a map is full thousands of services may miss it, and the log names them all.
const MOST_EVENTS: usize = 16;

/// For the events of one change: nothing that is told later is worth waiting for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a service is not served.
type Failures = BTreeMap<ServiceKey, String>;

/// Tells it when it changes, for as long as there is a status.
pub(super) async fn run(mut seen: watch::Receiver<Status>, client: &Client, node: &str, metrics: &Metrics) {
    let (mut known, mut bare) = (Failures::new(), Vec::new());
    while seen.changed().await.is_ok() {
        let (failures, devices) = {
            let status = seen.borrow_and_update();
            (status.failures.clone(), status.bare_devices.clone())
        };
        for why in devices.iter().filter(|why| !bare.contains(*why)) {
            tracing::warn!(why, "node ports and load-balancer addresses are not answered at a device");
        }
        bare = devices;
        if failures != known {
            for (service, error) in &failures {
                tracing::warn!(%service, error, "service cannot be served");
            }
            metrics.unserved(failures.len());
            let tell = async {
                for (service, why) in fresh(&known, &failures).take(MOST_EVENTS) {
                    if let Err(error) = tell(client, node, service, why).await {
                        tracing::debug!(%error, %service, "create an event");
                    }
                }
            };
            if timeout(PATIENCE, tell).await.is_err() {
                tracing::debug!("the API server takes no events");
            }
            known = failures;
        }
    }
    // The dataplane is ending, and says how itself.
    std::future::pending().await
}

/// Those that were served before: one that goes on failing in other words is no news.
fn fresh<'a>(known: &Failures, failures: &'a Failures) -> impl Iterator<Item = (&'a ServiceKey, &'a String)> {
    failures.iter().filter(|(service, _)| !known.contains_key(service))
}

async fn tell(client: &Client, node: &str, service: &ServiceKey, why: &str) -> kube::Result<()> {
    let ServiceKey { namespace, name } = service;
    // Also the host ports of pods have such names; those have no Service.
    let Some(object) = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await? else {
        return Ok(());
    };
    let event = warning(&object, node, NOT_SERVED, why, Timestamp::now());
    Api::<Event>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_served_before_is_news() {
        let failing = |names: &[(&str, &str)]| -> Failures {
            let key = |name: &str| ServiceKey { namespace: "default".to_owned(), name: name.to_owned() };
            names.iter().map(|(name, why)| (key(name), (*why).to_owned())).collect()
        };
        let known = failing(&[("a", "backend 7: full"), ("b", "full")]);
        let now = failing(&[("a", "backend 8: full"), ("c", "full")]);
        let names: Vec<_> = fresh(&known, &now).map(|(service, _)| service.name.as_str()).collect();
        assert_eq!(names, ["c"]);
    }
}
