//! A runtime of its own for each test: directories, cgroup root, a busybox image, and no traces afterwards.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses a part of it; a test may panic"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use orlop_runtime::{
    BoxError, Container, ContainerSpec, ContainerState, Exit, Layers, PodRef, Resources, Runtime,
    RuntimeConfig, RuntimeEvent, SandboxSpec,
    ids::IdRange,
    image::{Image, ImageConfig},
    log::Limits,
};
use tokio::sync::mpsc::UnboundedReceiver;

pub struct Node {
    pub dir: tempfile::TempDir,
    pub cgroup: String,
    pub runtime: Runtime,
    pub events: UnboundedReceiver<RuntimeEvent>,
}

/// The one layer of the usual image, and for others those in a directory of that name, the first one on top.
pub struct OneLayer(PathBuf);

impl Layers for OneLayer {
    fn layer_paths(&self, image: &Image) -> Result<Vec<PathBuf>, BoxError> {
        if image.id == "sha256:test" {
            return Ok(vec![self.0.join("layer")]);
        }
        let mut layers = names(&self.0.join(&image.id));
        layers.sort();
        Ok(layers.into_iter().map(|name| self.0.join(&image.id).join(name)).collect())
    }
    fn hold(&self, _: &str, _: &[&Image]) -> Result<(), BoxError> {
        Ok(())
    }
    fn release(&self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }
}

/// Shim and creator, beside the test binary's directory. Built here: cargo builds neither another package's binaries
/// nor, with `--test`, our examples.
pub fn programs() -> (PathBuf, PathBuf) {
    static BUILT: OnceLock<()> = OnceLock::new();
    if let (Some(shim), Some(creator)) =
        (std::env::var_os("ORLOP_TEST_SHIM"), std::env::var_os("ORLOP_TEST_CREATOR"))
    {
        return (shim.into(), creator.into());
    }
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        for what in [
            &["-p", "orlop-shim"][..],
            &["-p", "orlop-runtime", "--example", "creator", "--example", "churn"],
        ] {
            let status = Command::new(&cargo).args(["build", "--quiet"]).args(what).status().unwrap();
            assert!(status.success(), "cargo build {what:?}");
        }
    });
    (target_dir().join("orlop-shim"), target_dir().join("examples/creator"))
}

pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

fn layer(dir: &Path) -> PathBuf {
    let layer = dir.join("layer");
    for sub in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(layer.join(sub)).unwrap();
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "cat", "echo", "sleep", "grep", "id", "touch", "ls", "kill", "head", "dd", "hostname", "mount",
        "stat", "stty", "tty", "seq", "true", "tail", "mknod", "env", "unshare", "wc", "tr", "ip", "ps",
        "chmod", "chown", "umount", "ping", "cut", "readlink",
    ] {
        symlink("busybox", layer.join("bin").join(applet)).unwrap();
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0:r:/root:/bin/sh\nweb:x:33:34:w:/srv:/bin/sh\n").unwrap();
    fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:34:\nlogs:x:50:web\n").unwrap();
    fs::write(layer.join("bin/plain"), "no program\n").unwrap();
    fs::write(layer.join("bin/garbage"), "\x7fGARBAGE").unwrap();
    let mut mode = fs::metadata(layer.join("bin/garbage")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(layer.join("bin/garbage"), mode).unwrap();
    layer
}

impl Node {
    pub async fn new() -> Node {
        Node::with_creator(&programs().1).await
    }

    /// With another program that builds containers.
    pub async fn with_creator(creator: &Path) -> Node {
        Node::with_programs(&programs().0, creator).await
    }

    /// With other programs.
    pub async fn with_programs(shim: &Path, creator: &Path) -> Node {
        Node::inside(&std::env::temp_dir(), shim, creator).await
    }

    /// With a directory of its own in this one.
    pub async fn inside(dir: &Path, shim: &Path, creator: &Path) -> Node {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("orlop-test-").tempdir_in(dir).unwrap();
        let cgroup = format!("orlop-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        layer(dir.path());
        let (runtime, events) = open(dir.path(), shim, creator).await;
        Node { dir, cgroup, runtime, events }
    }

    /// As if this process had been killed and another one started.
    pub async fn reopen(&mut self) {
        let (shim, creator) = programs();
        let (runtime, events) = open(self.dir.path(), &shim, &creator).await;
        (self.runtime, self.events) = (runtime, events);
    }

    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.dir.path().join("run/pods").join(uid)
    }

    pub fn sandbox(&self, uid: &str) -> SandboxSpec {
        SandboxSpec {
            pod: PodRef { namespace: "default".into(), name: "p".into(), uid: uid.into() },
            hostname: "pod-name".into(),
            cgroup: format!("{}/kubepods/pod{uid}", self.cgroup),
            resources: Resources::default(),
            host_network: false,
            host_ipc: false,
            host_pid: false,
            share_pid: false,
            user_namespace: false,
            ids: None,
            sysctls: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    pub fn shell(&self, name: &str, script: &str) -> ContainerSpec {
        self.container(name, &["/bin/sh", "-c", script])
    }

    pub fn container(&self, name: &str, command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            name: name.into(),
            image_ref: "busybox".into(),
            image: std::sync::Arc::new(Image {
                id: "sha256:test".into(),
                config: ImageConfig::default(),
                ..Image::default()
            }),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            log_path: self.dir.path().join("logs").join(name).join("0.log"),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ..ContainerSpec::default()
        }
    }

    /// Starts it in a pod of that uid, which is made if need be, and waits for its end.
    pub async fn run(&mut self, uid: &str, spec: &ContainerSpec) -> (Exit, String) {
        self.runtime.create_sandbox(&self.sandbox(uid)).await.unwrap();
        let container =
            self.runtime.start_container(uid, spec).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        let exit = self.exit(&container).await;
        (exit, self.log(spec))
    }

    pub async fn exit(&mut self, container: &Container) -> Exit {
        if let ContainerState::Exited(exit) = &container.state {
            return exit.clone();
        }
        let wait = async {
            loop {
                match self.events.recv().await.expect("the runtime lives") {
                    RuntimeEvent::Exited { container_id, exit, .. } if container_id == container.id => {
                        return exit;
                    }
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("the container ends")
    }

    /// Content of the log, without stamps.
    pub fn log(&self, spec: &ContainerSpec) -> String {
        let mut reader =
            orlop_runtime::log::Reader::open(&spec.log_path, &orlop_runtime::log::Options::default())
                .unwrap();
        let mut all = Vec::new();
        while let Some(piece) = reader.next().unwrap() {
            all.extend(piece);
        }
        String::from_utf8(all).unwrap()
    }

    pub async fn wait_for_log(&self, spec: &ContainerSpec, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while !(spec.log_path.exists() && self.log(spec).contains(text)) {
            assert!(Instant::now() < end, "{text:?} in the log: {:?}", self.log(spec));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Directories of our cgroup root that are left, on any hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
            let root = Path::new(line.split(' ').nth(4).unwrap()).join(&self.cgroup);
            walk(&root, &mut found);
        }
        found
    }

    /// Lines of mountinfo that name our directory.
    pub fn mounts(&self) -> Vec<String> {
        let here = self.dir.path().to_str().unwrap().to_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().filter(|line| line.contains(&here)).map(str::to_owned).collect()
    }

    /// Command lines of processes that name our directory.
    pub fn processes(&self) -> Vec<String> {
        let here = self.dir.path().to_str().unwrap().to_owned();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let line = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
        pids.filter_map(line).filter(|line| line.contains(&here)).collect()
    }

    /// Removes these pods and looks for traces.
    pub async fn finish(self, uids: &[&str]) {
        for uid in uids {
            self.runtime.remove_sandbox(uid).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
            self.runtime.remove_sandbox(uid).await.expect("again is fine");
            assert!(!self.pod_dir(uid).exists());
        }
        assert_eq!(self.mounts(), Vec::<String>::new());
        assert_eq!(self.processes(), Vec::<String>::new());
        let pods: Vec<_> =
            self.cgroups().into_iter().filter(|dir| dir.to_str().unwrap().contains("/pod")).collect();
        assert_eq!(pods, Vec::<PathBuf>::new());
        assert_eq!(names(&self.dir.path().join("state/containers")), Vec::<String>::new());
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        walk(&entry.path(), found);
    }
    found.push(dir.to_owned());
}

/// The last one only where this process may raise its own.
pub const ULIMITS: [&str; 3] = ["nofile=1000:2000", "core=0", "memlock=4096:unlimited"];

/// Small enough to be full soon.
pub const LOGS: Limits = Limits { max_size: 32 << 10, max_files: 1000 };

async fn open(dir: &Path, shim: &Path, creator: &Path) -> (Runtime, UnboundedReceiver<RuntimeEvent>) {
    let (shim, creator) = (shim.to_owned(), creator.to_owned());
    let (state_dir, run_dir) = (dir.join("state"), dir.join("run"));
    let rlimits = ULIMITS.iter().map(|text| text.parse().unwrap()).collect();
    let ids = IdRange::for_pods(3);
    let config = RuntimeConfig { state_dir, run_dir, shim, creator, ids, rlimits, logs: LOGS };
    Runtime::open_with(config, OneLayer(dir.to_owned())).await.unwrap()
}

pub async fn until(what: &str, mut true_at_last: impl AsyncFnMut() -> bool) {
    for _ in 0..100 {
        if true_at_last().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: not within ten seconds");
}

pub fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {}", chain(cause)))
}

impl Drop for Node {
    /// After a failed test too.
    fn drop(&mut self) {
        for uid in fs::read_dir(self.dir.path().join("run/pods")).into_iter().flatten().flatten() {
            let record = fs::read_to_string(uid.path().join("pid")).unwrap_or_default();
            if let Some(pid) = record.split(' ').next().and_then(|pid| pid.parse::<i32>().ok()) {
                let ours = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                if ours.contains(self.dir.path().to_str().unwrap()) {
                    drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
                }
            }
        }
        for _ in 0..50 {
            let left = self.cgroups();
            for dir in &left {
                for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                    drop(Command::new("kill").args(["-9", pid]).status());
                }
                drop(fs::remove_dir(dir));
            }
            if left.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for line in self.mounts() {
            drop(Command::new("umount").args(["-l", line.split(' ').nth(4).unwrap()]).status());
        }
    }
}

/// Runs tests of this binary again where the machine looks as if it had only cgroup v2: in a mount namespace with
/// nothing but cgroup2 at `/sys/fs/cgroup`. On a hybrid machine controllers are missing there, so limits are not for it.
pub fn on_cgroup2_only(tests: &[&str]) {
    where_the_mounts_are("umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup", tests);
}

/// The same, as if the machine had no cgroup v2 at all.
pub fn on_cgroup1_only(tests: &[&str]) {
    where_the_mounts_are("umount -l /sys/fs/cgroup/unified", tests);
}

fn where_the_mounts_are(change: &str, tests: &[&str]) {
    let (shim, creator) = programs();
    let view = format!("{change} && exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &view, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact"])
        .args(tests)
        .env("ORLOP_TEST_SHIM", shim)
        .env("ORLOP_TEST_CREATOR", creator)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("{} passed", tests.len())), "{text}");
}
