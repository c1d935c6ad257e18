//! Times of the runtime's operations on this machine: `latency <orlop-shim> <orlop> <root file system> [rounds [pods]]`,
//! with so many running pods beside.
//!
//! The root file system is a directory with `/bin/sh`. Prints minimum and median in milliseconds.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people to read")]

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use orlop_runtime::{
    BoxError, ContainerSpec, ExecRequest, Layers, PodRef, Resources, Runtime, RuntimeConfig, RuntimeEvent,
    SandboxSpec,
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

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn print(&mut self, what: &str) {
        self.0.sort();
        let ms = |at: usize| self.0.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        println!("{what:<28} min {:7.2}  p50 {:7.2}", ms(0), ms(self.0.len() / 2));
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let mut path = || args.next().map(PathBuf::from).ok_or("usage: latency <shim> <orlop> <rootfs> [rounds]");
    let (shim, creator, layer) = (path()?, path()?, path()?);
    let rounds: u32 = args.next().map_or(Ok(50), |text| text.parse())?;
    let beside: u32 = args.next().map_or(Ok(0), |text| text.parse())?;
    let dir = std::env::temp_dir().join(format!("orlop-latency-{}", std::process::id()));
    let cgroup = format!("orlop-latency-{}", std::process::id());
    let (run_dir, state_dir) = (dir.join("run"), dir.join("state"));
    let ids = IdRange::for_pods(110);
    let (rlimits, logs) = (Vec::new(), Default::default());
    let config = RuntimeConfig { state_dir, run_dir, shim, creator, ids, rlimits, logs };
    let (runtime, mut events) = Runtime::open_with(config, OneLayer(layer)).await?;
    let [mut sandbox, mut start, mut first_byte, mut exec, mut end, mut remove] =
        [(); 6].map(|()| Times::default());
    for number in 0..beside {
        let uid = format!("beside{number}");
        runtime.create_sandbox(&pod(&cgroup, &uid)).await?;
        runtime.start_container(&uid, &container(dir.join("log").join(&uid))).await?;
    }
    for round in 0..rounds {
        let uid = format!("u{round}");
        let spec = pod(&cgroup, &uid);
        let begun = Instant::now();
        runtime.create_sandbox(&spec).await?;
        sandbox.0.push(begun.elapsed());
        let log = dir.join("log").join(&uid);
        let container = container(log.clone());
        let begun = Instant::now();
        let started = runtime.start_container(&uid, &container).await?;
        start.0.push(begun.elapsed());
        while std::fs::metadata(&log).map_or(0, |meta| meta.len()) == 0 {
            tokio::time::sleep(Duration::from_micros(50)).await;
        }
        first_byte.0.push(begun.elapsed());
        let begun = Instant::now();
        let command = vec!["/bin/true".to_owned()];
        let request = ExecRequest { command, env: vec![], timeout: None, max_output: 0 };
        runtime.exec(&uid, &started.id, request).await?;
        exec.0.push(begun.elapsed());
        let begun = Instant::now();
        runtime.stop_container(&uid, &started.id, Some("KILL"), Duration::from_secs(1)).await?;
        while !matches!(events.recv().await, Some(RuntimeEvent::Exited { .. }) | None) {}
        end.0.push(begun.elapsed());
        let begun = Instant::now();
        runtime.remove_sandbox(&uid).await?;
        remove.0.push(begun.elapsed());
    }
    let all = [&mut sandbox, &mut start, &mut first_byte, &mut exec, &mut end, &mut remove];
    let names = ["sandbox", "start container", "start to first byte", "exec", "kill to exit", "remove pod"];
    all.into_iter().zip(names).for_each(|(times, name)| times.print(name));
    for number in 0..beside {
        runtime.remove_sandbox(&format!("beside{number}")).await?;
    }
    runtime_gone(&cgroup);
    Ok(std::fs::remove_dir_all(dir)?)
}

/// Our cgroup root, on every hierarchy.
fn runtime_gone(cgroup: &str) {
    if let Ok(hierarchies) = orlop_runtime::cgroup::Hierarchies::discover() {
        hierarchies.remove(cgroup).into_iter().for_each(|error| eprintln!("{error}"));
    }
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
        user_namespace: std::env::var_os("ORLOP_LATENCY_USER_NAMESPACE").is_some(),
        ids: None,
        sysctls: [].into(),
        labels: [].into(),
    }
}

fn container(log_path: PathBuf) -> ContainerSpec {
    ContainerSpec {
        name: "c".into(),
        image_ref: "test".into(),
        image: Image { id: "sha256:test".into(), config: ImageConfig::default(), ..Image::default() }.into(),
        command: ["/bin/sh", "-c", "echo x; exec sleep 1000"].map(str::to_owned).to_vec(),
        resources: Resources {
            cpu_shares: Some(512),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit: Some(64 << 20),
            pids_limit: Some(64),
            oom_score_adj: Some(500),
            ..Resources::default()
        },
        log_path,
        ..ContainerSpec::default()
    }
}
