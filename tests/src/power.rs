//! A node without power: what a reboot takes away and what it leaves.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{Playground, leaks, playground::run, until};

/// How an agent was started.
#[derive(Clone, Debug)]
pub struct CommandLine(Vec<String>);

impl CommandLine {
    /// The same with one more argument.
    #[must_use]
    pub fn with(mut self, argument: &str) -> Self {
        self.0.push(argument.to_owned());
        self
    }

    /// The same without the arguments that begin like this.
    #[must_use]
    pub fn without(mut self, start: &str) -> Self {
        self.0.retain(|argument| !argument.starts_with(start));
        self
    }

    /// The same in another mode.
    #[must_use]
    pub fn in_mode(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.0[1]);
        self
    }
}

impl Playground {
    /// How the agent of a node that runs was started.
    #[must_use]
    pub fn command_line(&self, node: usize) -> CommandLine {
        let line =
            fs::read_to_string(format!("/proc/{}/cmdline", self.agent_pid(node))).expect("the agent runs");
        CommandLine(line.split_terminator('\0').map(str::to_owned).collect())
    }

    /// Starts one agent, and no other one.
    pub fn start_agent(&self, node: usize, line: &CommandLine) {
        let log =
            File::options().create(true).append(true).open(self.path(node, "log")).expect("open the log");
        let mut command = self.inside(node, &line.0[0]);
        command.args(&line.0[1..]).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("one more descriptor")).stderr(log);
        let mut child = command.spawn().expect("start the agent");
        fs::write(self.path(node, "pid"), format!("{}\n", child.id())).expect("write the pid file");
        // Whoever ends it reads its state; somebody has to bury it.
        std::thread::spawn(move || child.wait());
    }

    /// Takes everything from a node that a reboot takes: processes, mounts, links, cgroups, the run directory. What
    /// is on its disk stays.
    pub fn power_off(&self, node: usize) {
        self.kill_agent(node);
        let cgroup = self.json["nodes"][node - 1]["cgroup"].as_str().expect("a cgroup").to_owned();
        let groups = || {
            let find = format!(
                "find /sys/fs/cgroup/{cgroup} /sys/fs/cgroup/*/{cgroup} -mindepth 1 -type d 2>/dev/null"
            );
            run(Command::new("sh").args(["-c", &find])).stdout
        };
        until("no process is left", Duration::from_secs(20), || {
            let groups = groups();
            let pids =
                groups.lines().filter_map(|dir| fs::read_to_string(Path::new(dir).join("cgroup.procs")).ok());
            let shims =
                leaks::processes_of(&self.path(node, "run")).into_iter().map(|(pid, _)| pid.to_string());
            let pids: Vec<_> = pids
                .flat_map(|pids| pids.lines().map(str::to_owned).collect::<Vec<_>>())
                .chain(shims)
                .collect();
            if pids.is_empty() {
                return Ok(());
            }
            run(Command::new("kill").arg("-9").args(&pids));
            Err(pids.join(" "))
        });
        let mut dirs: Vec<_> = groups().lines().map(PathBuf::from).collect();
        dirs.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        for dir in dirs.iter().filter(|dir| !dir.ends_with("node")) {
            // A group of cgroup v1 may be shown in two places.
            let _gone = fs::remove_dir(dir);
        }
        for dir in [self.path(node, "run"), self.path(node, "state")] {
            for mount in leaks::mounts_below(&dir).iter().rev() {
                run(Command::new("umount").args(["-l", mount])).text();
            }
        }
        fs::remove_dir_all(self.path(node, "run")).expect("remove the run directory");
        // In the node's own network namespace.
        let clear = "nft flush ruleset; \
                     for l in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do [ $l = lo ] || [ $l = eth0 ] || ip link del $l; done; \
                     ip route | grep -v eth0 | while read r; do ip route del $r; done";
        run(self.inside(node, "sh").args(["-c", clear]));
    }

    fn path(&self, node: usize, what: &str) -> PathBuf {
        PathBuf::from(self.json["nodes"][node - 1][what].as_str().expect("a path"))
    }
}
