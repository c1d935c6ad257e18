//! What goes wrong on a node in its life: an agent killed at every stage of a pod, an API server that is away in the middle
//! of a rollout, a full disk; and many pods at once.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says how long it took"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use orlop_tests::{
    Playground, leaks,
    playground::{given, run},
    registry::{Door, REGISTRY, Registry},
    until,
};
use serde_json::Value;

/// A kubelet's configuration for the first node.
fn with_config(settings: &str) -> (tempfile::TempDir, PathBuf) {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("kubelet.yaml");
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    fs::write(&file, format!("{head}{settings}")).unwrap();
    (temp, file)
}

const KILLS: u64 = 12;

/// One pod for each stage: it has init containers, it is pulled, it is probed until it falls ill, it takes its time to end.
fn stages(round: u64, out: &Path) -> String {
    let out = out.display();
    let busybox = "image: 'orlop.dev/example/busybox:v1'";
    let mount = "volumeMounts: [{name: out, mountPath: /out}]";
    let init = |name: &str| {
        format!(
            "{{name: {name}, {busybox}, command: [sh, -c, 'echo {name} >> /out/init{round}; sleep 0.4'], {mount}}}"
        )
    };
    let pod = |name: &str, spec: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}{round}}}, spec: {{terminationGracePeriodSeconds: 20, \
             volumes: [{{name: out, hostPath: {{path: {out}, type: DirectoryOrCreate}}}}], {spec}}}}}\n"
        )
    };
    let running = |word: &str, then: &str, more: &str| {
        format!(
            "containers: [{{name: c, {busybox}, command: [sh, -c, 'echo {word} >> /out/{word}{round}; {then}'], {mount}{more}}}]"
        )
    };
    let quick = "trap \"exit 0\" TERM; while :; do sleep 0.1; done";
    let slow =
        format!("trap \"sleep 2; echo whole >> /out/end{round}; exit 0\" TERM; while :; do sleep 0.1; done");
    [
        pod("init", &format!("initContainers: [{}, {}], {}", init("one"), init("two"), running("main", quick, ""))),
        pod(
            "pull",
            &format!("containers: [{{name: c, image: '{REGISTRY}/team/hello:r{round}', args: [serve]}}]"),
        ),
        // Ill in its first life only.
        pod(
            "probe",
            &running(
                "probe",
                &format!("[ $(wc -l < /out/probe{round}) != 1 ] || touch /tmp/ill; {quick}"),
                ", livenessProbe: {exec: {command: [test, '!', -e, /tmp/ill]}, periodSeconds: 1, failureThreshold: 1}",
            ),
        ),
        pod("end", &running("begin", &slow, "")),
    ]
    .concat()
}

#[test]
#[ignore = "e2e tier"]
fn kills_at_every_stage_of_a_pod_change_nothing_of_what_it_does() {
    let mut p = Playground::with(&[], &[("ORLOP_PLAIN_HTTP_REGISTRIES", REGISTRY)]);
    let registry = Registry::start(&p, &Door::default());
    let out = p.dir.join("out");
    let layout = given("ORLOP_IMAGES").join("hello-v1");
    for round in 0..KILLS {
        registry.push(&p, &layout, None, &format!("team/hello:r{round}"));
        p.apply(&stages(round, &out)).text();
        if let Some(last) = round.checked_sub(1) {
            p.kubectl(&["delete", "pod", &format!("end{last}"), "--wait=false"]).text();
        }
        // Odd steps instead of a random generator: the same moments on every run, spread over what pods do.
        std::thread::sleep(Duration::from_millis(round * 173 % 1000));
        p.kill_agent(1);
        p.up();
    }
    let last = format!("end{}", KILLS - 1);
    p.wait_for(&["get", "pod", &last, "-ojsonpath={.status.phase}"], |phase| phase == "Running");
    p.kubectl(&["delete", "pod", &last, "--wait=false"]).text();
    until("what was declared is there", Duration::from_secs(60), || {
        let pods = p.get(&["pods"]);
        let pods = pods["items"].as_array().unwrap();
        let wrong: Vec<_> = pods.iter().filter_map(strange).collect();
        if wrong.is_empty() && pods.len() == usize::try_from(KILLS).unwrap() * 3 {
            Ok(())
        } else {
            Err(format!("{} pods, {wrong:?}", pods.len()))
        }
    });
    for round in 0..KILLS {
        let said = |word: &str| fs::read_to_string(out.join(format!("{word}{round}"))).unwrap_or_default();
        assert_eq!(said("init"), "one\ntwo\n", "round {round}: each once, in order");
        assert_eq!(said("main"), "main\n", "round {round}");
        assert_eq!(said("probe"), "probe\nprobe\n", "round {round}: two lives");
        assert_eq!(said("begin"), "begin\n", "round {round}");
        assert_eq!(said("end"), "whole\n", "round {round}: it had its grace");
    }
}

/// What is not as it ought to be with a pod that stays: only the one that fell ill was started again, and once.
fn strange(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap();
    let container = &pod["status"]["containerStatuses"][0];
    let restarts = u64::from(name.starts_with("probe"));
    let fine =
        container["ready"] == true && container["restartCount"] == restarts && !name.starts_with("end");
    (!fine).then(|| format!("{name}: {} {}", container["restartCount"], container["state"]))
}

const ROLLOUT: &str = "
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'while :; do date +%s; sleep 0.5; done']}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: node2}
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: orlop.dev/example/busybox:v1
        command: [sh, -c, 'sleep 1; touch /tmp/ready; sleep 3600']
        readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}
";

#[test]
#[ignore = "e2e tier"]
fn a_rollout_goes_on_when_the_api_server_is_back() {
    let mut p = Playground::with_args(&["--nodes", "2"]);
    p.apply(ROLLOUT).text();
    p.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/steady", "--timeout=30s"]).text();
    p.kubectl(&["set", "env", "deployment/web", "A=B"]).text();
    // In the middle: some are new, some are old.
    let updated = "-ojsonpath={.status.updatedReplicas}";
    p.wait_for(&["get", "deployment", "web", updated], |count| matches!(count, "1" | "2" | "3"));
    p.stop_agent(1);
    std::thread::sleep(Duration::from_secs(20));
    p.up();
    p.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).text();
    p.wait_for(&["get", "pods", "-l", "app=web", "-oname"], |names| names.lines().count() == 4);
    let pods = p.get(&["pods"]);
    for pod in pods["items"].as_array().unwrap() {
        let name = &pod["metadata"]["name"];
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{name}");
        let env = &pod["spec"]["containers"][0]["env"];
        assert!(env[0]["value"] == "B" || *name == "steady", "{name}: {env}");
    }
    let beats = p.kubectl(&["logs", "steady"]).text();
    let beats: Vec<u64> = beats.lines().map(|line| line.parse().unwrap()).collect();
    assert!(beats.last().unwrap() - beats[0] >= 20, "it lived through it: {beats:?}");
    let gap = beats.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    assert!(gap <= 3, "a pod stood still for {gap} s");
}

/// A file system of its own, gone with the test.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m,mode=755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "orlop-test"]).arg(dir.path())).text();
        Self(dir)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run(Command::new("umount").arg("-l").arg(self.0.path()));
    }
}

#[test]
#[ignore = "e2e tier"]
fn a_full_disk_costs_the_pod_that_filled_it() {
    let (_temp, config) = with_config(
        "evictionHard: {memory.available: 100Mi, nodefs.available: 30%, imagefs.available: 5%}\nevictionPressureTransitionPeriod: 12s\n",
    );
    let disk = Disk::new(300);
    let p = Playground::prepared(&[], &[("ORLOP_CONFIG", config.to_str().unwrap())], |dir| {
        std::os::unix::fs::symlink(disk.0.path(), dir.join("state")).unwrap();
    });
    let pod = |name: &str, command: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, \
             volumes: [{{name: v, emptyDir: {{}}}}], containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', \
             command: [sh, -c, '{command}'], volumeMounts: [{{name: v, mountPath: /v}}]}}]}}}}\n"
        )
    };
    p.apply(&pod("other", "while :; do date; sleep 1; done")).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/other", "--timeout=30s"]).text();
    // Everything there is, to the last byte.
    p.apply(&pod("filler", "cat /dev/zero > /v/all; sleep 3600")).text();
    let free = || {
        let out = run(Command::new("df").args(["--output=avail", "-B1"]).arg(disk.0.path())).text();
        out.lines().last().unwrap().trim().parse::<u64>().unwrap()
    };
    until("the disk is full", Duration::from_secs(20), || {
        if free() == 0 { Ok(()) } else { Err(free().to_string()) }
    });
    let condition = |kind: &str| format!("-ojsonpath={{.status.conditions[?(@.type=='{kind}')].status}}");
    p.wait_for(&["get", "node", "node1", &condition("DiskPressure")], |status| status == "True");
    assert_eq!(p.kubectl(&["get", "node", "node1", &condition("Ready")]).text(), "True");
    p.wait_for(&["get", "pod", "filler", "-ojsonpath={.status.phase} {.status.reason}"], |said| {
        said == "Failed Evicted"
    });
    until("there is room again", Duration::from_secs(10), || {
        if free() > 100 << 20 { Ok(()) } else { Err(free().to_string()) }
    });
    p.wait_for(&["get", "node", "node1", &condition("DiskPressure")], |status| status == "False");
    let other = "-ojsonpath={.status.phase} {.status.containerStatuses[0].restartCount}";
    assert_eq!(p.kubectl(&["get", "pod", "other", other]).text(), "Running 0");
    p.wait_for(&["get", "node", "node1", "-ojsonpath={.spec.taints}"], |taints| {
        !taints.contains("disk-pressure")
    });
    p.apply(&pod("late", "echo written > /v/file; cat /v/file; sleep 3600")).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/late", "--timeout=30s"]).text();
    p.wait_for(&["logs", "late"], |log| log == "written\n");
}

const MANY: usize = 100;

#[test]
#[ignore = "e2e tier"]
fn a_hundred_pods_are_ready_and_then_gone() {
    let (_temp, config) =
        with_config("maxPods: 150\nevictionHard: {memory.available: 100Mi, nodefs.available: 1%}\n");
    let p = Playground::with(&[], &[("ORLOP_CONFIG", config.to_str().unwrap())]);
    let before = leaks::mounts_below(&p.dir);
    let pods: String = (0..MANY)
        .map(|number| {
            format!(
                "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{number}, labels: {{app: many}}}}, spec: {{terminationGracePeriodSeconds: 0, \
                 containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '3600']}}]}}}}\n"
            )
        })
        .collect();
    let start = Instant::now();
    p.apply(&pods).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=many", "--timeout=60s"]).text();
    let ready = start.elapsed();
    let addresses =
        p.kubectl(&["get", "pods", "-l", "app=many", "-ojsonpath={.items[*].status.podIP}"]).text();
    let addresses: std::collections::BTreeSet<_> = addresses.split(' ').collect();
    assert_eq!(addresses.len(), MANY, "an address each");
    let status = fs::read_to_string(format!("/proc/{}/status", p.agent_pid(1))).unwrap();
    let memory = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let start = Instant::now();
    p.kubectl(&["delete", "pod", "-l", "app=many", "--timeout=60s"]).text();
    eprintln!("{MANY} pods: ready after {ready:.1?}, gone after {:.1?}, agent {memory}", start.elapsed());
    assert_eq!(p.kubectl(&["get", "pods", "-oname"]).text(), "");
    until("nothing of them is left", Duration::from_secs(20), || {
        let sandboxes = fs::read_dir(p.dir.join("run/pods")).unwrap().count();
        let mounts = leaks::mounts_below(&p.dir);
        let volumes = fs::read_dir(p.dir.join("state/pods")).map_or(0, Iterator::count);
        if sandboxes == 0 && volumes == 0 && mounts == before {
            Ok(())
        } else {
            Err(format!("{sandboxes} sandboxes, {volumes} with volumes, {mounts:?}"))
        }
    });
}
