//! A pod whose image comes from a real registry: Debian's docker-registry on the node's loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, process::Command};

use orlop_tests::{
    Playground,
    playground::{given, run},
    registry::{Door, REGISTRY, Registry, create_secret},
};

/// The layout of hello:v1.
fn hello() -> PathBuf {
    let layouts = fs::read_dir(given("ORLOP_IMAGES")).unwrap().map(|entry| entry.unwrap().path());
    layouts.into_iter().find(|path| path.ends_with("hello-v1")).expect("the layout of hello:v1")
}

/// Without the secret neither the registry nor what another pod has pulled from it is open to a pod.
#[test]
#[ignore = "e2e tier"]
fn a_private_image_is_for_pods_that_show_the_secret() {
    let p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let registry = Registry::start(&p, &Door { password: true, tls: None });
    registry.push(&p, &hello(), None, "team/private:v1");
    // The same image is on the node under a public name: what is there for everybody is no secret.
    let state = format!("--state-dir={}", p.dir.join("state").display());
    let remove = ["image", "rm", &state, "orlop.dev/example/hello:v1"];
    assert!(run(Command::new(p.dir.join("bin/orlop")).args(remove)).ok);
    create_secret(&p);
    let pod = |name: &str, secrets: &str| {
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, {secrets} \
             containers: [{{name: c, image: '{REGISTRY}/team/private:v1', imagePullPolicy: IfNotPresent, args: [serve]}}]}}}}"
        );
        p.apply(&yaml).text();
    };
    let refused = |name: &str| {
        let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        p.wait_for(&["get", "pod", name, "-o", reason], |reason| {
            reason == "ErrImagePull" || reason == "ImagePullBackOff"
        });
    };
    let key = "imagePullSecrets: [{name: key}],";
    pod("stranger", "");
    refused("stranger");
    pod("friend", key);
    p.kubectl(&["wait", "--for=condition=Ready", "pod/friend", "--timeout=60s"]).text();
    pod("freeloader", "");
    refused("freeloader");
    pod("another", key);
    p.kubectl(&["wait", "--for=condition=Ready", "pod/another", "--timeout=60s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn a_pod_runs_an_image_from_a_registry() {
    let p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let registry = Registry::start(&p, &Door::default());
    registry.push(&p, &hello(), None, "team/hello:pulled");
    let pod = |name: &str, image: &str| {
        let yaml = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: '{REGISTRY}/{image}', args: [serve]}}]}}}}"
        );
        p.apply(&yaml).text();
    };
    pod("pulled", "team/hello:pulled");
    p.kubectl(&["wait", "--for=condition=Ready", "pod/pulled", "--timeout=60s"]).text();
    let described = p.kubectl(&["describe", "pod", "pulled"]).text();
    for part in ["Pulling image \"127.0.0.1:5000/team/hello:pulled\"", "Successfully pulled image"] {
        assert!(described.contains(part), "{part} in\n{described}");
    }
    let listed = run(Command::new(p.dir.join("bin/orlop"))
        .args(["image", "ls"])
        .arg(format!("--state-dir={}", p.dir.join("state").display())));
    assert!(listed.text().contains("127.0.0.1:5000/team/hello"));
    pod("absent", "team/none:v1");
    let message = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    p.wait_for(&["get", "pod", "absent", "-o", message], |reason| {
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    });
    let described = p.kubectl(&["describe", "pod", "absent"]).text();
    assert!(described.contains("Failed to pull image \"127.0.0.1:5000/team/none:v1\""), "{described}");
}
