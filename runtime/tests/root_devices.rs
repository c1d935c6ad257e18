//! Devices of the host in containers: what was given can be used for what it was given, and nothing else of the host.

mod common;

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
};

use common::{Node, chain};
use orlop_runtime::{ContainerSpec, ContainerState, Device, SandboxSpec};

/// A node of the FUSE driver (10:229) that everybody may open, as far as its mode goes.
fn fuse(node: &Node) -> PathBuf {
    let path = node.dir.path().join("fuse");
    let made = Command::new("mknod").args(["-m", "0666"]).arg(&path).args(["c", "10", "229"]).status();
    assert!(made.expect("mknod").success());
    path
}

/// Which of reading, writing and both goes, of each device that is there.
fn script(paths: &str) -> String {
    format!(
        "exec 2>/dev/null; for at in {paths}; do [ -c $at ] || continue; (exec 3<$at) && echo $at r; (exec 3>$at) && echo $at w; \
         (exec 3<>$at) && echo $at rw; done; echo up; exec sleep 1000"
    )
}

fn device(host_path: &Path, container_path: &str, permissions: &str) -> Device {
    Device {
        host_path: host_path.to_owned(),
        container_path: container_path.into(),
        permissions: permissions.into(),
    }
}

/// What the container could do, and its process.
async fn look(node: &Node, users: bool, spec: &ContainerSpec) -> (String, u32) {
    let sandbox = SandboxSpec { user_namespace: users, ..node.sandbox("u1") };
    node.runtime.create_sandbox(&sandbox).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let started = node.runtime.start_container("u1", spec).await;
    let ContainerState::Running { pid, .. } = started.unwrap_or_else(|e| panic!("{}", chain(&e))).state
    else {
        panic!("it runs")
    };
    node.wait_for_log(spec, "up\n").await;
    (node.log(spec), pid)
}

async fn given_ones_are_used(users: bool) {
    let node = Node::new().await;
    let fuse = fuse(&node);
    // Making a node is allowed where it is one's own namespace, opening it is not without the device.
    let mut spec = node.shell("a", &script("/dev/given /dev/other"));
    spec.devices = vec![device(&fuse, "/dev/given", "rw")];
    let (log, pid) = look(&node, users, &spec).await;
    assert_eq!(log, "/dev/given r\n/dev/given w\n/dev/given rw\nup\n");
    // The host's own look.
    let meta = std::fs::metadata(format!("/proc/{pid}/root/dev/given")).expect("it is there");
    assert!(meta.file_type().is_char_device());
    assert_eq!((meta.rdev(), meta.mode() & 0o777), (rustix::fs::makedev(10, 229), 0o666));
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_given_device_is_used() {
    given_ones_are_used(false).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_given_device_is_used_by_users_of_ones_own() {
    given_ones_are_used(true).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn without_it_the_same_node_is_refused() {
    let node = Node::new().await;
    let fuse = fuse(&node);
    let open = script("/dev/made /made /read");
    let spec = node
        .shell("a", &format!("mknod /dev/made c 10 229; mknod /made c 10 229; ls /made /dev/made; {open}"));
    assert_eq!(look(&node, false, &spec).await.0, "/dev/made\n/made\nup\n");
    // Only what it was given for; outside of /dev it is the host's node.
    let mut spec = node.shell("b", &format!("mknod /made c 10 229; {open}"));
    spec.devices = vec![device(&fuse, "/read", "r")];
    assert_eq!(look(&node, false, &spec).await.0, "/made r\n/read r\nup\n");
    node.finish(&["u1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn what_is_no_device_is_an_error() {
    let node = Node::new().await;
    let fuse = fuse(&node);
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let file = PathBuf::from("/etc/passwd");
    let missing = node.dir.path().join("missing");
    for (device, why) in [
        (device(&file, "/dev/x", "rw"), "no device, and no directory with devices"),
        (device(&missing, "/dev/x", "rw"), "No such file or directory (os error 2)"),
        (device(&fuse, "/dev/x", "rx"), "permissions \"rx\" are not of r, w and m"),
    ] {
        let mut spec = node.shell("a", "true");
        let path = device.host_path.display().to_string();
        spec.devices = vec![device];
        let refused = node.runtime.start_container("u1", &spec).await.unwrap_err();
        assert_eq!(chain(&refused), format!("device {path}: {why}"));
    }
    node.finish(&["u1"]).await;
}

#[test]
#[ignore = "root tier"]
fn the_same_with_cgroup2_only() {
    common::on_cgroup2_only(&["a_given_device_is_used", "without_it_the_same_node_is_refused"]);
}
