//! `[p]` The cluster's names: what Services and EndpointSlices make of a domain.
//!
//! ```text
//!  Event<Service> ────────┐
//!  Event<EndpointSlice> ──┼─▶ Zone (namespace → service → slices; address → names) ◀─ answer(question) ─▶ records
//!  Event<Namespace> ──────┘
//! ```
//!
//! The rules are the Kubernetes DNS specification 1.1.0, and where it says nothing those of CoreDNS' kubernetes plugin
//! with `pods insecure`. An event touches the names of its object and no other. Not for: names outside the cluster's
//! domain, caching, bytes.
//!
//! [specification]: https://github.com/kubernetes/dns/blob/master/docs/specification.md

mod answer;
mod reverse;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::rr::Name;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt as _;
use orlop_model::event::Event;

pub use answer::Answer;
use reverse::Reverse;

/// The label of a slice that says whose it is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The domain that somebody calls `cluster.local`.
///
/// # Errors
/// When it is no name.
pub fn domain(text: &str) -> Result<Name, String> {
    let name =
        Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).map_err(|error| error.to_string())?;
    if name.is_root() { Err("the root is no cluster's domain".to_owned()) } else { Ok(name.to_lowercase()) }
}

/// What a zone is, whatever is in it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `cluster.local.`
    pub domain: Name,
    /// Seconds that an answer may be kept.
    pub ttl: u32,
    /// Where this domain is served: the addresses of its name server.
    pub servers: Vec<IpAddr>,
}

/// All names of a cluster.
#[derive(Debug)]
pub struct Zone {
    settings: Settings,
    serial: u32,
    services_listed: bool,
    slices_listed: bool,
    /// By namespace, then by name.
    entries: HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    /// Which service a slice (namespace, name) belongs to.
    slices: HashMap<(Box<str>, Box<str>), Box<str>>,
    /// All there are, where somebody watches them.
    namespaces: Option<HashSet<Box<str>>>,
    reverse: Reverse,
}

/// A service, its slices, or (for a moment) only one of both.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Kind>,
    slices: BTreeMap<Box<str>, Slice>,
    /// Addresses of a headless service, each once.
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

#[derive(Debug)]
enum Kind {
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    Headless,
    /// `None`: it points at something that is no name.
    External(Option<Name>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    /// `tcp`, `udp`, `sctp`.
    protocol: Box<str>,
    number: u16,
}

#[derive(Debug)]
struct Slice {
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

/// An endpoint that is ready.
#[derive(Debug)]
struct Endpoint {
    /// Its label below the service: its host name, else its address.
    label: Box<str>,
    named: bool,
    address: IpAddr,
}

impl Zone {
    /// Empty; `serial` is the first that its SOA shows.
    #[must_use]
    pub fn new(settings: Settings, serial: u32) -> Self {
        Self {
            settings,
            serial,
            services_listed: false,
            slices_listed: false,
            entries: HashMap::new(),
            slices: HashMap::new(),
            namespaces: None,
            reverse: Reverse::default(),
        }
    }

    /// Whether all is known: before that, no name can be said not to exist.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.services_listed && self.slices_listed
    }

    /// Takes in what the watch of Services says.
    pub fn services(&mut self, event: &Event<Arc<Service>>) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Apply(service) => self.put_service(service),
            Event::Delete(service) => {
                self.drop_service(&service.namespace().unwrap_or_default(), &service.name_any());
            }
            Event::Reset(services) => {
                self.services_listed = true;
                let known = self.entries.iter().flat_map(|(namespace, entries)| {
                    entries.keys().map(move |name| (namespace.clone(), name.clone()))
                });
                for (namespace, name) in known.collect::<Vec<_>>() {
                    self.drop_service(&namespace, &name);
                }
                for service in services {
                    self.put_service(service);
                }
            }
        }
    }

    /// Takes in what the watch of EndpointSlices says.
    pub fn endpoint_slices(&mut self, event: &Event<Arc<EndpointSlice>>) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Apply(slice) => self.put_slice(slice),
            Event::Delete(slice) => {
                self.drop_slice(&slice.namespace().unwrap_or_default(), &slice.name_any());
            }
            Event::Reset(slices) => {
                self.slices_listed = true;
                for (namespace, name) in self.slices.keys().cloned().collect::<Vec<_>>() {
                    self.drop_slice(&namespace, &name);
                }
                for slice in slices {
                    self.put_slice(slice);
                }
            }
        }
    }

    /// Takes in what the watch of Namespaces says. Without one, a namespace is there when it has a Service, and `pod`
    /// records are in all.
    pub fn namespaces(&mut self, event: &Event<Arc<Namespace>>) {
        let name = |namespace: &Arc<Namespace>| namespace.name_any().into_boxed_str();
        match event {
            Event::Apply(namespace) => {
                self.namespaces.get_or_insert_default().insert(name(namespace));
            }
            Event::Delete(namespace) => {
                self.namespaces.get_or_insert_default().remove(&name(namespace));
            }
            Event::Reset(namespaces) => self.namespaces = Some(namespaces.iter().map(name).collect()),
        }
    }

    fn entry(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.entries.get(namespace)?.get(name)
    }

    fn entry_mut(&mut self, namespace: &str, name: &str) -> &mut Entry {
        self.entries.entry(namespace.into()).or_default().entry(name.into()).or_default()
    }

    fn put_service(&mut self, service: &Service) {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        self.drop_service(&namespace, &name);
        let kind = kind(service);
        if let Kind::Cluster { addresses, .. } = &kind {
            for address in addresses {
                self.reverse.add(*address, &[&name, &namespace]);
            }
        }
        let entry = self.entry_mut(&namespace, &name);
        entry.service = Some(kind);
        entry.compile();
    }

    fn drop_service(&mut self, namespace: &str, name: &str) {
        let entry = self.entries.get_mut(namespace).and_then(|entries| entries.get_mut(name));
        let Some(entry) = entry else { return };
        if let Some(Kind::Cluster { addresses, .. }) = entry.service.take() {
            for address in addresses {
                self.reverse.remove(address, &[name, namespace]);
            }
        }
        entry.compile();
        self.sweep(namespace, name);
    }

    fn put_slice(&mut self, slice: &EndpointSlice) {
        let (namespace, name) = (slice.namespace().unwrap_or_default(), slice.name_any());
        self.drop_slice(&namespace, &name);
        let Some(service) = slice.labels().get(SERVICE_NAME).filter(|service| !service.is_empty()) else {
            return;
        };
        let slice = Slice::of(slice);
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.named) {
            self.reverse.add(endpoint.address, &[&endpoint.label, service, &namespace]);
        }
        self.slices.insert((namespace.as_str().into(), name.as_str().into()), service.as_str().into());
        let entry = self.entry_mut(&namespace, service);
        entry.slices.insert(name.into(), slice);
        entry.compile();
    }

    fn drop_slice(&mut self, namespace: &str, name: &str) {
        let Some(service) = self.slices.remove(&(namespace.into(), name.into())) else { return };
        let entry = self.entries.get_mut(namespace).and_then(|entries| entries.get_mut(&service));
        let Some(entry) = entry else { return };
        if let Some(slice) = entry.slices.remove(name) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.named) {
                self.reverse.remove(endpoint.address, &[&endpoint.label, &service, namespace]);
            }
        }
        entry.compile();
        self.sweep(namespace, &service);
    }

    /// Forgets a name that nothing stands for any more.
    fn sweep(&mut self, namespace: &str, name: &str) {
        let Some(entries) = self.entries.get_mut(namespace) else { return };
        if entries.get(name).is_some_and(|entry| entry.service.is_none() && entry.slices.is_empty()) {
            entries.remove(name);
        }
        if entries.is_empty() {
            self.entries.remove(namespace);
        }
    }

    /// Whether names can be below this namespace. Where nobody watches them, those with Services are known, and
    /// `unknown` is the answer for all others.
    fn has_namespace(&self, namespace: &str, unknown: bool) -> bool {
        let has_services = || {
            let entries = self.entries.get(namespace);
            entries.is_some_and(|entries| entries.values().any(|entry| entry.service.is_some()))
        };
        match &self.namespaces {
            Some(namespaces) => namespaces.contains(namespace) || has_services(),
            None => unknown || has_services(),
        }
    }
}

impl Entry {
    fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &[Port])> {
        let slices = self.slices.values();
        slices.flat_map(|slice| slice.endpoints.iter().map(|endpoint| (endpoint, slice.ports.as_slice())))
    }

    /// What a headless service answers with is asked for often, and changes seldom.
    fn compile(&mut self) {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        if matches!(self.service, Some(Kind::Headless)) {
            for (endpoint, _) in self.endpoints() {
                match endpoint.address {
                    IpAddr::V4(address) => v4.push(address),
                    IpAddr::V6(address) => v6.push(address),
                }
            }
        }
        v4.sort_unstable();
        v4.dedup();
        v6.sort_unstable();
        v6.dedup();
        (self.v4, self.v6) = (v4, v6);
    }
}

impl Slice {
    fn of(object: &EndpointSlice) -> Slice {
        let ports = object.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: lower(port.name.as_deref().unwrap_or_default()),
                protocol: lower(port.protocol.as_deref().unwrap_or("TCP")),
                number: u16::try_from(port.port?).ok()?,
            })
        });
        // Who publishes endpoints that are not ready says of them that they are.
        let ready = object.endpoints.iter().filter(|endpoint| {
            endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let endpoints = ready.flat_map(|endpoint| {
            let hostname = endpoint.hostname.as_deref().filter(|name| !name.is_empty());
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse().ok());
            addresses.map(move |address: IpAddr| Endpoint {
                label: hostname.map_or_else(|| dashed(address), lower),
                named: hostname.is_some(),
                address,
            })
        });
        Slice { ports: ports.collect(), endpoints: endpoints.collect() }
    }
}

fn kind(service: &Service) -> Kind {
    let spec = service.spec.clone().unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.unwrap_or_default();
        let target = target.strip_suffix('.').unwrap_or(&target);
        // An address is no name, however much it looks like one.
        let is_name = !target.is_empty() && target.parse::<IpAddr>().is_err();
        let name = is_name.then(|| Name::from_ascii(format!("{target}.")).ok());
        return Kind::External(name.flatten());
    }
    let listed = spec.cluster_ips.filter(|addresses| !addresses.is_empty());
    let addresses = listed.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
    if addresses.first().is_some_and(|first| first == "None") {
        return Kind::Headless;
    }
    let ports = spec.ports.into_iter().flatten().filter_map(|port| {
        Some(Port {
            name: lower(&port.name.unwrap_or_default()),
            protocol: lower(port.protocol.as_deref().unwrap_or("TCP")),
            number: u16::try_from(port.port).ok()?,
        })
    });
    Kind::Cluster {
        addresses: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
        ports: ports.collect(),
    }
}

fn lower(text: &str) -> Box<str> {
    text.to_ascii_lowercase().into_boxed_str()
}

/// An address as one label: `10-0-0-1`, `2001-db8--1`.
fn dashed(address: IpAddr) -> Box<str> {
    address.to_string().replace(['.', ':'], "-").into_boxed_str()
}
