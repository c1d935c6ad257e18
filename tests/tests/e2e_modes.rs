//! The other ways to run the same program: the dataplane alone, and the commands that need no agent.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use orlop_tests::{
    Playground,
    playground::{given, in_terminal, run},
    until,
};

const HELLO: &str = include_str!("../../examples/hello.yaml");

/// `orlop dataplane` on a cgroup of its own, in the network namespace of the playground's node but outside its cgroups.
struct Dataplane {
    process: Child,
    cgroup: PathBuf,
    dir: PathBuf,
}

impl Dataplane {
    fn start(p: &Playground, flags: &[&str]) -> Self {
        let node = &p.json["nodes"][0];
        let (netns, name) =
            (node["netns"].as_str().unwrap(), format!("{}-dp", node["cgroup"].as_str().unwrap()));
        let dir = p.dir.join("dp");
        fs::create_dir_all(&dir).unwrap();
        let process = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{netns}"), "--"])
            .arg(given("ORLOP_BIN").join("orlop"))
            .arg("dataplane")
            .arg(format!("--kubeconfig={}", p.dir.join("kubeconfig").display()))
            .arg(format!("--run-dir={}", dir.join("run").display()))
            .arg(format!("--state-dir={}", dir.join("state").display()))
            .args(["--node-name=node1", "--node-ip=127.0.0.1", &format!("--cgroup-root={name}")])
            .args(flags)
            .spawn()
            .unwrap();
        Self { process, cgroup: cgroup2().join(name), dir }
    }

    /// A client in the dataplane's cgroup.
    fn curl(&self, p: &Playground, url: &str) -> orlop_tests::Output {
        let netns = p.json["nodes"][0]["netns"].as_str().unwrap();
        let join = format!(
            "echo $$ > {}/cgroup.procs; exec nsenter --net=/run/netns/{netns} -- \"$@\"",
            self.cgroup.display()
        );
        run(Command::new("sh").args(["-c", &join, "sh", "curl", "-sS", "--max-time", "2", url]))
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        // In a network namespace of its own: the playground's network is not this command's to remove.
        let mut reset = Command::new("unshare");
        reset.arg("-n").arg(given("ORLOP_BIN").join("orlop")).args(["reset", "--yes"]);
        reset.arg(format!("--run-dir={}", self.dir.join("run").display()));
        run(reset.arg(format!("--state-dir={}", self.dir.join("state").display())));
        fs::remove_dir(&self.cgroup).ok();
    }
}

fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let point =
        mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("a cgroup v2 hierarchy");
    PathBuf::from(point.split(' ').nth(1).unwrap())
}

#[test]
#[ignore = "e2e tier"]
fn the_dataplane_alone_serves_a_clusters_services() {
    let p = Playground::start();
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let address = p.kubectl(&["get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}"]).text();
    let url = format!("http://{address}/");
    // What a kube-proxy that was here before has left, beside a chain of the kubelet's.
    let rules = "*nat\n:KUBE-KUBELET-CANARY - [0:0]\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-TCOU7JCQXEZGVUNU - [0:0]\n\
                 -A PREROUTING -j KUBE-SERVICES\n-A KUBE-SERVICES -p tcp -j KUBE-SVC-TCOU7JCQXEZGVUNU\nCOMMIT\n";
    let script = format!("printf '{rules}' | iptables-nft-restore --noflush");
    run(p.inside(1, "sh").args(["-c", &script])).text();
    let dataplane = Dataplane::start(&p, &["--cleanup-kube-proxy"]);
    until("the service answers outside the node's cgroup", Duration::from_secs(15), || {
        let out = dataplane.curl(&p, &url);
        if out.stdout.contains("hello-") { Ok(()) } else { Err(out.stderr) }
    });
    until("kube-proxy's rules go", Duration::from_secs(15), || {
        let left = run(&mut p.inside(1, "iptables-nft-save")).text();
        assert!(left.contains(":KUBE-KUBELET-CANARY"), "{left}");
        if left.contains("KUBE-SERVICES") || left.contains("KUBE-SVC-") { Err(left) } else { Ok(()) }
    });
    let services = run(Command::new(given("ORLOP_BIN").join("orlop"))
        .arg("services")
        .arg(format!("--run-dir={}", dataplane.dir.join("run").display())));
    assert!(services.text().contains(&format!("{address}:80/TCP")));
    let cgroup = dataplane.cgroup.clone();
    drop(dataplane);
    assert!(!cgroup.exists(), "its cgroup is gone");
}

#[test]
#[ignore = "e2e tier"]
fn commands_work_with_and_without_an_agent() {
    let p = Playground::start();
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    let orlop = |args: &[&str]| run(Command::new(p.dir.join("bin/orlop")).args(args));
    let (state, run_dir) = (flag("--state-dir", &p.dir.join("state")), flag("--run-dir", &p.dir.join("run")));
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: box}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'echo from the box; sleep 1000']}]}}",
    )
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/box", "--timeout=60s"]).text();
    for agent in ["alive", "dead"] {
        if agent == "dead" {
            p.kill_agent(1);
        }
        let containers = orlop(&["ps", &run_dir]).text();
        assert_eq!(containers.matches("Running").count(), 4, "{agent}: {containers}");
        look_into_the_box(&p, &run_dir);
        assert!(orlop(&["services", &run_dir]).text().contains(":80/TCP"), "{agent}");
        let images = orlop(&["image", "ls", &state]).text();
        assert!(
            images.contains("orlop.dev/example/hello") && images.contains("orlop.dev/example/busybox"),
            "{images}"
        );
    }
    assert!(orlop(&["image", "rm", &state, "orlop.dev/example/busybox:v1"]).ok);
    assert!(!orlop(&["image", "ls", &state]).text().contains("busybox"));
    let missing = orlop(&["image", "load", &state, "/nonexistent.tar"]).refusal();
    assert!(missing.contains("/nonexistent.tar"), "{missing}");
    assert!(orlop(&["version"]).text().starts_with("orlop 0."));
    let help = orlop(&["standalone", "--help"]).text();
    assert!(help.contains("--state-dir") && help.contains("ORLOP_STATE_DIR"), "{help}");
}

/// What one does on a node that is in trouble.
fn look_into_the_box(p: &Playground, run_dir: &str) {
    let binary = p.dir.join("bin/orlop");
    let orlop = |args: &[&str]| run(Command::new(&binary).args(args));
    assert_eq!(orlop(&["logs", run_dir, "box"]).text(), "from the box\n");
    assert!(orlop(&["inspect", run_dir, "default/box"]).text().contains("\"name\": \"box\""));
    let stats = orlop(&["stats", run_dir]).text();
    assert!(stats.lines().any(|line| line.contains("box") && line.contains("kB")), "{stats}");
    assert!(stats.contains("WAIT-IO") && stats.contains("waited in the last ten seconds: cpu "), "{stats}");
    let script = "cat; echo to stderr >&2; exit 9";
    let piped = format!("echo typed | {} exec -i {run_dir} box -- sh -c '{script}'", binary.display());
    let out = run(Command::new("sh").args(["-c", &format!("{piped}; echo code $?")]));
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("typed\ncode 9\n", "to stderr\n"));
    let typed = format!("{} exec -it {run_dir} box -- sh -c 'tty; stty size'", binary.display());
    assert_eq!(in_terminal(&typed, (33, 77), &[]), "/dev/pts/0\n33 77\n");
    let missing = orlop(&["exec", run_dir, "box", "--", "nope"]).refusal();
    assert!(missing.contains("executable file not found in $PATH"), "{missing}");
    let nobody = orlop(&["logs", run_dir, "nobody"]).refusal();
    assert!(nobody.contains("no pod \"nobody\" on this machine"), "{nobody}");
}

fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
