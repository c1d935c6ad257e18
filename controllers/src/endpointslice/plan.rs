//! [pure] Spreads the backends of a Service over slices so that few slices change.
//!
//! Endpoints stay in the slice that holds them; new ones fill slices with room, then a new slice. Backends with
//! different port numbers (named ports) live in different slices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::object::{annotation, labels, name};
use crate::service::{Backend, Port, inherited_labels};
use crate::slices::plan::{MANAGED_BY, SERVICE, TRIGGERED, Write, has_ports, of_family, reuse};

pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
const MAX: usize = 100;

/// What slices are planned from.
pub(super) struct Wanted<'a> {
    pub(super) service: &'a Service,
    pub(super) owner: OwnerReference,
    /// `IPv4` or `IPv6`.
    pub(super) family: &'a str,
    pub(super) backends: Vec<Backend>,
    /// The zone of a node.
    pub(super) zone: &'a dyn Fn(&str) -> Option<String>,
    /// All slices of this Service that are ours, of any family.
    pub(super) known: &'a [Arc<EndpointSlice>],
    pub(super) now: Timestamp,
}

/// The writes that publish what is wanted.
pub(super) fn plan(wanted: &Wanted<'_>) -> Vec<Write> {
    let mut groups: BTreeMap<Vec<Port>, HashMap<String, Endpoint>> = BTreeMap::new();
    for backend in &wanted.backends {
        let group = groups.entry(backend.ports.clone()).or_default();
        group.insert(backend.address.clone(), endpoint(backend, wanted.zone));
    }
    if groups.is_empty() {
        // A slice without endpoints tells that the Service is known and has none.
        groups.insert(Vec::new(), HashMap::new());
    }
    let mut known = of_family(wanted.known, wanted.family);
    let mut writes = Vec::new();
    for (ports, endpoints) in groups {
        let ports = api_ports(&ports);
        let (same, other) = known.into_iter().partition(|slice| has_ports(slice, &ports));
        known = other;
        fill(wanted, &ports, endpoints, same, &mut writes);
    }
    writes.extend(known.into_iter().map(|slice| Write::Delete(Arc::clone(slice))));
    reuse(writes, take)
}

/// What stands in the place of a slice that goes keeps that one's annotations.
fn take(slice: &mut EndpointSlice, new: EndpointSlice) {
    (slice.endpoints, slice.ports) = (new.endpoints, new.ports);
    slice.metadata.labels = new.metadata.labels;
    let annotations = slice.metadata.annotations.get_or_insert_default();
    annotations.extend(new.metadata.annotations.into_iter().flatten());
}

/// Puts the endpoints of one set of ports into its slices.
fn fill(
    wanted: &Wanted<'_>,
    ports: &[EndpointPort],
    mut left: HashMap<String, Endpoint>,
    slices: Vec<&Arc<EndpointSlice>>,
    writes: &mut Vec<Write>,
) {
    let mut contents: Vec<_> = slices.iter().map(|slice| keep(slice, &mut left)).collect();
    let mut new: Vec<_> = left.into_values().collect();
    new.sort_by(|a, b| a.addresses.cmp(&b.addresses));
    let mut new = new.into_iter();
    for content in &mut contents {
        let room = MAX.saturating_sub(content.len());
        content.extend(new.by_ref().take(room));
    }
    let new: Vec<_> = new.collect();
    let total = contents.iter().map(Vec::len).sum::<usize>() + new.len();
    let mut empty_kept = total > 0;
    for (slice, endpoints) in slices.into_iter().zip(contents) {
        if endpoints.is_empty() && empty_kept {
            writes.push(Write::Delete(Arc::clone(slice)));
            continue;
        }
        empty_kept |= endpoints.is_empty();
        let updated = updated(wanted, slice, endpoints);
        if let Some(updated) = updated {
            writes.push(Write::Replace(Box::new(updated)));
        }
    }
    for chunk in new.chunks(MAX) {
        writes.push(Write::Create(Box::new(created(wanted, ports, chunk.to_vec()))));
    }
    if !empty_kept {
        writes.push(Write::Create(Box::new(created(wanted, ports, Vec::new()))));
    }
}

/// The endpoints of a slice that are still wanted, as they are now.
fn keep(slice: &EndpointSlice, left: &mut HashMap<String, Endpoint>) -> Vec<Endpoint> {
    slice.endpoints.iter().filter_map(|endpoint| left.remove(endpoint.addresses.first()?)).collect()
}

fn endpoint(backend: &Backend, zone: &dyn Fn(&str) -> Option<String>) -> Endpoint {
    Endpoint {
        addresses: vec![backend.address.clone()],
        conditions: Some(EndpointConditions {
            ready: Some(backend.ready),
            serving: Some(backend.serving),
            terminating: Some(backend.terminating),
        }),
        hostname: backend.hostname.clone(),
        node_name: backend.node.clone(),
        target_ref: Some(backend.target.clone()),
        zone: backend.node.as_deref().and_then(zone),
        ..Endpoint::default()
    }
}

fn api_ports(ports: &[Port]) -> Vec<EndpointPort> {
    let convert = |port: &Port| EndpointPort {
        name: Some(port.name.clone()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
    };
    ports.iter().map(convert).collect()
}

/// The slice with new endpoints and labels; nothing if it is that already.
fn updated(wanted: &Wanted<'_>, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> Option<EndpointSlice> {
    let labels_now = slice_labels(wanted.service);
    let same = slice.endpoints == endpoints;
    if same && *labels(&slice.metadata) == labels_now {
        return None;
    }
    let mut updated = slice.clone();
    updated.endpoints = endpoints;
    updated.metadata.labels = Some(labels_now);
    let annotations = updated.metadata.annotations.get_or_insert_default();
    annotations.insert(TRIGGERED.to_owned(), wanted.now.to_string());
    Some(updated)
}

fn created(wanted: &Wanted<'_>, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> EndpointSlice {
    let meta = &wanted.service.metadata;
    let at = annotation(meta, TRIGGERED).map_or_else(|| wanted.now.to_string(), str::to_owned);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(meta))),
            namespace: meta.namespace.clone(),
            labels: Some(slice_labels(wanted.service)),
            annotations: Some(BTreeMap::from([(TRIGGERED.to_owned(), at)])),
            owner_references: Some(vec![wanted.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: wanted.family.to_owned(),
        endpoints,
        ports: Some(ports.to_vec()),
    }
}

fn slice_labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = inherited_labels(service);
    labels.insert(SERVICE.to_owned(), name(&service.metadata).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::controller_reference;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    /// Slices as they develop: every step is the full list of backends, `ADDRESS[:PORT][!]`, `!` is unready;
    /// shows the writes of each step.
    fn check(steps: &[&str], expected: Expect) {
        let service: Service = yaml("{metadata: {name: web, uid: u}, spec: {selector: {a: b}}}");
        let (mut known, mut made, mut out): (Vec<Arc<EndpointSlice>>, usize, Vec<String>) =
            (vec![], 0, vec![]);
        for step in steps {
            let writes = plan(&Wanted {
                service: &service,
                owner: controller_reference(&service),
                family: "IPv4",
                backends: expand(step).iter().map(|text| backend(text)).collect(),
                zone: &|_| None,
                known: &known,
                now: Timestamp::UNIX_EPOCH,
            });
            let mut line = Vec::new();
            for write in writes {
                match write {
                    Write::Create(mut slice) => {
                        slice.metadata.name = Some(format!("s{made}"));
                        made += 1;
                        line.push(format!("+{}", show(&slice)));
                        known.push(Arc::from(slice));
                    }
                    Write::Replace(slice) => {
                        line.push(format!("={}", show(&slice)));
                        known.retain(|other| other.metadata.name != slice.metadata.name);
                        known.push(Arc::from(slice));
                    }
                    Write::Delete(slice) => {
                        line.push(format!("-{}", name(&slice.metadata)));
                        known.retain(|other| other.metadata.name != slice.metadata.name);
                    }
                }
            }
            out.push(line.join(" "));
        }
        expected.assert_eq(&out.join("\n"));
    }

    /// `10*250` is 250 addresses.
    fn expand(step: &str) -> Vec<String> {
        step.split_whitespace()
            .flat_map(|word| match word.split_once('*') {
                Some((prefix, count)) => {
                    (0..count.parse().unwrap()).map(|n: u32| format!("{prefix}.{n}")).collect()
                }
                None => vec![word.to_owned()],
            })
            .collect()
    }

    fn backend(text: &str) -> Backend {
        let ready = !text.ends_with('!');
        let (address, port) =
            text.trim_end_matches('!').split_once(':').unwrap_or((text.trim_end_matches('!'), "80"));
        let port = Port {
            name: String::new(),
            port: port.parse().unwrap(),
            protocol: "TCP".into(),
            app_protocol: None,
        };
        Backend {
            address: address.to_owned(),
            ports: vec![port],
            ready,
            serving: ready,
            terminating: false,
            hostname: None,
            node: None,
            target: Default::default(),
        }
    }

    fn show(slice: &EndpointSlice) -> String {
        let endpoints = &slice.endpoints;
        let ports: Vec<_> = slice.ports.iter().flatten().map(|p| p.port.unwrap().to_string()).collect();
        let ready = |e: &Endpoint| e.conditions.as_ref().unwrap().ready.unwrap();
        let list = if endpoints.len() > 5 {
            endpoints.len().to_string()
        } else {
            let shown =
                endpoints.iter().map(|e| format!("{}{}", e.addresses[0], if ready(e) { "" } else { "!" }));
            shown.collect::<Vec<_>>().join(",")
        };
        format!("{}[{}]({list})", name(&slice.metadata), ports.join(","))
    }

    #[test]
    fn endpoints_come_change_and_go_in_place() {
        check(
            &["", "a! b", "a b", "a b", "b c", ""],
            expect![[r#"
                +s0[]()
                =s0[80](a!,b)
                =s0[80](a,b)

                =s0[80](b,c)
                =s0[]()"#]],
        );
    }

    #[test]
    fn a_slice_holds_a_hundred_and_gaps_are_filled() {
        check(
            &["x*150", "x*149", "x*149 a b", "x*50"],
            expect![[r#"
                +s0[80](100) +s1[80](50)
                =s0[80](99)
                =s0[80](100) =s1[80](51)
                =s0[80](46) =s1[80](x.6,x.7,x.8,x.9)"#]],
        );
    }

    #[test]
    fn different_ports_live_in_different_slices() {
        check(
            &["a b:8080", "a:8080 b:8080"],
            expect![[r#"
                +s0[80](a) +s1[8080](b)
                =s1[8080](b,a) -s0"#]],
        );
    }
}
