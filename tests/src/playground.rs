//! One playground for one test: brought up by `cargo xtask up`, taken down whatever happens.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::{leaks, wait::until};

/// A running playground.
pub struct Playground {
    /// Its directory.
    pub dir: PathBuf,
    /// What `up --json` printed.
    pub json: Value,
    args: Vec<String>,
    env: Vec<(String, String)>,
    _temp: tempfile::TempDir,
}

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output of a command that must have worked.
    pub fn text(self) -> String {
        assert!(self.ok, "failed: {}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Standard error of a command that must have failed.
    pub fn refusal(self) -> String {
        assert!(!self.ok, "was expected to fail, but said: {}", self.stdout);
        self.stderr
    }
}

/// A path that the test runner hands over.
#[must_use]
pub fn given(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    PathBuf::from(
        value.unwrap_or_else(|| panic!("{variable} is not set: run this through `cargo xtask test e2e`")),
    )
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    output(command.stdin(Stdio::null()))
}

/// Runs a line of shell in a terminal of that size where nobody types, and gives what it shows.
pub fn in_terminal(line: &str, (rows, columns): (u16, u16), env: &[(&str, &str)]) -> String {
    // An input that ends would be typed, as an end of file, whenever the line happens to be looking.
    let (nothing, _open) = std::io::pipe().expect("make a pipe");
    let line = format!("stty rows {rows} columns {columns}; {line}");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).envs(env.iter().copied());
    output(script.stdin(nothing)).text().replace('\r', "")
}

fn output(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    Output {
        ok: out.status.success(),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

impl Playground {
    /// A bare standalone node with the example images loaded.
    #[must_use]
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    /// The same with more arguments for `up`.
    #[must_use]
    pub fn with_args(args: &[&str]) -> Self {
        Self::with(args, &[])
    }

    /// The same with environment variables for the node.
    #[must_use]
    pub fn with(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::prepared(args, env, |_| ())
    }

    /// The same in a directory that was made ready for it.
    #[must_use]
    pub fn prepared(args: &[&str], env: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let temp = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().expect("make a directory");
        let dir = temp.path().canonicalize().expect("resolve the directory");
        prepare(&dir);
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let env = env.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut playground = Self { dir, json: Value::Null, args, env, _temp: temp };
        playground.up();
        for image in fs::read_dir(given("ORLOP_IMAGES")).expect("list the example images") {
            let image = image.expect("list the example images").path();
            let loaded =
                playground.xtask(&["image", "load", "--dir"]).arg(&playground.dir).arg(image).output();
            let loaded = loaded.expect("start xtask");
            assert!(loaded.status.success(), "load: {}", String::from_utf8_lossy(&loaded.stderr));
        }
        playground
    }

    /// Starts what does not run (after a kill).
    pub fn up(&mut self) {
        let mut command = self.xtask(&["up", "--no-example", "--json", "--dir"]);
        let out = run(command.arg(&self.dir).arg("--bin").arg(given("ORLOP_BIN")).args(&self.args));
        let text = out.text();
        let line = text.lines().last().expect("up --json prints a line");
        self.json = serde_json::from_str(line).expect("up --json prints JSON");
    }

    fn xtask(&self, args: &[&str]) -> Command {
        let mut command = Command::new(given("ORLOP_XTASK"));
        command.args(args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    /// The machine's kubectl against this playground.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        run(self.kubectl_command("kubectl").args(args))
    }

    /// A given kubectl against this playground, with a discovery cache of its own.
    #[must_use]
    pub fn kubectl_command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.arg("--kubeconfig").arg(self.dir.join("kubeconfig"));
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command
    }

    /// `kubectl apply -f -`, with what kind of answer it gives.
    pub fn apply(&self, yaml: &str) -> Output {
        // kubectl takes what begins with a brace for JSON.
        self.with_stdin(&["apply", "-f", "-"], &format!("# YAML\n{yaml}"))
    }

    /// kubectl with text on its standard input.
    pub fn with_stdin(&self, args: &[&str], text: &str) -> Output {
        let mut command = self.kubectl_command("kubectl");
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start kubectl");
        child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("write to kubectl");
        let out = child.wait_with_output().expect("wait for kubectl");
        Output {
            ok: out.status.success(),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// `orlop exec` in a pod's first container, on the first node.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Output {
        run(&mut self.exec_command(pod, command))
    }

    /// The same, not started yet.
    #[must_use]
    pub fn exec_command(&self, pod: &str, command: &[&str]) -> Command {
        let mut exec = Command::new(self.dir.join("bin/orlop"));
        exec.arg("exec").arg("--run-dir").arg(self.dir.join("run")).args([pod, "--"]).args(command);
        exec
    }

    /// An object or list as JSON.
    #[must_use]
    pub fn get(&self, args: &[&str]) -> Value {
        let all: Vec<_> = ["get", "-o", "json"].iter().chain(args).copied().collect();
        serde_json::from_str(&self.kubectl(&all).text()).expect("kubectl get -o json prints JSON")
    }

    /// Waits until `kubectl` with these arguments works and its output satisfies `accept`.
    pub fn wait_for(&self, args: &[&str], accept: impl Fn(&str) -> bool) -> String {
        until(&format!("kubectl {}", args.join(" ")), Duration::from_secs(60), || {
            let out = self.kubectl(args);
            if out.ok && accept(&out.stdout) {
                Ok(out.stdout)
            } else {
                Err(format!("{}{}", out.stdout, out.stderr))
            }
        })
    }

    /// A command inside a node (1 is the first): its network namespace and cgroup subtree.
    #[must_use]
    pub fn inside(&self, node: usize, program: &str) -> Command {
        let place = &self.json["nodes"][node - 1];
        let netns = place["netns"].as_str().expect("a node in a namespace");
        let cgroup = place["cgroup"].as_str().expect("a node in a cgroup");
        let join = format!(
            "for d in /sys/fs/cgroup/{cgroup}/node /sys/fs/cgroup/*/{cgroup}/node; do [ -d $d ] && echo $$ > $d/cgroup.procs; done; \
             exec nsenter --net=/run/netns/{netns} -- \"$@\""
        );
        let mut command = Command::new("sh");
        command.args(["-c", &join, "sh", program]);
        command
    }

    /// A command in a node's network, as a process that somebody else started: outside of the node's cgroups.
    #[must_use]
    pub fn beside(&self, node: usize, program: &str) -> Command {
        let netns = self.json["nodes"][node - 1]["netns"].as_str().expect("a node in a namespace");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{netns}")).arg(program);
        command
    }

    /// The agent of a node.
    #[must_use]
    pub fn agent_pid(&self, node: usize) -> i32 {
        let file = self.json["nodes"][node - 1]["pid"].as_str().expect("a pid file").to_owned();
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {file}: {error}"));
        text.trim().parse().expect("a pid")
    }

    /// Ends the agent of a node as a crash would, and waits until it is gone. Pods go on.
    pub fn kill_agent(&self, node: usize) {
        self.end_agent(node, rustix::process::Signal::KILL);
    }

    /// The same as an upgrade does it.
    pub fn stop_agent(&self, node: usize) {
        self.end_agent(node, rustix::process::Signal::TERM);
    }

    fn end_agent(&self, node: usize, signal: rustix::process::Signal) {
        let pid = self.agent_pid(node);
        let target = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(target, signal).expect("signal the agent");
        until("the agent is gone", Duration::from_secs(20), || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A dead leader says nothing of its threads, which hold the sockets until they are gone too.
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            let gone = stat.is_empty() || (stat.contains(") Z ") && threads <= 1);
            if gone { Ok(()) } else { Err(stat) }
        });
    }

    /// What the first node's agent logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        let id = self.json["nodes"][0]["netns"]
            .as_str()
            .and_then(|netns| netns.split('-').nth(1))
            .unwrap_or("?")
            .to_owned();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- end of the agent's log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        // A second panic would end the process, and with it the clean-up of the other tests.
        let down = self.xtask(&["down", "--dir"]).arg(&self.dir).stdin(Stdio::null()).output();
        let (ok, said) = match down {
            Ok(down) => (down.status.success(), String::from_utf8_lossy(&down.stderr).into_owned()),
            Err(error) => (false, error.to_string()),
        };
        let left = leaks::of_playground(&self.dir, &id);
        if std::thread::panicking() {
            eprintln!("--- down: {said} left: {left:?}");
        } else {
            assert!(ok && left.is_empty(), "down left something: {left:?}\n{said}");
        }
    }
}
