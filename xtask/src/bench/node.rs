//! The bench's own playground: one bare node, or one that joined a control plane beside it; taken down when this is
//! dropped, or when this process is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::janitor::Janitor;
use super::priority::prefer;
use super::tools;
use crate::build::Built;
use crate::playground::{Layout, NodePlace, inside, running_pid, stop};
use crate::run::output;

/// The start and end of every action of a pod, which the stages are taken from.
const LOG: &str = "info,orlop::worker::pod_worker=debug";

/// A running node.
pub(crate) struct BenchNode {
    layout: Layout,
    place: NodePlace,
    /// What it was started with.
    args: Vec<String>,
    _janitor: Janitor,
}

impl BenchNode {
    /// A whole cluster in one process.
    pub(crate) fn up(dir: &Path, bin: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        Self::last_of(1, dir, bin, environment)
    }

    /// A node and nothing else in the process that is looked at: it joins a cluster in another one, which takes no pods.
    pub(crate) fn joined(dir: &Path, bin: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let node = Self::last_of(2, dir, bin, environment)?;
        let mut cordon = Command::new("kubectl");
        output(cordon.arg("--kubeconfig").arg(node.kubeconfig()).args(["cordon", "node1"]))?;
        Ok(node)
    }

    fn last_of(nodes: u8, dir: &Path, bin: &Path, environment: &[(&str, &str)]) -> Result<Self> {
        let janitor =
            Janitor::hire("exec \"$0\" down --dir \"$1\"", &[xtask()?.as_os_str(), dir.as_os_str()])?;
        let mut up = Command::new(xtask()?);
        up.args(["up", "--no-example", "--json", "--nodes", &nodes.to_string(), "--dir"])
            .arg(dir)
            .arg("--bin")
            .arg(bin);
        tools::json(up.env("ORLOP_LOG", LOG).envs(environment.iter().copied()))?;
        let layout = Layout::open(dir)?;
        let place = layout.node(nodes);
        let pid = running_pid(&place).context("the node does not run")?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).context("read the node's command line")?;
        let words = String::from_utf8(line).context("the node's command line")?;
        let args = words.trim_end_matches('\0').split('\0').skip(1).map(str::to_owned).collect();
        prefer(&place.cgroup);
        Ok(Self { layout, place, args, _janitor: janitor })
    }

    /// A command that runs beside the node, in its namespace and with its share of the CPUs.
    pub(crate) fn beside(&self, program: &Path) -> Result<Command> {
        let command = inside(&self.place, program)?;
        prefer(&self.place.cgroup);
        Ok(command)
    }

    /// Name of the Node.
    pub(crate) fn name(&self) -> &str {
        &self.place.name
    }

    /// Directory of the binaries that run.
    pub(crate) fn bin(&self) -> PathBuf {
        self.layout.bin()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.layout.node(1).state.join("admin.kubeconfig")
    }

    /// Its subtree of every cgroup hierarchy.
    pub(crate) fn cgroup(&self) -> &str {
        &self.place.cgroup
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<i32> {
        running_pid(&self.place).context("the node does not run")
    }

    /// The process with the API server in it, which is the same but for [`BenchNode::joined`].
    pub(crate) fn api_pid(&self) -> Result<i32> {
        running_pid(&self.layout.node(1)).context("the control plane does not run")
    }

    pub(crate) fn pid_file(&self) -> &Path {
        &self.place.pid_file
    }

    pub(crate) fn log(&self) -> &Path {
        &self.place.log
    }

    /// Directory of the containers' logs.
    pub(crate) fn pod_logs(&self) -> PathBuf {
        self.place.state.join("log/pods")
    }

    /// Ends the process and removes all that it made: the next start is a first start.
    pub(crate) fn wipe(&self) -> Result<()> {
        stop(&self.layout, &self.place)?;
        for dir in [&self.place.state, &self.place.run] {
            if dir.exists() {
                fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
            }
        }
        // Marks the node as one that `down` has to look at, whatever happens next.
        fs::create_dir_all(&self.place.state)
            .with_context(|| format!("create {}", self.place.state.display()))
    }

    /// The command that starts the node in its namespace and cgroup.
    pub(crate) fn command(&self) -> Result<Command> {
        let mut command = inside(&self.place, &self.layout.bin().join("orlop"))?;
        command.args(&self.args);
        Ok(command)
    }

    /// What the started process inherits.
    pub(crate) fn environment() -> (&'static str, &'static str) {
        ("ORLOP_LOG", LOG)
    }

    /// Loads the example image and returns its name.
    pub(crate) fn load_example(&self, built: &Built) -> Result<String> {
        let images = crate::build::images_with(built)?;
        let Some(image) = images.into_iter().find(|image| image.reference.contains("/hello:v1")) else {
            bail!("there is no example image hello:v1");
        };
        let state = format!("--state-dir={}", self.place.state.display());
        let mut load = Command::new(self.layout.bin().join("orlop"));
        output(load.args(["image", "load", &state]).arg(&image.layout))?;
        Ok(image.reference)
    }
}

fn xtask() -> Result<PathBuf> {
    std::env::current_exe().context("path of this program")
}
