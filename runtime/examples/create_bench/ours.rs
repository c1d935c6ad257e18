//! Our side: one pod whose shim gets prepared bundles, and the same through the whole runtime.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use orlop_runtime::{
    BoxError, Container, ContainerSpec, ContainerState, Layers, PodRef, Resources, Runtime, RuntimeConfig,
    RuntimeEvent, SandboxSpec, container_id,
    ids::IdRange,
    image::{Image, ImageConfig},
    spec::plan::{Plan, Whose},
    stream::{StreamedCommand, Streams},
};
use orlop_shim::{
    protocol::{Request, Response, Stdio, VERSION, next_frame},
    records::ProcessSpec,
};
use rustix::fs::inotify;
use tokio::{io::AsyncReadExt as _, sync::mpsc::UnboundedReceiver};

use crate::{LANES, Result, oci, scratch::Scratch};

const UID: &str = "bench";
/// A container that is there until it is killed.
const STAY: [&str; 2] = ["/bin/sleep", "10000"];
const PATIENCE: Duration = Duration::from_secs(20);

struct OneLayer(PathBuf);

impl Layers for OneLayer {
    fn layer_paths(&self, _: &Image) -> std::result::Result<Vec<PathBuf>, BoxError> {
        Ok(vec![self.0.clone()])
    }
    fn hold(&self, _: &str, _: &[&Image]) -> std::result::Result<(), BoxError> {
        Ok(())
    }
    fn release(&self, _: &str) -> std::result::Result<(), BoxError> {
        Ok(())
    }
}

pub(crate) struct Ours {
    runtime: Runtime,
    events: UnboundedReceiver<RuntimeEvent>,
    shim: UnixStream,
    pod_dir: PathBuf,
}

/// The bundle of a container that ran: all others are copies of it, with its root file system.
pub(crate) struct Template {
    id: String,
    plan: Plan,
    process: ProcessSpec,
    cgroups: String,
    /// What else the creator reads, as it is.
    others: Vec<(OsString, Vec<u8>)>,
}

/// Files of a bundle that belong to one container, or are made from the rest.
const OWN: [&str; 6] = ["plan.json", "cgroups", "record.json", "ready", "pid", "exit"];

impl Ours {
    pub(crate) async fn open(scratch: &Scratch, shim: &Path, creator: &Path) -> Result<Ours> {
        let config = RuntimeConfig {
            state_dir: scratch.path("state"),
            run_dir: scratch.path("run"),
            shim: shim.to_owned(),
            creator: creator.to_owned(),
            ids: IdRange::for_pods(1),
            rlimits: Vec::new(),
            logs: Default::default(),
        };
        let (runtime, events) = Runtime::open_with(config, OneLayer(scratch.layer())).await?;
        runtime.create_sandbox(&sandbox(scratch, UID)).await?;
        let pod_dir = scratch.path("run/pods").join(UID);
        let mut shim = UnixStream::connect(pod_dir.join("s"))?;
        shim.set_read_timeout(Some(PATIENCE))?;
        shim.write_all(&Request::Hello { version: VERSION }.frame(1))?;
        let mut ours = Ours { runtime, events, shim, pod_dir };
        ours.answer()?;
        Ok(ours)
    }

    /// Runs one container and keeps what was made for it.
    pub(crate) async fn template(&mut self, scratch: &Scratch) -> Result<Template> {
        let spec = container(scratch, "template");
        let started = self.runtime.start_container(UID, &spec).await?;
        self.end_of(&started.id).await?;
        let dir = self.bundle(&started.id);
        let plan = serde_json::from_slice(&fs::read(dir.join("plan.json"))?)?;
        let process = ProcessSpec::from_bytes(&fs::read(dir.join("process"))?).map_err(|e| e.to_string())?;
        let cgroups = fs::read_to_string(dir.join("cgroups"))?;
        let mut others = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() && !OWN.iter().any(|own| entry.file_name() == *own) {
                others.push((entry.file_name(), fs::read(entry.path())?));
            }
        }
        Ok(Template { id: started.id, plan, process, cgroups, others })
    }

    /// A bundle that the shim hears nothing of.
    pub(crate) fn bundle_of(&self, scratch: &Scratch, from: &Template, id: &str) -> Result<PathBuf> {
        let dir = scratch.path("bundles").join(id);
        from.copy_to(&dir, id)?;
        Ok(dir)
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.pod_dir.join("c").join(id)
    }

    /// From the word to the shim to the byte in the log.
    pub(crate) async fn create(&mut self, scratch: &Scratch, from: &Template, round: usize) -> Result<f64> {
        let id = container_id(UID, "ours", u32::try_from(round)?);
        let dir = self.bundle(&id);
        from.copy_to(&dir, &id)?;
        let log = scratch.path("logs").join(format!("ours-{round}"));
        let byte = first_byte(&log)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let create =
            Request::Create { id: id.clone(), bundle: text(&dir), log: text(&log), stdio: Stdio::default() }
                .frame(2);
        let began = Instant::now();
        self.shim.write_all(&create)?;
        match self.answer()? {
            Response::Created { .. } => {}
            other => return Err(format!("the shim answers {other:?}").into()),
        }
        let took = wait(byte)? - began;
        self.end_of(&id).await?;
        self.runtime.remove_container(UID, &id).await?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// From the call of the runtime to the byte in the log.
    pub(crate) async fn start(&mut self, scratch: &Scratch, round: usize) -> Result<f64> {
        let spec = container(scratch, &format!("start-{round}"));
        let byte = first_byte(&spec.log_path)?;
        let began = Instant::now();
        let container = self.runtime.start_container(UID, &spec).await?;
        let took = wait(byte)? - began;
        if !matches!(container.state, ContainerState::Exited(_)) {
            self.end_of(&container.id).await?;
        }
        self.runtime.remove_container(UID, &container.id).await?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// From the question to the first byte. Asked by a task, as in the agent: the thread that waits for us would have to
    /// be woken by the one that hears of the byte.
    pub(crate) async fn exec(&self, id: &str) -> Result<f64> {
        let (runtime, id) = (self.runtime.clone(), id.to_owned());
        let asked = tokio::spawn(async move {
            let command = ["/bin/echo", "-n", "x"].map(str::to_owned).into();
            let streams = Streams { stdout: true, ..Streams::default() };
            let command = StreamedCommand { command, streams, ..StreamedCommand::default() };
            let began = Instant::now();
            let mut session = runtime.stream(UID, &id, command).await.map_err(|error| error.to_string())?;
            let mut byte = [0];
            let out = session.ends.stdout.as_mut().ok_or("no stdout")?;
            let got = tokio::time::timeout(PATIENCE, out.read(&mut byte)).await.map_err(|_| "no byte")?;
            let took = began.elapsed();
            let code = session.wait().await.map_err(|error| error.to_string())?;
            match (&got, &byte, code) {
                (Ok(1), b"x", 0) => Ok(took.as_secs_f64() * 1e3),
                _ => Err(format!("exec gave {got:?} and {code}")),
            }
        });
        Ok(asked.await??)
    }

    /// Starts containers that stay, some at a time; their ids, and the milliseconds until all run.
    pub(crate) async fn hold(&self, scratch: &Scratch, names: &[String]) -> Result<(Vec<String>, f64)> {
        let specs: Vec<ContainerSpec> = names.iter().map(|name| staying(scratch, name)).collect();
        let began = Instant::now();
        let starts = specs.iter().map(|spec| self.runtime.start_container(UID, spec));
        let started: Vec<Container> =
            futures::stream::iter(starts).buffer_unordered(LANES).try_collect().await?;
        let took = began.elapsed();
        Ok((started.into_iter().map(|container| container.id).collect(), took.as_secs_f64() * 1e3))
    }

    pub(crate) async fn delete(&mut self, ids: &[String]) -> Result<()> {
        for id in ids {
            self.runtime.stop_container(UID, id, Some("KILL"), Duration::ZERO).await?;
            let end = Instant::now() + PATIENCE;
            while let Err(error) = self.runtime.remove_container(UID, id).await {
                if Instant::now() > end {
                    return Err(error.into());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        Ok(())
    }

    /// Brings the number of pods beside the bench's own up to `count`, each with a container that stays.
    pub(crate) async fn grow(&self, scratch: &Scratch, pods: &mut Vec<String>, count: usize) -> Result<()> {
        let fresh: Vec<String> = (pods.len()..count).map(|number| format!("pod{number}")).collect();
        let start = async |uid: &String| -> Result<()> {
            self.runtime.create_sandbox(&sandbox(scratch, uid)).await?;
            self.runtime.start_container(uid, &staying(scratch, uid)).await?;
            Ok(())
        };
        let starts = fresh.iter().map(start);
        futures::stream::iter(starts).buffer_unordered(LANES).try_collect::<()>().await?;
        pods.extend(fresh);
        Ok(())
    }

    pub(crate) async fn remove(&self, pods: &[String]) -> Result<()> {
        for uid in pods {
            self.runtime.remove_sandbox(uid).await?;
        }
        Ok(())
    }

    pub(crate) async fn close(self) -> Result<()> {
        drop(self.shim);
        Ok(self.runtime.remove_sandbox(UID).await?)
    }

    fn answer(&mut self) -> Result<Response> {
        let (mut input, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            if let Some(frame) = next_frame(&mut input).map_err(|error| format!("{error:?}"))? {
                return Ok(Response::parse(&frame).map_err(|error| format!("{error:?}"))?.1);
            }
            let got = self.shim.read(&mut buffer)?;
            if got == 0 {
                return Err("the shim closed the connection".into());
            }
            input.extend_from_slice(&buffer[..got]);
        }
    }

    async fn end_of(&mut self, id: &str) -> Result<()> {
        let end = async {
            while let Some(event) = self.events.recv().await {
                if matches!(&event, RuntimeEvent::Exited { container_id, .. } if container_id == id) {
                    break;
                }
            }
        };
        Ok(tokio::time::timeout(PATIENCE, end).await?)
    }
}

impl Template {
    /// The same bundle with another id.
    fn copy_to(&self, dir: &Path, id: &str) -> Result<()> {
        fs::create_dir_all(dir)?;
        let mut plan = self.plan.clone();
        let own = |path: &Path| PathBuf::from(path.to_string_lossy().replace(&self.id, id));
        plan.limits.iter_mut().for_each(|(path, _)| *path = own(path));
        for hierarchy in &mut plan.hierarchies {
            if let Whose::Own(path) = &mut hierarchy.of {
                *path = own(path);
            }
        }
        fs::write(dir.join("plan.json"), serde_json::to_vec(&plan)?)?;
        for (name, bytes) in &self.others {
            fs::write(dir.join(name), bytes)?;
        }
        fs::write(dir.join("cgroups"), self.cgroups.replace(&self.id, id))?;
        Ok(())
    }

    /// A bundle for `crun run` and `runc run`: what we do ourselves in the last steps is theirs to do.
    pub(crate) fn foreign_bundle(&self, scratch: &Scratch, id: &str, stays: bool) -> Result<PathBuf> {
        let dir = scratch.path("bundles").join(id);
        fs::create_dir_all(&dir)?;
        let cgroup = format!("{}/kubepods/pod{UID}/{id}", scratch.cgroup);
        let mut process = self.process.clone();
        if stays {
            process.args = STAY.map(str::to_owned).into();
        }
        let config = oci::config(&self.plan, &process, &limits(), &cgroup)?;
        fs::write(dir.join("config.json"), config.to_string())?;
        Ok(dir)
    }
}

fn sandbox(scratch: &Scratch, uid: &str) -> SandboxSpec {
    SandboxSpec {
        pod: PodRef { namespace: "bench".into(), name: uid.into(), uid: uid.into() },
        hostname: uid.into(),
        cgroup: format!("{}/kubepods/pod{uid}", scratch.cgroup),
        ..SandboxSpec::default()
    }
}

fn staying(scratch: &Scratch, name: &str) -> ContainerSpec {
    ContainerSpec { command: STAY.map(str::to_owned).into(), ..container(scratch, name) }
}

/// One byte of output and out, with the limits a pod would have.
fn container(scratch: &Scratch, name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        image_ref: "bench".into(),
        image: Arc::new(Image {
            id: "sha256:bench".into(),
            config: ImageConfig::default(),
            ..Image::default()
        }),
        command: ["/bin/echo", "-n", "x"].map(str::to_owned).into(),
        resources: limits(),
        log_path: scratch.path("logs").join(name),
        ..ContainerSpec::default()
    }
}

fn limits() -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota_us: Some(100_000),
        cpu_period_us: Some(100_000),
        memory_limit: Some(128 << 20),
        pids_limit: Some(1024),
        oom_score_adj: Some(500),
        ..Resources::default()
    }
}

/// A thread that waits for the first write to a file, which is made empty now.
fn first_byte(path: &Path) -> Result<JoinHandle<std::io::Result<Instant>>> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    File::create(path)?;
    let watch: OwnedFd = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, path, inotify::WatchFlags::MODIFY)?;
    Ok(std::thread::spawn(move || {
        let mut buffer = [0_u8; 256];
        rustix::io::read(&watch, &mut buffer)?;
        Ok(Instant::now())
    }))
}

fn wait(byte: JoinHandle<std::io::Result<Instant>>) -> Result<Instant> {
    Ok(byte.join().map_err(|_| "the thread that waits for the log died")??)
}
