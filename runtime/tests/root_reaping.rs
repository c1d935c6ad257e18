//! A lost shim's containers are reaped late, or never. Alone in its process: it becomes the one who reaps.

mod common;

use std::{fs, time::Duration};

use common::{Node, until};
use orlop_runtime::ContainerState;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

fn recorded(file: &std::path::Path) -> Pid {
    let text = fs::read_to_string(file).expect("a pid file");
    text.split(' ').next().and_then(|pid| Pid::from_raw(pid.parse().ok()?)).expect("a pid")
}

/// Init may take seconds, or not reap at all. Several bury a pod at once when its worker wants it gone just then.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn ends_of_a_lost_shim_do_not_wait_for_who_reaps() {
    let node = Node::new().await;
    set_child_subreaper(Some(Pid::INIT)).unwrap();
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("exits", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 42");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    let shim = recorded(&node.pod_dir("u1").join("pid"));
    let process = recorded(&node.pod_dir("u1").join("c").join(&container.id).join("pid"));
    kill_process(shim, Signal::STOP).unwrap();
    let stat = format!("/proc/{}/stat", process.as_raw_nonzero());
    fs::write(format!("/proc/{}/root/tmp/go", process.as_raw_nonzero()), "").unwrap();
    until("it has ended, and nobody has reaped it", async || {
        fs::read_to_string(&stat).unwrap().contains(") Z ")
    })
    .await;
    kill_process(shim, Signal::KILL).unwrap();
    let runtime = &node.runtime;
    let askers = (0..20).map(|n| async move {
        tokio::time::sleep(Duration::from_millis(n)).await;
        runtime.stop_sandbox("u1").await;
    });
    futures::future::join_all(askers).await;
    // Who stops a sandbox is told by its state, not by events.
    let pod = node.runtime.pods().await.pop().unwrap();
    let ContainerState::Exited(exit) = &pod.containers[0].state else { panic!("{pod:?}") };
    assert_eq!(exit.code, 42);
    let reaped = waitpid(Some(process), WaitOptions::NOHANG).unwrap();
    assert!(reaped.is_some(), "nobody had reaped it all the while");
    set_child_subreaper(None).unwrap();
    waitpid(Some(shim), WaitOptions::NOHANG).unwrap();
    node.finish(&["u1"]).await;
}
