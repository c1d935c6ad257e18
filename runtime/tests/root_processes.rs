//! Containers that see each other's processes: the pod's first process, and what it must not be able to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::{Node, chain, names};
use orlop_runtime::{Container, ContainerState, ExecRequest, RuntimeEvent, SandboxSpec};

fn first_pid(container: &Container) -> u32 {
    match container.state {
        ContainerState::Running { pid, .. } => pid,
        _ => panic!("{container:?}"),
    }
}

fn status(pid: &str, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `shareProcessNamespace`: containers see each other below a first process that reaps and has nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn containers_that_share_their_processes() {
    let mut node = Node::new().await;
    let sandbox = SandboxSpec { share_pid: true, ..node.sandbox("u1") };
    node.runtime.create_sandbox(&sandbox).await.unwrap();
    let web = node.shell("web", "echo $$; exec sleep 1000");
    let first = node.runtime.start_container("u1", &web).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.wait_for_log(&web, "\n").await;
    assert_ne!(node.log(&web).trim(), "1");
    let init = std::fs::read_to_string(node.pod_dir("u1").join("init")).unwrap();
    let init = init.split(' ').next().unwrap().to_owned();

    // An orphan is reaped: after its end nobody of that name is there, not even as a zombie.
    let script =
        "(sleep 0.2 &) ; sleep 0.5; ps; cat /proc/1/comm; ls /proc/1/root/ 2>&1; kill -9 1; ls -d /proc/1";
    let (exit, seen) = {
        let look = node.shell("look", script);
        let container = node.runtime.start_container("u1", &look).await.unwrap();
        (node.exit(&container).await, node.log(&look))
    };
    assert_eq!(exit.code, 0);
    assert!(seen.contains("sleep 1000") && seen.contains("1 65535"), "{seen}");
    assert!(!seen.lines().any(|line| line.ends_with(" sleep 0.2") || line.contains("[sleep]")), "{seen}");
    assert!(seen.contains("\norlop-init\nls: /proc/1/root/: Permission denied\n/proc/1\n"), "{seen}");
    for (field, expected) in [
        ("Uid", "65535 65535 65535 65535"),
        ("Gid", "65535 65535 65535 65535"),
        ("Groups", ""),
        ("CapBnd", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(status(&init, field), expected, "{field}");
    }
    assert_eq!(names(Path::new(&format!("/proc/{init}/root"))), Vec::<String>::new());
    let same = |name: &str| {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        of(&init) == of(&first_pid(&first).to_string())
    };
    assert!(["pid", "net", "ipc", "uts"].into_iter().all(same));

    // A command in one container sees the other's processes too; one that targets a container shares only with that.
    let command = ExecRequest {
        command: ["sh", "-c", "ps | grep -c 'sleep 1000$'"].map(str::to_owned).to_vec(),
        env: vec![],
        timeout: None,
        max_output: 1000,
    };
    let seen = node.runtime.exec("u1", &first.id, command).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.output).trim(), "1");

    // Its end is the end of all.
    let container = node.runtime.start_container("u1", &node.shell("b", "exec sleep 1000")).await.unwrap();
    drop(std::process::Command::new("kill").args(["-9", &init]).status());
    assert_eq!(node.exit(&container).await.code, 137);
    loop {
        if let RuntimeEvent::ShimLost { uid } = node.events.recv().await.unwrap() {
            assert_eq!(uid, "u1");
            break;
        }
    }
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_container_that_sees_the_processes_of_another() {
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let web = node.runtime.start_container("u1", &node.shell("web", "exec sleep 1000")).await.unwrap();
    let mut debug = node.shell("debug", "ps; kill -9 1; kill -15 1; ls -d /proc/1");
    debug.process_target = Some(web.id.clone());
    let container =
        node.runtime.start_container("u1", &debug).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    node.exit(&container).await;
    assert!(node.log(&debug).contains("1 root     sleep 1000"), "{}", node.log(&debug));
    let mut lost = node.shell("lost", "true");
    lost.process_target = Some(container.id);
    let error = node.runtime.start_container("u1", &lost).await.unwrap_err();
    assert!(chain(&error).contains("is not running"), "{error}");
    node.finish(&["u1"]).await;
}
