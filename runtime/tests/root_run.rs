//! What a container gets, as the kernel and the log file tell it.

mod common;

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use common::{Node, chain};
use orlop_runtime::{ContainerState, Mount, Propagation, Resources, Seccomp, StartError, User};

fn field(status: &str, name: &str) -> String {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim().to_owned());
    status.lines().find_map(value).unwrap_or_else(|| panic!("{name} in {status}"))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn output_goes_to_the_cri_log_and_the_code_is_kept() {
    let mut node = Node::new().await;
    let spec = node.shell("web", "echo out; echo err >&2; exit 17");
    let (exit, log) = node.run("u1", &spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (17, None, false));
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    let raw = fs::read_to_string(&spec.log_path).unwrap();
    assert!(raw.lines().any(|line| line.contains("Z stderr F err")), "{raw}");
    let pod = node.runtime.pods().await.pop().unwrap();
    assert!(pod.shim_alive && pod.netns.is_some());
    assert_eq!(pod.containers.len(), 1);
    assert_eq!(pod.containers[0].labels["app"], "web");
    assert!(matches!(&pod.containers[0].state, ContainerState::Exited(e) if *e == exit));
    let removed = node.runtime.remove_container("u1", &pod.containers[0].id).await;
    removed.unwrap_or_else(|e| panic!("{}", chain(&e)));
    assert_eq!(node.runtime.pods().await[0].containers, []);
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn default_capabilities_filter_and_signals() {
    let mut node = Node::new().await;
    let (_, status) = node.run("u1", &node.container("a", &["cat", "/proc/self/status"])).await;
    for (name, expected) in [
        ("CapEff", "00000000a80425fb"),
        ("CapPrm", "00000000a80425fb"),
        ("CapBnd", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("Seccomp", "2"),
        ("NoNewPrivs", "0"),
        ("SigIgn", "0000000000000000"),
        ("SigBlk", "0000000000000000"),
    ] {
        assert_eq!(field(&status, name), expected, "{name}");
    }
    let mut spec = node.container("b", &["cat", "/proc/self/status"]);
    spec.user = User { uid: 33, gid: 34, additional_gids: vec![7] }.into();
    spec.no_new_privileges = true;
    spec.drop_capabilities = vec!["ALL".into()];
    spec.add_capabilities = vec!["NET_BIND_SERVICE".into()];
    let (_, status) = node.run("u1", &spec).await;
    for (name, expected) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000400"),
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("Uid", "33\t33\t33\t33"),
        ("Groups", "7 34 50"),
    ] {
        assert_eq!(field(&status, name), expected, "{name}");
    }
    let mut spec = node.shell("c", "cat /proc/self/status; ls /dev | wc -l; ls -d /sys/firmware/*");
    (spec.privileged, spec.seccomp) = (true, Seccomp::RuntimeDefault);
    let (_, status) = node.run("u1", &spec).await;
    let mine = fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(field(&status, "CapEff"), field(&mine, "CapPrm"));
    assert_eq!(field(&status, "Seccomp"), "0");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn the_filter_decides() {
    let mut node = Node::new().await;
    let script = "unshare -U true; echo unshare $?";
    let (_, log) = node.run("u1", &node.shell("default", script)).await;
    assert!(log.contains("not permitted") && log.contains("unshare 1"), "{log}");
    let mut spec = node.shell("unconfined", script);
    spec.seccomp = Seccomp::Unconfined;
    let (_, log) = node.run("u1", &spec).await;
    assert_eq!(log, "unshare 0\n");
    let profile = node.dir.path().join("profile.json");
    fs::write(
        &profile,
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#,
    )
    .unwrap();
    let mut spec = node.shell("local", "chmod 700 /tmp; echo $?");
    spec.seccomp = Seccomp::Localhost(profile);
    let (_, log) = node.run("u1", &spec).await;
    assert!(log.contains("Permission denied") && log.contains("1\n"), "{log}");
    let mut spec = node.shell("missing", "true");
    spec.seccomp = Seccomp::Localhost("/nope.json".into());
    let error = node.runtime.start_container("u1", &spec).await.unwrap_err();
    assert!(error.before_create() && chain(&error).contains("/nope.json"), "{}", chain(&error));
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn limits_are_in_the_cgroup_files_and_memory_kills() {
    let mut node = Node::new().await;
    let mut sandbox = node.sandbox("u1");
    sandbox.resources =
        Resources { memory_limit: Some(64 << 20), pids_limit: Some(100), ..Resources::default() };
    node.runtime.create_sandbox(&sandbox).await.unwrap();
    let mut spec = node.shell("a", "echo ready; sleep 60");
    spec.resources = Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        memory_limit: Some(16 << 20),
        pids_limit: Some(16),
        oom_score_adj: Some(500),
        ..Resources::default()
    };
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "ready").await;
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    let oom = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(oom.trim(), "500");
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let hierarchies = orlop_runtime::cgroup::Hierarchies::discover().unwrap();
    let read = |pod: bool, v1: (&str, &str), v2: &str| {
        let path = if pod { sandbox.cgroup.clone() } else { format!("{}/{}", sandbox.cgroup, container.id) };
        let file = match hierarchies.controller(v1.0) {
            Some(root) => root.join(path).join(v1.1),
            None => hierarchies.unified.clone().unwrap().join(path).join(v2),
        };
        fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
    };
    assert_eq!(read(false, ("memory", "memory.limit_in_bytes"), "memory.max"), (16 << 20).to_string());
    assert_eq!(read(true, ("memory", "memory.limit_in_bytes"), "memory.max"), (64 << 20).to_string());
    assert_eq!(read(false, ("pids", "pids.max"), "pids.max"), "16");
    assert_eq!(read(true, ("pids", "pids.max"), "pids.max"), "100");
    if hierarchies.is_v2() {
        assert_eq!(read(false, ("cpu", ""), "cpu.max"), "50000 100000");
    } else {
        assert_eq!(read(false, ("cpu", "cpu.cfs_quota_us"), ""), "50000");
        assert_eq!(read(false, ("cpu", "cpu.shares"), ""), "512");
        assert_eq!(read(false, ("memory", "memory.memsw.limit_in_bytes"), ""), (16 << 20).to_string());
    }
    // Every hierarchy has it, cgroup2 too: programs attached there must see it.
    let id = &container.id;
    for line in membership.lines().filter(|line| !line.contains("name=")) {
        assert!(line.ends_with(&format!("{}/{id}", sandbox.cgroup)), "{line}");
    }
    let stats = node.runtime.container_stats("u1", id).await.unwrap();
    assert!(stats.memory_usage > 0 && stats.memory_usage < 16 << 20, "{stats:?}");
    let told = hierarchies.unified.as_ref().is_some_and(|root| root.join("cpu.pressure").exists());
    assert_eq!(stats.pressure.cpu.is_some(), told, "{stats:?}");
    let mut hog = node.shell("hog", "tail /dev/zero");
    hog.resources = Resources { memory_limit: Some(8 << 20), ..Resources::default() };
    let (exit, _) = node.run("u1", &hog).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn programs_that_cannot_run_are_clear_errors_and_leave_nothing() {
    let node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    for (program, expected) in [
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/bin/nope", "exec: \"/bin/nope\": stat /bin/nope: no such file or directory"),
        ("/bin/plain", "exec: \"/bin/plain\": permission denied"),
        ("/bin/garbage", "exec: \"/bin/garbage\": exec format error"),
        ("/etc", "exec: \"/etc\": is a directory"),
    ] {
        let error = node.runtime.start_container("u1", &node.container("a", &[program])).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        let kind = matches!(error, StartError::NotFound(_)) == program.ends_with("nope");
        assert!(kind && !error.before_create(), "{error:?}");
        let (StartError::NotFound(not_run) | StartError::NotExecutable(not_run) | StartError::Start(not_run)) =
            error
        else {
            panic!("{error:?}")
        };
        assert_eq!(not_run.user, Some(User { uid: 0, gid: 0, additional_gids: vec![0] }));
    }
    let mut spec = node.shell("volume", "true");
    spec.mounts = vec![mount("/nowhere", "/data", true)];
    let error = node.runtime.start_container("u1", &spec).await.unwrap_err();
    assert!(chain(&error).contains("/nowhere"), "{}", chain(&error));
    assert_eq!(node.runtime.pods().await[0].containers, []);
    assert_eq!(common::names(&node.pod_dir("u1").join("c")), Vec::<String>::new());
    node.finish(&["u1"]).await;
}

fn mount(source: &str, destination: &str, read_only: bool) -> Mount {
    Mount {
        source: PathBuf::from(source),
        destination: PathBuf::from(destination),
        read_only,
        recursive_read_only: false,
        propagation: Propagation::Private,
        keep_owners: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn the_inside_of_a_container() {
    let mut node = Node::new().await;
    let volume = node.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "from the host").unwrap();
    let mut spec = node.shell(
        "a",
        "hostname; pwd; echo $A-$B-$HOME; cat /data/file; echo; touch /data/x; touch /file 2>&1; \
         cat /one; cat /proc/keys /proc/timer_list | wc -c; echo x 2>&1 > /proc/sys/kernel/hostname; \
         echo shared > /dev/shm/s; grep -c . /proc/self/mountinfo > /dev/null; \
         ip link | grep -c UP; ls /sys/fs/cgroup/memory/cgroup.procs 2>/dev/null | wc -l; echo $$; ls -1 /proc | grep -c '^[0-9]'",
    );
    spec.working_dir = Some("/made/for/me".into());
    spec.env = vec![("A".into(), "a".into()), ("B".into(), "b c".into())];
    spec.read_only_rootfs = true;
    let text = volume.to_str().unwrap();
    spec.mounts = vec![mount(text, "/data", false), mount(&format!("{text}/file"), "/one", true)];
    let (exit, log) = node.run("u1", &spec).await;
    assert_eq!(exit.code, 0, "{log}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(&lines[..4], ["pod-name", "/made/for/me", "a-b c-/root", "from the host"], "{log}");
    assert!(log.contains("/file: Read-only file system"), "{log}");
    assert!(log.contains("/proc/sys/kernel/hostname: Read-only file system"), "{log}");
    assert!(volume.join("x").exists());
    let (_, log) = node.run("u1", &node.shell("b", "cat /dev/shm/s; ls -d /proc/1; echo $$")).await;
    assert_eq!(log, "shared\n/proc/1\n1\n", "shared memory is the pod's, processes are the container's");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn namespaces_are_the_pods_and_pinned() {
    let mut node = Node::new().await;
    let script =
        "stat -L -c %i /proc/self/ns/net /proc/self/ns/ipc /proc/self/ns/uts; ip -o link | grep -c 'lo:.*UP'";
    let (_, first) = node.run("u1", &node.shell("a", script)).await;
    let (_, second) = node.run("u1", &node.shell("b", script)).await;
    assert_eq!(first, second);
    let netns = node.runtime.pod("u1").await.unwrap().netns.unwrap();
    let inode = fs::metadata(netns).unwrap().ino().to_string();
    assert_eq!(first.lines().next().unwrap(), inode);
    assert_ne!(inode, fs::metadata("/proc/self/ns/net").unwrap().ino().to_string());
    assert!(first.ends_with("\n1\n"), "lo is up: {first}");
    let mut tuned = node.sandbox("u3");
    tuned.sysctls = [("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned())].into();
    node.runtime.create_sandbox(&tuned).await.unwrap();
    let script_of_sysctl = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let (_, log) = node.run("u3", &node.shell("d", script_of_sysctl)).await;
    assert_eq!(log, "7\n");
    tuned.pod.uid = "u4".into();
    tuned.sysctls = [("kernel.panic".to_owned(), "7".to_owned())].into();
    let error = node.runtime.create_sandbox(&tuned).await.unwrap_err();
    assert_eq!(error.to_string(), "sysctl \"kernel.panic\" is not the pod's own");
    let mut host = node.sandbox("u2");
    (host.host_network, host.host_ipc) = (true, true);
    let made = node.runtime.create_sandbox(&host).await.unwrap();
    assert_eq!(made.netns, None);
    let (_, log) = node.run("u2", &node.shell("c", script)).await;
    let here = fs::metadata("/proc/self/ns/net").unwrap().ino().to_string();
    assert_eq!(log.lines().next().unwrap(), here);
    node.finish(&["u1", "u2", "u3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn devices_of_the_host_stay_out_of_reach() {
    let mut node = Node::new().await;
    // A disk's number: making the node is allowed, opening it is not.
    let script = "mknod /tmp/disk b 259 0; mknod /dev/disk b 259 0; head -c 1 /tmp/disk; head -c 1 /dev/disk; \
                  echo x > /dev/null && head -c 1 /dev/zero | wc -c";
    let (_, log) = node.run("u1", &node.shell("a", script)).await;
    assert_eq!(log.matches("Operation not permitted").count(), 2, "{log}");
    assert!(log.lines().any(|line| line == "1"), "{log}");
    // The program on cgroup2 alone says the same: open v1's controller wide and try again.
    let spec = node.shell(
        "b",
        "mknod /tmp/disk b 259 0; echo up; while [ ! -e /tmp/go ]; do sleep 0.02; done; head -c 1 /tmp/disk; echo x > /dev/null && echo null",
    );
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "up").await;
    let hierarchies = orlop_runtime::cgroup::Hierarchies::discover().unwrap();
    if let Some(devices) = hierarchies.controller("devices") {
        let dir = devices.join(node.sandbox("u1").cgroup).join(&container.id);
        fs::write(dir.join("devices.allow"), "a").unwrap();
    }
    let go = node.pod_dir("u1").join("c").join(&container.id).join("rootfs/tmp/go");
    fs::write(go, "").unwrap();
    node.exit(&container).await;
    let log = node.log(&spec);
    assert!(log.contains("Operation not permitted") && log.contains("null"), "{log}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn long_lines_and_many_lines_survive() {
    let mut node = Node::new().await;
    let spec = node.shell("a", "head -c 40000 /dev/zero | tr '\\0' x; echo; seq 1 20000; echo -n end");
    let (_, log) = node.run("u1", &spec).await;
    let raw = fs::read_to_string(&spec.log_path).unwrap();
    assert_eq!(raw.lines().filter(|line| line.contains(" stdout P ")).count(), 3);
    let mut lines = log.lines();
    assert_eq!(lines.next().map(str::len), Some(40_000));
    for expected in 1..=20_000 {
        assert_eq!(lines.next(), Some(expected.to_string().as_str()));
    }
    assert_eq!((lines.next(), lines.next()), (Some("end"), None));
    node.finish(&["u1"]).await;
}

#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup2_only() {
    common::on_cgroup2_only(&[
        "output_goes_to_the_cri_log_and_the_code_is_kept",
        "default_capabilities_filter_and_signals",
        "devices_of_the_host_stay_out_of_reach",
        "programs_that_cannot_run_are_clear_errors_and_leave_nothing",
    ]);
}
