//! Services from outside: node ports with real packets from another machine, the policy that keeps the client's address,
//! affinity, a load balancer's health check, and what `orlop` says about it all.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::{given, run},
    until,
};

fn service(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}], {more}}}}}"
    )
}

/// Asks from a node and gives the whole answer.
fn ask(p: &Playground, node: usize, url: &str) -> Result<serde_json::Value, String> {
    answer(&mut p.inside(node, "curl"), url)
}

fn answer(curl: &mut Command, url: &str) -> Result<serde_json::Value, String> {
    let out = run(curl.args(["-sS", "--max-time", "2", "-H", "Accept: application/json", url]));
    serde_json::from_str(&out.stdout).map_err(|error| format!("{error}: {}{}", out.stdout, out.stderr))
}

#[test]
#[ignore = "e2e tier"]
fn services_answer_machines_outside() {
    let p = Playground::with_args(&["--nodes", "2"]);
    // Pods on the first node only; the second is a machine outside, as far as the first one's node ports go.
    p.apply(
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: \
         {metadata: {labels: {app: web}}, spec: {nodeName: node1, containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], ports: [{containerPort: 8080}]}]}}}}",
    )
    .text();
    p.apply(&service("web", "type: NodePort")).text();
    p.apply(&service("kept", "type: NodePort, sessionAffinity: ClientIP, externalTrafficPolicy: Local"))
        .text();
    p.apply(&service("balanced", "type: LoadBalancer, externalTrafficPolicy: Local")).text();
    p.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).text();
    let address = |node: &str| {
        p.kubectl(&[
            "get",
            "node",
            node,
            "-o",
            "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}",
        ])
        .text()
    };
    let (first, second) = (address("node1"), address("node2"));
    let port = |service: &str| {
        p.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.ports[0].nodePort}"]).text()
    };

    // Every endpoint answers at either node, whoever asks.
    for (from, to) in [(2, &first), (1, &second), (1, &first)] {
        let url = format!("http://{to}:{}/", port("web"));
        let mut pods = BTreeSet::new();
        until(&format!("both answer node{from} at {url}"), Duration::from_secs(20), || {
            pods.insert(ask(&p, from, &url)?["pod"].to_string());
            if pods.len() == 2 { Ok(()) } else { Err(format!("{pods:?}")) }
        });
    }

    // A process of the node that no socket hook sees: what local pods answer it comes from the service, on the pod's link.
    let cluster_ip = p.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text();
    for node in [1, 2] {
        let url = format!("http://{cluster_ip}/");
        until("an answer outside of the cgroups", Duration::from_secs(10), || {
            answer(&mut p.beside(node, "curl"), &url)
        });
    }

    // A client from outside stays with its pod.
    let url = format!("http://{first}:{}/", port("kept"));
    let once = until("an answer", Duration::from_secs(10), || Ok(ask(&p, 2, &url)?["pod"].clone()));
    for _ in 0..10 {
        assert_eq!(ask(&p, 2, &url).unwrap()["pod"], once);
    }
    // No endpoint on the second node: dropped for those outside, while the node itself is inside the cluster.
    let url = format!("http://{second}:{}/", port("kept"));
    assert!(ask(&p, 1, &url).is_err(), "sent on to another node");
    assert!(ask(&p, 2, &url).is_ok(), "the node is inside");

    // Balancers are told where the endpoints are.
    let check =
        p.kubectl(&["get", "service", "balanced", "-o", "jsonpath={.spec.healthCheckNodePort}"]).text();
    for (node, local, status) in [(1, "2", "200"), (2, "0", "503")] {
        let url = format!("http://127.0.0.1:{check}/");
        until("a health check", Duration::from_secs(10), || {
            let out =
                run(p.inside(node, "curl").args(["-sS", "-w", " %{http_code}", "--max-time", "2", &url]));
            let right =
                out.stdout.contains(&format!("\"localEndpoints\": {local}")) && out.stdout.ends_with(status);
            if right { Ok(()) } else { Err(format!("{}{}", out.stdout, out.stderr)) }
        });
    }
    let proxy = ask(&p, 1, "http://127.0.0.1:10256/healthz").unwrap();
    assert_eq!((&proxy["nodeEligible"], &proxy["healthy"]), (&true.into(), &true.into()));

    // What dashboards made for kube-proxy look at, and what the kernel counts.
    let out = run(p.inside(1, "curl").args(["-sS", "--max-time", "5", "http://127.0.0.1:10249/metrics"]));
    let value = |name: &str| {
        let line = out.stdout.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
    };
    for name in [
        "kubeproxy_network_programming_duration_seconds_count",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_count",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_proxy_healthz_total{code=\"200\"}",
        &format!("orlop_service_connections_total{{address=\"{cluster_ip}:80\",protocol=\"TCP\"}}"),
        &format!("orlop_service_packets_total{{address=\"{cluster_ip}:80\",protocol=\"TCP\"}}"),
    ] {
        assert!(value(name).is_some_and(|value| value > 0.0), "{name} in\n{}", out.stdout);
    }

    // What the node itself says.
    let run_dir = p.json["nodes"][0]["run"].as_str().unwrap();
    let orlop = |args: &[&str]| {
        run(p
            .inside(1, &given("ORLOP_BIN").join("orlop").to_string_lossy())
            .args(args)
            .args(["--run-dir", run_dir]))
        .text()
    };
    let explained = orlop(&["explain", &second, &format!("{first}:{}", port("web"))]);
    assert!(
        explained.contains("policy Cluster: 2 endpoints") && explained.contains("sees this node"),
        "{explained}"
    );
    let mut listening = p.inside(1, &given("ORLOP_BIN").join("orlop").to_string_lossy());
    let listening = listening.args(["flows", "--service", &cluster_ip, "--run-dir", run_dir]);
    let mut listening = listening.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(listening.stdout.take().unwrap());
    // Until it listens nothing is told: asked again and again.
    let url = format!("http://{cluster_ip}/");
    let asking = std::thread::scope(|scope| {
        let line = scope.spawn(|| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line
        });
        until("a line", Duration::from_secs(10), || {
            ask(&p, 1, &url)?;
            line.is_finished().then_some(()).ok_or_else(|| "nothing".to_owned())
        });
        line.join().unwrap()
    });
    listening.kill().unwrap();
    listening.wait().unwrap();
    assert!(asking.contains(&format!(") -> {cluster_ip}:80 -> ")) && asking.contains("curl ("), "{asking}");
    let connections = orlop(&["connections"]);
    assert!(connections.contains(&format!("asked {first}:{}", port("web"))), "{connections}");
}

#[test]
#[ignore = "e2e tier"]
fn nodes_send_on_what_comes_from_outside_as_it_came() {
    let p = Playground::with(&["--nodes", "2"], &[("ORLOP_LOAD_BALANCING_MODE", "dsr")]);
    p.apply("{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {nodeName: node1, containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], ports: [{containerPort: 8080}]}]}}").text();
    p.apply(&service("web", "type: NodePort")).text();
    let nodes = p.get(&["nodes"]);
    let address = |node: usize| nodes["items"][node - 1]["status"]["addresses"][0]["address"].clone();
    let (first, second) = (address(1), address(2));
    let port = p.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}"]).text();
    let url = format!("http://{}:{port}/", second.as_str().unwrap());
    // To the second node, whose program sends it to the first one's pod: that sees who asked, not the second node.
    let answer = until("an answer", Duration::from_secs(20), || ask(&p, 1, &url));
    assert_eq!(answer["client"], first, "{answer}");
}
