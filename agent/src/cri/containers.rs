//! Containers as CRI has them: made, then started, then stopped, then removed.

use std::{path::Path, sync::Arc, time::Duration};

use orlop_cri_api::v1::{
    ContainerConfig, ContainerEventType, ContainerStatus, ExecSyncResponse, LinuxContainerResources,
};
use orlop_runtime::{
    Container, ContainerState, ExecError, Sandbox, StartError, container_id,
    image::Image,
    stream::{Ends, StreamedCommand, Streams},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::Instant,
};
use tonic::Status;

use super::{
    Cri, blocking, internal,
    pods::now,
    words::{
        container::{self, Parts},
        kept, status,
    },
};

/// How long the end of a container may take after KILL.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Output of a command that is kept, of each stream: both have to fit into one message.
const MAX_OUTPUT: usize = 7 << 20;
/// What a command wrote last is still read; a process that it left behind may hold its output for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Cri {
    /// By its id or the first characters of it.
    pub(super) async fn container(&self, id: &str) -> Result<(Sandbox, Container), Status> {
        let found = self.find_container(id).await?;
        found.ok_or_else(|| Status::not_found(format!("there is no container {id:?}")))
    }

    async fn find_container(&self, id: &str) -> Result<Option<(Sandbox, Container)>, Status> {
        if id.is_empty() {
            return Err(Status::invalid_argument("no container id"));
        }
        let mut found = Vec::new();
        for uid in self.runtime().pods_of_container(id).await {
            let Some(pod) = self.runtime().pod(&uid).await else { continue };
            let fitting = pod.containers.iter().filter(|container| container.id.starts_with(id)).cloned();
            found.extend(fitting.map(|container| (pod.clone(), container)).collect::<Vec<_>>());
        }
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(Status::invalid_argument(format!("several containers begin with {id:?}"))),
        }
    }

    /// A container that can be talked to.
    pub(super) async fn running(&self, id: &str) -> Result<(Sandbox, Container), Status> {
        let (pod, container) = self.container(id).await?;
        match container.state {
            ContainerState::Running { .. } => Ok((pod, container)),
            _ => Err(Status::failed_precondition(format!("container {} is not running", container.id))),
        }
    }

    /// Makes everything but the process.
    pub(super) async fn create(&self, pod: &str, config: &ContainerConfig) -> Result<String, Status> {
        let sandbox = self.pod(pod).await?;
        Self::check_ours(&sandbox)?;
        let uid = sandbox.pod.uid.clone();
        if !sandbox.shim_alive {
            return Err(Status::failed_precondition(format!("pod sandbox {uid} is not ready")));
        }
        let metadata = config.metadata.clone().unwrap_or_default();
        let id = container_id(&uid, &metadata.name, metadata.attempt);
        if sandbox.containers.iter().any(|known| known.id == id) {
            let text =
                format!("container {id} is attempt {} of {:?} already", metadata.attempt, metadata.name);
            return Err(Status::already_exists(text));
        }
        let wanted = config.image.clone().unwrap_or_default().image;
        let missing = || Status::not_found(format!("image {wanted:?} is not here"));
        let image = self.image(&wanted).await?.ok_or_else(missing)?;
        let mut mounted = Vec::new();
        for wanted in config.mounts.iter().filter_map(container::mounted_image) {
            let missing = || Status::not_found(format!("image {wanted:?} is not here"));
            mounted.push(Arc::new(self.image(wanted).await?.ok_or_else(missing)?));
        }
        let files = self.0.files.dir(&uid);
        let pod_config = kept::pod(&sandbox);
        let parts = Parts {
            pod: &pod_config,
            container: config,
            image: Arc::new(image),
            mounted: &mounted,
            files: &files,
            now: now(),
        };
        let spec = container::spec(parts).map_err(Status::invalid_argument)?;
        let sources: Vec<_> = spec.mounts.iter().map(|mount| mount.source.clone()).collect();
        blocking(move || sources.iter().try_for_each(|source| make_source(source)))
            .await?
            .map_err(|error| internal(&error))?;
        let made = self.runtime().create_container(&uid, &spec).await;
        made.map_err(|error| match &error {
            StartError::Spec(_) => Status::invalid_argument(crate::wire::chain(&error)),
            _ => internal(&error),
        })?;
        self.tell(ContainerEventType::ContainerCreatedEvent, &uid, &id).await;
        Ok(id)
    }

    /// Starts the process of a container that was made.
    pub(super) async fn start(&self, id: &str) -> Result<(), Status> {
        let (pod, container) = self.container(id).await?;
        if !matches!(container.state, ContainerState::Created) {
            return Err(Status::failed_precondition(format!(
                "container {} was started before",
                container.id
            )));
        }
        let started = self.runtime().start_created(&pod.pod.uid, &container.id).await;
        let event = match started {
            Ok(_) => ContainerEventType::ContainerStartedEvent,
            Err(_) => ContainerEventType::ContainerStoppedEvent,
        };
        self.tell(event, &pod.pod.uid, &container.id).await;
        started.map(drop).map_err(|error| internal(&error))
    }

    /// Changes limits; what is not said stays as it is, in the kernel and in what clients are told.
    pub(super) async fn update(&self, id: &str, limits: LinuxContainerResources) -> Result<(), Status> {
        let (pod, found) = self.container(id).await?;
        Self::check_ours(&pod)?;
        if !matches!(found.state, ContainerState::Running { .. }) {
            return Err(Status::failed_precondition(format!("container {} is not running", found.id)));
        }
        let wanted = container::resources(&limits);
        let labels = kept::keep_limits(&pod, &found, limits);
        let updated = self.runtime().update_container(&pod.pod.uid, &found.id, &wanted, labels).await;
        updated.map_err(|error| internal(&error))
    }

    /// Ends a container and waits for its end; fine if it does not run or is not there.
    pub(super) async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Status> {
        match self.find_container(id).await? {
            None => Ok(()),
            Some((pod, container)) => self.stop(&pod, &container, grace).await,
        }
    }

    pub(super) async fn stop(
        &self,
        pod: &Sandbox,
        container: &Container,
        grace: Duration,
    ) -> Result<(), Status> {
        let (uid, id) = (&pod.pod.uid, &container.id);
        let runs = |state: &ContainerState| matches!(state, ContainerState::Running { .. });
        if !runs(&container.state) || !pod.shim_alive {
            return Ok(());
        }
        let asked = self.runtime().stop_container(uid, id, None, grace).await;
        asked.map_err(|error| internal(&error))?;
        let patience = Instant::now() + grace + PATIENCE;
        while self.runtime().container(uid, id).await.is_some_and(|container| runs(&container.state)) {
            if Instant::now() > patience {
                return Err(Status::deadline_exceeded(format!("container {id} does not end")));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    /// Removes a container, by force if need be; fine if it is not there.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Some((pod, container)) = self.find_container(id).await? else { return Ok(()) };
        Self::check_ours(&pod)?;
        self.stop(&pod, &container, Duration::ZERO).await?;
        let removed = self.runtime().remove_container(&pod.pod.uid, &container.id).await;
        removed.map_err(|error| internal(&error))?;
        self.samples().remove(&container.id);
        self.tell(ContainerEventType::ContainerDeletedEvent, &pod.pod.uid, &container.id).await;
        Ok(())
    }

    pub(super) async fn container_status(&self, pod: &Sandbox, container: &Container) -> ContainerStatus {
        // An image that is gone has no names any more; that is no reason to say nothing of its container.
        let image = self.image(&container.image_id).await.ok().flatten();
        status::container_status(pod, container, image.as_ref())
    }

    /// The image of this name or id, if it is here.
    pub(super) async fn image(&self, reference: &str) -> Result<Option<Image>, Status> {
        let (images, wanted) = (self.0.setup.images.images.clone(), reference.to_owned());
        let found = blocking(move || images.get(&wanted)).await?;
        found.map_err(|error| match error {
            orlop_runtime::image::StoreError::Reference { .. } => {
                Status::invalid_argument(crate::wire::chain(&error))
            }
            other => internal(&other),
        })
    }

    /// Runs a command to its end.
    pub(super) async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecSyncResponse, Status> {
        let (pod, container) = self.running(id).await?;
        let streams = Streams { stdin: false, stdout: true, stderr: true };
        let command = StreamedCommand { command, timeout, streams, ..StreamedCommand::default() };
        let failed = |error: ExecError| match error {
            ExecError::Timeout(_) => {
                Status::deadline_exceeded(format!("command timed out after {timeout:?}"))
            }
            other => internal(&other),
        };
        let mut session =
            self.runtime().stream(&pod.pod.uid, &container.id, command).await.map_err(failed)?;
        let Ends { stdout, stderr, .. } = std::mem::take(&mut session.ends);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit_code = {
            let read = async { tokio::join!(read(stdout, &mut out), read(stderr, &mut err)) };
            tokio::pin!(read);
            tokio::select! {
                _ = &mut read => session.wait().await,
                code = session.wait() => {
                    tokio::time::timeout(LAST_WORDS, &mut read).await.ok();
                    code
                }
            }
        };
        let exit_code = exit_code.map_err(failed)?;
        Ok(ExecSyncResponse { stdout: out, stderr: err, exit_code })
    }
}

/// Reads to the end and keeps the beginning.
async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; 16 << 10];
    while let Ok(got @ 1..) = from.read(&mut piece).await {
        let room = MAX_OUTPUT.saturating_sub(into.len());
        into.extend(&piece[..got.min(room)]);
    }
}

/// Clients rely on it that a directory that is missing is made.
fn make_source(source: &Path) -> std::io::Result<()> {
    if source.exists() { Ok(()) } else { std::fs::create_dir_all(source) }
}
