//! [pure] The slices that say what an Endpoints object says: for each set of ports one of a family.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::object::{annotation, controller_reference, is_deleting, labels, name};
use crate::slices::plan::{MANAGED_BY, SERVICE, TRIGGERED, Write, has_ports, of_family, reuse};

use super::subsets::{Canonical, Group, canonical};

pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that are a lock and no addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The writes, and how many addresses they leave out.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) invalid: usize,
    pub(super) skipped: usize,
}

/// The Endpoints if they are to be mirrored: somebody gave them by hand to a Service that has no selector.
pub(super) fn mirrored<'a>(
    endpoints: Option<&'a Endpoints>,
    service: Option<&Service>,
) -> Option<&'a Endpoints> {
    let selector = service?.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selects = selector.is_some_and(|selector| !selector.is_empty());
    endpoints.filter(|endpoints| {
        let meta = &endpoints.metadata;
        let skips = labels(meta).get(SKIP).is_some_and(|value| value == "true");
        !selects && !skips && annotation(meta, LEADER).is_none() && !is_deleting(meta)
    })
}

/// From what is to be mirrored, if anything, and all slices of the Service that are ours.
pub(super) fn plan(endpoints: Option<&Endpoints>, known: &[Arc<EndpointSlice>]) -> Plan {
    let Some(endpoints) = endpoints else {
        let writes = known.iter().map(|slice| Write::Delete(Arc::clone(slice))).collect();
        return Plan { writes, ..Plan::default() };
    };
    let Canonical { groups, invalid, skipped } = canonical(endpoints.subsets.as_deref().unwrap_or_default());
    let of_ipv4 = family(endpoints, "IPv4", &groups, |group| &group.ipv4, known);
    let of_ipv6 = family(endpoints, "IPv6", &groups, |group| &group.ipv6, known);
    Plan { writes: of_ipv4.into_iter().chain(of_ipv6).collect(), invalid, skipped }
}

fn family(
    endpoints: &Endpoints,
    family: &str,
    groups: &[Group],
    of: impl Fn(&Group) -> &Vec<Endpoint>,
    known: &[Arc<EndpointSlice>],
) -> Vec<Write> {
    let mut known = of_family(known, family);
    let mut writes = Vec::new();
    for group in groups.iter().filter(|group| !of(group).is_empty()) {
        let wanted = slice(endpoints, family, &group.ports, of(group));
        match known.iter().position(|slice| has_ports(slice, &group.ports)) {
            None => writes.push(Write::Create(Box::new(wanted))),
            Some(at) => {
                let known = known.remove(at);
                let mut updated = EndpointSlice::clone(known);
                take(&mut updated, wanted);
                if updated != **known {
                    writes.push(Write::Replace(Box::new(updated)));
                }
            }
        }
    }
    writes.extend(known.into_iter().map(|slice| Write::Delete(Arc::clone(slice))));
    reuse(writes, take)
}

/// All of a slice that is ours to say; the rest is the server's.
fn take(slice: &mut EndpointSlice, new: EndpointSlice) {
    slice.endpoints = new.endpoints;
    // No name and an empty one are the same.
    if !has_ports(slice, new.ports.as_deref().unwrap_or_default()) {
        slice.ports = new.ports;
    }
    slice.metadata.labels = new.metadata.labels;
    if slice.metadata.annotations.clone().unwrap_or_default()
        != new.metadata.annotations.clone().unwrap_or_default()
    {
        slice.metadata.annotations = new.metadata.annotations;
    }
    slice.metadata.owner_references = new.metadata.owner_references;
}

fn slice(
    endpoints: &Endpoints,
    family: &str,
    ports: &[EndpointPort],
    of_family: &[Endpoint],
) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let mut labels = labels(meta).clone();
    labels.insert(SERVICE.to_owned(), name(meta).to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let annotations =
        meta.annotations.iter().flatten().filter(|(key, _)| *key != TRIGGERED && *key != APPLIED);
    let annotations: BTreeMap<_, _> = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(meta))),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: of_family.to_vec(),
        ports: Some(ports.to_vec()).filter(|ports| !ports.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use expect_test::{Expect, expect};

    /// Slices as they develop: every step is the subsets as YAML (or `-`: nothing is to be mirrored); shows the writes.
    fn check(steps: &[&str], expected: Expect) {
        let (mut known, mut made, mut out): (Vec<Arc<EndpointSlice>>, usize, Vec<String>) =
            (vec![], 0, vec![]);
        for step in steps {
            let endpoints = (*step != "-").then(|| endpoints("{}", step));
            let mut line = Vec::new();
            for write in plan(endpoints.as_ref(), &known).writes {
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

    fn endpoints(more: &str, subsets: &str) -> Endpoints {
        let mut endpoints: Endpoints = yaml(&format!("{{subsets: {subsets}}}"));
        endpoints.metadata = yaml(more);
        endpoints.metadata.name = Some("web".to_owned());
        endpoints.metadata.uid = Some("u".to_owned());
        endpoints
    }

    fn show(slice: &EndpointSlice) -> String {
        let ports: Vec<_> = slice.ports.iter().flatten().map(|p| p.port.unwrap().to_string()).collect();
        let ready = |e: &Endpoint| e.conditions.as_ref().unwrap().ready.unwrap();
        let endpoints: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| format!("{}{}", e.addresses[0], if ready(e) { "" } else { "!" }))
            .collect();
        format!(
            "{}:{}[{}]({})",
            name(&slice.metadata),
            slice.address_type,
            ports.join(","),
            endpoints.join(",")
        )
    }

    #[test]
    fn a_slice_comes_changes_in_place_and_goes() {
        check(
            &[
                "[{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]",
                "[{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]",
                "[{addresses: [{ip: 10.0.0.2}], notReadyAddresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]",
                "[{addresses: [{ip: 10.0.0.2}], ports: [{port: 81}]}]",
                "[]",
                "[{addresses: [{ip: 10.0.0.2}]}]",
                "-",
            ],
            expect![[r#"
                +s0:IPv4[80](10.0.0.1)

                =s0:IPv4[80](10.0.0.2,10.0.0.1!)
                =s0:IPv4[81](10.0.0.2)
                -s0
                +s1:IPv4[](10.0.0.2)
                -s1"#]],
        );
    }

    #[test]
    fn a_slice_for_each_family_and_each_set_of_ports() {
        check(
            &[
                "[{addresses: [{ip: 10.0.0.1}, {ip: 'fd00::1'}], ports: [{port: 80}]}]",
                "[{addresses: [{ip: 'fd00::1'}], ports: [{port: 80}]}]",
                "[{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}, {addresses: [{ip: 10.0.0.2}], ports: [{port: 81}]}]",
                "[{addresses: [{ip: 10.0.0.2}], ports: [{port: 81}]}]",
            ],
            expect![[r#"
                +s0:IPv4[80](10.0.0.1) +s1:IPv6[80](fd00::1)
                -s0
                +s2:IPv4[80](10.0.0.1) +s3:IPv4[81](10.0.0.2) -s1
                -s2"#]],
        );
    }

    #[test]
    fn a_second_slice_for_the_same_goes_and_a_changed_one_is_put_right() {
        let endpoints = endpoints("{}", "[{addresses: [{ip: 10.0.0.1}], ports: [{port: 80}]}]");
        let made = plan(Some(&endpoints), &[]).writes;
        let Some(Write::Create(made)) = made.into_iter().next() else { panic!("no slice") };
        let named = |name: &str, change: fn(&mut EndpointSlice)| {
            let mut slice = EndpointSlice::clone(&made);
            slice.metadata.name = Some(name.to_owned());
            // As a server may give it back.
            slice.ports.iter_mut().flatten().for_each(|port| port.name = None);
            change(&mut slice);
            Arc::new(slice)
        };
        let writes = |known: &[Arc<EndpointSlice>]| {
            let writes = plan(Some(&endpoints), known).writes;
            let show = |write: &Write| match write {
                Write::Create(_) => "+".to_owned(),
                Write::Replace(slice) => format!("={}", name(&slice.metadata)),
                Write::Delete(slice) => format!("-{}", name(&slice.metadata)),
            };
            writes.iter().map(show).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(writes(&[named("b", |_| ()), named("a", |_| ())]), "-b");
        assert_eq!(writes(&[named("a", |slice| slice.metadata.labels = None)]), "=a");
        assert_eq!(writes(&[named("a", |slice| slice.metadata.owner_references = None)]), "=a");
        assert_eq!(writes(&[named("a", |slice| slice.endpoints.clear())]), "=a");
        assert_eq!(writes(&[named("a", |slice| slice.metadata.annotations = Some(BTreeMap::new()))]), "");
    }

    #[test]
    fn labels_and_annotations_go_along_except_those_about_the_object_itself() {
        let endpoints = endpoints(
            "{namespace: d, labels: {team: a, kubernetes.io/service-name: lie}, annotations: {note: b, \
             endpoints.kubernetes.io/last-change-trigger-time: t, kubectl.kubernetes.io/last-applied-configuration: c}}",
            "[{addresses: [{ip: 10.0.0.1, hostname: h, nodeName: n, targetRef: {kind: Pod, name: p}}], ports: [{port: 80, appProtocol: http}]}]",
        );
        let writes = plan(Some(&endpoints), &[]).writes;
        let [Write::Create(slice)] = &writes[..] else { panic!("{writes:?}") };
        expect![[r#"
            {
              "apiVersion": "discovery.k8s.io/v1",
              "kind": "EndpointSlice",
              "addressType": "IPv4",
              "endpoints": [
                {
                  "addresses": [
                    "10.0.0.1"
                  ],
                  "conditions": {
                    "ready": true
                  },
                  "hostname": "h",
                  "nodeName": "n",
                  "targetRef": {
                    "kind": "Pod",
                    "name": "p"
                  }
                }
              ],
              "metadata": {
                "annotations": {
                  "note": "b"
                },
                "generateName": "web-",
                "labels": {
                  "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
                  "kubernetes.io/service-name": "web",
                  "team": "a"
                },
                "namespace": "d",
                "ownerReferences": [
                  {
                    "apiVersion": "v1",
                    "blockOwnerDeletion": true,
                    "controller": true,
                    "kind": "Endpoints",
                    "name": "web",
                    "uid": "u"
                  }
                ]
              },
              "ports": [
                {
                  "appProtocol": "http",
                  "name": "",
                  "port": 80,
                  "protocol": "TCP"
                }
              ]
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&**slice).unwrap());
    }

    #[test]
    fn only_what_people_gave_a_service_without_selector_is_mirrored() {
        let is = |service: &str, meta: &str| {
            let service: Service = yaml(service);
            mirrored(Some(&endpoints(meta, "[]")), Some(&service)).is_some()
        };
        assert!(is("{}", "{}") && is("{spec: {selector: {}}}", "{labels: {team: a}}"));
        assert!(is("{}", "{labels: {endpointslice.kubernetes.io/skip-mirror: 'false'}}"));
        assert!(!is("{spec: {selector: {app: a}}}", "{}"));
        assert!(!is("{}", "{labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}"));
        assert!(!is("{}", "{annotations: {control-plane.alpha.kubernetes.io/leader: x}}"));
        assert!(!is("{}", "{deletionTimestamp: '2024-01-01T00:00:00Z'}"));
        assert!(mirrored(Some(&endpoints("{}", "[]")), None).is_none());
        assert!(mirrored(None, Some(&Service::default())).is_none());
    }
}
