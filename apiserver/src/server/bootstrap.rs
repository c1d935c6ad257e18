//! What every cluster has from the start and always: four namespaces and the server's own service.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rest::status::Failure;
use crate::rest::{Api, Target};

const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates what is missing and points the server's endpoints at the present address.
pub(super) async fn run(api: &Api, address: IpAddr, port: u16) -> Result<(), Failure> {
    let namespaces = NAMESPACES
        .iter()
        .map(|name| ensure(api, "", "namespaces", "", name, json!({"metadata": {"name": name}})));
    futures::future::try_join_all(namespaces).await?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": api.kubernetes_ip.to_string(), "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    });
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{
            "addresses": [{"ip": address.to_string()}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }],
    });
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    futures::try_join!(
        ensure(api, "", "services", "default", "kubernetes", service),
        ensure(api, "", "endpoints", "default", "kubernetes", endpoints),
        ensure(api, "discovery.k8s.io", "endpointslices", "default", "kubernetes", slice),
    )?;
    Ok(())
}

/// How long a failure to put something back is left alone.
const AGAIN: Duration = Duration::from_secs(10);

/// Puts back what somebody deletes: `kubectl delete service --all` takes the server's own with it, and without that no
/// pod reaches the API. Ends with the store.
pub(super) async fn keep(api: &Api, address: IpAddr, port: u16) {
    let (_, _, mut cursor) = api.store.list_and_cursor(OWN[0]);
    loop {
        // Nothing can be lost that matters: what counts is what is there now.
        if let Err(lost) = cursor.take(OWN[0], usize::MAX)
            && let Ok(newer) = api.store.cursor(lost.floor)
        {
            cursor = newer;
        }
        if OWN.iter().any(|key| api.store.get(key).is_none())
            && let Err(failure) = run(api, address, port).await
        {
            tracing::warn!(%failure, "put back the API server's own objects");
            tokio::time::sleep(AGAIN).await;
        }
        if !cursor.changed().await {
            return;
        }
    }
}

/// Keys of what is put back. Namespaces are not in it: those that could be deleted nobody needs back.
const OWN: [&str; 3] =
    ["services/default/kubernetes", "endpoints/default/kubernetes", "endpointslices/default/kubernetes"];

/// Creates an object, or puts back the parts of it that are ours.
async fn ensure(
    api: &Api,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    mut object: Value,
) -> Result<(), Failure> {
    let kind = crate::kinds::find(group, "v1", resource).ok_or_else(Failure::no_such_path)?;
    object["apiVersion"] = kind.gvk.api_version().into();
    object["kind"] = kind.gvk.kind.into();
    let target = Target { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    match api.create_object(&target, object.clone(), false).await {
        Err(failure) if failure.reason == "AlreadyExists" => {}
        other => return other.map(drop),
    }
    if resource == "namespaces" {
        return Ok(());
    }
    api.put_back(&target, &object).await
}
