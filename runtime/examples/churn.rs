//! Makes and removes pods without end, to be killed in the middle of it by tests:
//! `churn <orlop-shim> <creator> <root file system> <directory> <cgroup>`.
//!
//! Every container makes a directory of its own in `<directory>/starts`, or `<its own>-again` where that is there: one
//! system call, which a kill cannot cut in two. Pods that are found are taken on from where they are, as an agent does:
//! containers started again by name, then everything removed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use orlop_runtime::{
    BoxError, ContainerSpec, ExecRequest, Layers, Mount, PodRef, Propagation, Resources, Runtime,
    RuntimeConfig, SandboxSpec,
    ids::IdRange,
    image::{Image, ImageConfig},
};

struct OneLayer(PathBuf);

impl Layers for OneLayer {
    fn layer_paths(&self, _: &Image) -> Result<Vec<PathBuf>, BoxError> {
        Ok(vec![self.0.clone()])
    }
    fn hold(&self, _: &str, _: &[&Image]) -> Result<(), BoxError> {
        Ok(())
    }
    fn release(&self, _: &str) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [shim, creator, layer, dir, cgroup] = args.as_slice() else {
        return Err("usage: churn <shim> <creator> <root file system> <directory> <cgroup>".into());
    };
    let dir = PathBuf::from(dir);
    std::fs::create_dir_all(dir.join("doomed"))?;
    let config = RuntimeConfig {
        state_dir: dir.join("state"),
        run_dir: dir.join("run"),
        shim: shim.into(),
        creator: creator.into(),
        ids: IdRange::for_pods(3),
        rlimits: Vec::new(),
        logs: Default::default(),
    };
    let (runtime, _events) = Runtime::open_with(config, OneLayer(layer.into())).await?;
    for pod in runtime.pods().await {
        life(&runtime, &dir, cgroup, &pod.pod.uid).await?;
    }
    let lanes = (0..3).map(|lane| {
        let (runtime, dir) = (runtime.clone(), dir.clone());
        async move {
            for round in 0.. {
                let uid = format!("p{}-{lane}-{round}", std::process::id());
                life(&runtime, &dir, cgroup, &uid).await?;
            }
            Ok::<_, BoxError>(())
        }
    });
    futures::future::try_join_all(lanes).await.map(drop)
}

async fn life(runtime: &Runtime, dir: &Path, cgroup: &str, uid: &str) -> Result<(), BoxError> {
    // What a deletion timestamp is to an agent: once the end is decided, nothing is started any more.
    let doomed = dir.join("doomed").join(uid);
    if doomed.exists() {
        return Ok(runtime.remove_sandbox(uid).await?);
    }
    let sandbox = runtime.create_sandbox(&pod(cgroup, uid)).await?;
    if sandbox.shim_alive {
        for name in ["a", "b"] {
            let container = runtime.start_container(uid, &container(dir, uid, name)).await?;
            let command = vec!["/bin/true".to_owned()];
            let request = ExecRequest { command, env: vec![], timeout: None, max_output: 0 };
            // It may have ended in an earlier life.
            drop(runtime.exec(uid, &container.id, request).await);
        }
        let id = orlop_runtime::container_id(uid, "a", 0);
        runtime.stop_container(uid, &id, Some("KILL"), Duration::ZERO).await?;
    }
    std::fs::write(doomed, "")?;
    Ok(runtime.remove_sandbox(uid).await?)
}

fn pod(cgroup: &str, uid: &str) -> SandboxSpec {
    SandboxSpec {
        pod: PodRef { namespace: "default".into(), name: "p".into(), uid: uid.into() },
        hostname: "p".into(),
        cgroup: format!("{cgroup}/kubepods/pod{uid}"),
        resources: Resources::default(),
        host_network: false,
        host_ipc: false,
        host_pid: false,
        share_pid: false,
        // One of the three lanes.
        user_namespace: uid.contains("-1-"),
        ids: None,
        sysctls: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

fn container(dir: &Path, uid: &str, name: &str) -> ContainerSpec {
    let mark = format!("/starts/{uid}-{name}");
    let script = format!("mkdir {mark} || mkdir {mark}-again; sleep 1000");
    ContainerSpec {
        name: name.into(),
        image_ref: "test".into(),
        image: Image { id: "sha256:test".into(), config: ImageConfig::default(), ..Image::default() }.into(),
        command: ["/bin/sh".to_owned(), "-c".to_owned(), script].to_vec(),
        mounts: vec![Mount {
            source: dir.join("starts"),
            destination: "/starts".into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            keep_owners: false,
        }],
        resources: Resources { memory_limit: Some(64 << 20), ..Resources::default() },
        log_path: dir.join("logs").join(uid).join(name),
        ..ContainerSpec::default()
    }
}
