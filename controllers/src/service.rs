//! [pure] What a Service says about the pods behind it; shared by EndpointSlices and Endpoints.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::object::{is_deleting, is_finished, is_ready, labels, name, node_name, uid};

/// A port on which the pods answer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port: i32,
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

/// A pod behind a Service, at one of its addresses.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backend {
    pub(crate) address: String,
    pub(crate) ports: Vec<Port>,
    /// Whether new connections may come.
    pub(crate) ready: bool,
    /// Whether it answers, even though it may be on its way out.
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    pub(crate) hostname: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) target: ObjectReference,
}

/// Whether the endpoints of the Service are ours to publish: it has a selector.
pub(crate) fn is_ours(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() != Some("ExternalName")
        && !is_deleting(&service.metadata)
        && spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
}

/// Whether the Service is ours and selects the pod. Every change of a pod asks this of every Service around.
pub(crate) fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = labels(&pod.metadata);
    let wanted = service.spec.iter().flat_map(|spec| spec.selector.iter().flatten());
    is_ours(service) && wanted.into_iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The IP families of the Service, `IPv4` where it says nothing.
pub(crate) fn families(service: &Service) -> Vec<String> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    families.filter(|families| !families.is_empty()).unwrap_or_else(|| vec!["IPv4".to_owned()])
}

/// The pod as a backend, if it has an address of this family and is not over.
pub(crate) fn backend(service: &Service, pod: &Pod, family: &str) -> Option<Backend> {
    let spec = service.spec.as_ref()?;
    if is_finished(pod) || node_name(pod).is_none() {
        return None;
    }
    let address = address(pod, family)?;
    let (serving, terminating) = (is_ready(pod), is_deleting(&pod.metadata));
    let publish = spec.publish_not_ready_addresses == Some(true);
    Some(Backend {
        address,
        ports: ports(spec, pod),
        ready: publish || (serving && !terminating),
        serving,
        terminating,
        hostname: hostname(service, pod),
        node: node_name(pod).map(str::to_owned),
        target: ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: Some(name(&pod.metadata).to_owned()),
            uid: Some(uid(&pod.metadata).to_owned()),
            ..ObjectReference::default()
        },
    })
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let listed = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(status.pod_ip.as_deref());
    all.find(|ip| !ip.is_empty() && (ip.contains(':') == (family == "IPv6"))).map(str::to_owned)
}

/// Pods with a name under the Service's own domain.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let here = spec.subdomain.as_deref() == Some(name(&service.metadata));
    spec.hostname.clone().filter(|hostname| here && !hostname.is_empty())
}

/// The ports of the Service as this pod has them; a named port that it does not have is left out.
fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
        };
        let name = port.name.clone().unwrap_or_default();
        Some(Port { name, port: number, protocol, app_protocol: port.app_protocol.clone() })
    });
    let mut ports: Vec<_> = ports.collect();
    ports.sort();
    ports
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(sidecar);
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let found = ports.find(|port| {
        port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    found.map(|port| port.container_port)
}

/// Whether the change of a pod can matter to any Service.
pub(crate) fn matters(old: &Pod, new: &Pod) -> bool {
    let status = |pod: &Pod| {
        let ips = pod.status.as_ref().map(|s| (s.pod_ip.clone(), s.pod_ips.clone()));
        (is_ready(pod), is_finished(pod), is_deleting(&pod.metadata), ips)
    };
    let spec = |pod: &Pod| node_name(pod).map(str::to_owned);
    labels(&old.metadata) != labels(&new.metadata) || status(old) != status(new) || spec(old) != spec(new)
}

/// The labels that published objects inherit from the Service, with what tells headless ones.
pub(crate) fn inherited_labels(service: &Service) -> BTreeMap<String, String> {
    let mut inherited = labels(&service.metadata).clone();
    inherited.remove("service.kubernetes.io/headless");
    if is_headless(service) {
        inherited.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    inherited
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    fn check(service: &str, pod: &str, expected: Expect) {
        let service = yaml(&format!("{{metadata: {{name: web}}, spec: {{{service}}}}}"));
        let backend = backend(&service, &yaml(pod), "IPv4");
        expected.assert_eq(&backend.map_or("none".to_owned(), |b| {
            let ports: Vec<_> =
                b.ports.iter().map(|p| format!("{}:{}/{}", p.name, p.port, p.protocol)).collect();
            let flags = [(b.ready, " ready"), (b.serving, " serving"), (b.terminating, " terminating")];
            let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
            format!("{} [{}]{flags} {}", b.address, ports.join(" "), b.hostname.unwrap_or_default())
        }));
    }

    const PORTS: &str = "ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 53, protocol: UDP}, {name: c, port: 1, targetPort: nope}]";

    #[test]
    fn ports_are_resolved_by_the_pod() {
        check(
            PORTS,
            "{spec: {nodeName: n, hostname: h, subdomain: web, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}, status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}}",
            expect!["10.0.0.1 [a:8080/TCP b:53/UDP] ready serving h"],
        );
    }

    #[test]
    fn pods_on_their_way_out_serve_but_are_not_ready() {
        let pod = "{metadata: {deletionTimestamp: '2024-01-01T00:00:00Z'}, spec: {nodeName: n, containers: []}, status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}}";
        check("ports: []", pod, expect!["10.0.0.1 [] serving terminating "]);
        check("publishNotReadyAddresses: true", pod, expect!["10.0.0.1 [] ready serving terminating "]);
    }

    #[test]
    fn pods_without_address_or_over_are_none() {
        check("ports: []", "{spec: {nodeName: n, containers: []}}", expect!["none"]);
        check(
            "ports: []",
            "{spec: {nodeName: n, containers: []}, status: {phase: Succeeded, podIP: 10.0.0.1}}",
            expect!["none"],
        );
        check(
            "ports: []",
            "{spec: {nodeName: n, containers: []}, status: {podIP: 'fd00::1'}}",
            expect!["none"],
        );
    }

    #[test]
    fn only_services_with_selector_are_ours() {
        let ours = |spec: &str| is_ours(&yaml(&format!("spec: {{{spec}}}")));
        assert!(ours("selector: {app: a}"));
        assert!(!ours("selector: {}") && !ours("clusterIP: None"));
        assert!(!ours("selector: {app: a}, type: ExternalName"));
        let selects = |labels: &str| {
            let pod = yaml(&format!("metadata: {{labels: {labels}}}"));
            selects(&yaml("spec: {selector: {app: a, tier: b}}"), &pod)
        };
        assert!(selects("{app: a, tier: b, more: c}") && !selects("{app: a}"));
    }
}
