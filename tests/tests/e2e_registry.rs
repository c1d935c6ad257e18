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
/// `user` with the password `secret`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The registry's process, ended with the test.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start_registry(p: &Playground, auth: &str) -> Registry {
    let data = p.dir.join("registry");
    let config = p.dir.join("registry.yml");
    fs::create_dir_all(&data).unwrap();
    let yaml = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n{auth}",
        data.display()
    );
    fs::write(&config, yaml).unwrap();
    let child =
        p.inside(1, "docker-registry").arg("serve").arg(&config).spawn().expect("start docker-registry");
    let registry = Registry(child);
    until("the registry answers", Duration::from_secs(10), || {
        // Any answer will do: one that wants a password says 401.
        let out = run(p.inside(1, "curl").args(["-s", &format!("http://{REGISTRY}/v2/")]));
        if out.ok { Ok(()) } else { Err(out.stderr) }
    });
    registry
}

fn push(p: &Playground, image: &str, options: &[&str]) {
    let layout = fs::read_dir(given("ORLOP_IMAGES"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains("hello") && path.to_string_lossy().contains("v1"))
        .expect("the layout of hello:v1");
    let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{REGISTRY}/{image}"));
    let pushed =
        run(p.inside(1, "skopeo").args(["copy", "--dest-tls-verify=false"]).args(options).args([from, to]));
    assert!(pushed.ok, "{}", pushed.stderr);
}

/// Without the secret neither the registry nor what another pod has pulled from it is open to a pod.
#[test]
#[ignore = "e2e tier"]
fn a_private_image_is_for_pods_that_show_the_secret() {
    let p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let users = p.dir.join("htpasswd");
    fs::write(&users, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
    let _registry = start_registry(&p, &auth);
    push(&p, "team/private:v1", &["--dest-creds=user:secret"]);
    // The same image is on the node under a public name: what is there for everybody is no secret.
    let state = format!("--state-dir={}", p.dir.join("state").display());
    let remove = ["image", "rm", &state, "orlop.dev/example/hello:v1"];
    assert!(run(Command::new(p.dir.join("bin/orlop")).args(remove)).ok);
    let server = format!("--docker-server={REGISTRY}");
    let words = ["create", "secret", "docker-registry", "key", &server, "--docker-username=user"];
    p.kubectl(&[&words[..], &["--docker-password=secret"]].concat()).text();
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
    let _registry = start_registry(&p, "");
    push(&p, "team/hello:pulled", &[]);
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
