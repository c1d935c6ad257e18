//! `[p]` `/pods` and `/runningpods/`: lists of pods as JSON.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use orlop_runtime::{Container, ContainerState, Sandbox};
use serde_json::{Value, json};

fn list(items: Value) -> Value {
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}

/// The pods that are bound here, as the API has them.
pub(super) fn bound(pods: &[Arc<Pod>]) -> serde_json::Result<Value> {
    let mut items = Vec::with_capacity(pods.len());
    for pod in pods {
        let mut item = serde_json::to_value(pod)?;
        // As upstream: the kind is the list's business.
        if let Some(fields) = item.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        items.push(item);
    }
    Ok(list(items.into()))
}

/// The pods of which something runs, by the runtime alone.
pub(super) fn running(pods: &[Sandbox]) -> Value {
    let runs = |container: &&Container| matches!(container.state, ContainerState::Running { .. });
    let item = |pod: &Sandbox| {
        let containers: Vec<Value> = pod
            .containers
            .iter()
            .filter(runs)
            .map(|container| json!({ "name": container.name, "image": container.image_ref, "resources": {} }))
            .collect();
        let meta = json!({ "name": pod.pod.name, "namespace": pod.pod.namespace, "uid": pod.pod.uid });
        (!containers.is_empty())
            .then(|| json!({ "metadata": meta, "spec": { "containers": containers }, "status": {} }))
    };
    list(pods.iter().filter_map(item).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_listed_as_the_api_has_them() {
        let pod: Pod =
            serde_norway::from_str("{metadata: {name: p}, spec: {containers: []}, status: {phase: Running}}")
                .unwrap();
        let shown = bound(&[Arc::new(pod)]).unwrap();
        assert_eq!(
            shown.to_string(),
            r#"{"apiVersion":"v1","items":[{"metadata":{"name":"p"},"spec":{"containers":[]},"status":{"phase":"Running"}}],"kind":"PodList","metadata":{}}"#
        );
        assert_eq!(running(&[])["items"], json!([]));
    }
}
