//! `orlop reset`: removes what keeps running without an agent on purpose. State, images and keys stay.
//!
//! Runs every step and reports every failure.

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use orlop::args::DirArgs;
use orlop_cni::Network;
use orlop_runtime::{Runtime, RuntimeConfig, ids::IdRange};

/// Removes pods, network, programs and mounts of the node in `dirs`.
///
/// # Errors
/// A list of what could not be removed.
pub(crate) fn reset(yes: bool, cgroup_root: &str, dirs: &DirArgs) -> Result<()> {
    if !yes && !confirmed()? {
        bail!("nothing was done");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    // Where a dataplane alone was there are no pods, and perhaps nothing may be written.
    let mut failures = match dirs.state_dir.exists() {
        true => runtime.block_on(pods_and_network(dirs)),
        false => Vec::new(),
    };
    let bpffs = dirs.run_dir.join("bpf");
    if bpffs.exists() {
        failures.extend(
            orlop_dataplane::uninstall(&bpffs)
                .err()
                .map(|error| format!("service dataplane: {}", orlop::wire::chain(&error))),
        );
    }
    failures.extend(orlop_dataplane::kube_proxy::uninstall().err());
    for dir in [&dirs.run_dir, &dirs.state_dir] {
        failures.extend(unmount_below(dir));
    }
    for mount in cgroup_mounts() {
        let root = mount.join(cgroup_root);
        failures.extend(remove_cgroups(&root.join("kubepods")));
        // What else is in it belongs to whoever started the agent there; it goes if nobody is in it.
        let _in_use = remove_cgroups(&root);
    }
    if failures.is_empty() {
        let _there_may_be_none = fs::remove_dir_all(&dirs.run_dir);
        println!(
            "removed the pods, networks, mounts and programs of the node in {} (cgroup {cgroup_root})",
            dirs.state_dir.display()
        );
        return Ok(());
    }
    bail!("left behind:\n  {}", failures.join("\n  "))
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("--yes is needed when standard input is not a terminal");
    }
    println!("This stops all pods of the node. Go on? [y/N]");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn pods_and_network(dirs: &DirArgs) -> Vec<String> {
    let mut failures = Vec::new();
    let config = RuntimeConfig {
        state_dir: dirs.state_dir.clone(),
        run_dir: dirs.run_dir.clone(),
        shim: "/nonexistent".into(),
        creator: "/nonexistent".into(),
        ids: IdRange::for_pods(0),
        rlimits: Vec::new(),
        logs: Default::default(),
    };
    match Runtime::open(config).await {
        Ok((runtime, _events)) => {
            for sandbox in runtime.pods().await {
                let removed = runtime.remove_sandbox(&sandbox.pod.uid).await;
                let name = format!("{}/{}", sandbox.pod.namespace, sandbox.pod.name);
                failures
                    .extend(removed.err().map(|error| format!("pod {name}: {}", orlop::wire::chain(&error))));
            }
            let unloaded = runtime.unload_default_profile().await;
            failures.extend(unloaded.err().map(|error| format!("AppArmor: {}", orlop::wire::chain(&error))));
        }
        Err(error) => failures.push(format!("container runtime: {}", orlop::wire::chain(&error))),
    }
    failures.extend(
        Network::sweep().await.err().map(|error| format!("pod network: {}", orlop::wire::chain(&error))),
    );
    failures
}

/// Unmounts everything below a directory, innermost first.
fn unmount_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(dir)).collect();
    below.reverse();
    let unmount = |point: &&Path| rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH);
    below
        .iter()
        .filter_map(|point| unmount(point).err().map(|error| format!("mount {}: {error}", point.display())))
        .collect()
}

/// Mount points of all cgroup hierarchies, v1 and v2.
fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = fields.filter(|fields| matches!(fields.get(2), Some(&("cgroup" | "cgroup2"))));
    cgroups.filter_map(|fields| fields.get(1).map(PathBuf::from)).collect()
}

/// Removes a subtree of cgroups, deepest first; what is still in use is named.
fn remove_cgroups(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let children = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut failures: Vec<_> = children.flat_map(|entry| remove_cgroups(&entry.path())).collect();
    let removed = fs::remove_dir(dir);
    failures.extend(removed.err().map(|error| format!("cgroup {}: {error}", dir.display())));
    failures
}
