//! A second node joins over TLS from its own network namespace: pods run on both and reach each other.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use orlop_tests::{Playground, playground::run};

#[test]
#[ignore = "e2e tier"]
fn two_nodes_schedule_run_and_reach_pods() {
    let p = Playground::with_args(&["--nodes", "2"]);
    let nodes = p.kubectl(&["get", "nodes", "-o", "wide"]).text();
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    p.apply(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: spread}, spec: {replicas: 4, selector: {matchLabels: {app: spread}}, template: \
         {metadata: {labels: {app: spread}}, spec: {containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], ports: [{containerPort: 8080}]}]}}}}",
    )
    .text();
    p.apply("{apiVersion: v1, kind: Service, metadata: {name: spread}, spec: {selector: {app: spread}, ports: [{port: 80, targetPort: 8080}]}}").text();
    p.kubectl(&["rollout", "status", "deployment/spread", "--timeout=60s"]).text();
    let pods = p.get(&["pods", "-l", "app=spread"]);
    let items = pods["items"].as_array().unwrap();
    let on: BTreeSet<_> = items.iter().map(|pod| pod["spec"]["nodeName"].as_str().unwrap()).collect();
    assert_eq!(on, BTreeSet::from(["node1", "node2"]));
    for node in [1, 2] {
        for pod in items {
            let url = format!("http://{}:8080/", pod["status"]["podIP"].as_str().unwrap());
            let out = run(p.inside(node, "curl").args(["-sS", "--max-time", "3", &url]));
            assert!(
                out.stdout.contains(pod["metadata"]["name"].as_str().unwrap()),
                "node{node} to {url}: {}{}",
                out.stdout,
                out.stderr
            );
        }
        let service = p.kubectl(&["get", "service", "spread", "-o", "jsonpath={.spec.clusterIP}"]).text();
        let out = run(p.inside(node, "curl").args(["-sS", "--max-time", "3", &format!("http://{service}/")]));
        assert!(out.stdout.contains("spread-"), "node{node} to the service: {}{}", out.stdout, out.stderr);
    }
    // From a pod on one node to a pod on the other, through the service often enough to meet all four.
    let ips: Vec<_> = items.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    for (number, node) in ["node1", "node2"].iter().enumerate() {
        for (other, ip) in ips.iter().enumerate() {
            let name = format!("c{number}-{other}");
            p.apply(&format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {node}, restartPolicy: Never, containers: [{{name: c, \
                 image: 'orlop.dev/example/hello:v1', args: [get, 'http://{ip}:8080/']}}]}}}}"
            ))
            .text();
            p.wait_for(&["get", "pod", &name, "-o", "jsonpath={.status.phase}"], |phase| {
                phase == "Succeeded"
            });
            assert!(p.kubectl(&["logs", &name]).text().contains("spread-"));
        }
    }
}
