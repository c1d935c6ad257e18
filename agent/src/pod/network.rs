//! What a pod asks of its network: ports of the host, bandwidth, certain addresses. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use orlop_model::quantities::Quantity;

use super::{
    desired::{Kind, kind_of_init},
    machine::{PortMapping, Wishes},
};

/// Upstream's annotations, in bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Ours: addresses that the pod has to have, separated by commas.
const ADDRESSES: &str = "orlop.dev/addresses";
/// Ours: `"false"` has the pod's own packets show the service that it asked for.
const SOCKETS: &str = "orlop.dev/socket-services";
/// What upstream takes for a rate: a kilobit to a petabit per second.
const LEAST_RATE: i128 = 1_000;
const MOST_RATE: i128 = 1_000_000_000_000_000;

/// All of it, or what about it makes no sense.
///
/// # Errors
/// In upstream's words.
pub fn wishes(pod: &Pod) -> Result<Wishes, String> {
    let spec = pod.spec.clone().unwrap_or_default();
    // A port of an init container that ends is nobody's for most of the pod's life.
    let sidecars = spec.init_containers.iter().flatten().filter(|c| kind_of_init(c) == Kind::Sidecar);
    let containers: Vec<&Container> = sidecars.chain(&spec.containers).collect();
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(port).collect();
    Ok(Wishes { ports, ..annotated(pod.metadata.annotations.as_ref())? })
}

/// What annotations say of it.
///
/// # Errors
/// In upstream's words.
pub fn annotated(annotations: Option<&BTreeMap<String, String>>) -> Result<Wishes, String> {
    let annotation = |name: &str| annotations?.get(name).map(String::as_str);
    Ok(Wishes {
        ports: Vec::new(),
        ingress: rate(annotation(INGRESS))?,
        egress: rate(annotation(EGRESS))?,
        ips: addresses(annotation(ADDRESSES).unwrap_or_default())?,
        packets_only: packets_only(annotation(SOCKETS))?,
    })
}

fn port(port: &ContainerPort) -> Option<PortMapping> {
    let host_port = u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?;
    Some(PortMapping {
        host_port,
        container_port: u16::try_from(port.container_port).ok()?,
        protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
        host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
    })
}

fn rate(text: Option<&str>) -> Result<Option<u64>, String> {
    let Some(text) = text else { return Ok(None) };
    let rate = Quantity::parse(text).map_err(|error| error.to_string())?.value();
    match rate {
        ..LEAST_RATE => Err("resource is unreasonably small (< 1kbit)".to_owned()),
        LEAST_RATE..=MOST_RATE => Ok(u64::try_from(rate).ok()),
        _ => Err("resource is unreasonably large (> 1Pbit)".to_owned()),
    }
}

fn packets_only(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("true") => Ok(false),
        Some("false") => Ok(true),
        Some(other) => Err(format!("annotation {SOCKETS}: {other:?} must be \"true\" or \"false\"")),
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| part.parse().map_err(|_| format!("annotation {ADDRESSES}: {part:?} is no address")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(pod: &str, expected: Expect) {
        let pod: Pod = serde_norway::from_str(pod).unwrap();
        expected.assert_eq(&match wishes(&pod) {
            Ok(wishes) => format!("{wishes:?}"),
            Err(error) => error,
        });
    }

    fn annotated(annotation: &str) -> String {
        format!("metadata: {{annotations: {{{annotation}}}}}")
    }

    #[test]
    fn ports_of_the_host_are_those_of_containers_and_sidecars() {
        check(
            "spec:
  initContainers:
  - {name: once, ports: [{containerPort: 1, hostPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{containerPort: 2, hostPort: 2002, protocol: SCTP}]}
  containers:
  - {name: a, ports: [{containerPort: 80}, {containerPort: 80, hostPort: 8080, hostIP: 10.0.0.1}]}
  - {name: b, ports: [{containerPort: 53, hostPort: 53, protocol: UDP}, {containerPort: 9, hostPort: 0}]}",
            expect![[
                r#"Wishes { ports: [PortMapping { host_port: 2002, container_port: 2, protocol: "sctp", host_ip: None }, PortMapping { host_port: 8080, container_port: 80, protocol: "tcp", host_ip: Some(10.0.0.1) }, PortMapping { host_port: 53, container_port: 53, protocol: "udp", host_ip: None }], ingress: None, egress: None, ips: [], packets_only: false }"#
            ]],
        );
        check(
            "spec: {containers: []}",
            expect!["Wishes { ports: [], ingress: None, egress: None, ips: [], packets_only: false }"],
        );
    }

    #[test]
    fn bandwidth_and_addresses_come_from_annotations() {
        check(
            &annotated(
                "kubernetes.io/ingress-bandwidth: 10M, kubernetes.io/egress-bandwidth: 1.5k, orlop.dev/addresses: '10.0.0.9, fd00::9'",
            ),
            expect![
                "Wishes { ports: [], ingress: Some(10000000), egress: Some(1500), ips: [10.0.0.9, fd00::9], packets_only: false }"
            ],
        );
        check(
            &annotated("kubernetes.io/ingress-bandwidth: '999'"),
            expect!["resource is unreasonably small (< 1kbit)"],
        );
        check(
            &annotated("kubernetes.io/egress-bandwidth: 2P"),
            expect!["resource is unreasonably large (> 1Pbit)"],
        );
        check(
            &annotated("kubernetes.io/egress-bandwidth: fast"),
            expect![
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
            ],
        );
        check(
            &annotated("orlop.dev/addresses: here"),
            expect![[r#"annotation orlop.dev/addresses: "here" is no address"#]],
        );
        check(
            &annotated("orlop.dev/socket-services: 'off'"),
            expect![[r#"annotation orlop.dev/socket-services: "off" must be "true" or "false""#]],
        );
        let left = annotated("orlop.dev/socket-services: 'false'");
        check(
            &left,
            expect!["Wishes { ports: [], ingress: None, egress: None, ips: [], packets_only: true }"],
        );
    }
}
