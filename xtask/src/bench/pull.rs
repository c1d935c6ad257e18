//! Pull and unpack of 300 MB in five layers from a registry on the loopback: ours, containerd's, and skopeo with umoci, by
//! turns, each time into an empty store; wall time and the highest resident memory of any process that takes part.
//!
//! containerd runs privately, from Debian's package unpacked beside the machine's own things, with directories and sockets
//! in the bench's. Not for: registries that are far away.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::row::{Aim, Row};
use super::summary::Summary;
use crate::build::Built;
use crate::progress::step;
use crate::run::{output, target_dir};
use crate::setup;

const ROUNDS: usize = 3;
/// How often memory is looked at; the kernel keeps the highest value of each process.
const LOOK: Duration = Duration::from_millis(5);

/// Seconds, and megabytes of the largest process.
#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    megabytes: Vec<f64>,
}

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(crate) fn measure(built: &Built) -> Result<Vec<Row>> {
    let containerd = setup::bench_tools()?;
    let image = step("build an image of 300 MB", |_| crate::image::big(&target_dir().join("bench-image")))?;
    let dir = tempfile::Builder::new()
        .prefix("orlop-pull-")
        .tempdir_in(target_dir())
        .context("a place to pull to")?;
    let (registry, host) = start_registry(dir.path())?;
    let reference = format!("{host}/bench/image:v1");
    let (from, to) = (format!("oci:{}", image.display()), format!("docker://{reference}"));
    output(Command::new("skopeo").args(["copy", "--dest-tls-verify=false", &from, &to]))?;
    let [mut ours, mut theirs, mut tools] = [(); 3].map(|()| Samples::default());
    for round in 0..ROUNDS {
        let place = |name: &str| dir.path().join(format!("{name}-{round}"));
        let (mine, daemon, unpacked) = (place("orlop"), place("containerd"), place("umoci"));
        for place in [&mine, &daemon, &unpacked] {
            fs::create_dir(place).with_context(|| format!("create {}", place.display()))?;
        }
        let mut pull = Command::new(&built.orlop);
        pull.args(["image", "pull", "--state-dir"]).arg(&mine).args(["--plain-http", &host, &reference]);
        ours.take(&mut [pull], None)?;
        theirs.take_containerd(&containerd, &daemon, &reference)?;
        let layout = format!("{}:v1", unpacked.join("oci").display());
        let mut copy = Command::new("skopeo");
        copy.args([
            "copy",
            "--src-tls-verify=false",
            &format!("docker://{reference}"),
            &format!("oci:{layout}"),
        ]);
        let mut unpack = Command::new("umoci");
        unpack.args(["unpack", "--image", &layout]).arg(unpacked.join("bundle"));
        tools.take(&mut [copy, unpack], None)?;
        for place in [&mine, &daemon, &unpacked] {
            fs::remove_dir_all(place).with_context(|| format!("remove {}", place.display()))?;
        }
    }
    drop(registry);
    let sum = |samples: &[f64]| Summary::of(samples).context("no rounds");
    let mut rows = Vec::new();
    for (name, other) in [("containerd (ctr pull)", &theirs), ("skopeo + umoci", &tools)] {
        let row = Row::new("pull and unpack 300 MB in five layers", "s", sum(&ours.seconds)?);
        rows.push(row.against(name, sum(&other.seconds)?));
        let row = Row::new("· peak resident memory of a process", "MB", sum(&ours.megabytes)?);
        rows.push(row.against(name, sum(&other.megabytes)?).aim(Aim::AtMost(40.0)));
    }
    Ok(rows)
}

impl Samples {
    /// One command after the other, and `beside`, which runs already, counts for memory.
    fn take(&mut self, commands: &mut [Command], beside: Option<u32>) -> Result<()> {
        let (began, mut peak) = (Instant::now(), 0.0_f64);
        for command in commands {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
            let pid = child.id();
            while child.try_wait().context("wait for a pull")?.is_none() {
                peak = [Some(pid), beside].into_iter().flatten().filter_map(high_water).fold(peak, f64::max);
                std::thread::sleep(LOOK);
            }
            let done = child.wait_with_output().context("wait for a pull")?;
            if !done.status.success() {
                bail!("{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
            }
        }
        self.seconds.push(began.elapsed().as_secs_f64());
        self.megabytes.push(peak);
        Ok(())
    }

    /// A daemon of its own, up before the time begins.
    fn take_containerd(&mut self, programs: &Path, dir: &Path, reference: &str) -> Result<()> {
        let path = |name: &str| dir.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n\
             [grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
            path("root"),
            path("run"),
            path("s"),
            path("t"),
        );
        fs::write(dir.join("config.toml"), config).context("write containerd's configuration")?;
        let mut daemon = Command::new(programs.join("containerd"));
        daemon.args(["--log-level", "error", "--config"]).arg(dir.join("config.toml"));
        let daemon =
            Ended(daemon.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("start containerd")?);
        let ctr = || {
            let mut ctr = Command::new(programs.join("ctr"));
            ctr.args(["--address", &path("s")]);
            ctr
        };
        wait_for("containerd", || output(ctr().arg("version")).map(drop))?;
        let mut pull = ctr();
        pull.args(["images", "pull", "--plain-http", reference]);
        self.take(&mut [pull], Some(daemon.0.id()))
    }
}

/// The most memory that a process ever had, in megabytes.
fn high_water(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

/// Debian's registry on a free port, and its address.
fn start_registry(dir: &Path) -> Result<(Ended, String)> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let host = free.context("find a free port")?.to_string();
    let (data, config): (PathBuf, PathBuf) = (dir.join("registry"), dir.join("registry.yml"));
    let yaml = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
        data.display()
    );
    fs::write(&config, yaml).context("write the registry's configuration")?;
    let mut registry = Command::new("docker-registry");
    registry.arg("serve").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let registry = Ended(registry.spawn().context("start docker-registry")?);
    wait_for("the registry", || {
        output(Command::new("curl").args(["-sf", &format!("http://{host}/v2/")])).map(drop)
    })?;
    Ok((registry, host))
}

fn wait_for(what: &str, mut ready: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    while let Err(error) = ready() {
        if began.elapsed() > Duration::from_secs(20) {
            return Err(error.context(format!("{what} does not answer")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
