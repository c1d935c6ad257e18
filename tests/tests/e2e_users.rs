//! Pods with users of their own (`hostUsers: false`), as people use them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, os::unix::fs::MetadataExt as _, process::Command};

use orlop_tests::{Playground, playground::run};
use rustix::process::{Resource, getrlimit};

/// One container as user 1000 with everything that a node writes for it.
fn pod(name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{a: b}}}}, spec: {{hostUsers: false, \
         securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}}, terminationGracePeriodSeconds: 1, \
         volumes: [{{name: e, emptyDir: {{}}}}, {{name: m, emptyDir: {{medium: Memory}}}}, \
           {{name: c, configMap: {{name: settings}}}}, {{name: s, secret: {{secretName: words, defaultMode: 0440}}}}, \
           {{name: d, downwardAPI: {{items: [{{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}]}}}}], \
         containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', \
           command: [sh, -c, 'cat /c/key /s/key /d/labels && grep -q {name} /etc/hosts && echo x > /e/mine && echo x > /m/mine && \
             echo last words > /dev/termination-log && echo all fine > /dev/stdout && while [ ! -e /e/end ]; do sleep 0.1; done; rm /e/end'], \
           readinessProbe: {{periodSeconds: 1, exec: {{command: [test, -O, /e/mine]}}}}, \
           volumeMounts: [{{name: e, mountPath: /e}}, {{name: m, mountPath: /m}}, {{name: c, mountPath: /c}}, {{name: s, mountPath: /s}}, \
             {{name: d, mountPath: /d}}]}}]}}}}"
    )
}

/// `orlop exec`: the API server has no exec yet.
fn exec(p: &Playground, pod: &str, command: &[&str]) -> String {
    let mut orlop = Command::new(p.dir.join("bin/orlop"));
    orlop.arg("exec").arg(format!("--run-dir={}", p.dir.join("run").display()));
    run(orlop.args([pod, "--"]).args(command)).text()
}

/// The first id of the host in the map of a command inside.
fn first_id(p: &Playground, pod: &str) -> u32 {
    let map = exec(p, pod, &["cat", "/proc/self/uid_map"]);
    let words: Vec<_> = map.split_ascii_whitespace().collect();
    assert_eq!((words[0], words[2], words.len()), ("0", "65536", 3), "{map}");
    words[1].parse().unwrap()
}

fn ready(p: &Playground, pod: &str) {
    p.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=60s"]).text();
}

fn volumes_fit_users_inside_and_owners_outside(p: &Playground) {
    p.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {key: 'set '}}").text();
    p.apply("{apiVersion: v1, kind: Secret, metadata: {name: words}, stringData: {key: 'secret '}}").text();
    p.apply(&pod("one")).text();
    p.apply(&pod("two")).text();
    ready(p, "one");
    ready(p, "two");
    assert_eq!(p.kubectl(&["logs", "one"]).text(), "set secret a=\"b\"all fine\n");
    let id = exec(p, "one", &["sh", "-c", "id -u; id -g; id -G; stat -c %u:%g:%a /e /e/mine /m/mine"]);
    assert_eq!(id, "1000\n1000\n1000 2000\n0:2000:2777\n1000:2000:644\n1000:2000:644\n");
    let found = run(Command::new("find").arg(&p.dir).args(["-path", "*empty-dir/e/mine"])).text();
    assert_eq!(found.lines().count(), 2, "{found}");
    for file in found.lines() {
        let meta = std::fs::metadata(file).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1000, 2000));
    }
}

fn an_agent_that_starts_anew_changes_nobody(p: &mut Playground) {
    let (one, two) = (first_id(p, "one"), first_id(p, "two"));
    assert!(one >= 65_536 && two >= 65_536 && one != two && one % 65_536 == 0 && two % 65_536 == 0);
    p.kill_agent(1);
    p.up();
    ready(p, "one");
    assert_eq!((first_id(p, "one"), first_id(p, "two")), (one, two));
    // A third pod gets what is left, and a container started anew is its pod's.
    p.apply(&pod("three")).text();
    ready(p, "three");
    assert!(![one, two].contains(&first_id(p, "three")));
    exec(p, "one", &["touch", "/e/end"]);
    let state = "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.message}";
    p.wait_for(&["get", "pod", "one", "-o", state], |text| text == "1 last words\n");
    ready(p, "one");
    assert_eq!(first_id(p, "one"), one);
    // The second is for `down`, which must leave nothing of it.
    p.kubectl(&["delete", "pod", "one", "three", "--timeout=30s"]).text();
}

fn what_cannot_be_is_said(p: &Playground) {
    let host =
        pod("host").replace("hostUsers: false,", "hostUsers: false, hostNetwork: true, hostPID: true,");
    let refusal = p.apply(&host).refusal();
    for field in ["hostNetwork", "hostPID"] {
        assert!(
            refusal.contains(&format!("spec.{field}: Forbidden: when `hostUsers` is false")),
            "{refusal}"
        );
    }
    // procfs is no file system for id-mapped mounts, as NFS is none.
    let unfit = pod("unfit")
        .replace("{name: m, emptyDir: {medium: Memory}}", "{name: m, hostPath: {path: /proc/sys}}");
    p.apply(&unfit).text();
    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting}";
    let state =
        p.wait_for(&["get", "pod", "unfit", "-o", waiting], |text| text.contains("CreateContainerError"));
    assert!(state.contains("volume source /proc/sys for /m: hostUsers: false"), "{state}");
    p.kubectl(&["delete", "pod", "unfit", "--timeout=30s"]).text();
    let features = p.get(&["node", "node1"])["status"]["runtimeHandlers"][0]["features"].clone();
    assert_eq!(features, serde_json::json!({"recursiveReadOnlyMounts": true, "userNamespaces": true}));
}

/// What the node says, and for open files what the agent was started with, which it raises for itself.
fn limits_of_processes_are_the_nodes(p: &Playground) {
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: limited}, spec: {terminationGracePeriodSeconds: 0, containers: [\
         {name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'ulimit -c; ulimit -l; ulimit -Sn; ulimit -Hn; sleep 1000']}]}}",
    )
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/limited", "--timeout=60s"]).text();
    let files = getrlimit(Resource::Nofile);
    let word = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    let expected = format!("0\n8\n{}\n{}\n", word(files.current), word(files.maximum));
    p.wait_for(&["logs", "limited"], |text| text == expected);
    let agents = fs::read_to_string(format!("/proc/{}/limits", p.agent_pid(1))).unwrap();
    let line = agents.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(words, [word(files.maximum), word(files.maximum)]);
    p.kubectl(&["delete", "pod", "limited", "--timeout=30s"]).text();
}

#[test]
#[ignore = "e2e tier"]
fn users_of_their_own() {
    let mut p = Playground::with(&[], &[("ORLOP_DEFAULT_ULIMITS", "core=0,memlock=8192:unlimited")]);
    volumes_fit_users_inside_and_owners_outside(&p);
    what_cannot_be_is_said(&p);
    limits_of_processes_are_the_nodes(&p);
    an_agent_that_starts_anew_changes_nobody(&mut p);
}
