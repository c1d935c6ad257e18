//! The agent killed at any moment: what was declared becomes true, nothing runs twice, nothing is left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use orlop_tests::{Playground, leaks, playground::run, until};

const HELLO: &str = include_str!("../../examples/hello.yaml");
const KILLS: u64 = 50;

#[test]
#[ignore = "e2e tier"]
fn fifty_kills_during_a_rollout_end_in_the_declared_state() {
    let mut p = Playground::start();
    p.apply(HELLO).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();
    // A fixed sequence of odd numbers instead of a random generator: the same moments on every run, spread over a rollout.
    for kill in 0..KILLS {
        let image = if kill % 2 == 0 { "v2" } else { "v1" };
        p.kubectl(&["set", "image", "deployment/hello", &format!("hello=orlop.dev/example/hello:{image}")])
            .text();
        std::thread::sleep(Duration::from_millis(kill * 37 % 400));
        p.kill_agent(1);
        let doubled = doubled_containers(&p);
        assert!(doubled.is_empty(), "kill {kill}: runs twice: {doubled:?}");
        p.up();
    }
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=120s"]).text();
    until("only the declared pods are left", Duration::from_secs(60), || {
        let pods = p.get(&["pods", "-l", "app=hello"]);
        let items = pods["items"].as_array().unwrap();
        let images: BTreeSet<_> = items
            .iter()
            .map(|pod| pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned())
            .collect();
        let expected = BTreeSet::from(["orlop.dev/example/hello:v1".to_owned()]);
        if items.len() == 3 && images == expected {
            Ok(())
        } else {
            Err(format!("{} pods of {images:?}", items.len()))
        }
    });
    let restarts = p
        .kubectl(&[
            "get",
            "pods",
            "-l",
            "app=hello",
            "-o",
            "jsonpath={.items[*].status.containerStatuses[0].restartCount}",
        ])
        .text();
    assert_eq!(restarts, "0 0 0", "a dead agent is no reason to restart a container");
    until("nothing of a pod that is gone is left", Duration::from_secs(30), || {
        let left = orphans(&p);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Pods whose container's program runs more than once, by the host's process table.
fn doubled_containers(p: &Playground) -> Vec<String> {
    let mut inits: BTreeMap<String, u32> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        if !line.starts_with(b"/server\0") {
            continue;
        }
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let ours = groups.lines().find(|line| line.contains(p.json["nodes"][0]["cgroup"].as_str().unwrap()));
        if let Some(pod) = ours.and_then(|line| line.split('/').find(|part| part.starts_with("pod"))) {
            *inits.entry(pod.to_owned()).or_default() += 1;
        }
    }
    inits.into_iter().filter(|(_, count)| *count > 1).map(|(pod, count)| format!("{pod}: {count}")).collect()
}

/// Whatever names a pod that the API does not know: run directories, mounts, cgroups, links.
fn orphans(p: &Playground) -> Vec<String> {
    let pods = p.get(&["pods", "-A"]);
    let known: BTreeSet<String> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
        .collect();
    let mut found = Vec::new();
    let run_dirs = fs::read_dir(p.dir.join("run/pods")).unwrap().flatten();
    found.extend(
        run_dirs
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|uid| !known.contains(uid)),
    );
    let is_known = |text: &str| known.iter().any(|uid| text.contains(uid.as_str()));
    let pod_mounts = leaks::mounts_below(&p.dir).into_iter().filter(|mount| mount.contains("/pods/"));
    found.extend(pod_mounts.filter(|mount| !is_known(mount)));
    let cgroup = p.json["nodes"][0]["cgroup"].as_str().unwrap();
    let groups = run(std::process::Command::new("sh")
        .args(["-c", &format!("find /sys/fs/cgroup -type d -path '*/{cgroup}/*' -name 'pod*'")]));
    found.extend(groups.stdout.lines().filter(|path| !is_known(path)).map(str::to_owned));
    let netns = p.json["nodes"][0]["netns"].as_str().unwrap();
    let links = run(std::process::Command::new("ip").args(["-n", netns, "-br", "link"])).text();
    let veths = links.lines().filter(|line| line.starts_with("orl")).count();
    if veths != known.len() {
        found.push(format!("{veths} pod links for {} pods", known.len()));
    }
    found
}

#[test]
#[ignore = "e2e tier"]
fn containers_logs_and_exit_codes_outlive_the_agent() {
    let mut p = Playground::start();
    p.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: writer}, spec: {restartPolicy: Never, containers: [\
         {name: lines, image: 'orlop.dev/example/hello:v1', args: [lines, '400', '10']},\
         {name: short, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'sleep 2; exit 17']}]}}",
    )
    .text();
    p.wait_for(&["get", "pod", "writer", "-o", "jsonpath={.status.phase}"], |phase| phase == "Running");
    p.kill_agent(1);
    // Longer than the short container lives: nobody but its shim sees it end.
    std::thread::sleep(Duration::from_secs(3));
    p.up();
    let exit = "jsonpath={.status.containerStatuses[?(@.name==\"short\")].state.terminated.exitCode}";
    p.wait_for(&["get", "pod", "writer", "-o", exit], |code| code == "17");
    p.wait_for(&["get", "pod", "writer", "-o", "jsonpath={.status.phase}"], |phase| phase == "Failed");
    let log = p.kubectl(&["logs", "writer", "-c", "lines"]).text();
    assert_eq!(log.lines().count(), 400, "no line lost, none written twice");
    let counts = p
        .kubectl(&["get", "pod", "writer", "-o", "jsonpath={.status.containerStatuses[*].restartCount}"])
        .text();
    assert_eq!(counts, "0 0");
}

const UPGRADES: u32 = 4;

/// A new copy of the program takes the place of the old one while pods write and a command runs in one of them: by TERM, as
/// an upgrade does it, and by KILL.
#[test]
#[ignore = "e2e tier"]
fn a_replaced_agent_restarts_nothing_and_loses_no_line() {
    let mut p = Playground::start();
    let writers = ["w1", "w2", "w3"];
    for name in writers {
        p.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{restartPolicy: Never, containers: [\
             {{name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, '\
             i=0; while [ ! -e /tmp/enough ]; do echo $i; i=$((i+1)); done; echo end $i']}}]}}}}"
        ))
        .text();
    }
    p.kubectl(&["wait", "--for=condition=Ready", "pod/w1", "pod/w2", "pod/w3", "--timeout=60s"]).text();
    let containers = "jsonpath={.items[*].status.containerStatuses[0].containerID}";
    let before = p.kubectl(&["get", "pods", "-o", containers]).text();
    let session = p.exec_command(
        "w1",
        &["sh", "-c", "i=0; while [ ! -e /tmp/enough ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 9"],
    );
    let session = std::thread::spawn(move || run(&mut { session }));
    let program = p.dir.join("bin/orlop");
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    for upgrade in 0..UPGRADES {
        let old = inode(&program);
        if upgrade % 2 == 0 {
            p.stop_agent(1)
        } else {
            p.kill_agent(1)
        }
        // Puts a fresh copy of the program in the place of the old one.
        p.up();
        assert_ne!(inode(&program), old, "another file runs now");
    }
    for name in writers {
        // The container may end with it before the command itself has.
        drop(p.exec(name, &["touch", "/tmp/enough"]));
        p.wait_for(&["get", "pod", name, "-o", "jsonpath={.status.phase}"], |phase| phase == "Succeeded");
    }
    assert_eq!(p.kubectl(&["get", "pods", "-o", containers]).text(), before, "no container was started anew");
    let counts = "jsonpath={.items[*].status.containerStatuses[0].restartCount}";
    assert_eq!(p.kubectl(&["get", "pods", "-o", counts]).text(), "0 0 0");
    for name in writers {
        let lines = log_lines(&p, name);
        let count = lines.len() - 1;
        assert!(count > 10_000, "{name} wrote at speed: {count}");
        assert_eq!(lines[count], format!("end {count}"));
        let odd = lines[..count].iter().enumerate().find(|(number, line)| **line != number.to_string());
        assert_eq!(odd, None, "{name}: a line was lost or doubled");
    }
    // The command is the shim's: it does not notice.
    let said = session.join().unwrap();
    let numbers: Vec<String> = said.stdout.lines().map(str::to_owned).collect();
    assert!(!said.ok && numbers.len() > 10, "{said:?}");
    assert_eq!(numbers, (0..numbers.len()).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// All that a pod's container wrote, from its log files, put-aside ones too, oldest first.
/// A shim that stands still sees no end, and is killed before it could.
#[test]
#[ignore = "e2e tier"]
fn a_lost_shim_is_told_and_the_pod_goes_on() {
    let p = Playground::start();
    let script = "if [ -e /e/again ]; then sleep 1000; fi; touch /e/again; while [ ! -e /e/end ]; do sleep 0.02; done; \
                  echo words > /dev/termination-log; exit 42";
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: bereft}}, spec: {{terminationGracePeriodSeconds: 0, \
         volumes: [{{name: e, emptyDir: {{}}}}], containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', \
         command: [sh, -c, '{script}'], volumeMounts: [{{name: e, mountPath: /e}}]}}]}}}}"
    ))
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/bereft", "--timeout=60s"]).text();
    let uid = p.get(&["pod", "bereft"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let dir = p.dir.join("run/pods").join(uid);
    let pid = |file: std::path::PathBuf| {
        fs::read_to_string(file).unwrap().split(' ').next().unwrap().parse::<i32>().unwrap()
    };
    let shim = rustix::process::Pid::from_raw(pid(dir.join("pid"))).unwrap();
    let container = fs::read_dir(dir.join("c")).unwrap().next().unwrap().unwrap().path();
    let process = pid(container.join("pid"));
    rustix::process::kill_process(shim, rustix::process::Signal::STOP).unwrap();
    fs::write(format!("/proc/{process}/root/e/end"), "").unwrap();
    until("the container has ended", Duration::from_secs(10), || {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        if stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let last = "jsonpath={.status.containerStatuses[0].restartCount} \
                {.status.containerStatuses[0].lastState.terminated.exitCode} \
                {.status.containerStatuses[0].lastState.terminated.message}";
    p.wait_for(&["get", "pod", "bereft", "-o", last], |text| text.trim_end() == "1 42 words");
    p.kubectl(&["wait", "--for=condition=Ready", "pod/bereft", "--timeout=60s"]).text();
    p.wait_for(&["describe", "pod", "bereft"], |text| {
        text.contains("ShimLost")
            && text.contains("The shim of the pod is gone")
            && text.contains("SandboxChanged")
    });
}

fn log_lines(p: &Playground, pod: &str) -> Vec<String> {
    let uid = p.kubectl(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]).text();
    let dir = p.dir.join(format!("state/log/pods/default_{pod}_{uid}/c"));
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    // Rotated ones carry their time and sort before the one that is written to.
    files.sort_by_key(|path| (path.ends_with("0.log"), path.clone()));
    let mut lines = Vec::new();
    for file in files {
        let text = if file.extension().is_some_and(|extension| extension == "gz") {
            run(std::process::Command::new("gzip").arg("-dc").arg(&file)).text()
        } else {
            fs::read_to_string(&file).unwrap()
        };
        lines.extend(text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line).to_owned()));
    }
    lines
}
