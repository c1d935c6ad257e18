//! Clusters of both families, and of IPv6 alone: Services, their endpoints, their names, and packets to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use orlop_tests::{Playground, playground::run, until};
use serde_json::{Value, json};

const HELLO: &str = include_str!("../../examples/hello.yaml");

/// A client, and a pod with a host name behind a headless Service.
const NAMES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: db}, ports: [{name: sql, port: 5432}]}
";

fn client(name: &str, node: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, terminationGracePeriodSeconds: 1, \
         containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '3600']}}, \
         {{name: http, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}}]}}}}"
    )
}

fn addresses(list: &Value) -> Vec<IpAddr> {
    let texts = list.as_array().unwrap().iter().map(|entry| entry["ip"].as_str().or(entry.as_str()).unwrap());
    texts.map(|text| text.parse().unwrap()).collect()
}

fn url(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("http://[{ip}]:80/") } else { format!("http://{ip}:80/") }
}

/// What a pod gets from there.
fn fetch(p: &Playground, pod: &str, url: &str) -> Result<String, String> {
    let out = p.kubectl(&["exec", pod, "-c", "http", "--", "/server", "get", url]);
    if out.ok && out.stdout.contains("pod: hello-") { Ok(out.stdout) } else { Err(out.stdout + &out.stderr) }
}

/// The data of the answers to a question from a node.
fn dig(p: &Playground, node: usize, server: &str, args: &[&str]) -> String {
    let at = format!("@{server}");
    let mut command = p.inside(node, "dig");
    let all: &[&str] = &["+tries=1", "+time=4", "+short", &at];
    run(command.args(all).args(args)).text().trim().to_owned()
}

/// `IPv4=3 IPv6=3`: endpoints that are ready in a Service's slices.
fn slices(p: &Playground, service: &str) -> String {
    let list = p.get(&["endpointslices", "-l", &format!("kubernetes.io/service-name={service}")]);
    let mut shown: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|slice| {
            let family = slice["addressType"].as_str().unwrap();
            let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
            for endpoint in &endpoints {
                let address: IpAddr = endpoint["addresses"][0].as_str().unwrap().parse().unwrap();
                assert_eq!(address.is_ipv6(), family == "IPv6", "{slice}");
            }
            format!("{family}={}", endpoints.iter().filter(|e| e["conditions"]["ready"] == true).count())
        })
        .collect();
    shown.sort();
    shown.join(" ")
}

fn until_slices(p: &Playground, service: &str, wanted: &str) {
    until(wanted, Duration::from_secs(10), || {
        let shown = slices(p, service);
        if shown == wanted { Ok(()) } else { Err(shown) }
    });
}

#[test]
#[ignore = "e2e tier"]
fn a_service_of_both_families_is_found_and_answers_by_both() {
    let env = [("ORLOP_CLUSTER_CIDR", "10.42.0.0/16,fd00:42::/56")];
    let p = Playground::with(&["--families", "46", "--nodes", "2"], &env);
    p.apply(HELLO).text();
    p.apply(NAMES).text();
    p.apply(&client("near", "node1")).text();
    p.apply(&client("far", "node2")).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/near", "pod/far", "pod/db-0", "--timeout=30s"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();

    // A Service has one family until it asks for two, and the server's own always.
    assert_eq!(p.get(&["service", "kubernetes"])["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(slices(&p, "hello"), "IPv4=3");
    let policy = |policy: &str| {
        let patch = json!({"spec": {"ipFamilyPolicy": policy}}).to_string();
        p.kubectl(&["patch", "service", "hello", "-p", &patch]).text();
        p.get(&["service", "hello"])["spec"].clone()
    };
    let spec = policy("RequireDualStack");
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    until_slices(&p, "hello", "IPv4=3 IPv6=3");
    let ips = addresses(&spec["clusterIPs"]);
    assert!(ips[0].is_ipv4() && ips[1].to_string().starts_with("fd00:43::"), "{ips:?}");
    for pod in ["near", "far"] {
        for ip in &ips {
            until("answered", Duration::from_secs(10), || fetch(&p, pod, &url(*ip)));
        }
    }

    // The name server is asked by both, of both.
    let resolv = p.kubectl(&["exec", "far", "-c", "c", "--", "cat", "/etc/resolv.conf"]).text();
    let servers: Vec<_> = resolv.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
    assert_eq!(servers, ["10.43.0.10", "fd00:43::a"]);
    let name = "hello.default.svc.cluster.local";
    for node in [1, 2] {
        for server in &servers {
            for (kind, ip) in [("A", ips[0]), ("AAAA", ips[1])] {
                assert_eq!(dig(&p, node, server, &[name, kind]), ip.to_string(), "{server} on {node}");
                assert_eq!(dig(&p, node, server, &["-x", &ip.to_string()]), format!("{name}."));
            }
            assert_eq!(dig(&p, node, server, &["+tcp", name, "AAAA"]), ips[1].to_string());
        }
    }
    let asked = p.kubectl(&["exec", "far", "-c", "c", "--", "nslookup", name, "fd00:43::a"]).text();
    assert!(asked.contains(&ips[1].to_string()), "{asked}");
    fetch(&p, "far", "http://hello/").unwrap();
    // A headless one, and its pod's addresses.
    let db = addresses(&p.get(&["pod", "db-0"])["status"]["podIPs"]);
    assert!(db[0].is_ipv4() && db[1].is_ipv6(), "{db:?}");
    for (kind, ip) in [("A", db[0]), ("AAAA", db[1])] {
        assert_eq!(dig(&p, 1, "fd00:43::a", &["db.default.svc.cluster.local", kind]), ip.to_string());
        let back = dig(&p, 1, "fd00:43::a", &["-x", &ip.to_string()]);
        assert_eq!(back, "db-0.db.default.svc.cluster.local.");
    }

    // Back to one family: address and endpoints of the other are gone, and nobody answers there.
    let spec = policy("SingleStack");
    assert_eq!(addresses(&spec["clusterIPs"]), ips[..1]);
    until_slices(&p, "hello", "IPv4=3");
    until("no name", Duration::from_secs(5), || match dig(&p, 1, "fd00:43::a", &[name, "AAAA"]) {
        none if none.is_empty() => Ok(()),
        other => Err(other),
    });
    fetch(&p, "near", &url(ips[0])).unwrap();
    fetch(&p, "near", &url(ips[1])).unwrap_err();
}

#[test]
#[ignore = "e2e tier"]
fn a_cluster_needs_no_ipv4() {
    let p = Playground::with(&["--families", "6"], &[("ORLOP_CLUSTER_CIDR", "fd00:42::/56")]);
    p.apply(HELLO).text();
    p.apply(&client("client", "node1")).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let said =
        p.kubectl(&["exec", "client", "-c", "c", "--", "ip", "-4", "addr", "show", "dev", "eth0"]).text();
    assert_eq!(said, "");
    let env = p.kubectl(&["exec", "client", "-c", "c", "--", "env"]).text();
    assert!(env.lines().any(|line| line == "KUBERNETES_SERVICE_HOST=fd00:43::1"), "{env}");
    let node = addresses(&p.json["nodes"][0]["addresses"]);
    let endpoints = p.get(&["endpoints", "kubernetes"]);
    assert_eq!(endpoints["subsets"][0]["addresses"], json!([{"ip": node[0]}]));
    let reviewed = run(p.inside(1, "curl").args(["-sSk", "--max-time", "3", "https://[fd00:43::1]/readyz"]));
    assert_eq!(reviewed.text(), "ok");

    let spec = p.get(&["service", "hello"])["spec"].clone();
    assert_eq!((&spec["ipFamilies"], &spec["ipFamilyPolicy"]), (&json!(["IPv6"]), &json!("SingleStack")));
    let ip: Ipv6Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    fetch(&p, "client", &url(ip.into())).unwrap();
    fetch(&p, "client", "http://hello/").unwrap();
    let resolv = p.kubectl(&["exec", "client", "-c", "c", "--", "cat", "/etc/resolv.conf"]).text();
    assert!(resolv.contains("nameserver fd00:43::a\n"), "{resolv}");
    // kubectl logs and exec reach the kubelet by its IPv6 address: the line above has shown exec.
    p.kubectl(&["logs", "deployment/hello"]).text();
    let refused = p.apply("{apiVersion: v1, kind: Service, metadata: {name: four}, spec: {ipFamilies: [IPv4], ports: [{port: 1}]}}");
    let refused = refused.refusal();
    assert!(
        refused.contains(r#"spec.ipFamilies[0]: Invalid value: "IPv4": not configured on this cluster"#),
        "{refused}"
    );
}
