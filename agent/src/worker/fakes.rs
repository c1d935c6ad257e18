//! Fakes of the doors: a small machine in memory that writes down what was done to it.
//!
//! Containers run until a test ends them; every call is a line in the log. Not for: timing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret, Service};
use tokio::{sync::mpsc, time::Instant};

use super::ports::*;
use crate::pod::container;

/// Everything the fakes share.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) log: Vec<String>,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) attached: BTreeSet<String>,
    pub(crate) directories: BTreeSet<String>,
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) statuses: BTreeMap<String, Arc<PodStatus>>,
    pub(crate) deleted: BTreeSet<String>,
    /// Images that cannot be had.
    pub(crate) no_images: BTreeSet<String>,
    /// Images that only pods with some credential may use.
    pub(crate) private_images: BTreeSet<String>,
    /// Programs that cannot be started.
    pub(crate) no_programs: BTreeSet<String>,
    /// The next start of a container takes the task that asked for it along.
    pub(crate) start_dies: bool,
    /// Limits by pod UID and container id.
    pub(crate) limits: BTreeMap<String, Resources>,
    /// Memory in use, everywhere.
    pub(crate) memory_used: u64,
    /// Exit codes of commands run in containers.
    pub(crate) exec_code: i32,
}

impl World {
    fn limit(&mut self, who: &str, key: &str, limits: &Resources) {
        let known = self.limits.entry(key.to_owned()).or_default();
        let mut line = format!("limit {who}");
        if let Some(bytes) = limits.memory_limit {
            known.memory_limit = Some(bytes);
            line += &format!(" memory {bytes}");
        }
        if let Some(quota) = limits.cpu_quota_us {
            (known.cpu_quota_us, known.cpu_period_us) = (Some(quota), limits.cpu_period_us);
            line += &format!(" quota {quota}");
        }
        if let Some(shares) = limits.cpu_shares {
            known.cpu_shares = Some(shares);
            line += &format!(" shares {shares}");
        }
        if *limits != Resources::default() {
            self.log.push(line);
        }
    }
}

/// No limit is −1 in what the kernel says.
fn explicit(limits: &Resources) -> Resources {
    Resources {
        memory_limit: limits.memory_limit.or(Some(-1)),
        cpu_quota_us: limits.cpu_quota_us.or(Some(-1)),
        ..limits.clone()
    }
}

/// One handle for all doors.
#[derive(Clone)]
pub(crate) struct Fake {
    world: Arc<Mutex<World>>,
    began: Instant,
    /// Seconds by which somebody set the clock; read also while the world is locked.
    pub(crate) clock_set_by: Arc<AtomicI64>,
    events: mpsc::UnboundedSender<RuntimeEvent>,
    written: mpsc::UnboundedSender<Written>,
}

impl Fake {
    pub(crate) fn new(
        events: mpsc::UnboundedSender<RuntimeEvent>,
        written: mpsc::UnboundedSender<Written>,
    ) -> Fake {
        Fake { world: Arc::default(), began: Instant::now(), clock_set_by: Arc::default(), events, written }
    }

    /// A restarted agent finds the same machine.
    pub(crate) fn with_channels(
        &self,
        events: mpsc::UnboundedSender<RuntimeEvent>,
        written: mpsc::UnboundedSender<Written>,
    ) -> Fake {
        Fake { events, written, ..self.clone() }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ports(&self) -> Ports {
        let fake = || Arc::new(self.clone());
        Ports {
            runtime: fake(),
            images: fake(),
            network: fake(),
            files: fake(),
            objects: fake(),
            clock: fake(),
            events: fake(),
            statuses: fake(),
            exclusive: Arc::new(crate::exclusive::Exclusive::nothing()),
        }
    }

    pub(crate) fn say(&self, line: String) {
        self.world().log.push(line);
    }

    /// The lines since the last call.
    pub(crate) fn log(&self) -> String {
        let lines = std::mem::take(&mut self.world().log);
        lines.into_iter().map(|line| line + "\n").collect()
    }

    /// Ends a container.
    pub(crate) fn exit(&self, uid: &str, id: &str, code: i32) {
        let now = self.now();
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(uid).expect("no such sandbox");
        let container = sandbox.containers.iter_mut().find(|c| c.id == id).expect("no such container");
        let ContainerState::Running { started_at, .. } = container.state else { return };
        let exit = Exit { code, signal: None, oom_killed: false, started_at, finished_at: now };
        container.state = ContainerState::Exited(exit.clone());
        let event = RuntimeEvent::Exited { uid: uid.into(), container_id: id.into(), exit };
        self.events.send(event).ok();
    }

    /// The shim of a pod is gone; the ends of its containers were told before.
    pub(crate) fn lose_shim(&self, uid: &str) {
        self.world().sandboxes.get_mut(uid).expect("no such sandbox").shim_alive = false;
        self.events.send(RuntimeEvent::ShimLost { uid: uid.into() }).ok();
    }

    /// The id of the newest instance of a container.
    pub(crate) fn newest(&self, uid: &str, name: &str) -> String {
        let world = self.world();
        let of_name = world.sandboxes[uid].containers.iter().filter(|c| c.name == name);
        of_name.max_by_key(|c| c.attempt).expect("no such container").id.clone()
    }
}

impl Runtime for Fake {
    fn pods(&self) -> BoxFuture<'_, Vec<Sandbox>> {
        async { self.world().sandboxes.values().cloned().collect() }.boxed()
    }

    fn create_sandbox<'a>(&'a self, spec: &'a SandboxSpec) -> BoxFuture<'a, Result<Sandbox, Failure>> {
        async {
            self.say(format!("sandbox {}", spec.pod.uid));
            self.world().limits.insert(spec.pod.uid.clone(), explicit(&spec.resources));
            let sandbox = Sandbox {
                pod: spec.pod.clone(),
                netns: (!spec.host_network).then(|| "/ns".into()),
                created_at: self.now(),
                shim_alive: true,
                containers: Vec::new(),
                labels: spec.labels.clone(),
            };
            Ok(self.world().sandboxes.entry(spec.pod.uid.clone()).or_insert(sandbox).clone())
        }
        .boxed()
    }

    fn remove_sandbox<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.say(format!("remove sandbox {uid}"));
            self.world().sandboxes.remove(uid);
            Ok(())
        }
        .boxed()
    }

    fn start_container<'a>(
        &'a self,
        uid: &'a str,
        spec: &'a ContainerSpec,
    ) -> BoxFuture<'a, Result<Container, StartFailure>> {
        async move {
            self.say(format!("start {}#{}", spec.name, spec.attempt));
            let mut world = self.world();
            if std::mem::take(&mut world.start_dies) {
                drop(world);
                panic!("as the test wants it");
            }
            if world.no_programs.contains(&spec.name) {
                let user = Some(User { uid: 7, gid: 8, additional_gids: vec![9] });
                return Err(StartFailure::Run { text: "no such file or directory".into(), user });
            }
            let id = container::id(uid, &spec.name, spec.attempt);
            let started_at = self.now();
            let sandbox = world.sandboxes.get_mut(uid).expect("a sandbox comes first");
            assert!(sandbox.containers.iter().all(|c| c.id != id), "{} runs twice", spec.name);
            let container = Container {
                id,
                name: spec.name.clone(),
                attempt: spec.attempt,
                image_ref: spec.image_ref.clone(),
                image_id: spec.image.id.clone(),
                user: None,
                tty: false,
                log_path: spec.log_path.clone(),
                state: ContainerState::Running { pid: 1, started_at },
                labels: spec.labels.clone(),
            };
            sandbox.containers.push(container.clone());
            world.limits.insert(container.id.clone(), explicit(&spec.resources));
            Ok(container)
        }
        .boxed()
    }

    fn stop_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        signal: Option<&'a str>,
        grace: Duration,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let signal = signal.unwrap_or("TERM");
            self.say(format!("signal {signal} grace {}s", grace.as_secs()));
            let (fake, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
            // The fake program obeys after a second.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                fake.exit(&uid, &id, 143);
            });
            Ok(())
        }
        .boxed()
    }

    fn remove_container<'a>(&'a self, uid: &'a str, id: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let mut world = self.world();
            let Some(sandbox) = world.sandboxes.get_mut(uid) else { return Ok(()) };
            let old = sandbox.containers.iter().position(|c| c.id == id);
            if let Some(old) = old.map(|old| sandbox.containers.remove(old)) {
                world.log.push(format!("remove {}#{}", old.name, old.attempt));
            }
            Ok(())
        }
        .boxed()
    }

    fn limits<'a>(&'a self, uid: &'a str, id: Option<&'a str>) -> BoxFuture<'a, Result<Resources, Failure>> {
        let limits = self.world().limits.get(id.unwrap_or(uid)).cloned();
        async move { limits.ok_or_else(|| Failure("no such cgroup".into())) }.boxed()
    }

    fn memory_usage<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<u64, Failure>> {
        let used = self.world().memory_used;
        async move { Ok(used) }.boxed()
    }

    fn update_container<'a>(
        &'a self,
        uid: &'a str,
        id: &'a str,
        limits: &'a Resources,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(uid).expect("no such sandbox");
        let container = sandbox.containers.iter_mut().find(|c| c.id == id).expect("no such container");
        container.labels.extend(labels);
        let name = container.name.clone();
        world.limit(&name, id, limits);
        async { Ok(()) }.boxed()
    }

    fn update_pod<'a>(&'a self, uid: &'a str, limits: &'a Resources) -> BoxFuture<'a, Result<(), Failure>> {
        self.world().limit("pod", uid, limits);
        async { Ok(()) }.boxed()
    }

    fn label_sandbox<'a>(
        &'a self,
        uid: &'a str,
        labels: BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.world().sandboxes.get_mut(uid).expect("no such sandbox").labels.extend(labels);
        async { Ok(()) }.boxed()
    }

    fn exec<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        request: ExecRequest,
    ) -> BoxFuture<'a, Result<ExecOutput, ExecFailure>> {
        async move {
            self.say(format!("exec {}", request.command.join(" ")));
            Ok(ExecOutput { exit_code: self.world().exec_code, output: b"said".to_vec() })
        }
        .boxed()
    }
}

impl Images for Fake {
    fn get<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, ImageFailure>> {
        async move {
            let absent = self.world().no_images.contains(reference);
            Ok((!absent).then(|| Image { id: "sha256:1".into(), ..Image::default() }))
        }
        .boxed()
    }

    fn pull<'a>(&'a self, reference: &'a str, _: &'a Keyring) -> BoxFuture<'a, Result<Pulled, ImageFailure>> {
        async move {
            self.say(format!("pull {reference}"));
            match self.world().no_images.contains(reference) {
                true => Err(ImageFailure::Pull("connection refused".into())),
                false => {
                    let image = Image { id: "sha256:1".into(), size: 7, ..Image::default() };
                    Ok(Pulled { image, took: Duration::ZERO })
                }
            }
        }
        .boxed()
    }

    fn allowed<'a>(
        &'a self,
        reference: &'a str,
        credentials: &'a Keyring,
    ) -> BoxFuture<'a, Result<bool, ImageFailure>> {
        let open = *credentials != Keyring::default() || !self.world().private_images.contains(reference);
        async move { Ok(open) }.boxed()
    }
}

impl Network for Fake {
    fn attach<'a>(
        &'a self,
        pod: &'a PodRef,
        _: &'a Wishes,
        _: &'a Path,
    ) -> BoxFuture<'a, Result<Attached, Failure>> {
        async move {
            self.say(format!("attach {}", pod.uid));
            self.world().attached.insert(pod.uid.clone());
            Ok(Attached { addresses: vec![IpAddr::from([10, 0, 0, 2])] })
        }
        .boxed()
    }

    fn detach<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            self.say(format!("detach {uid}"));
            self.world().attached.remove(uid);
            Ok(())
        }
        .boxed()
    }

    fn attached(&self) -> BoxFuture<'_, Vec<(String, Vec<IpAddr>)>> {
        let address = vec![IpAddr::from([10, 0, 0, 2])];
        async move { self.world().attached.iter().map(|uid| (uid.clone(), address.clone())).collect() }
            .boxed()
    }

    fn ready(&self) -> Result<(), Failure> {
        Ok(())
    }
}

impl PodFiles for Fake {
    fn make_volumes(&self, pod: Arc<Pod>) -> BoxFuture<'_, Result<Volumes, Vec<VolumeFailure>>> {
        async move {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            self.say(format!("volumes {uid}"));
            self.world().directories.insert(uid);
            Ok(Volumes::default())
        }
        .boxed()
    }

    fn mounts<'a>(&'a self, _: MountRequest<'a>) -> BoxFuture<'a, Result<Vec<Mount>, String>> {
        async { Ok(Vec::new()) }.boxed()
    }

    fn last_words<'a>(&'a self, _: LastWords<'a>) -> BoxFuture<'a, Option<String>> {
        async { None }.boxed()
    }

    fn read<'a>(
        &'a self,
        _: &'a Volumes,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>> {
        async move { Ok(None) }.boxed()
    }

    fn clear_volumes<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>> {
        async move {
            self.say(format!("volumes {} cleared", pod.uid));
            Ok(())
        }
        .boxed()
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>> {
        async move {
            self.say(format!("remove files {}", pod.uid));
            self.world().directories.remove(&pod.uid);
            Ok(())
        }
        .boxed()
    }

    fn pods(&self) -> BoxFuture<'_, Vec<String>> {
        async { self.world().directories.iter().cloned().collect() }.boxed()
    }
}

impl Objects for Fake {
    fn config_map<'a>(
        &'a self,
        _: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, ObjectFailure>> {
        async move {
            let found = self.world().config_maps.get(name).cloned();
            found.ok_or(ObjectFailure::NotFound { kind: "configmap", name: name.into() })
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        _: &'a PodRef,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move { Err(ObjectFailure::NotFound { kind: "secret", name: name.into() }) }.boxed()
    }

    fn token<'a>(&'a self, _: &'a TokenRequest) -> BoxFuture<'a, Result<Token, ObjectFailure>> {
        let expires_at = self.now().checked_add(Duration::from_secs(3600)).unwrap_or(Timestamp::MAX);
        async move { Ok(Token { token: "t".into(), expires_at }) }.boxed()
    }

    fn services(&self, _: &PodRef) -> Option<Vec<Arc<Service>>> {
        Some(Vec::new())
    }

    fn kubernetes(&self) -> Option<Arc<Service>> {
        None
    }

    fn follow(&self, _: &str, _: BTreeSet<ObjectRef>) {}
}

impl Clock for Fake {
    fn now(&self) -> Timestamp {
        let start = Timestamp::from_second(1_000_000).expect("in range");
        let set_by = SignedDuration::from_secs(self.clock_set_by.load(Ordering::Relaxed));
        start.checked_add(self.began.elapsed()).and_then(|now| now.checked_add(set_by)).expect("in range")
    }
}

impl EventSink for Fake {
    fn record(&self, event: PodEvent) {
        let kind = if event.warning { "Warning" } else { "Normal" };
        self.say(format!("event {kind} {}: {}", event.reason, event.message));
    }
}

impl StatusSink for Fake {
    fn publish(&self, pod: &Arc<Pod>, status: Arc<PodStatus>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let ready = ready.is_some_and(|ready| ready.status == "True");
        let phase = status.phase.clone().unwrap_or_default();
        self.say(format!("status {phase}{}", if ready { ", ready" } else { "" }));
        self.world().statuses.insert(uid.clone(), Arc::clone(&status));
        self.written.send(Written { uid, status }).ok();
    }

    fn delete(&self, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.say(format!("delete object {uid}"));
        self.world().deleted.insert(uid);
    }

    fn forget(&self, _: &str) {}
}
