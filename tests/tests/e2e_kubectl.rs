//! The commands people type, with the kubectl of the machine and with Debian's 1.20.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use orlop_tests::{
    Playground,
    playground::{given, run},
    until,
};

const HELLO: &str = include_str!("../../examples/hello.yaml");

#[test]
#[ignore = "e2e tier"]
fn everyday_commands() {
    let p = Playground::start();
    assert!(p.apply(HELLO).text().contains("deployment.apps/hello created"));
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();

    let wide = p.kubectl(&["get", "pods", "-o", "wide"]).text();
    assert_eq!(wide.lines().count(), 4, "{wide}");
    assert!(wide.lines().next().unwrap().contains("NOMINATED NODE"), "{wide}");
    assert!(
        wide.lines()
            .skip(1)
            .all(|line| line.contains("1/1") && line.contains("Running") && line.contains("node1")),
        "{wide}"
    );
    let names = p.kubectl(&["get", "deployment", "hello", "-o", "name"]).text();
    assert_eq!(names.trim(), "deployment.apps/hello");
    assert!(p.kubectl(&["get", "service", "hello", "-o", "yaml"]).text().contains("clusterIP: 10.43."));
    let all = p.kubectl(&["get", "all"]).text();
    for part in ["pod/hello-", "service/hello", "deployment.apps/hello", "replicaset.apps/hello-"] {
        assert!(all.contains(part), "{part} in\n{all}");
    }

    let described = p.kubectl(&["describe", "pods", "-l", "app=hello"]).text();
    for part in [
        "Successfully assigned default/hello-",
        "Created container: hello",
        "Started container hello",
        "QoS Class:",
        "Node:             node1/",
    ] {
        assert!(described.contains(part), "{part} in\n{described}");
    }
    assert!(p.kubectl(&["describe", "service", "hello"]).text().contains("Endpoints:"));
    assert!(p.kubectl(&["describe", "node", "node1"]).text().contains("KubeletReady"));
    assert!(p.kubectl(&["describe", "deployment", "hello"]).text().contains("NewReplicaSetAvailable"));

    let unchanged = p.apply(HELLO).text();
    assert!(unchanged.lines().all(|line| line.ends_with("unchanged")), "{unchanged}");

    p.kubectl(&["label", "deployment", "hello", "tier=deck"]).text();
    p.kubectl(&["annotate", "deployment", "hello", "note=low"]).text();
    let hello = p.get(&["deployment", "hello"]);
    assert_eq!(
        (&hello["metadata"]["labels"]["tier"], &hello["metadata"]["annotations"]["note"]),
        (&"deck".into(), &"low".into())
    );
    assert!(
        p.kubectl(&["get", "deployments", "-l", "tier in (deck)", "-o", "name"]).text().contains("hello")
    );

    p.kubectl(&["scale", "deployment", "hello", "--replicas=5"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    assert_eq!(p.get(&["pods", "-l", "app=hello"])["items"].as_array().unwrap().len(), 5);

    let deleted = p.kubectl(&["delete", "deployment", "hello", "--timeout=60s"]).text();
    assert!(deleted.contains("deleted"), "{deleted}");
    p.wait_for(&["get", "pods", "-o", "name"], |out| out.is_empty());
}

#[test]
#[ignore = "e2e tier"]
fn rollouts_go_forward_and_back() {
    let p = Playground::start();
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let image = || {
        p.kubectl(&["get", "deployment", "hello", "-o", "jsonpath={.spec.template.spec.containers[0].image}"])
            .text()
    };

    p.kubectl(&["set", "image", "deployment/hello", "hello=orlop.dev/example/hello:v2"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    assert!(image().ends_with("hello:v2"));
    let history = p.kubectl(&["rollout", "history", "deployment/hello"]).text();
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");

    p.kubectl(&["rollout", "undo", "deployment/hello"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    assert!(image().ends_with("hello:v1"));

    p.kubectl(&["rollout", "restart", "deployment/hello"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let sets = p.get(&["replicasets", "-l", "app=hello"]);
    let wanted: Vec<_> = sets["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|set| set["spec"]["replicas"].as_i64().unwrap())
        .collect();
    assert_eq!(
        (wanted.len(), wanted.iter().sum::<i64>()),
        (3, 3),
        "three revisions, one of them scaled up: {wanted:?}"
    );
}

#[test]
#[ignore = "e2e tier"]
fn logs_follow_tail_and_remember() {
    let p = Playground::start();
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: talk}, spec: {containers: [{name: c, image: 'orlop.dev/example/busybox:v1', \
         command: [sh, -c, 'for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.3; done; exit 3']}], restartPolicy: OnFailure}}",
    )
    .text();
    p.wait_for(&["get", "pod", "talk", "-o", "jsonpath={.status.phase}"], |phase| phase == "Running");
    let followed = p.kubectl(&["logs", "-f", "talk"]).text();
    assert_eq!(
        followed.lines().filter(|line| line.starts_with("line ")).count() % 8,
        0,
        "whole runs only: {followed}"
    );
    p.wait_for(
        &["get", "pod", "talk", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"],
        |count| count != "0",
    );
    let previous = p.kubectl(&["logs", "talk", "--previous", "--tail=2"]).text();
    assert_eq!(previous, "line 7\nline 8\n");
    let stamped = p.kubectl(&["logs", "talk", "--previous", "--timestamps", "--tail=1"]).text();
    assert!(stamped.contains("Z line 8"), "{stamped}");
    let wrong = p.kubectl(&["logs", "talk", "-c", "nope"]).refusal();
    assert!(wrong.contains("container nope is not valid for pod talk"), "{wrong}");
}

#[test]
#[ignore = "e2e tier"]
fn watch_shows_changes_as_they_come() {
    let p = Playground::start();
    let mut watch = p.kubectl_command("kubectl");
    let file = p.dir.join("watch.txt");
    let out = std::fs::File::create(&file).unwrap();
    let mut child = watch.args(["get", "configmaps", "-w", "-o", "name"]).stdout(out).spawn().unwrap();
    until("the watch has begun", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains("kube-root-ca.crt") { Ok(()) } else { Err(text) }
    });
    p.kubectl(&["create", "configmap", "later", "--from-literal=a=b"]).text();
    until("the new object is shown", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.contains("configmap/later") { Ok(()) } else { Err(text) }
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "e2e tier"]
fn debians_old_kubectl_works_too() {
    let p = Playground::start();
    let old = |args: &[&str]| run(p.kubectl_command(given("ORLOP_OLD_KUBECTL")).args(args));
    let manifest = p.dir.join("hello.yaml");
    std::fs::write(&manifest, HELLO).unwrap();
    let manifest = manifest.to_string_lossy().into_owned();
    assert!(old(&["apply", "-f", &manifest]).text().contains("deployment.apps/hello created"));
    old(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let again = old(&["apply", "-f", &manifest]).text();
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    assert!(old(&["get", "pods", "-o", "wide"]).text().contains("Running"));
    assert!(old(&["describe", "deployment", "hello"]).text().contains("NewReplicaSetAvailable"));
    old(&["scale", "deployment", "hello", "--replicas=1"]).text();
    old(&["label", "service", "hello", "a=b"]).text();
    old(&["annotate", "service", "hello", "a=b"]).text();
    old(&["rollout", "restart", "deployment/hello"]).text();
    old(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    old(&["rollout", "undo", "deployment/hello"]).text();
    assert!(old(&["logs", "deployment/hello"]).ok);
    old(&["delete", "-f", &manifest, "--timeout=60s"]).text();
}
