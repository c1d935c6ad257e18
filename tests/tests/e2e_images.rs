//! Images as people have them: Debian's nginx, redis and PostgreSQL, from a registry with TLS and a password, at work.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use orlop_tests::{
    Playground,
    playground::{given, run},
    registry::{Certificates, Door, REGISTRY, Registry, create_secret},
    until,
};

/// `web` on an emptyDir, `cache` on a directory of the host that an init container gives to its user, `db` on an emptyDir.
fn manifest(host_dir: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  imagePullSecrets: [{{name: key}}]
  volumes: [{{name: pages, emptyDir: {{}}}}]
  containers:
  - name: server
    image: {REGISTRY}/debian/nginx:12
    readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}
    volumeMounts: [{{name: pages, mountPath: /var/www/html}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: cache}}
spec:
  imagePullSecrets: [{{name: key}}]
  volumes: [{{name: data, hostPath: {{path: {host_dir}, type: DirectoryOrCreate}}}}]
  initContainers:
  - name: owner
    image: {REGISTRY}/debian/redis:12
    command: [chown, redis, /data]
    securityContext: {{runAsUser: 0}}
    volumeMounts: [{{name: data, mountPath: /data}}]
  containers:
  - name: server
    image: {REGISTRY}/debian/redis:12
    readinessProbe: {{exec: {{command: [redis-cli, ping]}}, periodSeconds: 1}}
    volumeMounts: [{{name: data, mountPath: /data}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: db}}
spec:
  imagePullSecrets: [{{name: key}}]
  volumes: [{{name: data, emptyDir: {{}}}}]
  containers:
  - name: server
    image: {REGISTRY}/debian/postgres:12
    readinessProbe: {{exec: {{command: [pg_isready]}}, periodSeconds: 1}}
    volumeMounts: [{{name: data, mountPath: /var/lib/postgresql}}]
"
    )
}

const PODS: [&str; 3] = ["web", "cache", "db"];

#[test]
#[ignore = "e2e tier"]
fn servers_from_a_registry_keep_their_data_through_restarts() {
    let certificates = Certificates::new();
    let trust = certificates.trust();
    let mut p = Playground::with(&[], &[("ORLOP_REGISTRIES", trust.to_str().unwrap())]);
    let registry = Registry::start(&p, &Door { password: true, tls: Some(&certificates) });
    for image in ["nginx", "redis", "postgres"] {
        registry.push(&p, &given("ORLOP_DEBIAN_IMAGES"), Some(image), &format!("debian/{image}:12"));
    }
    create_secret(&p);
    p.apply(&manifest(&p.dir.join("redis").display().to_string())).text();
    all_ready(&p);
    users_are_those_of_the_packages(&p);
    layers_are_those_of_the_image(&p);

    in_pod(&p, "web", &["sh", "-c", "echo '<p>written</p>' > /var/www/html/page.html"]);
    assert_eq!(in_pod(&p, "cache", &["redis-cli", "set", "key", "kept"]), "OK\n");
    let table =
        "CREATE TABLE t (n int, s text); INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 1000) n";
    assert_eq!(in_pod(&p, "db", &["psql", "-qc", table]), "");
    data_is_there(&p);

    PODS.iter().for_each(|pod| kill_container(&p, pod));
    assert_eq!(restarts(&p, "1"), "1 1 1");
    all_ready(&p);
    data_is_there(&p);

    let before = containers(&p);
    p.kill_agent(1);
    p.up();
    all_ready(&p);
    data_is_there(&p);
    assert_eq!(containers(&p), before, "a restarted agent takes over what runs");
    assert_eq!(restarts(&p, "1"), "1 1 1");
}

fn all_ready(p: &Playground) {
    p.kubectl(&["wait", "--for=condition=Ready", "pod/web", "pod/cache", "pod/db", "--timeout=90s"]).text();
}

fn in_pod(p: &Playground, pod: &str, command: &[&str]) -> String {
    p.exec(pod, command).text()
}

fn data_is_there(p: &Playground) {
    let address = p.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]).text();
    let page = run(p.inside(1, "curl").args(["-sf", &format!("http://{address}/page.html")]));
    assert_eq!(page.text(), "<p>written</p>\n");
    until("the request is in the pod's log", Duration::from_secs(5), || {
        let log = p.kubectl(&["logs", "web"]).text();
        if log.contains("GET /page.html") { Ok(()) } else { Err(log) }
    });
    assert_eq!(in_pod(p, "cache", &["redis-cli", "get", "key"]), "kept\n");
    let sum = "SELECT count(*), sum(n), max(s) FROM t";
    assert_eq!(in_pod(p, "db", &["psql", "-Atc", sum]), "1000|500500|row 999\n");
}

/// Real user ids by the host's own account: nginx's first process is root and its workers are not.
fn users_are_those_of_the_packages(p: &Playground) {
    let uid = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap().to_owned();
        line.split('\t').next().unwrap().parse::<u32>().unwrap()
    };
    let passwd = |pod: &str, user: &str| in_pod(p, pod, &["id", "-u", user]).trim().parse::<u32>().unwrap();
    assert_eq!(uid(container_pid(p, "web")), 0);
    let workers =
        in_pod(p, "web", &["sh", "-c", "grep -l 'nginx: worker' /proc/[0-9]*/cmdline | cut -d/ -f3"]);
    let worker = workers.lines().next().expect("a worker").to_owned();
    let owner = in_pod(p, "web", &["stat", "-c", "%U", &format!("/proc/{worker}")]);
    assert_eq!(owner, "www-data\n");
    assert_eq!(uid(container_pid(p, "cache")), passwd("cache", "redis"));
    assert_eq!(uid(container_pid(p, "db")), passwd("db", "postgres"));
    assert!(passwd("cache", "redis") > 0 && passwd("db", "postgres") > 0);
}

/// What an upper layer takes away is gone from its image and there in others on the same base.
fn layers_are_those_of_the_image(p: &Playground) {
    assert_eq!(in_pod(p, "web", &["cat", "/etc/debian_version"]).split('.').next(), Some("12"));
    assert!(in_pod(p, "web", &["cat", "/etc/motd"]).contains("Debian"));
    let gone = p.exec("cache", &["cat", "/etc/motd"]);
    assert!(!gone.ok && gone.stderr.contains("No such file"), "{gone:?}");
}

/// As a crash would.
fn kill_container(p: &Playground, pod: &str) {
    let pid = i32::try_from(container_pid(p, pod)).unwrap();
    let target = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(target, rustix::process::Signal::KILL).unwrap();
}

/// The server's first process: the one that its shim wrote down.
fn container_pid(p: &Playground, pod: &str) -> u32 {
    let (uid, id) = containers(p).remove(pod).unwrap();
    let file: PathBuf = [&*p.dir.to_string_lossy(), "run/pods", &uid, "c", &id, "pid"].iter().collect();
    let record = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
    record.split(' ').next().unwrap().parse().unwrap()
}

/// Pod UID and container id of each server.
fn containers(p: &Playground) -> BTreeMap<String, (String, String)> {
    let pods = p.get(&["pods"]);
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let entry = |pod: &serde_json::Value| {
        let id = text(&pod["status"]["containerStatuses"][0]["containerID"]);
        let id = id.rsplit('/').next().unwrap().to_owned();
        (text(&pod["metadata"]["name"]), (text(&pod["metadata"]["uid"]), id))
    };
    pods["items"].as_array().unwrap().iter().map(entry).collect()
}

/// Restart counts of the servers, once each of them is `expected`.
fn restarts(p: &Playground, expected: &str) -> String {
    let counts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    p.wait_for(&["get", "pods", "-o", counts], |counts| counts.split(' ').all(|count| count == expected))
}
