//! Starting one container: image layers to a mounted root, a request to a bundle, and the word to the shim.
//!
//! ```text
//!  create_container: root, user, limits ─▶ complete bundle      start_created: ─▶ shim ─▶ process
//!  start_container: both in one go
//! ```
//! The bundle is complete on disk before the shim hears of it. If this process dies anywhere, asking again either
//! finds the bundle complete and goes on, or makes it anew: the same container never starts twice, because the shim
//! answers a second creation with what it has.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use orlop_shim::{
    protocol::{RLIMITS, Request, Response, Stdio, TERMINALS},
    records::PidRecord,
};

use crate::{
    api::{Container, ContainerSpec, ContainerState, ImageVolume},
    apparmor,
    bundle::{self, container_id},
    client::{Inner, Runtime, blocking},
    errors::{NotRun, ShimError, StartError},
    host,
    records::{self, ContainerRecord, SandboxRecord},
    rootfs, sandbox, seccomp,
    spec::{self, Host, plan::Users},
};

impl Runtime {
    /// Starts a container, or gives the one that was started from the same pod, name and attempt. One that does not start
    /// leaves nothing.
    pub async fn start_container(&self, uid: &str, spec: &ContainerSpec) -> Result<Container, StartError> {
        match self.ready(uid, spec).await? {
            Prepared::Started(container) => Ok(container),
            Prepared::Ready(record) => {
                let id = record.id.clone();
                match self.launch(uid, record).await {
                    // A shim that is gone did not refuse: what it left is for the removal of the pod.
                    Err(error @ StartError::Shim(_)) => Err(error),
                    Err(error) => Err(self.give_up(uid, &id, error).await),
                    started => started,
                }
            }
        }
    }

    /// Makes everything of a container but its process, or gives the one that was made from the same pod, name and
    /// attempt. What cannot be met of the request shows here; then nothing is left.
    ///
    /// # Errors
    /// All but those of the process itself.
    pub async fn create_container(&self, uid: &str, spec: &ContainerSpec) -> Result<Container, StartError> {
        Ok(match self.ready(uid, spec).await? {
            Prepared::Started(container) => container,
            Prepared::Ready(record) => record.container(ContainerState::Created),
        })
    }

    /// Starts what [`Runtime::create_container`] made. One that does not start counts as ended with 128, until it is removed.
    ///
    /// # Errors
    /// It is not there, or its program cannot be started.
    pub async fn start_created(&self, uid: &str, id: &str) -> Result<Container, StartError> {
        let text = || format!("there is no container {id} in pod {uid}");
        let missing = || StartError::NotFound(NotRun { text: text(), user: None });
        let record = self.0.layout.record(uid, id).ok().flatten().ok_or_else(missing)?;
        match self.0.layout.container_state(uid, id) {
            ContainerState::Created => {}
            state => return Ok(record.container(state)),
        }
        let started = self.launch(uid, record).await;
        if started.as_ref().is_err_and(|error| !matches!(error, StartError::Shim(_))) {
            let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
            blocking(move || runtime.write_end(&uid, &id, NEVER_RAN, 0)).await;
        }
        started
    }

    async fn ready(&self, uid: &str, spec: &ContainerSpec) -> Result<Prepared, StartError> {
        let id = container_id(uid, &spec.name, spec.attempt);
        let shim = self.shim(uid).map_err(|_| StartError::NoSandbox(uid.to_owned()))?;
        if spec.tty && shim.version < TERMINALS {
            return Err(StartError::Shim(ShimError::TooOld));
        }
        let (runtime, wanted) = (self.clone(), spec.clone());
        let (pod, container) = (uid.to_owned(), id.clone());
        match blocking(move || runtime.prepare(&pod, &container, &wanted)).await {
            Ok(prepared) => Ok(prepared),
            Err(error) => Err(self.give_up(uid, &id, error).await),
        }
    }

    async fn launch(&self, uid: &str, record: ContainerRecord) -> Result<Container, StartError> {
        let shim = self.shim(uid).map_err(|_| StartError::NoSandbox(uid.to_owned()))?;
        let id = record.id.clone();
        let create = Request::Create {
            id: id.clone(),
            bundle: bundle::text(&self.0.layout.container(uid, &id)),
            log: bundle::text(&record.log_path),
            stdio: Stdio { stdin: record.stdin, stdin_once: record.stdin_once, terminal: record.tty },
        };
        match shim.ask(create).await {
            Ok(Response::Created { pid, started }) => {
                self.hold(uid, &id);
                // It may have ended meanwhile: the files know.
                let state = match self.0.layout.container_state(uid, &id) {
                    ContainerState::Created => {
                        ContainerState::Running { pid, started_at: records::timestamp(started) }
                    }
                    known => known,
                };
                Ok(record.container(state))
            }
            Ok(other) => Err(StartError::Shim(ShimError::Unexpected(other))),
            Err(error) => Err(StartError::from(error).of_user(record.user)),
        }
    }

    /// A container that did not start leaves nothing.
    async fn give_up(&self, uid: &str, id: &str, error: StartError) -> StartError {
        let (runtime, uid, id) = (self.clone(), uid.to_owned(), id.to_owned());
        let left = blocking(move || runtime.clean_container(&uid, &id)).await;
        if !left.is_empty() {
            tracing::warn!(?left, "left behind by a container that did not start");
        }
        error
    }

    fn prepare(&self, uid: &str, id: &str, spec: &ContainerSpec) -> Result<Prepared, StartError> {
        let Inner { layout, .. } = &*self.0;
        let dir = layout.container(uid, id);
        let file = |name: &str| dir.join(name);
        let failed = |path: PathBuf| move |source| StartError::Bundle { path, source };
        let sandbox = layout.sandbox(uid).map_err(failed(layout.pod(uid)))?;
        let SandboxRecord { spec: sandbox, ids, .. } =
            sandbox.ok_or_else(|| StartError::NoSandbox(uid.to_owned()))?;
        let namespace = sandbox::pin(layout, &sandbox, sandbox::USER);
        let users = ids.zip(namespace).map(|(ids, namespace)| Users { namespace, ids });
        let complete = file(bundle::READY).exists();
        let record = layout.record(uid, id).map_err(failed(file(bundle::RECORD)))?;
        if let Some(record) = record.filter(|_| complete) {
            return Ok(match layout.container_state(uid, id) {
                ContainerState::Created => Prepared::Ready(record),
                state => Prepared::Started(record.container(state)),
            });
        }
        drop(self.clean_container(uid, id));
        fs::create_dir_all(&dir).map_err(failed(dir.clone()))?;
        let mut record = ContainerRecord::new(id.to_owned(), spec, Timestamp::now());
        records::write_json(&file(bundle::RECORD), &record).map_err(failed(file(bundle::RECORD)))?;
        check_volumes(spec)?;
        let root = file(bundle::ROOTFS);
        self.mount_root(id, spec, users.as_ref(), &root)?;
        let images = self.mount_images(id, spec, users.as_ref(), &file(bundle::IMAGES))?;
        let host = Host { images, ..self.host(&sandbox, users, id, spec, &root)? };
        let cgroups = self.0.hierarchies.describe(&format!("{}/{id}", sandbox.cgroup));
        let built = spec::bundle(spec, &host)?;
        record.user = Some(built.user);
        records::write_json(&file(bundle::RECORD), &record).map_err(failed(file(bundle::RECORD)))?;
        let owner = built.plan.root();
        rootfs::make_dir(&root, &built.process.cwd, owner).map_err(StartError::Rootfs)?;
        rootfs::make_places(&root, &built.plan.mounts, owner);
        let plan =
            serde_json::to_vec(&built.plan).map_err(|error| failed(file(bundle::PLAN))(error.into()))?;
        let files = [
            (bundle::PLAN, plan),
            (bundle::PROCESS, built.process.to_bytes()),
            (bundle::CGROUPS, cgroups.into_bytes()),
            (bundle::READY, Vec::new()),
        ];
        for (name, bytes) in files {
            fs::write(file(name), bytes).map_err(failed(file(name)))?;
        }
        Ok(Prepared::Ready(record))
    }

    fn mount_root(
        &self,
        id: &str,
        spec: &ContainerSpec,
        users: Option<&Users>,
        root: &Path,
    ) -> Result<(), StartError> {
        let Inner { layers, layout, .. } = &*self.0;
        let missing = |source| StartError::Image { image: spec.image.id.clone(), source };
        let volumes = spec.image_volumes.iter().map(|volume| &*volume.image);
        layers.hold(id, &[&*spec.image].into_iter().chain(volumes).collect::<Vec<_>>()).map_err(missing)?;
        let paths = layers.layer_paths(&spec.image).map_err(missing)?;
        rootfs::mount_overlay(&paths, &layout.writable(id), root, users).map_err(StartError::Rootfs)
    }

    /// Each image volume at a place of its own.
    fn mount_images(
        &self,
        id: &str,
        spec: &ContainerSpec,
        users: Option<&Users>,
        dir: &Path,
    ) -> Result<Vec<PathBuf>, StartError> {
        let Inner { layers, layout, .. } = &*self.0;
        let mount = |(n, volume): (usize, &ImageVolume)| {
            let ImageVolume { image, sub_path, destination } = volume;
            let missing = |source| StartError::Image { image: image.id.clone(), source };
            let paths = layers.layer_paths(image).map_err(missing)?;
            let target = dir.join(n.to_string());
            let mounted = rootfs::mount_image(&paths, &layout.writable(id), &target, sub_path, users);
            let (destination, sub_path) = (destination.clone(), sub_path.clone());
            mounted.map_err(|source| StartError::ImageVolume { destination, sub_path, source })?;
            Ok(target)
        };
        spec.image_volumes.iter().enumerate().map(mount).collect()
    }

    /// That of another container, or of the pod's first process.
    fn process_namespace(
        &self,
        pod: &crate::api::SandboxSpec,
        spec: &ContainerSpec,
    ) -> Result<Option<PathBuf>, StartError> {
        let layout = &self.0.layout;
        let pid = match &spec.process_target {
            Some(target) => match layout.container_state(&pod.pod.uid, target) {
                ContainerState::Running { pid, .. } if bundle::is_file_name(target) => pid,
                _ => return Err(StartError::ProcessTarget(target.clone())),
            },
            None if pod.share_pid => {
                let path = layout.pod(&pod.pod.uid).join(bundle::INIT);
                let failed = |source| StartError::Bundle { path: path.clone(), source };
                let text = fs::read_to_string(&path).map_err(failed)?;
                let record = PidRecord::from_text(&text);
                record.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?.pid
            }
            None => return Ok(None),
        };
        Ok(Some(format!("/proc/{pid}/ns/pid").into()))
    }

    fn host(
        &self,
        pod: &crate::api::SandboxSpec,
        users: Option<Users>,
        id: &str,
        spec: &ContainerSpec,
        root: &Path,
    ) -> Result<Host, StartError> {
        let Inner { config, layout, hierarchies, limits, .. } = &*self.0;
        // In a user namespace of its own even what this process has not can be given: it counts for nothing outside.
        let capabilities = if users.is_some() { limits.known } else { limits.capabilities };
        let kept = spec::capabilities(spec, capabilities).map_err(spec::SpecError::from)?;
        let filter =
            if spec.privileged { None } else { seccomp::prepare(&layout.seccomp(), &spec.seccomp, kept)? };
        let apparmor = apparmor::choose(&spec.apparmor, spec.privileged, host::apparmor().as_deref())?;
        let devices = if spec.privileged { host::devices() } else { Ok(Vec::new()) };
        let cgroup = format!("{}/{id}", pod.cgroup);
        let mut asked = Vec::new();
        for device in &spec.devices {
            let failed = |source| StartError::Device { path: device.host_path.clone(), source };
            asked.extend(host::asked(device).map_err(failed)?);
        }
        let rules: Vec<_> = asked.iter().map(|device| device.rule.clone()).collect();
        let mut files = hierarchies.container_rules(&cgroup, spec.privileged, &rules);
        hierarchies.switch_on(&pod.cgroup, &spec.resources)?;
        files.extend(hierarchies.container_files(&cgroup, &spec.resources)?);
        Ok(Host {
            hostname: pod.hostname.clone(),
            rootfs: root.to_owned(),
            pods: layout.pods(),
            netns: sandbox::pin(layout, pod, "net"),
            ipcns: sandbox::pin(layout, pod, "ipc"),
            utsns: sandbox::pin(layout, pod, "uts"),
            users,
            host_pid: pod.host_pid,
            pidns: self.process_namespace(pod, spec)?,
            shm: Some(sandbox::shm(layout, pod)),
            limits: files,
            hierarchies: hierarchies.views(&cgroup),
            images: Vec::new(),
            accounts: rootfs::accounts(root).map_err(StartError::Rootfs)?,
            seccomp: filter.map(|path| bundle::text(&path)).unwrap_or_default(),
            apparmor,
            capabilities,
            oom_floor: limits.oom_floor,
            // The shim reads what it is to set for commands: an older one would not understand.
            rlimits: match self.shim(&pod.pod.uid) {
                Ok(shim) if shim.version >= RLIMITS => {
                    config.rlimits.iter().map(|limit| (limit.resource, limit.soft, limit.hard)).collect()
                }
                _ => Vec::new(),
            },
            devices: devices.map_err(StartError::Rootfs)?,
            asked,
        })
    }
}

/// Exit status of a container whose program could not be started, as under other runtimes.
const NEVER_RAN: i32 = 128;

enum Prepared {
    Ready(ContainerRecord),
    Started(Container),
}

/// libcontainer's words for a missing source do not name it.
fn check_volumes(spec: &ContainerSpec) -> Result<(), StartError> {
    let missing = |path: &Path| fs::metadata(path).err().map(|source: io::Error| (path.to_owned(), source));
    let first = spec.mounts.iter().find_map(|mount| missing(&mount.source));
    first.map_or(Ok(()), |(path, source)| Err(StartError::VolumeSource { path, source }))
}
