//! A Service as its clients see it: from pods, from the node, with and without endpoints, with and without an agent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use orlop_tests::{
    Playground,
    playground::{given, run},
    until,
};

const HELLO: &str = include_str!("../../examples/hello.yaml");

fn cluster_ip(p: &Playground, service: &str) -> String {
    p.kubectl(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]).text()
}

/// Asks from inside the node and gives the name of the pod that answered.
fn ask(p: &Playground, url: &str) -> Result<String, String> {
    let out =
        run(p.inside(1, "curl").args(["-sS", "--max-time", "2", "-H", "Accept: application/json", url]));
    let answer: serde_json::Value = serde_json::from_str(&out.stdout)
        .map_err(|error| format!("{error}: {}{}", out.stdout, out.stderr))?;
    answer["pod"].as_str().map(str::to_owned).ok_or_else(|| out.stdout.clone())
}

#[test]
#[ignore = "e2e tier"]
fn every_replica_answers_and_the_service_outlives_the_agent() {
    let mut p = Playground::start();
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let url = format!("http://{}/", cluster_ip(&p, "hello"));
    let mut answered = BTreeSet::new();
    until("all three answer", Duration::from_secs(20), || {
        answered.insert(ask(&p, &url)?);
        if answered.len() == 3 { Ok(()) } else { Err(format!("{answered:?}")) }
    });

    let containers = |p: &Playground| -> Vec<String> {
        let pods = p.get(&["pods", "-l", "app=hello"]);
        let mut ids: Vec<_> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pod| pod["status"]["containerStatuses"][0]["containerID"].to_string())
            .collect();
        ids.sort();
        ids
    };
    let before = containers(&p);
    p.kill_agent(1);
    for _ in 0..10 {
        ask(&p, &url).expect("the service works without an agent");
    }
    p.up();
    assert_eq!(containers(&p), before, "a new agent restarts nothing");
    let restarts = p
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=hello",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
        ])
        .text();
    assert_eq!(restarts, "0 0 0");
    ask(&p, &url).expect("the service works with the new agent");
    p.kubectl(&["scale", "deployment", "hello", "--replicas=1"]).text();
    p.wait_for(&["get", "pods", "-l", "app=hello", "-o", "name"], |out| out.lines().count() == 1);
    for _ in 0..10 {
        ask(&p, &url).expect("only the endpoint that is left is used");
    }
}

#[test]
#[ignore = "e2e tier"]
fn a_service_without_endpoints_refuses_at_once() {
    let p = Playground::start();
    p.apply("{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {selector: {app: none}, ports: [{port: 80}]}}")
        .text();
    let address = cluster_ip(&p, "empty");
    let connect = given("ORLOP_BIN").join("orlop-example-server").to_string_lossy().into_owned();
    until("refused", Duration::from_secs(10), || {
        let start = Instant::now();
        let out = run(p.inside(1, &connect).args(["connect", &format!("{address}:80"), "3000"]));
        let said = format!("{}{}", out.stdout, out.stderr);
        let quick = start.elapsed() < Duration::from_secs(1);
        if !out.ok && quick && said.contains("refused") {
            Ok(())
        } else {
            Err(format!("{:?} {said}", start.elapsed()))
        }
    });
}

#[test]
#[ignore = "e2e tier"]
fn pods_reach_services_pods_the_node_and_the_outside() {
    let p = Playground::start();
    p.apply(HELLO).text();
    p.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: hello-udp}, spec: {selector: {app: hello}, ports: [{port: 53, targetPort: 8080, protocol: UDP}]}}",
    )
    .text();
    p.apply("{apiVersion: v1, kind: Pod, metadata: {name: client}, spec: {containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}}").text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=60s"]).text();
    let network = "orlop.dev/example/hello:v1";
    let job = |name: &str, args: &str| {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: OnFailure, containers: [{{name: c, image: '{network}', args: {args}}}]}}}}"
        ))
        .text();
        p.wait_for(&["get", "pod", name, "-o", "jsonpath={.status.phase}"], |phase| phase == "Succeeded");
        p.kubectl(&["logs", name]).text()
    };
    let tcp = cluster_ip(&p, "hello");
    assert!(job("tcp", &format!("[get, 'http://{tcp}/']")).contains("hello-"));
    let udp = cluster_ip(&p, "hello-udp");
    assert!(job("udp", &format!("[udp, '{udp}:53']")).contains("hello-"));
    let pod_ip =
        p.kubectl(&["get", "pods", "-l", "app=hello", "-o", "jsonpath={.items[0].status.podIP}"]).text();
    assert!(job("pod", &format!("[get, 'http://{pod_ip}:8080/']")).contains("hello-"));
    let node = p.json["nodes"][0]["address"].as_str().unwrap().to_owned();
    assert!(job("node", &format!("[connect, '{node}:10250']")).contains("connected"));
    // The host's end of the wire is outside the cluster: only a masqueraded packet finds its way back.
    let host = p.json["gateway"].as_str().expect("a playground has a gateway");
    let listener = std::net::TcpListener::bind((host, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer = std::thread::spawn(move || listener.accept().unwrap().1.ip().to_string());
    assert!(job("outside", &format!("[connect, '{host}:{port}']")).contains("connected"));
    assert_eq!(peer.join().unwrap(), node, "pod addresses do not leave the cluster");
}

/// The Service says it, a metric counts it, and nobody else notices.
#[test]
#[ignore = "e2e tier"]
fn a_service_that_does_not_fit_says_so_and_others_go_on() {
    let p = Playground::with(&[], &[("ORLOP_MAX_SERVICES", "256")]);
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let url = format!("http://{}/", cluster_ip(&p, "hello"));
    until("served", Duration::from_secs(10), || ask(&p, &url));

    let ports: Vec<_> = (1..=300).map(|port| format!("{{name: p{port}, port: {port}}}")).collect();
    let ports = ports.join(", ");
    p.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: big}}, spec: {{ports: [{ports}]}}}}"
    ))
    .text();
    let said = p.wait_for(
        &[
            "get",
            "events",
            "--field-selector",
            "involvedObject.kind=Service",
            "-o",
            "jsonpath={.items[*].message}",
        ],
        |said| said.contains("the map is full"),
    );
    assert_eq!(said.matches("the map is full").count(), 1, "{said}");
    let unserved = |count: usize| {
        let line = format!("orlop_services_unserved {count}\n");
        until(&line, Duration::from_secs(10), || {
            let out = run(p.inside(1, "curl").args(["-sS", "http://127.0.0.1:10249/metrics"]));
            if out.stdout.contains(&line) { Ok(()) } else { Err(out.stdout) }
        });
    };
    unserved(1);
    ask(&p, &url).expect("another service works");

    p.kubectl(&["delete", "service", "big"]).text();
    unserved(0);
}

#[test]
#[ignore = "e2e tier"]
fn a_pod_may_have_its_packets_translated_instead_of_its_sockets() {
    let p = Playground::start();
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: echo, labels: {app: echo}}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/busybox:v1', command: [nc, -ll, -p, '7000', -e, cat]}]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: echo}, spec: {selector: {app: echo}, ports: [{port: 7000}]}}",
    )
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).text();
    let address = cluster_ip(&p, "echo");
    until("the service answers", Duration::from_secs(10), || {
        let connect = given("ORLOP_BIN").join("orlop-example-server").to_string_lossy().into_owned();
        let out = run(p.inside(1, &connect).args(["connect", &format!("{address}:7000"), "500"]));
        if out.ok { Ok(()) } else { Err(out.stdout) }
    });
    // The first thing that each of them does, and whom the kernel sees it connected to.
    let script = format!("sleep 60 | nc {address} 7000 & sleep 1; netstat -tn; wait");
    for (name, annotations) in [("plain", "{}"), ("mesh", "{orlop.dev/socket-services: 'false'}")] {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, annotations: {annotations}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [\
             {{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, '{script}']}}]}}}}"
        ))
        .text();
    }
    let service = format!("{address}:7000");
    for (name, itself) in [("plain", false), ("mesh", true)] {
        let seen = p.wait_for(&["logs", name], |log| log.contains("ESTABLISHED"));
        assert_eq!(seen.contains(&service), itself, "{name}: {seen}");
    }
}

/// A Service without a selector leads where Endpoints say that people wrote.
#[test]
#[ignore = "e2e tier"]
fn endpoints_that_people_give_are_served() {
    let p = Playground::start();
    let pod = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [\
             {{name: c, image: 'orlop.dev/example/hello:v1'}}]}}}}"
        )
    };
    p.apply(&[pod("one"), pod("two")].join("\n---\n")).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/one", "pod/two", "--timeout=60s"]).text();
    let endpoints = |pod: &str| {
        let ip = p.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.podIP}"]).text();
        let said = p.apply(&format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: byhand, labels: {{team: a}}}}, \
             subsets: [{{addresses: [{{ip: {ip}}}], ports: [{{name: http, port: 8080}}]}}]}}"
        ));
        said.text();
    };
    let service = |spec: &str| {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: byhand}}, spec: {{ports: [{{name: http, port: 80}}]{spec}}}}}"
        ))
        .text();
    };
    let slices = || {
        let by = "{range .items[*]}{.metadata.labels.endpointslice\\.kubernetes\\.io/managed-by} {.metadata.labels.team} {.metadata.ownerReferences[0].kind}{end}";
        let by = format!("jsonpath={by}");
        p.kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=byhand", "-o", &by]).text()
    };
    service("");
    endpoints("one");
    let url = format!("http://{}/", cluster_ip(&p, "byhand"));
    let leads_to = |pod: &str| {
        until(&format!("it leads to {pod}"), Duration::from_secs(10), || match ask(&p, &url)? {
            answered if answered == pod => Ok(()),
            other => Err(other),
        });
    };
    leads_to("one");
    assert_eq!(slices(), "endpointslicemirroring-controller.k8s.io a Endpoints");
    endpoints("two");
    leads_to("two");
    for _ in 0..10 {
        assert_eq!(ask(&p, &url).as_deref(), Ok("two"));
    }
    let refused = || {
        until("nobody is there", Duration::from_secs(10), || match ask(&p, &url) {
            Err(_) => Ok(()),
            Ok(pod) => Err(pod),
        });
        until("no slice is left", Duration::from_secs(10), || match slices() {
            none if none.is_empty() => Ok(()),
            some => Err(some),
        });
    };
    p.kubectl(&["delete", "endpoints", "byhand"]).text();
    refused();
    endpoints("one");
    leads_to("one");
    // With a selector the Service is another controller's.
    service(", selector: {app: none}");
    until("the slices are the other controller's", Duration::from_secs(10), || match slices() {
        own if own.starts_with("endpointslice-controller.k8s.io") => Ok(()),
        other => Err(other),
    });
    p.kubectl(&["delete", "service", "byhand"]).text();
    refused();
}
