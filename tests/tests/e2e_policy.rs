//! NetworkPolicies as their authors see them: applied with kubectl, and asked by pods.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use orlop_tests::{Playground, playground::run, until};

const PODS: &str = r"
{apiVersion: v1, kind: List, items: [
  {apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], ports: [{name: http, containerPort: 8080}], readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}}]}},
  {apiVersion: v1, kind: Pod, metadata: {name: friend, labels: {app: friend}}, spec: {containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}},
  {apiVersion: v1, kind: Pod, metadata: {name: stranger, labels: {app: stranger}}, spec: {containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}},
  {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}}]}
";

fn policy(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}"
    )
}

const TO_WEB: &str = "podSelector: {matchLabels: {app: web}}";
const FROM_FRIEND: &str = "from: [{podSelector: {matchLabels: {app: friend}}}]";

/// Whether a pod gets a connection.
fn connects(p: &Playground, pod: &str, to: &str) -> bool {
    p.kubectl(&["exec", pod, "--", "/server", "connect", to, "400"]).ok
}

#[track_caller]
fn soon(what: &str, yes: impl Fn() -> bool) {
    until(what, Duration::from_secs(10), || if yes() { Ok(()) } else { Err("not yet".to_owned()) });
}

#[test]
#[ignore = "e2e tier"]
fn default_deny_then_allow_by_label_and_named_port_then_none() {
    let mut p = Playground::start();
    p.apply(PODS).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]).text();
    let ip = p.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]).text();
    let cluster_ip = p.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text();
    let (pod, service) = (format!("{ip}:8080"), format!("{cluster_ip}:80"));
    for from in ["friend", "stranger"] {
        assert!(connects(&p, from, &pod) && connects(&p, from, &service), "{from}");
    }

    p.apply(&policy("deny", &format!("{{{TO_WEB}}}"))).text();
    soon("nobody comes in", || !connects(&p, "friend", &pod) && !connects(&p, "stranger", &service));
    // The node does: its probes must.
    let url = format!("http://{pod}/healthz");
    assert!(run(p.inside(1, "curl").args(["-sS", "--max-time", "2", &url])).ok);

    p.apply(&policy(
        "friends",
        &format!("{{{TO_WEB}, ingress: [{{{FROM_FRIEND}, ports: [{{port: http}}]}}]}}"),
    ))
    .text();
    soon("friends come in", || connects(&p, "friend", &pod));
    assert!(connects(&p, "friend", &service));
    assert!(!connects(&p, "stranger", &pod) && !connects(&p, "stranger", &service));
    let shown = p.kubectl(&["get", "netpol"]).text();
    assert!(shown.contains("app=web"), "{shown}");

    let out = run(p.inside(1, "curl").args(["-sS", "--max-time", "5", "http://127.0.0.1:10249/metrics"]));
    for name in [
        "orlop_policy_allowed_flows_total{policy=\"default/friends\"} ",
        "orlop_policy_denied_packets_total{direction=\"ingress\",policies=\"default/deny,default/friends\"} ",
    ] {
        let count = out.stdout.lines().find_map(|line| line.strip_prefix(name));
        assert!(count.is_some_and(|count| count != "0"), "{name} in\n{}", out.stdout);
    }

    // Commands of the node say it without an agent.
    let on_node = |args: &[&str]| {
        let mut orlop = std::process::Command::new(p.dir.join("bin/orlop"));
        run(orlop.arg(args[0]).arg("--run-dir").arg(p.dir.join("run")).args(&args[1..])).text()
    };
    let of_friend = p.kubectl(&["get", "pod", "friend", "-o", "jsonpath={.status.podIP}"]).text();
    let of_stranger = p.kubectl(&["get", "pod", "stranger", "-o", "jsonpath={.status.podIP}"]).text();
    p.kill_agent(1);
    let listed = on_node(&["policies"]);
    let rows: Vec<Vec<_>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = |policy: &str| rows.iter().find(|row| row.get(3) == Some(&policy)).expect(&listed);
    let (deny, friends) = (row("default/deny"), row("default/friends"));
    assert_eq!(deny[..4], ["default/web", &ip, "ingress", "default/deny"], "{listed}");
    assert!(deny[4] == "0" && deny[5] != "0" && friends[4] != "0", "{listed}");
    let free: Vec<_> = rows.iter().filter(|row| row.contains(&"<none>")).map(|row| row[0]).collect();
    assert!(free.contains(&"default/friend") && free.contains(&"default/stranger"), "{listed}");
    let explained = on_node(&["explain", &of_friend, &service]);
    assert!(explained.contains(&format!("ingress of default/web ({ip}): default/friends allows it")));
    let explained = on_node(&["explain", &of_stranger, &service]);
    let dropped =
        format!("nothing in default/deny, default/friends allows it\n=> dropped on its way to {pod}");
    assert!(explained.contains(&dropped), "{explained}");
    p.up();

    // Who comes later finds the policy in force with the first packet.
    p.kubectl(&["delete", "pod", "web", "--now"]).text();
    p.apply(PODS).text();
    let address = || p.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]).text();
    soon("the pod has an address", || !address().is_empty());
    let again = format!("{}:8080", address());
    for _ in 0..5 {
        assert!(!connects(&p, "stranger", &again));
    }
    soon("friends come in again", || connects(&p, "friend", &again));

    p.kubectl(&["delete", "netpol", "--all"]).text();
    soon("all come in", || connects(&p, "stranger", &again));
    let refused = p.apply(&policy(
        "bad",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
    ));
    assert!(
        !refused.ok && refused.stderr.contains("must be a strict subset of `cidr`"),
        "{}",
        refused.stderr
    );
}
