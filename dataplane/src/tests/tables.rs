//! What services become in the maps. Names say the rule.

use expect_test::expect;

use super::check;
use crate::explain::{Packet, Verdict, explain};
use crate::maps::{FakeMaps, Maps as _};
use crate::model::{LoadBalancing, Node, Protocol, Settings};
use crate::reconcile::{State, Update};

const WEB: &str = "service: {name: web, cluster_ips: [10.96.0.1], ports: [{port: 80}]}";

#[test]
fn ready_endpoints_get_slots_in_address_order() {
    check(
        &format!(
            "- {WEB}
  endpoints:
  - {{ip: 10.0.0.3, ports: {{'': 8080}}}}
  - {{ip: 10.0.0.2, ports: {{'': 8080}}}}"
        ),
        expect![[r#"
            10.96.0.1:80/TCP slots=2 10.0.0.2:8080 10.0.0.3:8080
            10.96.0.1:* refused
        "#]],
    );
}

#[test]
fn a_service_without_endpoints_is_there_to_refuse() {
    check(
        &format!("- {WEB}"),
        expect![[r#"
            10.96.0.1:80/TCP slots=0
            10.96.0.1:* refused
        "#]],
    );
}

#[test]
fn unready_endpoint_gets_no_slot() {
    check(
        &format!("- {WEB}\n  endpoints: [{{ip: 10.0.0.2, ports: {{'': 8080}}, ready: false}}]"),
        expect![[r#"
            10.96.0.1:80/TCP slots=0
            10.96.0.1:* refused
        "#]],
    );
}

#[test]
fn terminating_but_serving_endpoints_are_the_last_resort() {
    check(
        &format!(
            "- {WEB}
  endpoints:
  - {{ip: 10.0.0.2, ports: {{'': 8080}}, ready: false, serving: true, terminating: true}}
  - {{ip: 10.0.0.3, ports: {{'': 8080}}, ready: false, serving: false, terminating: true}}"
        ),
        expect![[r#"
            10.96.0.1:80/TCP slots=1 10.0.0.2:8080
            10.96.0.1:* refused
        "#]],
    );
}

#[test]
fn udp_keeps_serving_endpoints_for_running_conversations() {
    check(
        "
- service: {name: dns, cluster_ips: [10.96.0.53], ports: [{port: 53, protocol: UDP}]}
  endpoints:
  - {ip: 10.0.0.2, ports: {'': 53}}
  - {ip: 10.0.0.3, ports: {'': 53}, ready: false, serving: true, terminating: true}
  - {ip: 10.0.0.4, ports: {'': 53}, ready: false, serving: false, terminating: true}",
        expect![[r#"
            10.96.0.53:53/UDP slots=1 10.0.0.2:53 keeps 10.0.0.3:53
            10.96.0.53:* refused
        "#]],
    );
}

#[test]
fn the_same_number_over_two_protocols_is_two_services() {
    check(
        "
- service: {name: dns, cluster_ips: [10.96.0.53], ports: [{name: t, port: 53}, {name: u, port: 53, protocol: UDP}]}
  endpoints: [{ip: 10.0.0.2, ports: {t: 5300, u: 5301}}]",
        expect![[r#"
            10.96.0.53:53/TCP slots=1 10.0.0.2:5300
            10.96.0.53:53/UDP slots=1 10.0.0.2:5301
            10.96.0.53:* refused
        "#]],
    );
}

#[test]
fn an_endpoint_without_the_port_is_no_candidate() {
    check(
        "
- service: {name: two, cluster_ips: [10.96.0.2], ports: [{name: a, port: 1}, {name: b, port: 2}]}
  endpoints:
  - {ip: 10.0.0.2, ports: {a: 11, b: 12}}
  - {ip: 10.0.0.3, ports: {a: 11}}",
        expect![[r#"
            10.96.0.2:1/TCP slots=2 10.0.0.2:11 10.0.0.3:11
            10.96.0.2:2/TCP slots=1 10.0.0.2:12
            10.96.0.2:* refused
        "#]],
    );
}

#[test]
fn internal_policy_local_uses_this_node_only() {
    check(
        "
- service: {name: l, cluster_ips: [10.96.0.3], ports: [{port: 80}], internal_traffic_policy: Local}
  endpoints:
  - {ip: 10.0.0.2, node: node-a, ports: {'': 8080}}
  - {ip: 10.0.0.3, node: node-b, ports: {'': 8080}}",
        expect![[r#"
            10.96.0.3:80/TCP slots=1 local 10.0.0.2:8080
            10.96.0.3:* refused
        "#]],
    );
}

#[test]
fn internal_policy_local_without_one_here_drops_instead_of_refusing() {
    check(
        "
- service: {name: l, cluster_ips: [10.96.0.3], ports: [{port: 80}], internal_traffic_policy: Local}
  endpoints: [{ip: 10.0.0.3, node: node-b, ports: {'': 8080}}]
- service: {name: none, cluster_ips: [10.96.0.4], ports: [{port: 80}], internal_traffic_policy: Local}",
        expect![[r#"
            10.96.0.3:80/TCP slots=0 local none-local
            10.96.0.3:* refused
            10.96.0.4:80/TCP slots=0 local
            10.96.0.4:* refused
        "#]],
    );
}

#[test]
fn services_left_to_others_are_not_there() {
    check(
        "
- service: {name: headless, cluster_ips: [None], ports: [{port: 80}]}
- service: {name: ext, type: ExternalName, external_name: example.net}
- service: {name: mesh, cluster_ips: [10.96.0.5], ports: [{port: 80}], labels: {service.kubernetes.io/service-proxy-name: mesh}}",
        expect![[""]],
    );
}

#[test]
fn every_address_of_a_port_leads_to_the_same_endpoints() {
    check(
        "
- service: {name: lb, type: LoadBalancer, cluster_ips: [10.96.0.7], ports: [{port: 80, node_port: 30080}], external_ips: [198.51.100.7], lb_ingress: [{ip: 198.51.100.8}], source_ranges: [203.0.113.0/24]}
  endpoints: [{ip: 10.0.0.2, ports: {'': 8080}}]",
        expect![[r#"
            10.96.0.7:80/TCP slots=1 10.0.0.2:8080
            198.51.100.7:80/TCP slots=1 masquerade 10.0.0.2:8080
            198.51.100.8:80/TCP slots=1 masquerade from 203.0.113.0/24 to 10.0.0.2:8080
            node:30080/TCP slots=1 masquerade 10.0.0.2:8080
            10.96.0.7:* refused
        "#]],
    );
}

#[test]
fn external_policy_local_has_two_lists() {
    check(
        "
- service: {name: lb, type: NodePort, cluster_ips: [10.96.0.7], ports: [{port: 80, node_port: 30080}], external_traffic_policy: Local}
  endpoints:
  - {ip: 10.0.0.2, node: node-a, ports: {'': 8080}}
  - {ip: 10.0.0.3, node: node-b, ports: {'': 8080}}",
        expect![[r#"
            10.96.0.7:80/TCP slots=2 10.0.0.2:8080 10.0.0.3:8080
            node:30080/TCP slots=1 local 10.0.0.2:8080 inside 10.0.0.2:8080 10.0.0.3:8080
            10.96.0.7:* refused
        "#]],
    );
}

#[test]
fn only_front_ends_for_the_outside_are_direct_and_only_where_the_policy_is_cluster() {
    let yaml = "
- service: {name: c, type: NodePort, cluster_ips: [10.96.0.7, 'fd00::7'], external_ips: [198.51.100.7], ports: [{name: t, port: 80, node_port: 30080}, {name: u, port: 80, protocol: UDP, node_port: 30080}]}
  endpoints:
  - {ip: 10.0.0.2, node: node-a, ports: {t: 8080, u: 8080}}
  - {ip: 10.0.0.3, node: node-b, ports: {t: 8080, u: 8080}}
  - {ip: 10.0.0.4, ports: {t: 8080, u: 8080}}
- service: {name: l, type: NodePort, cluster_ips: [10.96.0.8], ports: [{port: 80, node_port: 30081}], external_traffic_policy: Local}
";
    // Other nodes know this one by an address of IPv4 alone.
    let settings = Settings { load_balancing: LoadBalancing::Hybrid, ..Settings::default() };
    let primary = vec!["192.0.2.1".parse().unwrap()];
    let mut state = State::new(FakeMaps::default(), Node { primary, settings, ..super::node() });
    state.ingest(Update::Addresses(["192.0.2.1".parse().unwrap()].into()));
    state.ingest(Update::Nodes(["192.0.2.2".parse().unwrap()].into()));
    super::set(&mut state, yaml);
    expect![[r#"
        address 192.0.2.1 takes node ports
        10.96.0.7:80/TCP slots=3 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        198.51.100.7:80/TCP slots=3 masquerade direct 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        node:30080/TCP slots=3 masquerade direct 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        [fd00::7]:80/TCP slots=0
        [node]:30080/TCP slots=0 masquerade
        10.96.0.7:80/UDP slots=3 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        198.51.100.7:80/UDP slots=3 masquerade 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        node:30080/UDP slots=3 masquerade 10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080
        [fd00::7]:80/UDP slots=0
        [node]:30080/UDP slots=0 masquerade
        10.96.0.7:* refused
        [fd00::7]:* refused
        10.96.0.8:80/TCP slots=0
        node:30081/TCP slots=0 local inside
        10.96.0.8:* refused
        node 192.0.2.2/32
    "#]]
    .assert_eq(&super::shown(&state));
    let tables = state.maps().dump().unwrap();
    let sees = |source: &str, to: &str, protocol| {
        let (source, destination) = (source.parse().unwrap(), to.parse().unwrap());
        match explain(&tables, &Packet { source, destination, protocol }).verdict {
            Verdict::Forward(backends) => {
                backends.into_iter().map(|(_, masqueraded)| masqueraded).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let (outside, node) = ("203.0.113.7", "192.0.2.1");
    assert_eq!(sees(outside, "192.0.2.1:30080", Protocol::Tcp), [true, false, true]);
    assert_eq!(sees(outside, "198.51.100.7:80", Protocol::Tcp), [true, false, true]);
    assert_eq!(sees(outside, "192.0.2.1:30080", Protocol::Udp), [true; 3]);
    assert_eq!(sees(node, "192.0.2.1:30080", Protocol::Tcp), [true; 3]);
    assert_eq!(sees(outside, "10.96.0.7:80", Protocol::Tcp), [false; 3]);
    // It is known until another list is heard of, also by the next agent.
    let mut state = State::new(state.into_maps(), super::node());
    super::set(&mut state, yaml);
    assert!(super::shown(&state).contains("node 192.0.2.2/32"));
    state.ingest(Update::Nodes([].into()));
    state.sync();
    assert!(!super::shown(&state).contains("node 192.0.2.2/32"));
}

#[test]
fn families_and_sctp_are_services_like_others() {
    check(
        "
- service: {name: two, cluster_ips: [10.96.0.6, 'fd00::6'], ports: [{port: 80, protocol: SCTP}]}
  endpoints: [{ip: 'fd01::2', ports: {'': 8080}}]",
        expect![[r#"
            10.96.0.6:80/SCTP slots=0
            [fd00::6]:80/SCTP slots=1 [fd01::2]:8080
            10.96.0.6:* refused
            [fd00::6]:* refused
        "#]],
    );
}

#[test]
fn endpoints_that_no_pod_can_have_are_left_out() {
    check(
        "
- service: {name: evil, cluster_ips: [10.96.0.6], ports: [{port: 80}]}
  endpoints:
  - {ip: 127.0.0.1, ports: {'': 22}}
  - {ip: 169.254.169.254, ports: {'': 80}}
  - {ip: 0.0.0.0, ports: {'': 80}}
  - {ip: 224.0.0.1, ports: {'': 80}}",
        expect![[r#"
            10.96.0.6:80/TCP slots=0
            10.96.0.6:* refused
        "#]],
    );
}

#[test]
fn a_port_that_the_service_does_not_have_is_refused_at_its_cluster_ip_alone() {
    let web = "- service: {name: web, cluster_ips: [10.96.0.1, 'fd00::1'], external_ips: [198.51.100.1], ports: [{port: 80}]}";
    let tables = super::state(web).maps().dump().unwrap();
    let explained = |to: &str| {
        let (source, destination) = ("10.0.0.9".parse().unwrap(), to.parse().unwrap());
        explain(&tables, &Packet { source, destination, protocol: Protocol::Udp }).verdict
    };
    for to in ["10.96.0.1:80", "10.96.0.1:81", "[fd00::1]:1"] {
        assert_eq!(explained(to), Verdict::Reject, "{to}");
    }
    for to in ["198.51.100.1:81", "10.96.0.2:80"] {
        assert_eq!(explained(to), Verdict::Pass, "{to}");
    }
}
