//! A room of its own for a test of the root tier: network and mount namespace, cgroup, pin directory.
//!
//! The test runs itself again inside `unshare`; the outer half waits, and removes the cgroup whatever happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::agent;

const INSIDE: &str = "ORLOP_TEST_CGROUP";
const SCRATCH: &str = "ORLOP_TEST_SCRATCH";
const CGROUP2: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The room, as its inhabitant sees it.
pub(crate) struct Room {
    pub(crate) cgroup: PathBuf,
    pub(crate) bpffs: PathBuf,
    name: String,
}

/// Runs `test` in a room of its own. `name` is the test's full name.
pub(crate) fn isolated(name: &str, test: impl FnOnce(Room)) {
    if agent::is_one() {
        return agent::live();
    }
    if let Some(cgroup) = std::env::var_os(INSIDE) {
        assert!(
            orlop_dataplane::loader::has_object(),
            "built with the stub: set ORLOP_EBPF_OBJECT to the object of `cargo xtask ebpf`"
        );
        sh("ip link set lo up");
        let bpffs = PathBuf::from(std::env::var_os(SCRATCH).unwrap()).join("bpf");
        return test(Room { name: name.to_owned(), cgroup: cgroup.into(), bpffs });
    }
    // Removed out here: what the test mounts there goes with its mount namespace.
    let scratch = tempfile::tempdir().unwrap();
    let cgroup = Cgroup::create(&name.replace("::", "-"));
    let inside = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &cgroup.0)
        .env(SCRATCH, scratch.path())
        .output()
        .expect("unshare (util-linux)");
    let said =
        [&inside.stdout, &inside.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
    assert!(inside.status.success(), "inside its namespaces: {}\n{said}", inside.status);
    assert!(said.contains("1 passed"), "no test of this name ran: {said}");
}

struct Cgroup(PathBuf);

impl Cgroup {
    fn create(name: &str) -> Self {
        let mount = CGROUP2.iter().find(|dir| Path::new(dir).join("cgroup.controllers").exists());
        let mount = mount.expect("a cgroup2 mount at /sys/fs/cgroup or /sys/fs/cgroup/unified");
        let dir = Path::new(mount).join(format!("orlop-test-dataplane-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that are still ending hold it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("cgroup {} could not be removed", self.0.display());
    }
}

impl Room {
    /// Puts this process into the cgroup: from here on it sees services.
    pub(crate) fn enter(&self) {
        fs::write(self.cgroup.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }

    /// Starts another process that runs the dataplane with these services, and waits until it has written them.
    pub(crate) fn agent(&self, services: &str) -> Agent {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([&self.name, "--exact", "--ignored", "--nocapture"])
            .envs(agent::environment(self, services))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let agent = Agent(child);
        let ready = said.lines().any(|line| line.unwrap().contains(agent::READY));
        assert!(ready, "the agent ended before it was ready");
        agent
    }

    /// Runs a shell command outside the cgroup, in the same network namespace.
    pub(crate) fn outside(&self, script: &str) -> Output {
        let parent = self.cgroup.parent().unwrap().join("cgroup.procs");
        let script = format!("echo $$ > {} && {script}", parent.display());
        Command::new("bash").args(["-c", &script]).output().unwrap()
    }
}

/// A running agent; killed without a warning when dropped.
pub(crate) struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
