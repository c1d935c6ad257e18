//! `orlop cri` with directories, a network namespace and cgroups of its own, and an image.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it; a test may panic"
)]

use std::{
    collections::HashMap,
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use orlop_cri_api::v1::{DnsConfig, PodSandboxConfig, PodSandboxMetadata};
use sha2::{Digest as _, Sha256};

use crate::client::{self, Http, IMAGE};

/// A server with directories, namespace and cgroup of its own; nothing of it is left.
pub struct Node {
    pub dir: tempfile::TempDir,
    pub name: String,
    server: Child,
}

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Beside the shim, or beside this test.
fn program() -> PathBuf {
    let beside = std::env::var_os("ORLOP_TEST_SHIM").map(PathBuf::from);
    let ours = std::env::current_exe().unwrap();
    let dir = beside.as_deref().and_then(Path::parent).unwrap_or_else(|| ours.ancestors().nth(2).unwrap());
    dir.join("orlop")
}

impl Node {
    pub fn new() -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orlcri{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("orlop-cri-").tempdir().unwrap();
        run("ip", &["netns", "add", &name]);
        run("nsenter", &[&format!("--net=/run/netns/{name}"), "ip", "link", "set", "lo", "up"]);
        image(dir.path(), &["load", &layout(dir.path()).to_string_lossy()]);
        let server = start(dir.path(), &name);
        Node { dir, name, server }
    }

    /// `orlop image`
    pub fn image(&self, args: &[&str]) {
        image(self.dir.path(), args);
    }

    pub fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.kill();
        self.server = start(self.dir.path(), &self.name);
    }

    pub async fn connect(&self) -> Http {
        let Some(http) = client::connect(&self.dir.path().join("run/cri.sock")).await else {
            panic!("no CRI socket: {}", fs::read_to_string(self.dir.path().join("log")).unwrap());
        };
        http
    }

    pub async fn client(&self) -> client::Runtime {
        client::runtime(self.connect().await)
    }

    pub async fn images(&self) -> client::Images {
        client::images(self.connect().await)
    }

    /// To the server's loopback address, which is another than ours.
    pub fn dial(&self, url: &str) -> TcpStream {
        client::dial(&self.name, url)
    }

    pub fn pod(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "p".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 3,
            }),
            log_directory: self.dir.path().join("logs").to_string_lossy().into_owned(),
            annotations: HashMap::from([("note".to_owned(), "kept".to_owned())]),
            dns_config: Some(DnsConfig { servers: vec!["10.9.8.7".into()], ..DnsConfig::default() }),
            ..PodSandboxConfig::default()
        }
    }
}

fn image(dir: &Path, args: &[&str]) {
    let state = format!("--state-dir={}", dir.join("state").display());
    let out = Command::new(program()).arg("image").args(args).arg(state).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

fn start(dir: &Path, name: &str) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    Command::new("nsenter")
        .arg(format!("--net=/run/netns/{name}"))
        .arg(program())
        .arg("cri")
        .arg(format!("--state-dir={}", dir.join("state").display()))
        .arg(format!("--run-dir={}", dir.join("run").display()))
        .arg(format!("--cgroup-root={name}"))
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Node {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        let reset = ["reset", "--yes", "--cgroup-root", &self.name];
        Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg(program())
            .args(reset)
            .arg(format!("--state-dir={}", self.dir.path().join("state").display()))
            .arg(format!("--run-dir={}", self.dir.path().join("run").display()))
            .output()
            .ok();
        Command::new("ip").args(["netns", "del", &self.name]).output().ok();
    }
}

/// An OCI layout with busybox in it.
fn layout(dir: &Path) -> PathBuf {
    let (root, layout) = (dir.join("rootfs"), dir.join("layout"));
    for sub in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in ["sh", "cat", "sleep", "id", "echo", "nc", "hostname"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n").unwrap();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        serde_json::json!({"digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let with = |mut descriptor: serde_json::Value, kind: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        descriptor
    };
    let tar = Command::new("tar").args(["-C", root.to_str().unwrap(), "-cf", "-", "."]).output().unwrap();
    let layer = with(put(&tar.stdout), "layer.v1.tar");
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "User": "web"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = with(put(config.to_string().as_bytes()), "config.v1+json");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [layer],
    });
    let mut manifest = with(put(manifest.to_string().as_bytes()), "manifest.v1+json");
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": IMAGE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    layout
}
