//! `[p]` The questions of this node's pods to the cluster's DNS server, led to the one on this node.
//!
//! Between the watches and the service dataplane: port 53 of whatever Service has one of the cluster's DNS addresses is
//! given to a Service of our own making, whose one endpoint is ours. Pods keep their resolv.conf, other ports of the
//! Service and other nodes are not touched, and without the option everything is as it was. Not for: what is asked.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt as _;
use orlop_dataplane::Update;
use orlop_model::event::Event;

const PORT: i32 = 53;
/// No object of the API can be called so.
const SUFFIX: &str = ":node-local";

/// A Service of our own making, and its endpoints: a slice of each family.
type Ours = (Service, Vec<EndpointSlice>);

/// What is led where.
#[derive(Debug)]
pub struct Redirect {
    addresses: Vec<IpAddr>,
    to: Vec<SocketAddr>,
    /// Ours, by the namespace and name of the Service that they stand for.
    ours: BTreeMap<(String, String), Ours>,
}

impl Redirect {
    /// Questions to these addresses go to that one of the same family.
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>, to: Vec<SocketAddr>) -> Redirect {
        let there = |address: &IpAddr| to.iter().any(|to| to.is_ipv4() == address.is_ipv4());
        let addresses = addresses.into_iter().filter(there).collect();
        Redirect { addresses, to, ours: BTreeMap::new() }
    }

    /// What the dataplane hears instead of this.
    pub fn pass(&mut self, update: Update) -> Vec<Update> {
        match update {
            Update::Service(Event::Apply(service)) => self.service(service),
            Update::Service(Event::Delete(service)) => {
                let key = key(&service);
                let mut updates = vec![Update::Service(Event::Delete(service))];
                updates.extend(self.ours.remove(&key).into_iter().flat_map(gone));
                updates
            }
            Update::Service(Event::Reset(services)) => {
                let before = std::mem::take(&mut self.ours);
                let mut all = Vec::new();
                for service in services {
                    match self.split(&service) {
                        Some(rest) => all.push(rest),
                        None => all.push(service),
                    }
                }
                all.extend(self.ours.values().map(|(service, _)| service.clone()));
                let mut updates = vec![Update::Service(Event::Reset(all))];
                let now = self.ours.values().flat_map(|(_, slices)| slices.clone());
                updates.extend(now.map(|slice| Update::EndpointSlice(Event::Apply(slice))));
                let left = before.into_iter().filter(|(key, _)| !self.ours.contains_key(key));
                let left = left.flat_map(|(_, (_, slices))| slices);
                updates.extend(left.map(|slice| Update::EndpointSlice(Event::Delete(slice))));
                updates
            }
            Update::EndpointSlice(Event::Reset(mut slices)) => {
                slices.extend(self.ours.values().flat_map(|(_, slices)| slices.clone()));
                vec![Update::EndpointSlice(Event::Reset(slices))]
            }
            other => vec![other],
        }
    }

    fn service(&mut self, service: Service) -> Vec<Update> {
        let key = key(&service);
        let before = self.ours.remove(&key);
        let Some(rest) = self.split(&service) else {
            let mut updates: Vec<_> = before.into_iter().flat_map(gone).collect();
            updates.push(Update::Service(Event::Apply(service)));
            return updates;
        };
        let ours = self.ours.get(&key).cloned();
        // First what takes the port away, then who has it now; its endpoint before both.
        let (services, slices): (Vec<_>, Vec<_>) = ours.into_iter().unzip();
        let slices = slices.into_iter().flatten().map(|slice| Update::EndpointSlice(Event::Apply(slice)));
        let services =
            [rest].into_iter().chain(services).map(|service| Update::Service(Event::Apply(service)));
        slices.chain(services).collect()
    }

    /// What is left of the Service, if we take something of it.
    fn split(&mut self, service: &Service) -> Option<Service> {
        let spec = service.spec.as_ref()?;
        let listed = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let mut addresses: Vec<_> = listed.filter(|text| self.leads(text)).cloned().collect();
        // The singular field says what the list begins with.
        addresses.truncate(spec.cluster_ips.as_ref().map_or(1, Vec::len).max(1));
        addresses.dedup();
        let (taken, left): (Vec<_>, Vec<_>) =
            spec.ports.clone().unwrap_or_default().into_iter().partition(|port| port.port == PORT);
        if taken.is_empty() || addresses.is_empty() {
            return None;
        }
        let mut rest = service.clone();
        if let Some(spec) = rest.spec.as_mut() {
            spec.ports = Some(left);
        }
        let led =
            self.to.iter().filter(|to| addresses.iter().any(|address| address.contains(':') == to.is_ipv6()));
        let slices = led.map(|to| own_slice(service, &taken, *to)).collect();
        self.ours.insert(key(service), (own_service(service, &addresses, taken), slices));
        Some(rest)
    }

    fn leads(&self, address: &str) -> bool {
        address.parse().is_ok_and(|address| self.addresses.contains(&address))
    }
}

fn own_service(service: &Service, addresses: &[String], ports: Vec<ServicePort>) -> Service {
    Service {
        metadata: own_meta(service),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: addresses.first().cloned(),
            cluster_ips: Some(addresses.to_vec()),
            ports: Some(ports.into_iter().map(|port| ServicePort { node_port: None, ..port }).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn own_slice(service: &Service, ports: &[ServicePort], to: SocketAddr) -> EndpointSlice {
    let mut metadata = own_meta(service);
    let name = metadata.name.clone().unwrap_or_default();
    if to.is_ipv6() {
        metadata.name = Some(format!("{name}-ipv6"));
    }
    metadata.labels = Some([("kubernetes.io/service-name".to_owned(), name)].into());
    let port = |port: &ServicePort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        protocol: port.protocol.clone(),
        port: Some(i32::from(to.port())),
        app_protocol: None,
    };
    EndpointSlice {
        metadata,
        address_type: if to.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint { addresses: vec![to.ip().to_string()], ..Endpoint::default() }],
        ports: Some(ports.iter().map(port).collect()),
    }
}

fn key(service: &Service) -> (String, String) {
    (service.namespace().unwrap_or_default(), service.name_any())
}

fn own_meta(service: &Service) -> ObjectMeta {
    let (namespace, name) = key(service);
    ObjectMeta { namespace: Some(namespace), name: Some(name + SUFFIX), ..ObjectMeta::default() }
}

fn gone((service, slices): Ours) -> impl Iterator<Item = Update> {
    let slices = slices.into_iter().map(|slice| Update::EndpointSlice(Event::Delete(slice)));
    [Update::Service(Event::Delete(service))].into_iter().chain(slices)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn service(name: &str, address: &str) -> Service {
        serde_json::from_value(json!({
            "metadata": {"namespace": "kube-system", "name": name},
            "spec": {"clusterIP": address, "clusterIPs": [address], "internalTrafficPolicy": "Local", "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"name": "metrics", "port": 9153}]},
        }))
        .unwrap()
    }

    fn slice(name: &str) -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {"namespace": "kube-system", "name": name}, "addressType": "IPv4", "endpoints": []}))
            .unwrap()
    }

    fn service_words(service: &Service) -> String {
        let spec = service.spec.as_ref().unwrap();
        let ports: Vec<_> =
            spec.ports.iter().flatten().map(|port| port.name.clone().unwrap_or_default()).collect();
        format!("{} {} {}", service.name_any(), spec.cluster_ip.clone().unwrap_or_default(), ports.join(","))
    }

    fn slice_words(slice: &EndpointSlice) -> String {
        let targets = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let ports = slice
            .ports
            .iter()
            .flatten()
            .map(|port| format!("{}={}", port.name.clone().unwrap(), port.port.unwrap()));
        format!("{} {}", slice.name_any(), targets.cloned().chain(ports).collect::<Vec<_>>().join(" "))
    }

    #[track_caller]
    fn check(redirect: &mut Redirect, update: Update, expected: Expect) {
        let passed = redirect.pass(update).into_iter().map(|update| match update {
            Update::Service(event) => format!("{:?}", event.map(|service| service_words(&service))),
            Update::EndpointSlice(event) => format!("slice {:?}", event.map(|slice| slice_words(&slice))),
            other => format!("{other:?}"),
        });
        expected.assert_eq(&(passed.collect::<Vec<_>>().join("\n") + "\n"));
    }

    #[test]
    fn each_family_is_led_to_its_own() {
        let addresses = vec![IpAddr::from([10, 96, 0, 10]), "fd00::a".parse().unwrap()];
        let to = ["192.0.2.1:10053", "[2001:db8::1]:10053"].map(|to| to.parse().unwrap());
        let mut redirect = Redirect::new(addresses, to.into());
        let mut both = service("dns", "10.96.0.10");
        both.spec.as_mut().unwrap().cluster_ips = Some(vec!["10.96.0.10".to_owned(), "fd00::a".to_owned()]);
        let made = redirect.split(&both).and_then(|_| redirect.ours.values().next().cloned()).unwrap();
        assert_eq!(made.0.spec.as_ref().unwrap().cluster_ips, both.spec.as_ref().unwrap().cluster_ips);
        check(
            &mut redirect,
            Update::Service(Event::Apply(both)),
            expect![[r#"
            slice Apply("dns:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
            slice Apply("dns:node-local-ipv6 2001:db8::1 dns=10053 dns-tcp=10053")
            Apply("dns 10.96.0.10 metrics")
            Apply("dns:node-local 10.96.0.10 dns,dns-tcp")
        "#]],
        );
    }

    #[test]
    fn only_port_53_of_the_dns_address_is_led_here() {
        let addresses = vec![IpAddr::from([10, 96, 0, 10]), "fd00::a".parse().unwrap()];
        let mut redirect = Redirect::new(addresses, vec!["192.0.2.1:10053".parse().unwrap()]);
        let redirect = &mut redirect;
        check(
            redirect,
            Update::Service(Event::Apply(service("web", "10.96.0.11"))),
            expect![[r#"
            Apply("web 10.96.0.11 dns,dns-tcp,metrics")
        "#]],
        );
        check(
            redirect,
            Update::Service(Event::Apply(service("dns", "10.96.0.10"))),
            expect![[r#"
            slice Apply("dns:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
            Apply("dns 10.96.0.10 metrics")
            Apply("dns:node-local 10.96.0.10 dns,dns-tcp")
        "#]],
        );
        check(
            redirect,
            Update::EndpointSlice(Event::Reset(vec![slice("dns-1")])),
            expect![[r#"
            slice Reset(["dns-1 ", "dns:node-local 192.0.2.1 dns=10053 dns-tcp=10053"])
        "#]],
        );
        let all = vec![service("web", "10.96.0.11"), service("dns", "10.96.0.10")];
        check(
            redirect,
            Update::Service(Event::Reset(all)),
            expect![[r#"
            Reset(["web 10.96.0.11 dns,dns-tcp,metrics", "dns 10.96.0.10 metrics", "dns:node-local 10.96.0.10 dns,dns-tcp"])
            slice Apply("dns:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
        "#]],
        );
        let moved = vec![service("dns", "10.96.0.12"), service("other", "10.96.0.10")];
        check(
            redirect,
            Update::Service(Event::Reset(moved)),
            expect![[r#"
            Reset(["dns 10.96.0.12 dns,dns-tcp,metrics", "other 10.96.0.10 metrics", "other:node-local 10.96.0.10 dns,dns-tcp"])
            slice Apply("other:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
            slice Delete("dns:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
        "#]],
        );
        check(
            redirect,
            Update::Service(Event::Apply(service("other", "10.96.0.13"))),
            expect![[r#"
            Delete("other:node-local 10.96.0.10 dns,dns-tcp")
            slice Delete("other:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
            Apply("other 10.96.0.13 dns,dns-tcp,metrics")
        "#]],
        );
        check(
            redirect,
            Update::Service(Event::Apply(service("other", "10.96.0.10"))),
            expect![[r#"
            slice Apply("other:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
            Apply("other 10.96.0.10 metrics")
            Apply("other:node-local 10.96.0.10 dns,dns-tcp")
        "#]],
        );
        check(
            redirect,
            Update::Service(Event::Delete(service("other", "10.96.0.10"))),
            expect![[r#"
            Delete("other 10.96.0.10 dns,dns-tcp,metrics")
            Delete("other:node-local 10.96.0.10 dns,dns-tcp")
            slice Delete("other:node-local 192.0.2.1 dns=10053 dns-tcp=10053")
        "#]],
        );
        check(
            redirect,
            Update::EndpointSlice(Event::Reset(vec![slice("dns-1")])),
            expect![[r#"
            slice Reset(["dns-1 "])
        "#]],
        );
    }
}
