//! The services of the bench: five that are dialled, in the middle of many others, and the API objects they are.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use orlop_dataplane::Update;
use orlop_dataplane::model::Protocol;
use orlop_model::event::Event;

/// Where the server's pod is reached: three endpoints.
pub(crate) const ENDPOINTS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 42, 1, 21), Ipv4Addr::new(10, 42, 1, 22), Ipv4Addr::new(10, 42, 1, 23)];
/// Where node ports are dialled.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Every pod.
pub(crate) const PODS: &str = "10.42.0.0/16";

/// What the server does behind a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialled {
    /// One byte for each connection.
    Hello,
    /// Bytes come back.
    Echo,
    /// Bytes go away; the number of them comes back.
    Sink,
    /// Datagrams come back.
    Datagrams,
    /// Nothing: packets are counted, and dropped, at the server's device.
    Flood,
}

impl Dialled {
    pub(crate) const ALL: [Self; 5] = [Self::Hello, Self::Echo, Self::Sink, Self::Datagrams, Self::Flood];

    fn place(self) -> u16 {
        (0..).zip(Self::ALL).find(|(_, one)| *one == self).map(|(place, _)| place).unwrap()
    }

    /// The endpoints' port.
    pub(crate) fn port(self) -> u16 {
        8080 + self.place()
    }

    fn node_port(self) -> u16 {
        30_080 + self.place()
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Hello | Self::Echo | Self::Sink => Protocol::Tcp,
            Self::Datagrams | Self::Flood => Protocol::Udp,
        }
    }

    /// Its endpoints.
    pub(crate) fn endpoints(self) -> Vec<SocketAddrV4> {
        ENDPOINTS.map(|ip| SocketAddrV4::new(ip, self.port())).to_vec()
    }

    /// How it is reached from outside.
    pub(crate) fn at_node(self) -> SocketAddrV4 {
        SocketAddrV4::new(NODE, self.node_port())
    }

    /// How it is reached from pods, in a cluster of so many services.
    pub(crate) fn at_cluster(self, count: u32) -> SocketAddrV4 {
        SocketAddrV4::new(cluster_ip(first(count) + u32::from(self.place())), PORT)
    }
}

/// Every service's port.
const PORT: u16 = 80;

/// The first that is dialled: they stand in the middle, where a list is half walked.
fn first(count: u32) -> u32 {
    (count.saturating_sub(5)) / 2
}

fn cluster_ip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + n)
}

/// A service with one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) at: SocketAddrV4,
    pub(crate) protocol: Protocol,
    pub(crate) node_port: Option<u16>,
    pub(crate) endpoints: Vec<SocketAddrV4>,
}

impl Service {
    /// As rules spell it.
    pub(crate) fn protocol(&self) -> &'static str {
        if self.protocol == Protocol::Udp { "udp" } else { "tcp" }
    }

    /// As the API shows it.
    pub(crate) fn object(&self) -> core::Service {
        let port = core::ServicePort {
            name: Some("p".to_owned()),
            protocol: Some(self.protocol.to_string()),
            port: self.at.port().into(),
            target_port: self.endpoints.first().map(|at| IntOrString::Int(at.port().into())),
            node_port: self.node_port.map(Into::into),
            ..Default::default()
        };
        let ip = self.at.ip().to_string();
        core::Service {
            metadata: meta(&self.name, BTreeMap::new()),
            spec: Some(core::ServiceSpec {
                type_: Some(if self.node_port.is_some() { "NodePort" } else { "ClusterIP" }.to_owned()),
                cluster_ip: Some(ip.clone()),
                cluster_ips: Some(vec![ip]),
                ip_families: Some(vec!["IPv4".to_owned()]),
                ports: Some(vec![port]),
                selector: Some([("app".to_owned(), self.name.clone())].into()),
                ..Default::default()
            }),
            status: None,
        }
    }

    /// Its endpoints, as the API shows them.
    pub(crate) fn slice(&self) -> discovery::EndpointSlice {
        let labels = [("kubernetes.io/service-name".to_owned(), self.name.clone())];
        let endpoint = |at: &SocketAddrV4| discovery::Endpoint {
            addresses: vec![at.ip().to_string()],
            node_name: Some("node-b".to_owned()),
            conditions: Some(discovery::EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            target_ref: Some(core::ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some("default".to_owned()),
                name: Some(format!("{}-{}", self.name, at.ip())),
                ..Default::default()
            }),
            ..Default::default()
        };
        discovery::EndpointSlice {
            metadata: meta(&format!("{}-x7k2p", self.name), labels.into()),
            address_type: "IPv4".to_owned(),
            ports: Some(vec![discovery::EndpointPort {
                name: Some("p".to_owned()),
                protocol: Some(self.protocol.to_string()),
                port: self.endpoints.first().map(|at| at.port().into()),
                ..Default::default()
            }]),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
        }
    }
}

fn meta(name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        labels: Some(labels),
        ..Default::default()
    }
}

/// A cluster of so many services, of which five are dialled; the others have as many endpoints each as asked for.
pub(crate) fn cluster(count: u32, endpoints: u32) -> Vec<Service> {
    let first = first(count);
    let service = |n: u32| {
        let at = SocketAddrV4::new(cluster_ip(n), PORT);
        let dialled =
            n.checked_sub(first).and_then(|place| Dialled::ALL.get(usize::try_from(place).unwrap()));
        match dialled {
            Some(dialled) => Service {
                name: format!("dialled-{n}"),
                at,
                protocol: dialled.protocol(),
                node_port: Some(dialled.node_port()),
                endpoints: dialled.endpoints(),
            },
            None => Service {
                name: format!("service-{n}"),
                at,
                protocol: Protocol::Tcp,
                node_port: None,
                endpoints: (0..endpoints).map(|m| filler(n * endpoints + m)).collect(),
            },
        }
    };
    (0..count).map(service).collect()
}

/// An endpoint that nobody dials.
pub(crate) fn filler(n: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 128, 0, 1)) + n), 8080)
}

/// What watches say first.
pub(crate) fn lists(services: &[Service]) -> [Update; 2] {
    [
        Update::Service(Event::Reset(services.iter().map(Service::object).collect())),
        Update::EndpointSlice(Event::Reset(services.iter().map(Service::slice).collect())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialled_stand_in_the_middle() {
        for count in [10, 11, 1_000] {
            let services = cluster(count, 2);
            assert_eq!(services.len(), usize::try_from(count).unwrap());
            for dialled in Dialled::ALL {
                let found =
                    services.iter().position(|service| service.at == dialled.at_cluster(count)).unwrap();
                assert_eq!(services[found].endpoints, dialled.endpoints());
                assert!(services.len() / 2 - 3 <= found && found <= services.len() / 2 + 3, "{found}");
            }
        }
    }
}
