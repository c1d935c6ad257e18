//! Limits of what runs are changed, seen from the host, from inside, and by the next process that opens the runtime.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use common::Node;
use orlop_runtime::{Container, ContainerState, Resources, cgroup::Hierarchies};

const MIB: i64 = 1 << 20;

/// A file of a cgroup, v1's or v2's.
fn read(path: &str, v1: (&str, &str), v2: &str) -> String {
    let hierarchies = Hierarchies::discover().unwrap();
    let file = match hierarchies.controller(v1.0) {
        Some(root) => root.join(path).join(v1.1),
        None => hierarchies.unified.unwrap().join(path).join(v2),
    };
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().to_owned()
}

fn memory(path: &str) -> String {
    read(path, ("memory", "memory.limit_in_bytes"), "memory.max")
}

fn limits(cpu_quota_us: i64, memory: i64) -> Resources {
    Resources {
        cpu_shares: Some(u64::try_from(cpu_quota_us / 100).unwrap()),
        cpu_quota_us: Some(cpu_quota_us),
        cpu_period_us: Some(100_000),
        memory_limit: Some(memory),
        ..Resources::default()
    }
}

async fn started(node: &Node, script: &str, pod: Resources, container: Resources) -> (Container, String) {
    let mut sandbox = node.sandbox("u1");
    sandbox.resources = pod;
    node.runtime.create_sandbox(&sandbox).await.unwrap();
    let mut spec = node.shell("a", script);
    spec.resources = container;
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "ready").await;
    (container, sandbox.cgroup)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_running_container_grows_and_shrinks_with_its_pod() {
    let mut node = Node::new().await;
    let script = "echo ready; sleep 60";
    let (container, pod) = started(&node, script, limits(50_000, 32 * MIB), limits(50_000, 32 * MIB)).await;
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    let own = format!("{pod}/{}", container.id);
    let runtime = &node.runtime;

    // More than the pod has is the kernel's business to refuse; the pod grows first.
    runtime.update_pod("u1", &limits(100_000, 64 * MIB)).await.unwrap();
    runtime.update_container("u1", &container.id, &limits(100_000, 64 * MIB), [].into()).await.unwrap();
    assert_eq!((memory(&pod), memory(&own)), ((64 * MIB).to_string(), (64 * MIB).to_string()));
    let found = runtime.container_limits("u1", &container.id).await.unwrap();
    assert_eq!(
        (found.cpu_shares, found.cpu_quota_us, found.memory_limit),
        (Some(1000), Some(100_000), Some(64 * MIB))
    );
    let request = |script: &str| orlop_runtime::ExecRequest {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: Vec::new(),
        timeout: None,
        max_output: 1000,
    };
    let inside = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
    let seen = runtime.exec("u1", &container.id, request(inside)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.output).trim(), (64 * MIB).to_string());

    runtime.update_container("u1", &container.id, &limits(20_000, 16 * MIB), [].into()).await.unwrap();
    runtime.update_pod("u1", &limits(20_000, 16 * MIB)).await.unwrap();
    assert_eq!((memory(&pod), memory(&own)), ((16 * MIB).to_string(), (16 * MIB).to_string()));
    let quota = |path: &str| read(path, ("cpu", "cpu.cfs_quota_us"), "cpu.max");
    assert!(quota(&pod).starts_with("20000") && quota(&own).starts_with("20000"), "{}", quota(&own));

    // Alone and with another period: the pod's quota stays above it at every step.
    let slower = Resources { cpu_quota_us: Some(2_000), cpu_period_us: Some(10_000), ..Resources::default() };
    runtime.update_container("u1", &container.id, &slower, [].into()).await.unwrap();
    let found = runtime.container_limits("u1", &container.id).await.unwrap();
    assert_eq!((found.cpu_quota_us, found.cpu_period_us), (Some(2_000), Some(10_000)));
    assert_eq!(found.memory_limit, Some(16 * MIB), "what is not said stays");

    // No trace of the change is in memory only: a new process neither takes it back nor forgets what it was told.
    runtime.label_sandbox("u1", [("allocated".to_owned(), "x".to_owned())].into()).await.unwrap();
    node.reopen().await;
    let again = node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    assert_eq!(again.labels.get("allocated").map(String::as_str), Some("x"));
    assert_eq!(memory(&pod), (16 * MIB).to_string());
    let still = node.runtime.container("u1", &container.id).await.unwrap();
    assert!(matches!(still.state, ContainerState::Running { pid: same, .. } if same == pid), "{still:?}");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn what_the_kernel_refuses_is_told_and_changes_no_record() {
    let node = Node::new().await;
    let script = "dd if=/dev/zero of=/dev/shm/x bs=1M count=24; echo ready; sleep 60";
    let (container, _) = started(&node, script, limits(50_000, 64 * MIB), limits(50_000, 64 * MIB)).await;
    if !Hierarchies::discover().unwrap().is_v2() {
        // What cannot be reclaimed is not taken away: v1 says busy, v2 would kill (the caller looks first).
        let small = Resources { memory_limit: Some(8 * MIB), ..Resources::default() };
        let error = node.runtime.update_container("u1", &container.id, &small, [].into()).await.unwrap_err();
        assert!(common::chain(&error).contains("memory.limit_in_bytes"), "{}", common::chain(&error));
    }
    let found = node.runtime.container_limits("u1", &container.id).await.unwrap();
    assert_eq!(found.memory_limit, Some(64 * MIB));
    let unknown =
        node.runtime.update_container("u1", "nope", &Resources::default(), [].into()).await.unwrap_err();
    assert_eq!(unknown.to_string(), "nope is not known");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_container_is_kept_to_its_processors() {
    let node = Node::new().await;
    let zero = Resources { cpuset_cpus: Some("0".into()), ..Resources::default() };
    let script = "grep Cpus_allowed_list /proc/self/status; echo ready; sleep 60";
    let (container, pod) = started(&node, script, Resources::default(), zero).await;
    let own = format!("{pod}/{}", container.id);
    let list = || read(&own, ("cpuset", "cpuset.cpus"), "cpuset.cpus");
    assert_eq!(list(), "0");
    let ContainerState::Running { pid, .. } = container.state else { panic!("{container:?}") };
    let allowed = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
    };
    assert_eq!(allowed(), "0");
    let one = Resources { cpuset_cpus: Some("1".into()), ..Resources::default() };
    node.runtime.update_container("u1", &container.id, &one, [].into()).await.unwrap();
    assert_eq!((list().as_str(), allowed().as_str()), ("1", "1"));
    node.finish(&["u1"]).await;
}
