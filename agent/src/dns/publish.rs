//! The Service by which the cluster's pods reach our name server, and its one endpoint: `kube-system/kube-dns`, as
//! upstream clusters call it.
//!
//! Whatever balances Services on a node (our own programs, kube-proxy) then carries questions to us: there is no address
//! to bind and no rule to write on any node. Not for: a cluster whose operator runs another DNS under that name; a
//! Service with a selector is left alone.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{source, wire::chain};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "kube-dns";
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// Where the name server is reached.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// By pods.
    pub address: Ipv4Addr,
    /// In fact.
    pub listener: SocketAddr,
    /// Port of its metrics, on the same address.
    pub metrics: Option<u16>,
}

/// Puts the Service and its endpoint there, and back when somebody takes them away. Never ends.
pub async fn run(client: Client, place: Place) {
    let one = || watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let services = source::watch(Api::<Service>::namespaced(client.clone(), NAMESPACE), one());
    let slices = source::watch(Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE), one());
    let mut news = stream::select(services.map(drop), slices.map(drop));
    while news.next().await.is_some() {
        while let Err(error) = ensure(&client, place).await {
            tracing::error!(address = %place.address, error = chain(&error), "the Service of the cluster's DNS");
            sleep(AGAIN).await;
        }
    }
}

async fn ensure(client: &Client, place: Place) -> kube::Result<()> {
    let params = PatchParams::apply("orlop-dns").force();
    let services = Api::<Service>::namespaced(client.clone(), NAMESPACE);
    let wanted = service(place);
    let there = services.get_opt(NAME).await?;
    if there.as_ref().is_some_and(is_of_others) {
        tracing::warn!("Service {NAMESPACE}/{NAME} selects pods: it is not ours, and left alone");
        return Ok(());
    }
    if !there.is_some_and(|there| covers(&json!(there), &wanted)) {
        services.patch(NAME, &params, &Patch::Apply(&wanted)).await?;
    }
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE);
    let wanted = slice(place);
    if !slices.get_opt(NAME).await?.is_some_and(|there| covers(&json!(there), &wanted)) {
        slices.patch(NAME, &params, &Patch::Apply(&wanted)).await?;
    }
    Ok(())
}

fn is_of_others(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// The labels are upstream's, for tools that look for a cluster's DNS by them.
fn service(place: Place) -> Value {
    let mut ports = vec![
        json!({"name": "dns", "port": 53, "protocol": "UDP", "targetPort": place.listener.port()}),
        json!({"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": place.listener.port()}),
    ];
    ports.extend(
        place
            .metrics
            .map(|port| json!({"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": port})),
    );
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
            "annotations": {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
        },
        "spec": {"type": "ClusterIP", "clusterIP": place.address.to_string(), "ports": ports},
    })
}

fn slice(place: Place) -> Value {
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let mut ports =
        vec![port("dns", "UDP", place.listener.port()), port("dns-tcp", "TCP", place.listener.port())];
    ports.extend(place.metrics.map(|number| port("metrics", "TCP", number)));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "orlop.dev",
            },
        },
        "addressType": if place.listener.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [place.listener.ip().to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    })
}

/// Whether all that is wanted is there; there may be more.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| there.get(key).is_some_and(|there| covers(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len()
                && there.iter().zip(wanted).all(|(there, wanted)| covers(there, wanted))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_changed_is_put_right_and_what_was_added_is_left() {
        let place = Place {
            address: Ipv4Addr::new(10, 43, 0, 10),
            listener: "192.0.2.1:10053".parse().unwrap(),
            metrics: Some(9153),
        };
        let changes: [(Value, &str, Value); 4] = [
            (service(place), "/metadata/labels/k8s-app", "x".into()),
            (service(place), "/spec/ports/1/targetPort", 53.into()),
            (slice(place), "/endpoints/0/addresses/0", "192.0.2.2".into()),
            (slice(place), "/endpoints/0/conditions/ready", false.into()),
        ];
        for (wanted, at, value) in changes {
            let mut there = wanted.clone();
            there["metadata"]["uid"] = "u".into();
            assert!(covers(&there, &wanted));
            *there.pointer_mut(at).unwrap() = value;
            assert!(!covers(&there, &wanted), "{at}");
        }
        let wanted = slice(place);
        let mut there = wanted.clone();
        there["ports"].as_array_mut().unwrap().pop();
        assert!(!covers(&there, &wanted));
        let mut other: Service = serde_json::from_value(service(place)).unwrap();
        assert!(!is_of_others(&other));
        other.spec.as_mut().unwrap().selector = Some([("k8s-app".into(), "kube-dns".into())].into());
        assert!(is_of_others(&other));
    }
}
