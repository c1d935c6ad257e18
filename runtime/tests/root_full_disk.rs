//! A disk without room while containers start, write and end: the step is named, nothing half stays, and with room again
//! all goes on.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use common::{Node, chain};
use orlop_runtime::{ContainerState, RuntimeEvent};

/// A small file system in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(size: &str) -> Disk {
        let dir = tempfile::Builder::new().prefix("orlop-disk-").tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "small"]).arg(dir.path());
        assert!(mount.status().unwrap().success());
        Disk(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the room but this much.
    fn fill(&self, but: u64) {
        let mut file = File::create(self.filler()).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let size = file.metadata().unwrap().len();
        file.set_len(size - but).unwrap();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

async fn node_on(disk: &Disk) -> Node {
    let (shim, creator) = common::programs();
    Node::inside(disk.path(), &shim, &creator).await
}

/// From no room at all to room enough, a page more each time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_container_that_finds_no_room_says_where_and_leaves_nothing() {
    let disk = Disk::new("8m");
    let mut node = node_on(&disk).await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let mounts = node.mounts().len();
    let mut started = 0;
    for (round, pages) in (0..40).enumerate() {
        let spec = node.shell(&format!("c{round}"), "exit 7");
        disk.fill(pages * 4096);
        let outcome = node.runtime.start_container("u1", &spec).await;
        if let Err(error) = outcome {
            let text = chain(&error);
            assert!(text.contains("No space left on device"), "{pages} pages: {text}");
            assert!(
                text.contains("write ")
                    || text.contains("start the creator: ")
                    || text.contains("root file system"),
                "{text}"
            );
            assert_eq!(common::names(&node.pod_dir("u1").join("c")), Vec::<String>::new(), "{text}");
            assert_eq!(
                common::names(&node.dir.path().join("state/containers")),
                Vec::<String>::new(),
                "{text}"
            );
            assert_eq!(node.mounts().len(), mounts, "{text}");
        } else {
            started += 1;
        }
        disk.free();
        let container = node.runtime.start_container("u1", &spec).await.unwrap();
        let exit = node.exit(&container).await;
        assert_eq!(exit.code, 7, "{pages} pages");
        node.runtime.remove_container("u1", &container.id).await.unwrap();
    }
    assert!(started > 0, "with room enough it starts");
    node.finish(&["u1"]).await;
}

/// The end of a container is told when it is written down, which is when there is room.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn an_end_that_cannot_be_written_down_is_not_lost() {
    let disk = Disk::new("8m");
    let mut node = node_on(&disk).await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let spec = node.shell("c", "echo up; sleep 1; exit 23");
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    node.wait_for_log(&spec, "up").await;
    disk.fill(0);
    let early = tokio::time::timeout(Duration::from_millis(1800), node.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    disk.free();
    let told = tokio::time::timeout(Duration::from_secs(5), node.events.recv()).await.unwrap();
    assert!(matches!(&told, Some(RuntimeEvent::Exited { exit, .. }) if exit.code == 23), "{told:?}");
    node.reopen().await;
    let state = node.runtime.container("u1", &container.id).await.unwrap().state;
    assert!(matches!(&state, ContainerState::Exited(exit) if exit.code == 23), "{state:?}");
    node.finish(&["u1"]).await;
}

/// Lines may be lost, but what is in the log is whole lines, and their order is kept.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "root tier"]
async fn a_full_disk_tears_no_record_of_a_log() {
    let disk = Disk::new("1m");
    let mut node = Node::new().await;
    node.runtime.create_sandbox(&node.sandbox("u1")).await.unwrap();
    let script = "i=0; while [ $i -lt 30000 ]; do echo number-$i-end; i=$((i+1)); done; sleep 1; echo last";
    let mut spec = node.shell("c", script);
    spec.log_path = disk.path().join("log");
    // Odd sizes: the room ends in the middle of a record.
    disk.fill(100_001);
    let container = node.runtime.start_container("u1", &spec).await.unwrap();
    while disk.path().join("log").metadata().map_or(0, |meta| meta.len()) < 90_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    disk.free();
    assert_eq!(node.exit(&container).await.code, 0, "a full disk is no reason for a container to end");
    let mut log = String::new();
    File::open(&spec.log_path).unwrap().read_to_string(&mut log).unwrap();
    let mut last = None;
    for line in log.lines() {
        let parts: Vec<&str> = line.splitn(4, ' ').collect();
        let [stamp, "stdout", "F", text] = parts[..] else { panic!("a torn record: {line:?}") };
        assert!(stamp.len() == 30 && stamp.ends_with('Z'), "{line:?}");
        if text == "last" {
            continue;
        }
        let number = text.strip_prefix("number-").and_then(|text| text.strip_suffix("-end"));
        let number: u32 = number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        assert!(last < Some(number), "{line:?} after {last:?}");
        last = Some(number);
    }
    assert!(log.ends_with(" last\n"), "with room again all is kept");
    assert!(log.lines().count() < 30_001, "the disk was full for a while");
    node.runtime.remove_container("u1", &container.id).await.unwrap();
    node.finish(&["u1"]).await;
}
