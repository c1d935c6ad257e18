//! A pod resized in place, again and again: from the request to the moment the kernel has the new limit.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::{PATIENCE, pods::Bench, seen::now};

const NAME: &str = "resized";

/// Microseconds of each. `cgroup` is the node's subtree.
pub(crate) async fn run(bench: &Bench, cgroup: &str, times: usize) -> Result<Vec<u64>> {
    let pod = serde_json::from_value(json!({
        "metadata": { "name": NAME },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "main", "image": bench.image, "imagePullPolicy": "IfNotPresent",
                "resources": { "requests": { "cpu": "10m" }, "limits": { "cpu": "200m" } },
            }],
        },
    }))?;
    bench.pods.create(&PostParams::default(), &pod).await?;
    let uid = bench.seen.until(NAME, |times| times.ready.is_some()).await?.uid;
    let file = limit_file(cgroup, &uid)?;
    let mut took = Vec::new();
    for turn in 0..times {
        let milli = if turn % 2 == 0 { 300 } else { 200 };
        let patch = json!({ "spec": { "containers": [{
            "name": "main", "resources": { "limits": { "cpu": format!("{milli}m") } },
        }] } });
        let quota = (milli * 100).to_string();
        let began = now();
        bench
            .pods
            .patch_subresource("resize", NAME, &PatchParams::default(), &Patch::Strategic(patch))
            .await?;
        let waiting = Instant::now();
        // The first word of cpu.max, or all of cpu.cfs_quota_us.
        while fs::read_to_string(&file)?.split_whitespace().next() != Some(&quota) {
            if waiting.elapsed() > PATIENCE {
                bail!("{} does not become {quota}", file.display());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        took.push(now() - began);
    }
    Ok(took)
}

/// Where the kernel says what the container may use.
fn limit_file(cgroup: &str, uid: &str) -> Result<PathBuf> {
    let hierarchies = [("cpu", "cpu.cfs_quota_us"), ("cpu,cpuacct", "cpu.cfs_quota_us"), ("", "cpu.max")];
    for (hierarchy, file) in hierarchies {
        let pod = Path::new("/sys/fs/cgroup").join(hierarchy).join(cgroup);
        let pod = pod.join("kubepods/burstable").join(format!("pod{uid}"));
        let containers = fs::read_dir(&pod).into_iter().flatten().flatten();
        let mut files = containers.map(|entry| entry.path().join(file)).filter(|path| path.exists());
        if let Some(found) = files.next() {
            return Ok(found);
        }
    }
    None.with_context(|| format!("no cgroup of pod {uid} below {cgroup}"))
}
