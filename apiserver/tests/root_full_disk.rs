//! A store on a disk that is full: writes are refused in plain words, reads go on, and once there is room again
//! everything acknowledged is there and writing works.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orlop_apiserver::ApiServer;
use serde_json::json;
use support::{Server, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A file system of a few megabytes; unmounted when the test ends, however it does.
struct Small {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Small {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("small");
        std::fs::create_dir(&path).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, Some(c"size=4m")).unwrap();
        Self { path, _dir: dir }
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.path.join("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.path.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        assert!(unmounted.is_ok() || std::thread::panicking(), "{unmounted:?}");
    }
}

async fn create(server: &Server, name: &str) -> (u16, String) {
    let map = json!({"metadata": {"name": name}, "data": {"k": "x".repeat(20_000)}});
    let (code, answer) = server.ask("POST", MAPS, &[], map.to_string(), admin()).await;
    (code, answer["message"].as_str().unwrap_or_default().to_owned())
}

async fn names(server: &Server) -> Vec<String> {
    let list = server.get(MAPS).await;
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

async fn open(data: &Path) -> ApiServer {
    ApiServer::open(support::config(data)).await.unwrap()
}

#[tokio::test]
#[ignore = "root tier"]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let small = Small::mount();
    let data = small.path.join("data");
    let server = Server { api: open(&data).await, dir };
    assert_eq!(create(&server, "before").await.0, 201);

    small.fill();
    for name in ["lost-1", "lost-2"] {
        let (code, message) = create(&server, name).await;
        assert_eq!(code, 507, "{message}");
        assert!(message.contains("the disk of the API server is full"), "{message}");
        assert!(message.ends_with("No space left on device (os error 28)"), "{message}");
    }
    assert_eq!(names(&server).await, ["before"]);

    small.free();
    // After a failure the disk is left alone for a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(create(&server, "after").await.0, 201);
    assert_eq!(names(&server).await, ["after", "before"]);

    let stop = tokio_util::sync::CancellationToken::new();
    stop.cancel();
    server.api.serve(stop).await.unwrap();
    let Server { api, dir } = server;
    drop(api);
    let server = Server { api: open(&data).await, dir };
    assert_eq!(names(&server).await, ["after", "before"]);
}
