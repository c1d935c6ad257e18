//! ADD and DEL by our network plugin against those by Debian's bridge with host-local: each a process per request, as
//! container runtimes call them, in pairs on the same namespace.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use super::row::{Aim, Row};
use super::summary::Summary;
use crate::build::Built;
use crate::run::{cmd, output};
use crate::setup;

const PODS: usize = 30;
const ROUNDS: usize = 4;
const DEBIANS: &str = "/usr/lib/cni";
const AIM: Aim = Aim::Ratio(0.3);

/// A node and its pods: network namespaces that go with it.
struct Node {
    name: String,
}

/// A plugin with its configuration.
struct Plugin {
    program: PathBuf,
    config: PathBuf,
}

/// What each pair of requests took, in milliseconds.
#[derive(Default)]
struct Pairs {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

pub(crate) fn measure(built: &Built) -> Result<Vec<Row>> {
    setup::cni_plugins()?;
    let dir = tempfile::tempdir().context("make a directory")?;
    let node = Node::new()?;
    let ours = ours(dir.path(), built)?;
    let theirs = theirs(dir.path())?;
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = File::open(node.path(None)).context("open the node's namespace")?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("enter it")?;
            in_turns(&node, &ours, &theirs)
        });
        inside.join().map_err(|_| anyhow::anyhow!("the measuring thread panicked"))?
    })
}

fn in_turns(node: &Node, ours: &Plugin, theirs: &Plugin) -> Result<Vec<Row>> {
    let (mut add, mut del, mut burst) = (Pairs::default(), Pairs::default(), Pairs::default());
    for round in 0..ROUNDS {
        for pod in 0..PODS {
            let mut both = [(ours, &mut add.ours, &mut del.ours), (theirs, &mut add.theirs, &mut del.theirs)];
            if (round + pod) % 2 == 1 {
                both.reverse();
            }
            for (plugin, add, del) in both {
                add.push(plugin.ask(node, pod, "ADD")?);
                del.push(plugin.ask(node, pod, "DEL")?);
            }
        }
        for (plugin, took) in [(ours, &mut burst.ours), (theirs, &mut burst.theirs)] {
            let start = Instant::now();
            let asked: Result<Vec<_>> = (0..PODS).map(|pod| plugin.start(node, pod, "ADD")).collect();
            asked?.into_iter().try_for_each(answered)?;
            took.push(milliseconds(start));
            (0..PODS).try_for_each(|pod| plugin.ask(node, pod, "DEL").map(drop))?;
        }
    }
    Ok(vec![
        add.row("CNI ADD, a process of its own")?.aim(AIM),
        del.row("CNI DEL, a process of its own")?.aim(AIM),
        burst.row(&format!("{PODS} CNI ADD at once"))?,
    ])
}

impl Pairs {
    fn row(&self, what: &str) -> Result<Row> {
        let ratios: Vec<_> = self.ours.iter().zip(&self.theirs).map(|(ours, theirs)| ours / theirs).collect();
        let summary = |samples: &[f64]| Summary::of(samples).context("nothing was measured");
        let row =
            Row::new(what, "ms", summary(&self.ours)?).against("bridge + host-local", summary(&self.theirs)?);
        Ok(row.ratio_of(summary(&ratios)?.p50))
    }
}

fn ours(dir: &Path, built: &Built) -> Result<Plugin> {
    let program = dir.join("orlop-cni");
    let orlop = built.orlop.canonicalize().with_context(|| format!("find {}", built.orlop.display()))?;
    std::os::unix::fs::symlink(orlop, &program).context("link the plugin")?;
    let config = json!({
        "cniVersion": "1.0.0", "name": "ours", "type": "orlop-cni",
        "podCIDR": "10.98.0.0/24", "stateDir": dir.join("ours"),
    });
    Plugin::new(dir, "ours", program, &config)
}

fn theirs(dir: &Path) -> Result<Plugin> {
    let config = json!({
        "cniVersion": "1.0.0", "name": "theirs", "type": "bridge", "bridge": "cni0",
        "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": {
            "type": "host-local", "dataDir": dir.join("theirs"),
            "ranges": [[{ "subnet": "10.99.0.0/24" }]], "routes": [{ "dst": "0.0.0.0/0" }],
        },
    });
    Plugin::new(dir, "theirs", Path::new(DEBIANS).join("bridge"), &config)
}

impl Plugin {
    fn new(dir: &Path, name: &str, program: PathBuf, config: &Value) -> Result<Self> {
        let path = dir.join(format!("{name}.conf"));
        fs::write(&path, config.to_string()).with_context(|| format!("write {}", path.display()))?;
        Ok(Self { program, config: path })
    }

    fn start(&self, node: &Node, pod: usize, command: &str) -> Result<Child> {
        let stdin = File::open(&self.config).context("open the configuration")?;
        let mut process = Command::new(&self.program);
        process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", format!("pod-{pod}"));
        process.env("CNI_NETNS", node.path(Some(pod))).env("CNI_IFNAME", "eth0").env("CNI_PATH", DEBIANS);
        process.stdin(stdin).stdout(Stdio::piped());
        process.spawn().with_context(|| format!("start {}", self.program.display()))
    }

    /// One request, and how long it took.
    fn ask(&self, node: &Node, pod: usize, command: &str) -> Result<f64> {
        let start = Instant::now();
        answered(self.start(node, pod, command)?)?;
        Ok(milliseconds(start))
    }
}

fn answered(process: Child) -> Result<()> {
    let said = process.wait_with_output().context("wait for a plugin")?;
    if said.status.success() { Ok(()) } else { bail!("{}", String::from_utf8_lossy(&said.stdout)) }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Node {
    fn new() -> Result<Self> {
        let node = Self { name: format!("orlop-cni-bench-{}", std::process::id()) };
        for name in node.names() {
            output(&mut cmd("ip", ["netns", "add", &name]))?;
        }
        output(&mut cmd("ip", ["-n", &node.name, "link", "set", "lo", "up"]))?;
        Ok(node)
    }

    fn names(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(self.name.clone()).chain((0..PODS).map(|pod| format!("{}-{pod}", self.name)))
    }

    fn path(&self, pod: Option<usize>) -> PathBuf {
        let name = pod.map_or_else(|| self.name.clone(), |pod| format!("{}-{pod}", self.name));
        Path::new("/run/netns").join(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for name in self.names() {
            if let Err(error) = output(&mut cmd("ip", ["netns", "del", &name])) {
                eprintln!("  {name} stays: {error:#}");
            }
        }
    }
}
