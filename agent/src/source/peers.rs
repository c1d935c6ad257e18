//! `[p]` What of Pods and Namespaces matters to NetworkPolicies: all that is remembered of those of the whole cluster, so
//! that a disk is not written each time that one of them says how it is.
//!
//! Not for: what policies make of it (`orlop_dataplane::policy::ingest`).

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Container, Namespace, Pod, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// Name and labels.
#[must_use]
pub fn of_namespace(namespace: &Arc<Namespace>) -> Arc<Namespace> {
    let metadata = meta(&namespace.metadata);
    Arc::new(Namespace { metadata, ..Namespace::default() })
}

/// Name and labels, node and addresses, ports that have names, and whether it has ended.
#[must_use]
pub fn of_pod(pod: &Arc<Pod>) -> Arc<Pod> {
    let spec = pod.spec.as_ref().map(|spec| PodSpec {
        node_name: spec.node_name.clone(),
        host_network: spec.host_network,
        containers: spec.containers.iter().map(ports).collect(),
        init_containers: spec.init_containers.as_ref().map(|all| all.iter().map(ports).collect()),
        ..PodSpec::default()
    });
    let status = pod.status.as_ref().map(|status| PodStatus {
        // Running or not yet is one to them.
        phase: status.phase.clone().filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed")),
        pod_ip: status.pod_ip.clone(),
        pod_ips: status.pod_ips.clone(),
        ..PodStatus::default()
    });
    Arc::new(Pod { metadata: meta(&pod.metadata), spec, status })
}

fn ports(container: &Container) -> Container {
    Container {
        name: container.name.clone(),
        ports: container.ports.clone(),
        restart_policy: container.restart_policy.clone(),
        ..Container::default()
    }
}

fn meta(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        labels: meta.labels.clone(),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use orlop_dataplane::policy::ingest;
    use serde_json::json;

    use super::*;

    #[test]
    fn policies_find_the_same_in_what_is_left() {
        let port =
            |name: &str| json!({"name": name, "image": "i", "ports": [{"name": name, "containerPort": 80}]});
        for phase in ["Pending", "Running", "Failed"] {
            let pod: Arc<Pod> = serde_json::from_value::<Pod>(json!({
                "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {
                    "nodeName": "node1", "containers": [port("web")],
                    "initContainers": [{"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 81}]}],
                },
                "status": {"phase": phase, "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                    "conditions": [{"type": "Ready", "status": "True"}]},
            }))
            .unwrap()
            .into();
            let left = of_pod(&pod);
            assert_eq!(ingest::pod(&left), ingest::pod(&pod), "{phase}");
            assert_eq!(ingest::key(&left.metadata), ingest::key(&pod.metadata));
            let text = serde_json::to_string(&*left).unwrap();
            assert!(!text.contains("conditions") && !text.contains("annotations"), "{text}");
        }
        let namespace: Arc<Namespace> = serde_json::from_value::<Namespace>(
            json!({"metadata": {"name": "n", "labels": {"a": "b"}, "uid": "u"}}),
        )
        .unwrap()
        .into();
        assert_eq!(ingest::namespace(&of_namespace(&namespace)), ingest::namespace(&namespace));
    }
}
