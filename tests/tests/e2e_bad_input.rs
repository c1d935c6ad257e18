//! What is wrong gets one clear error in upstream's words, and loses nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::{given, run},
    until,
};

fn pod(name: &str, container: &str) -> String {
    format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{container}]}}}}")
}

#[test]
#[ignore = "e2e tier"]
fn the_api_refuses_in_upstreams_words() {
    let p = Playground::start();
    let cases: &[(&str, &str, &str)] = &[
        ("malformed YAML", "apiVersion: v1\nkind: Pod\n  metadata: {", "error converting YAML to JSON"),
        (
            "an unknown field",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dataa: {}}",
            r#"strict decoding error: unknown field "dataa""#,
        ),
        (
            "an invalid name",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}",
            r#"The ConfigMap "Not_A_Name" is invalid: metadata.name: Invalid value: "Not_A_Name": a lowercase RFC 1123 subdomain must consist of"#,
        ),
        (
            "a missing required field",
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: []}}",
            "spec.containers: Required value",
        ),
        (
            "a namespace that is not there",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: nowhere}}",
            r#"namespaces "nowhere" not found"#,
        ),
        (
            "a kind that is not there",
            "{apiVersion: v1, kind: Podd, metadata: {name: a}}",
            r#"no matches for kind "Podd""#,
        ),
    ];
    for (what, yaml, expected) in cases {
        let said = p.apply(yaml).refusal();
        assert!(said.contains(expected), "{what}: {said}");
    }
    let deployment = |app: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: d}}, spec: {{replicas: 0, selector: {{matchLabels: {{app: {app}}}}}, \
             template: {{metadata: {{labels: {{app: {app}}}}}, spec: {{containers: [{{name: c, image: 'orlop.dev/example/hello:v1'}}]}}}}}}}}"
        )
    };
    p.apply(&deployment("one")).text();
    let said = p.apply(&deployment("two")).refusal();
    assert!(said.contains("field is immutable"), "{said}");
    assert_eq!(
        p.get(&["deployment", "d"])["spec"]["selector"]["matchLabels"]["app"],
        "one",
        "a refusal loses nothing"
    );

    let stale = p.get(&["configmap", "kube-root-ca.crt"]);
    p.kubectl(&["label", "configmap", "kube-root-ca.crt", "a=b"]).text();
    let said = p.with_stdin(&["replace", "-f", "-"], &stale.to_string()).refusal();
    assert!(
        said.contains(
            "the object has been modified; please apply your changes to the latest version and try again"
        ),
        "{said}"
    );
    let said = p.kubectl(&["get", "pod", "nobody"]).refusal();
    assert!(said.contains(r#"Error from server (NotFound): pods "nobody" not found"#), "{said}");
}

#[test]
#[ignore = "e2e tier"]
fn a_pod_says_why_it_does_not_run() {
    let p = Playground::start();
    p.apply(&pod("no-image", "{name: c, image: 'localhost:1/none:v1'}")).text();
    p.apply(&pod("no-command", "{name: c, image: 'orlop.dev/example/busybox:v1', command: [/no/such]}"))
        .text();
    p.apply(&pod("no-config", "{name: c, image: 'orlop.dev/example/busybox:v1', env: [{name: A, valueFrom: {configMapKeyRef: {name: none, key: k}}}]}")).text();
    let reason = |name: &str, wanted: &[&str]| {
        let path = "jsonpath={.status.containerStatuses[0].state.waiting.reason} {.status.containerStatuses[0].lastState.terminated.reason}";
        p.wait_for(&["get", "pod", name, "-o", path], |said| wanted.iter().any(|word| said.contains(word)));
    };
    reason("no-image", &["ErrImagePull"]);
    reason("no-image", &["ImagePullBackOff"]);
    reason("no-command", &["RunContainerError", "StartError", "CrashLoopBackOff"]);
    reason("no-config", &["CreateContainerConfigError"]);
    let described = p.kubectl(&["describe", "pods"]).text();
    for part in ["Failed to pull image", "Error: ErrImagePull", "/no/such", r#"configmap "none" not found"#] {
        assert!(described.contains(part), "{part} in\n{described}");
    }
    p.kubectl(&["delete", "pods", "--all", "--timeout=60s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn a_flag_or_file_that_is_wrong_is_named() {
    let orlop = given("ORLOP_BIN").join("orlop");
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("config.yaml");
    let start = |args: &[&str]| run(Command::new(&orlop).args(args));
    let said = start(&["standalone", "--node-ip=10.0.0.999"]).refusal();
    assert!(said.contains("--node-ip") && said.contains("10.0.0.999"), "{said}");
    let said = start(&["standalone", "--no-such-flag"]).refusal();
    assert!(said.contains("--no-such-flag"), "{said}");
    fs::write(&file, "nodeNam: x\n").unwrap();
    let said = start(&["standalone", "--config", &file.to_string_lossy()]).refusal();
    assert!(said.contains("config.yaml") && said.contains("nodeNam"), "{said}");
    fs::write(&file, "{{{").unwrap();
    let said = start(&["standalone", "--config", &file.to_string_lossy()]).refusal();
    assert!(said.contains("config.yaml"), "{said}");
    let said = start(&[
        "node",
        "--node-ip=127.0.0.1",
        "--state-dir=/nonexistent/x",
        "--kubeconfig=/nonexistent/kubeconfig",
    ])
    .refusal();
    assert!(said.contains("/nonexistent/kubeconfig"), "{said}");
}

/// A network namespace and directories for one process, without a playground.
struct Lonely {
    netns: String,
    temp: tempfile::TempDir,
}

impl Lonely {
    fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().unwrap();
        let netns = format!(
            "orlop-t-{}",
            temp.path()
                .file_name()
                .unwrap()
                .to_string_lossy()
                .trim_start_matches("orlop-e2e-")
                .to_lowercase()
        );
        assert!(run(Command::new("ip").args(["netns", "add", &netns])).ok);
        assert!(run(Command::new("ip").args(["-n", &netns, "link", "set", "lo", "up"])).ok);
        Self { netns, temp }
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state")
    }

    fn command(&self) -> Command {
        self.command_with_state(&self.state())
    }

    fn command_with_state(&self, state: &Path) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "20", "nsenter", &format!("--net=/run/netns/{}", self.netns), "--"]);
        command.arg(given("ORLOP_BIN").join("orlop")).arg("standalone");
        command.arg(format!("--state-dir={}", state.display()));
        command.arg(format!("--run-dir={}", self.temp.path().join("run").display()));
        command
            .args(["--node-name=lonely", "--node-ip=127.0.0.1"])
            .arg(format!("--cgroup-root={}", self.netns));
        command
    }

    fn reset(&self) {
        let mut reset = Command::new("nsenter");
        reset
            .args([&format!("--net=/run/netns/{}", self.netns), "--"])
            .arg(given("ORLOP_BIN").join("orlop"))
            .args(["reset", "--yes"]);
        reset.arg(format!("--state-dir={}", self.state().display()));
        reset.arg(format!("--run-dir={}", self.temp.path().join("run").display()));
        run(reset.arg(format!("--cgroup-root={}", self.netns)));
    }
}

impl Drop for Lonely {
    fn drop(&mut self) {
        self.reset();
        run(Command::new("umount").arg(self.state()));
        run(Command::new("ip").args(["netns", "delete", &self.netns]));
        for mount in orlop_tests::leaks::mounts_below(self.temp.path()) {
            run(Command::new("umount").arg(mount));
        }
        let hierarchies =
            ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/memory"].map(Path::new);
        let left: Vec<_> =
            hierarchies.iter().map(|mount| mount.join(&self.netns)).filter(|dir| dir.exists()).collect();
        if !std::thread::panicking() {
            assert!(left.is_empty(), "reset left {left:?}");
        }
    }
}

#[test]
#[ignore = "e2e tier"]
fn a_port_already_taken_is_one_clear_error() {
    let node = Lonely::new();
    let mut first = node.command().arg("--listen=127.0.0.1:6443").spawn().unwrap();
    until("the first one listens", Duration::from_secs(10), || {
        let out = run(Command::new("ip").args([
            "netns",
            "exec",
            &node.netns,
            "curl",
            "-sk",
            "https://127.0.0.1:6443/readyz",
        ]));
        if out.stdout == "ok" { Ok(()) } else { Err(out.stderr) }
    });
    let other = tempfile::tempdir().unwrap();
    let mut command = node.command_with_state(other.path());
    let said = run(command.arg("--listen=127.0.0.1:6443")).refusal();
    assert!(said.contains("127.0.0.1:6443") && said.to_lowercase().contains(" in use"), "{said}");
    kill_tree(&mut first);
}

#[test]
#[ignore = "e2e tier"]
fn a_full_disk_refuses_writes_and_keeps_what_is_there() {
    let node = Lonely::new();
    fs::create_dir_all(node.state()).unwrap();
    let mount = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(node.state()));
    assert!(mount.ok, "{}", mount.stderr);
    let mut server = node.command().arg("--listen=127.0.0.1:6443").spawn().unwrap();
    let kubectl = |args: &[&str], stdin: &str| in_netns_kubectl(&node, args, stdin);
    until("ready", Duration::from_secs(15), || {
        let out = kubectl(&["get", "configmap", "kube-root-ca.crt"], "");
        if out.ok { Ok(()) } else { Err(out.stderr) }
    });
    let big = "x".repeat(900_000);
    let mut stored = 0;
    let refusal = (0..200).find_map(|number| {
        let map = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: big-{number}}}, data: {{a: {big}}}}}"
        );
        let out = kubectl(&["create", "--validate=false", "-f", "-"], &map);
        stored += usize::from(out.ok);
        (!out.ok).then_some(out.stderr)
    });
    let refusal = refusal.expect("24 MB are full at some time");
    assert!(
        refusal.to_lowercase().contains("no space left") || refusal.contains("InternalError"),
        "{refusal}"
    );
    let listed = kubectl(&["get", "configmaps", "-o", "name"], "").text();
    assert_eq!(
        listed.lines().filter(|line| line.contains("big-")).count(),
        stored,
        "what was acknowledged is there"
    );
    kill_tree(&mut server);
}

#[test]
#[ignore = "e2e tier"]
fn a_store_cut_at_a_random_byte_opens_or_says_what_is_wrong() {
    let node = Lonely::new();
    let mut server = node.command().arg("--listen=127.0.0.1:6443").spawn().unwrap();
    until("ready", Duration::from_secs(15), || {
        let out = in_netns_kubectl(&node, &["get", "configmap", "kube-root-ca.crt"], "");
        if out.ok { Ok(()) } else { Err(out.stderr) }
    });
    for number in 0..20 {
        assert!(
            in_netns_kubectl(
                &node,
                &["create", "configmap", &format!("m{number}"), "--from-literal=a=b"],
                ""
            )
            .ok
        );
    }
    kill_tree(&mut server);
    let store = find_store(&node.state());
    let journal = newest_file(&store);
    let whole = fs::read(&journal).unwrap();
    let saved = node.temp.path().join("saved");
    assert!(run(Command::new("cp").arg("-a").arg(&store).arg(&saved)).ok);
    let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    // Fractions instead of a random generator: the same on every run, and all parts of the file are met.
    for percent in [3, 11, 29, 47, 61, 83, 97] {
        let cut = used * percent / 100;
        fs::write(&journal, &whole[..cut]).unwrap();
        let mut command = node.command();
        let mut server =
            command.arg("--listen=127.0.0.1:6443").stderr(std::process::Stdio::piped()).spawn().unwrap();
        let opened = until("it opens or ends", Duration::from_secs(15), || {
            if let Some(status) = server.try_wait().unwrap() {
                return Ok(Err(status));
            }
            let out = in_netns_kubectl(&node, &["get", "configmaps", "-o", "name"], "");
            if out.ok { Ok(Ok(out.stdout)) } else { Err(out.stderr) }
        });
        match opened {
            Ok(names) => {
                let kept: Vec<usize> =
                    (0..20).filter(|number| names.contains(&format!("/m{number}\n"))).collect();
                assert_eq!(
                    kept,
                    (0..kept.len()).collect::<Vec<_>>(),
                    "cut at {cut}: not a prefix of what was acknowledged"
                );
                kill_tree(&mut server);
            }
            Err(_) => {
                let said = std::io::read_to_string(server.stderr.take().unwrap()).unwrap();
                assert!(said.contains("store") && !said.contains("panicked"), "cut at {cut}: {said}");
            }
        }
        // After each cut the store starts again from the whole file.
        fs::remove_dir_all(&store).unwrap();
        assert!(run(Command::new("cp").arg("-a").arg(&saved).arg(&store)).ok);
    }
}

fn find_store(state: &Path) -> PathBuf {
    let out = run(Command::new("find").arg(state).args(["-type", "d", "-name", "store"])).text();
    PathBuf::from(out.lines().next().expect("a directory called store"))
}

/// The largest file is the journal: fjall allocates it ahead.
fn newest_file(dir: &Path) -> PathBuf {
    let out =
        run(Command::new("find").arg(dir).args(["-type", "f", "-size", "+0", "-printf", "%s %p\n"])).text();
    let mut files: Vec<_> = out
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(size, path)| (size.parse::<u64>().unwrap(), path))
        .collect();
    files.sort();
    PathBuf::from(files.last().expect("a file in the store").1)
}

fn in_netns_kubectl(node: &Lonely, args: &[&str], stdin: &str) -> orlop_tests::Output {
    use std::io::Write as _;
    let mut command = Command::new("nsenter");
    command.args([
        &format!("--net=/run/netns/{}", node.netns),
        "--",
        "kubectl",
        "--server=https://127.0.0.1:6443",
        "--kubeconfig",
    ]);
    command
        .arg(node.state().join("admin.kubeconfig"))
        .arg("--cache-dir")
        .arg(node.temp.path().join("cache"))
        .args(args);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    // kubectl takes what begins with a brace for JSON.
    child.stdin.take().unwrap().write_all(format!("# YAML\n{stdin}").as_bytes()).ok();
    let out = child.wait_with_output().unwrap();
    orlop_tests::Output {
        ok: out.status.success(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// `timeout` does not pass SIGKILL on: end its child first.
fn kill_tree(child: &mut std::process::Child) {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap_or_default();
    for pid in children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
    {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    child.wait().unwrap();
}
