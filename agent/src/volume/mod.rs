//! Volumes and files of pods on the node's disk.
//!
//! ```text
//! <state_dir>/pods/<uid>/volumes/kubernetes.io~empty-dir/<name>     emptyDir; medium Memory is a tmpfs there
//! <state_dir>/pods/<uid>/volumes/kubernetes.io~configmap/<name>     written atomically
//! <state_dir>/pods/<uid>/volume-subpaths/<volume>/<container>/<n>   bind mounts made from opened descriptors
//! <state_dir>/pods/<uid>/containers/<name>/<attempt>                termination log
//! <state_dir>/pods/<uid>/etc-hosts, resolv.conf, hostname
//! <state_dir>/pods/<uid>/volumes/kubernetes.io~local-volume/<pv>    a local persistent volume, bound there
//! <state_dir>/pods/<uid>/claims/<volume>.json                       the persistent volume that a claim stands for
//! <state_dir>/local-volumes/<pv>                                    of the bundled provisioner; outlives the pod
//! <run_dir>/volumes/<uid>/<name>                                    secret, projected, downwardAPI: never on a disk
//! ```
//!
//! Everything is idempotent, because a start may be cut off anywhere. Not for: what goes into an environment.

mod atomic;
mod claim;
mod content;
mod empty_dir;
mod file;
mod fs_group;
mod host_path;
mod last_words;
pub mod layout;
mod local;
mod mounts;
pub mod own_dirs;
pub(crate) mod persistent;
mod remove;
pub mod storage;
pub(crate) mod sub_path;
mod token;

use std::{io, path::PathBuf, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture, future::join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};

use self::{claim::Wanted, content::Payload, layout::Layout, storage::StorageObjects, token::Tokens};
use crate::{
    csi::Csi,
    pod::{
        desired::{self, pod_ref},
        machine::{Mount, PodRef},
        observed::{BlockDevice, Volumes},
        settings::Settings,
    },
    worker::ports::{Clock, LastWords, MountRequest, Objects, PodFiles, VolumeFailure},
};

/// The real [`PodFiles`].
pub struct Disk {
    settings: Arc<Settings>,
    layout: Layout,
    objects: Arc<dyn Objects>,
    storage: Arc<dyn StorageObjects>,
    csi: Arc<Csi>,
    clock: Arc<dyn Clock>,
    tokens: Tokens,
}

/// Where a volume is on the node.
enum Place {
    Directory(PathBuf),
    Device(PathBuf),
}

/// A volume that was set up.
struct Made {
    place: Place,
    /// No container may write.
    read_only: bool,
    /// A group that may use it.
    gid: Option<i64>,
    refresh_at: Option<Timestamp>,
    /// It uses what it has grown by since: its name for users.
    grown: Option<String>,
}

impl Made {
    fn at(place: Place) -> Made {
        Made { place, read_only: false, gid: None, refresh_at: None, grown: None }
    }
}

/// The directories of the node could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory.
    #[error("make {}", path.display())]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Disk {
    /// Makes the directories ready; secrets get a file system in memory if their directory is not on one.
    pub fn open(
        settings: Arc<Settings>,
        objects: Arc<dyn Objects>,
        storage: Arc<dyn StorageObjects>,
        csi: Arc<Csi>,
        clock: Arc<dyn Clock>,
    ) -> Result<Disk, OpenError> {
        let layout = Layout::new(&settings);
        for path in [layout.pods(), layout.memory(), settings.log_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| OpenError::Directory { path, source })?;
        }
        if let Err(error) = empty_dir::keep_in_memory(&layout.memory()) {
            let path = layout.memory();
            tracing::warn!(path = %path.display(), %error, "secrets of pods are on a disk, not in memory");
        }
        Ok(Disk { settings, layout, objects, storage, csi, tokens: Tokens::new(Arc::clone(&clock)), clock })
    }

    async fn make(&self, pod: &Pod, volume: &Volume) -> Result<Made, VolumeFailure> {
        if let Some(wanted) = Wanted::of(pod, volume) {
            return self.claimed(pod, volume, &wanted).await;
        }
        if let Some(source) = &volume.csi {
            return self.inline(pod, &volume.name, source).await;
        }
        let made = self.make_own(pod, volume).await;
        let (path, refresh_at) =
            made.map_err(|error| persistent::failure("MountVolume.SetUp", &volume.name, error))?;
        Ok(Made { refresh_at, ..Made::at(Place::Directory(path)) })
    }

    /// A volume that is the pod's own.
    async fn make_own(&self, pod: &Pod, volume: &Volume) -> Result<(PathBuf, Option<Timestamp>), String> {
        let uid = pod_ref(pod).uid;
        let spec = desired::spec(pod);
        let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
        if let Some(host_path) = &volume.host_path {
            let host_path = host_path.clone();
            let path = PathBuf::from(&host_path.path);
            blocking(move || host_path::prepare(&host_path)).await?;
            return Ok((path, None));
        }
        if let Some(empty_dir) = &volume.empty_dir {
            let path = self.layout.volume(&uid, "empty-dir", &volume.name);
            let medium = empty_dir::Medium::of(&self.settings, spec, empty_dir)?;
            let made = path.clone();
            blocking(move || {
                empty_dir::prepare(&made, &medium)?;
                fs_group::own(&made, group, false)
            })
            .await?;
            return Ok((path, None));
        }
        let Some(payload) = content::payload(self, pod, volume).await? else {
            return Err(format!("volume \"{}\" is of a kind that this node does not support", volume.name));
        };
        let path = match volume.config_map {
            Some(_) => self.layout.volume(&uid, "configmap", &volume.name),
            None => self.layout.memory_volume(&uid, &volume.name),
        };
        let Payload { files, refresh_at } = payload;
        let target = path.clone();
        blocking(move || atomic::write(&target, &files, group)).await?;
        Ok((path, refresh_at))
    }
}

impl PodFiles for Disk {
    fn make_volumes(&self, pod: Arc<Pod>) -> BoxFuture<'_, Result<Volumes, Vec<VolumeFailure>>> {
        async move {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let used = claim::used(&pod);
            // Images come with the containers that mount them, and nobody waits for a claim that no container uses.
            let wanted = volumes.filter(|volume| {
                let claimed = Wanted::of(&pod, volume).is_some();
                volume.image.is_none() && (!claimed || used.contains(&volume.name))
            });
            // Of a list that tells how long it is, nothing is allocated for each future.
            let wanted: Vec<_> = wanted.collect();
            let made = wanted.into_iter().map(async |volume| (volume, self.make(&pod, volume).await));
            let made = join_all(made).await;
            let (mut volumes, mut failures) = (Volumes::default(), Vec::new());
            for (volume, result) in made {
                match result {
                    Ok(made) => take(&mut volumes, &volume.name, made),
                    Err(failure) => failures.push(failure),
                }
            }
            if failures.is_empty() { Ok(volumes) } else { Err(failures) }
        }
        .boxed()
    }

    fn mounts<'a>(&'a self, request: MountRequest<'a>) -> BoxFuture<'a, Result<Vec<Mount>, String>> {
        let job = mounts::Job::new(&self.settings, &self.layout, &request);
        blocking(move || job.run()).boxed()
    }

    fn last_words<'a>(&'a self, request: LastWords<'a>) -> BoxFuture<'a, Option<String>> {
        let file = self.layout.termination_log(&request.pod.uid, &request.container.name, request.attempt);
        let fall_back = request.failed
            && request.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        let log = fall_back.then(|| request.log_path.to_path_buf());
        async move { tokio::task::spawn_blocking(move || last_words::read(&file, log)).await.ok().flatten() }
            .boxed()
    }

    fn read<'a>(
        &'a self,
        volumes: &'a Volumes,
        volume: &'a str,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<String>, String>> {
        async move {
            let Some(directory) = volumes.paths.get(volume).cloned() else {
                return Err(format!("cannot find the volume \"{volume}\" referenced by FileKeyRef"));
            };
            let path = path.to_owned();
            blocking(move || file::read(&directory, &path)).await
        }
        .boxed()
    }

    fn clear_volumes<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>> {
        self.tokens.forget(&pod.uid);
        let (directory, memory) = (self.layout.pod(&pod.uid), self.layout.memory_pod(&pod.uid));
        async move {
            let (uid, claims) = (&pod.uid, self.layout.claims(&pod.uid));
            let sub_paths = directory.clone();
            // A driver cannot take back what is mounted elsewhere too.
            blocking(move || remove::sub_paths(&sub_paths)).await?;
            self.csi.unpublish_pod(uid, |volume| persistent::csi_of(&claims, volume)).await?;
            blocking(move || together([remove::pod(&directory), remove::tree(&memory)])).await
        }
        .boxed()
    }

    fn remove_pod<'a>(&'a self, pod: &'a PodRef) -> BoxFuture<'a, Result<(), String>> {
        let logs =
            (!pod.name.is_empty()).then(|| crate::pod::container::log_dir(&self.settings.log_dir, pod));
        async move {
            let cleared = self.clear_volumes(pod).await;
            let removed = blocking(move || logs.map_or(Ok(()), |logs| remove::tree(&logs))).await;
            together([cleared, removed])
        }
        .boxed()
    }

    fn pods(&self) -> BoxFuture<'_, Vec<String>> {
        let places = [self.layout.pods(), self.layout.memory()];
        async move {
            let list = move || {
                let entries = places.into_iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten();
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
            };
            tokio::task::spawn_blocking(list).await.unwrap_or_default()
        }
        .boxed()
    }
}

fn take(volumes: &mut Volumes, name: &str, made: Made) {
    let Made { place, read_only, gid, refresh_at, grown } = made;
    volumes.grown.extend(grown);
    match place {
        Place::Directory(path) => {
            volumes.paths.insert(name.to_owned(), path);
            if read_only {
                volumes.read_only.insert(name.to_owned());
            }
        }
        Place::Device(path) => {
            volumes.devices.insert(name.to_owned(), BlockDevice { path, read_only });
        }
    }
    volumes.gids.extend(gid);
    volumes.refresh_at = volumes.refresh_at.into_iter().chain(refresh_at).min();
}

/// File work beside the threads that serve everybody.
/// All failures as one.
fn together(steps: [Result<(), String>; 2]) -> Result<(), String> {
    let failures: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(error.to_string()))
}
