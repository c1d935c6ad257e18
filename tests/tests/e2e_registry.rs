//! A pod whose image comes from a real registry: Debian's docker-registry on the node's loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Child, Command},
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::{given, run},
    until,
};

const REGISTRY: &str = "127.0.0.1:5000";

/// The registry's process, ended with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start_registry(p: &Playground) -> Registry {
    let data = p.dir.join("registry");
    let config = p.dir.join("registry.yml");
    fs::create_dir_all(&data).unwrap();
    let yaml = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n",
        data.display()
    );
    fs::write(&config, yaml).unwrap();
    let child =
        p.inside(1, "docker-registry").arg("serve").arg(&config).spawn().expect("start docker-registry");
    let registry = Registry(child);
    until("the registry answers", Duration::from_secs(10), || {
        let out = run(p.inside(1, "curl").args(["-sf", &format!("http://{REGISTRY}/v2/")]));
        if out.ok { Ok(()) } else { Err(out.stderr) }
    });
    registry
}

#[test]
#[ignore = "e2e tier"]
fn a_pod_runs_an_image_from_a_registry() {
    let p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let _registry = start_registry(&p);
    let layout = fs::read_dir(given("ORLOP_IMAGES"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("hello") && path.to_string_lossy().contains("v1"))
        .expect("the layout of hello:v1");
    let pushed = run(p.inside(1, "skopeo").args([
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{}", layout.display()),
        &format!("docker://{REGISTRY}/team/hello:pulled"),
    ]));
    assert!(pushed.ok, "{}", pushed.stderr);
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
