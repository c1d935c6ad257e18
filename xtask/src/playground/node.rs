//! Starting one node's process in its namespace and cgroup subtree, and waiting for it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Layout, NodePlace, PATIENCE, cgroups};
use crate::progress::Step;
use crate::run::output;

/// Starts the node unless it runs already.
pub(super) fn start(layout: &Layout, place: &NodePlace, step: &Step) -> Result<()> {
    if running_pid(place).is_some() {
        step.detail("runs already");
    } else {
        let args =
            if place.number == 1 { standalone_args(layout, place) } else { joining_args(layout, place)? };
        spawn(layout, place, &args)?;
    }
    if place.number == 1 {
        step.detail("waiting for the API server");
        wait_for_api(layout, place)?;
    }
    Ok(())
}

/// The pid in the pid file, if that process still is this node's.
pub(crate) fn running_pid(place: &NodePlace) -> Option<i32> {
    let pid: i32 = fs::read_to_string(&place.pid_file).ok()?.trim().parse().ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let state = place.state.to_string_lossy().into_owned();
    String::from_utf8_lossy(&cmdline).contains(&state).then_some(pid)
}

/// A command that runs inside the node: its network namespace, its cgroup subtree.
pub(crate) fn inside(place: &NodePlace, program: &Path) -> Result<Command> {
    let leaves = cgroups::make(&place.cgroup)?;
    let join: String =
        leaves.iter().map(|leaf| format!("echo $$ > {}/cgroup.procs; ", leaf.display())).collect();
    let enter =
        place.netns.as_ref().map(|name| format!("nsenter --net=/run/netns/{name} -- ")).unwrap_or_default();
    let mut command = Command::new("sh");
    command.arg("-ec").arg(format!("{join}exec {enter}\"$@\"")).arg("sh").arg(program);
    Ok(command)
}

fn spawn(layout: &Layout, place: &NodePlace, args: &[String]) -> Result<()> {
    let dir = place.log.parent().context("log file without a directory")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let log = File::options().create(true).append(true).open(&place.log);
    let log = log.with_context(|| format!("open {}", place.log.display()))?;
    let child = inside(place, &layout.bin().join("orlop"))?
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("start orlop")?;
    fs::write(&place.pid_file, format!("{}\n", child.id())).context("write the pid file")?;
    if layout.host {
        fs::write(layout.dir.join("host"), "").context("mark the playground as running on the host")?;
    }
    Ok(())
}

fn common_args(mode: &str, place: &NodePlace) -> Vec<String> {
    let mut args = vec![
        mode.to_owned(),
        format!("--state-dir={}", place.state.display()),
        format!("--run-dir={}", place.run.display()),
        format!("--node-name={}", place.name),
        format!("--cgroup-root={}", place.cgroup),
    ];
    // A developer's disk may be full by a kubelet's standards: a node with no disk to spare would take no pod.
    let config = std::env::var_os("ORLOP_CONFIG").and_then(|file| fs::read_to_string(file).ok());
    if !config.is_some_and(|config| config.contains("evictionHard")) {
        args.push(
            "--eviction-hard=memory.available<100Mi,nodefs.available<1%,imagefs.available<1%".to_owned(),
        );
    }
    if !place.addresses.is_empty() {
        args.push(format!("--node-ip={}", place.addresses.join(",")));
    }
    args
}

fn standalone_args(_layout: &Layout, place: &NodePlace) -> Vec<String> {
    common_args("standalone", place)
}

fn joining_args(layout: &Layout, place: &NodePlace) -> Result<Vec<String>> {
    let first = layout.node(1);
    let kubeconfig = place.state.with_file_name("node.kubeconfig");
    fs::create_dir_all(&place.state).with_context(|| format!("create {}", place.state.display()))?;
    let made = output(
        Command::new(layout.bin().join("orlop"))
            .arg("kubeconfig")
            .arg(format!("--state-dir={}", first.state.display()))
            .arg(format!("--user=system:node:{}", place.name))
            .arg("--group=system:nodes"),
    )?;
    write_private(&kubeconfig, &made)?;
    let mut args = common_args("node", place);
    args.push(format!("--kubeconfig={}", kubeconfig.display()));
    // A kubelet is told where the cluster's DNS is, and so are we; unless whoever calls says more about it.
    let said = ["CLUSTER_DNS", "SERVICE_CIDR", "DNS_PORT", "CONFIG", "CONFIG_DIR"];
    if said.iter().all(|name| std::env::var_os(format!("ORLOP_{name}")).is_none()) {
        args.push(format!("--cluster-dns={}", layout.cluster_dns()));
    }
    Ok(args)
}

fn wait_for_api(layout: &Layout, place: &NodePlace) -> Result<()> {
    let admin = place.state.join("admin.kubeconfig");
    let start = Instant::now();
    loop {
        if let Ok(text) = fs::read_to_string(&admin) {
            write_private(&layout.kubeconfig(), &text)?;
            if kubectl(layout, &["get", "--raw", "/readyz"]).is_ok() {
                return Ok(());
            }
        }
        check_alive(place, start)?;
    }
}

/// Waits until `count` nodes are Ready.
pub(super) fn wait_ready(layout: &Layout, count: usize, step: &Step) -> Result<()> {
    let start = Instant::now();
    loop {
        let nodes: Value = serde_json::from_str(&kubectl(layout, &["get", "nodes", "-o", "json"])?)?;
        let ready = nodes["items"].as_array().into_iter().flatten().filter(|node| is_ready(node)).count();
        step.detail(format_args!("{ready} of {count}"));
        if ready >= count {
            return Ok(());
        }
        layout.existing_nodes().iter().try_for_each(|place| check_alive(place, start))?;
    }
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

fn check_alive(place: &NodePlace, since: Instant) -> Result<()> {
    if running_pid(place).is_none() && since.elapsed().as_secs() > 2 {
        bail!("{} ended; its log says:\n{}", place.name, tail(&place.log));
    }
    if since.elapsed() > PATIENCE {
        bail!("{} is not there after {PATIENCE:?}; its log says:\n{}", place.name, tail(&place.log));
    }
    std::thread::sleep(std::time::Duration::from_millis(30));
    Ok(())
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// Puts an image into the node's store.
pub(super) fn load_image(layout: &Layout, place: &NodePlace, image: &Path) -> Result<()> {
    let state = format!("--state-dir={}", place.state.display());
    output(Command::new(layout.bin().join("orlop")).args(["image", "load", &state]).arg(image)).map(drop)
}

/// kubectl against the playground; returns what it prints.
pub(super) fn kubectl(layout: &Layout, args: &[&str]) -> Result<String> {
    output(Command::new("kubectl").arg("--kubeconfig").arg(layout.kubeconfig()).args(args))
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, text).with_context(|| format!("write {}", tmp.display()))?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o600))?;
    fs::rename(&tmp, path).with_context(|| format!("write {}", path.display()))
}
