//! What the bench makes outside of its own processes: a cgroup, and names of namespaces on a file system that only it
//! sees. All is gone when it ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Names our cgroup to the inner half.
pub(crate) const CGROUP: &str = "ORLOP_BENCH_CGROUP";
const CGROUP2: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
/// Names of network namespaces, and pins.
const PLACES: &str = "/run/netns";

/// A cgroup that is removed.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Below one of this name, or at the root of the hierarchy.
    pub(crate) fn create(parent: &str) -> Self {
        let mount = CGROUP2.iter().find(|dir| Path::new(dir).join("cgroup.controllers").exists());
        let dir = Path::new(mount.expect("cgroup2"))
            .join(parent)
            .join(format!("orlop-services-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Processes that are still ending hold it for a moment.
        let removed = (0..250).any(|_| {
            let below = fs::read_dir(&self.0).into_iter().flatten().flatten().map(|entry| entry.path());
            below.filter(|path| path.is_dir()).for_each(|path| drop(fs::remove_dir(path)));
            let gone = fs::remove_dir(&self.0).is_ok();
            if !gone {
                std::thread::sleep(Duration::from_millis(20));
            }
            gone
        });
        if !removed {
            eprintln!("cgroup {} could not be removed", self.0.display());
        }
    }
}

/// The inside of the bench's own mount namespace.
pub(crate) struct World {
    cgroup: PathBuf,
}

impl World {
    pub(crate) fn begin() -> Self {
        sh(&format!("mkdir -p {PLACES} && mount -t tmpfs orlop-bench {PLACES} && ip link set lo up"));
        Self { cgroup: PathBuf::from(std::env::var_os(CGROUP).unwrap()) }
    }

    /// A cgroup of that name, below ours.
    pub(crate) fn cgroup(&self, name: &str) -> PathBuf {
        let dir = self.cgroup.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Where a node of that name pins.
    pub(crate) fn pins(&self, name: &str) -> PathBuf {
        Path::new(PLACES).join(format!(".{name}"))
    }

    /// Runs one role in a network namespace of its own, and returns what it says at its end.
    pub(crate) fn alone(&self, role: &str, arguments: &[&str]) -> Value {
        let name = [&[role], arguments].concat().join("-");
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        let mut command = within(&name);
        command.arg(role).arg(self.pins(&name)).arg(self.cgroup(&name)).args(arguments);
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", output.status);
        sh(&format!("ip netns delete {name}"));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(text.lines().last().expect("a line of JSON")).unwrap()
    }
}

/// This program, in a network namespace; the process is the program's own.
fn within(netns: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={PLACES}/{netns}")).arg(std::env::current_exe().unwrap());
    command
}

/// A process of ours that does as it is told: a line in, a line out.
pub(crate) struct Worker {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Ready when it has said its first line.
    pub(crate) fn start(netns: &str, arguments: &[&str], cgroup: Option<&Path>) -> Self {
        let mut command = within(netns);
        let mut process =
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut worker = Self { process, orders, answers: BufReader::new(answers) };
        worker.hear();
        // Sockets belong to the cgroup they are opened in.
        if let Some(cgroup) = cgroup {
            fs::write(cgroup.join("cgroup.procs"), worker.process.id().to_string()).unwrap();
        }
        worker
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ask(&mut self, order: &str) -> f64 {
        writeln!(self.orders, "{order}").unwrap();
        let answer = self.hear();
        answer.parse().unwrap_or_else(|_| panic!("asked to {order}, answered {answer:?}"))
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("a process of the bench did not end: {error}");
        }
    }
}

/// Runs a command that must succeed and returns what it printed.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("bash").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Feeds a program in a network namespace.
pub(crate) fn feed(netns: &str, command: &str, input: &str) {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={PLACES}/{netns}"))
        .args(["sh", "-c", command])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command} failed");
}
