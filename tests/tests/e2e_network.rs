//! A cluster whose pods have both families, on nodes that have one: what objects say, and packets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use orlop_tests::{Playground, playground::run};
use serde_json::{Value, json};

const CIDRS: &str = "10.42.0.0/16,fd00:42::/56";

fn pod(name: &str, node: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: {{{annotations}}}}}, spec: {{nodeName: {node}, \
         terminationGracePeriodSeconds: 1, containers: [{{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], \
         env: [{{name: GREETING, valueFrom: {{fieldRef: {{fieldPath: status.podIPs}}}}}}]}}]}}}}"
    )
}

fn ready(p: &Playground, name: &str) -> Value {
    p.kubectl(&["wait", "pod", name, "--for=condition=Ready", "--timeout=60s"]).text();
    p.get(&["pod", name])
}

fn url(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("http://[{ip}]:8080/") } else { format!("http://{ip}:8080/") }
}

#[test]
#[ignore = "e2e tier"]
fn pods_have_both_families_and_reach_each_other_on_nodes_that_have_one() {
    let p = Playground::with(&["--nodes", "2"], &[("ORLOP_CLUSTER_CIDR", CIDRS)]);
    for node in ["node1", "node2"] {
        p.apply(&pod(&format!("on-{node}"), node, "")).text();
    }
    let nodes = p.get(&["nodes"]);
    for node in nodes["items"].as_array().unwrap() {
        let (first, all) = (&node["spec"]["podCIDR"], node["spec"]["podCIDRs"].as_array().unwrap());
        let families: Vec<_> = all.iter().map(|cidr| cidr.as_str().unwrap().contains(':')).collect();
        assert_eq!((first, families), (&all[0], vec![false, true]), "{}", node["spec"]);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let routed = conditions.iter().find(|condition| condition["type"] == "NetworkUnavailable").unwrap();
        assert_eq!((&routed["status"], &routed["reason"]), (&json!("False"), &json!("RouteCreated")));
    }
    for (name, from) in [("on-node1", 2), ("on-node2", 1)] {
        let status = ready(&p, name)["status"].clone();
        let ips = status["podIPs"].as_array().unwrap().iter().map(|ip| ip["ip"].as_str().unwrap());
        let ips: Vec<IpAddr> = ips.map(|ip| ip.parse().unwrap()).collect();
        assert!(ips.len() == 2 && ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
        assert_eq!(status["podIP"], json!(ips[0]));
        let told = format!("{},{}", ips[0], ips[1]);
        for ip in ips {
            // IPv4 over the wire between the nodes, IPv6 inside of VXLAN: the nodes have no IPv6 addresses.
            let out = run(p.inside(from, "curl").args(["-sS", "--max-time", "3", &url(ip)]));
            let said = out.stdout.contains(name) && out.stdout.contains(&told);
            assert!(said, "node{from} to {ip}: {}{}", out.stdout, out.stderr);
            let client = format!("c{from}{}", if ip.is_ipv6() { 6 } else { 4 });
            p.apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {client}}}, spec: {{nodeName: node{from}, restartPolicy: Never, \
                 containers: [{{name: c, image: 'orlop.dev/example/hello:v1', args: [get, '{}']}}]}}}}",
                url(ip)
            ))
            .text();
            p.wait_for(&["get", "pod", &client, "-o", "jsonpath={.status.phase}"], |phase| {
                phase == "Succeeded"
            });
            assert!(p.kubectl(&["logs", &client]).text().contains(name));
        }
    }
    let overlay = run(p.inside(1, "ip").args(["-s", "-j", "link", "show", "vxlan.orlop"])).text();
    let overlay: Value = serde_json::from_str(&overlay).unwrap();
    assert!(overlay[0]["stats64"]["tx"]["packets"].as_u64().unwrap() > 10, "{overlay}");
}

#[test]
#[ignore = "e2e tier"]
fn annotations_limit_what_a_pod_sends_and_gets() {
    let p = Playground::start();
    let limits = "kubernetes.io/ingress-bandwidth: 40M, kubernetes.io/egress-bandwidth: 20M";
    p.apply(&pod("slow", "node1", limits)).text();
    p.apply(&pod("odd", "node1", "kubernetes.io/egress-bandwidth: '1'")).text();
    ready(&p, "slow");
    let qdiscs = run(p.inside(1, "tc").args(["qdisc"])).text();
    assert!(qdiscs.contains("rate 40Mbit") && qdiscs.contains("rate 20Mbit"), "{qdiscs}");
    let events = ["get", "events", "-o", "jsonpath={.items[?(@.involvedObject.name=='odd')].message}"];
    p.wait_for(&events, |events| events.contains("resource is unreasonably small (< 1kbit)"));
    let start = Instant::now();
    p.kubectl(&["delete", "pod", "slow", "odd"]).text();
    assert!(start.elapsed() < Duration::from_secs(20));
    let left = run(p.inside(1, "ip").args(["-o", "link", "show", "type", "ifb"])).text();
    assert_eq!(left, "");
}
