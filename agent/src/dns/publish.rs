//! The Service by which the cluster's pods reach our name server, and its one endpoint: `kube-system/kube-dns`, as
//! upstream clusters call it.
//!
//! Whatever balances Services on a node (our own programs, kube-proxy) then carries questions to us: there is no address
//! to bind and no rule to write on any node. Not for: a cluster whose operator runs another DNS under that name; a
//! Service with a selector is left alone.

use std::{
    net::{IpAddr, SocketAddr},
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

/// Where the name server is reached, by each family.
#[derive(Clone, Debug)]
pub struct Place {
    /// By pods; one of a family, the main one first.
    pub addresses: Vec<IpAddr>,
    /// In fact.
    pub listeners: Vec<SocketAddr>,
    /// The same of its metrics.
    pub metrics: Vec<SocketAddr>,
}

/// Puts the Service and its endpoint there, and back when somebody takes them away. Never ends.
pub async fn run(client: Client, place: Place) {
    let one = || watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let services = source::watch(Api::<Service>::namespaced(client.clone(), NAMESPACE), one());
    let slices = source::watch(Api::<EndpointSlice>::namespaced(client.clone(), NAMESPACE), one());
    let mut news = stream::select(services.map(drop), slices.map(drop));
    while news.next().await.is_some() {
        while let Err(error) = ensure(&client, &place).await {
            tracing::error!(addresses = ?place.addresses, error = chain(&error), "the Service of the cluster's DNS");
            sleep(AGAIN).await;
        }
    }
}

async fn ensure(client: &Client, place: &Place) -> kube::Result<()> {
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
    for listener in &place.listeners {
        let (name, wanted) = slice(place, *listener);
        if !slices.get_opt(&name).await?.is_some_and(|there| covers(&json!(there), &wanted)) {
            slices.patch(&name, &params, &Patch::Apply(&wanted)).await?;
        }
    }
    Ok(())
}

fn is_of_others(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty())
}

/// The labels are upstream's, for tools that look for a cluster's DNS by them.
fn service(place: &Place) -> Value {
    let port = place.listeners.first().map(SocketAddr::port);
    let mut ports = vec![
        json!({"name": "dns", "port": 53, "protocol": "UDP", "targetPort": port}),
        json!({"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": port}),
    ];
    let metrics = place.metrics.first().map(SocketAddr::port);
    ports.extend(
        metrics.map(|port| json!({"name": "metrics", "port": 9153, "protocol": "TCP", "targetPort": port})),
    );
    let addresses: Vec<_> = place.addresses.iter().map(IpAddr::to_string).collect();
    let families: Vec<_> = place.addresses.iter().map(|address| family(*address)).collect();
    let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
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
        "spec": {
            "type": "ClusterIP",
            "clusterIP": addresses.first(),
            "clusterIPs": addresses,
            "ipFamilies": families,
            "ipFamilyPolicy": policy,
            "ports": ports,
        },
    })
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The name and the content of the slice of one family.
fn slice(place: &Place, listener: SocketAddr) -> (String, Value) {
    let main = place.listeners.first().is_none_or(|first| *first == listener);
    let family = family(listener.ip());
    let name = if main { NAME.to_owned() } else { format!("{NAME}-{}", family.to_ascii_lowercase()) };
    let port =
        |name: &str, protocol: &str, port: u16| json!({"name": name, "protocol": protocol, "port": port});
    let mut ports = vec![port("dns", "UDP", listener.port()), port("dns-tcp", "TCP", listener.port())];
    let metrics = place.metrics.iter().filter(|metrics| metrics.ip() == listener.ip());
    ports.extend(metrics.map(|metrics| port("metrics", "TCP", metrics.port())));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": name,
            "labels": {
                "kubernetes.io/service-name": NAME,
                "endpointslice.kubernetes.io/managed-by": "orlop.dev",
            },
        },
        "addressType": family,
        "endpoints": [{"addresses": [listener.ip().to_string()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    (name, slice)
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
            addresses: vec![IpAddr::from([10, 43, 0, 10]), "fd00:43::a".parse().unwrap()],
            listeners: vec!["192.0.2.1:10053".parse().unwrap(), "[2001:db8::1]:10053".parse().unwrap()],
            metrics: vec!["192.0.2.1:9153".parse().unwrap()],
        };
        let place = &place;
        let slice = |n: usize| slice(place, place.listeners[n]).1;
        assert_eq!((&slice(0)["addressType"], &slice(1)["addressType"]), (&json!("IPv4"), &json!("IPv6")));
        assert_eq!(slice(1)["metadata"]["name"], "kube-dns-ipv6");
        assert_eq!(slice(1)["ports"].as_array().unwrap().len(), 2, "nothing of what is not there");
        let changes: [(Value, &str, Value); 5] = [
            (service(place), "/metadata/labels/k8s-app", "x".into()),
            (service(place), "/spec/ports/1/targetPort", 53.into()),
            (service(place), "/spec/ipFamilyPolicy", "SingleStack".into()),
            (slice(0), "/endpoints/0/addresses/0", "192.0.2.2".into()),
            (slice(1), "/endpoints/0/conditions/ready", false.into()),
        ];
        for (wanted, at, value) in changes {
            let mut there = wanted.clone();
            there["metadata"]["uid"] = "u".into();
            assert!(covers(&there, &wanted));
            *there.pointer_mut(at).unwrap() = value;
            assert!(!covers(&there, &wanted), "{at}");
        }
        let wanted = slice(0);
        let mut there = wanted.clone();
        there["ports"].as_array_mut().unwrap().pop();
        assert!(!covers(&there, &wanted));
        let mut other: Service = serde_json::from_value(service(place)).unwrap();
        assert!(!is_of_others(&other));
        other.spec.as_mut().unwrap().selector = Some([("k8s-app".into(), "kube-dns".into())].into());
        assert!(is_of_others(&other));
    }
}
