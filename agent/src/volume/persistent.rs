//! Volumes that outlive the pod: from the claim to a directory or a device that containers can have.
//!
//! ```text
//!  claim ─▶ volume ─▶ record (pods/<uid>/claims/<name>.json) ─▶ hostPath as it is
//!                                                             ─▶ local: bound to pods/<uid>/volumes/kubernetes.io~local-volume/<pv>
//!                                                             ─▶ csi
//! ```
//! Not for: which volume a claim gets (the controllers'), or whether the pod may have it (`claim`).

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use k8s_openapi::api::core::v1::{CSIVolumeSource, Pod, Volume};
use orlop_model::quantities::Quantity as Amount;

use super::{
    Disk, Made, Place, blocking,
    claim::{self, Backing, Resolved, Wanted},
    fs_group, host_path, local, own_dirs,
    sub_path::is_mount_root,
};
use crate::{
    csi::{CsiFailure, LIVE_GROWTH, Request, Source},
    pod::desired::pod_ref,
    worker::ports::VolumeFailure,
};

/// How often it is asked whether a volume that can grow has: about as often as a kubelet syncs a pod.
const GROWTH: Duration = Duration::from_secs(60);
/// How often a driver that wants it hears of its volumes again: about as often as a kubelet syncs a pod.
const REPUBLISH: Duration = Duration::from_secs(60);

impl Disk {
    /// Sets a claimed volume up.
    pub(super) async fn claimed(
        &self,
        pod: &Pod,
        volume: &Volume,
        wanted: &Wanted,
    ) -> Result<Made, VolumeFailure> {
        let resolved = self.resolve(pod, volume, wanted).await.map_err(|error| {
            let (name, namespace) = (&volume.name, pod_ref(pod).namespace);
            let error = format!("error processing PVC {namespace}/{}: {error}", wanted.claim);
            let text = format!(
                "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], \
                 failed to process volumes=[{name}]: {error}"
            );
            VolumeFailure { reason: "FailedMount", text, error }
        })?;
        let can_grow = !resolved.read_only
            && matches!(resolved.backing(), Some(Backing::Csi(source)) if self.csi.can_grow(&source.driver));
        let resolved = if can_grow { self.sized_anew(pod, wanted, resolved).await } else { resolved };
        let mut made = self.set_up(pod, &volume.name, &resolved).await?;
        if can_grow {
            let again = self.clock.now().checked_add(GROWTH).ok();
            made.refresh_at = made.refresh_at.into_iter().chain(again).min();
        }
        if let Some(size) = resolved.grown_to().filter(|_| made.grown.is_some()) {
            let namespace = pod_ref(pod).namespace;
            if let Err(error) = self.storage.resized(&namespace, &wanted.claim, size).await {
                tracing::warn!(claim = wanted.claim, %error, "a claim does not know that its volume has grown");
            }
        }
        Ok(Made { read_only: made.read_only || resolved.read_only, gid: resolved.gid(), ..made })
    }

    /// With the sizes of now; those that are known where the API server cannot be asked.
    async fn sized_anew(&self, pod: &Pod, wanted: &Wanted, known: Resolved) -> Resolved {
        let namespace = pod_ref(pod).namespace;
        let (claim, volume) =
            tokio::join!(self.storage.claim(&namespace, &wanted.claim), self.storage.volume(known.name()));
        match (claim, volume) {
            (Ok(claim), Ok(volume)) => known.sized(&claim, &volume),
            _ => known,
        }
    }

    async fn resolve(&self, pod: &Pod, volume: &Volume, wanted: &Wanted) -> Result<Resolved, String> {
        let pod_ref = pod_ref(pod);
        let record = self.layout.claim(&pod_ref.uid, &volume.name);
        if let Some(known) = read(&record) {
            return Ok(known);
        }
        let fetched = |error| format!("failed to fetch PVC from API server: {error}");
        let claim = self.storage.claim(&pod_ref.namespace, &wanted.claim).await.map_err(fetched)?;
        let name = claim::check_claim(pod, wanted, &claim)?;
        let found = self.storage.volume(&name).await;
        let found = found.map_err(|error| format!("failed to fetch PV {name} from API server: {error}"))?;
        claim::check_volume(&found, claim.metadata.uid.as_deref())?;
        let mut found = (*found).clone();
        found.metadata.managed_fields = None;
        let told = claim::told(&claim);
        let resolved = Resolved { volume: found, read_only: wanted.read_only, told };
        claim::check_use(pod, &volume.name, resolved.is_block())?;
        if resolved.backing().is_none() {
            let name = &volume.name;
            return Err(format!(
                "failed to get Plugin from volumeSpec for volume {name:?} err=no volume plugin matched"
            ));
        }
        let kept = resolved.clone();
        blocking(move || write(&record, &kept)).await?;
        Ok(resolved)
    }

    async fn set_up(&self, pod: &Pod, volume: &str, resolved: &Resolved) -> Result<Made, VolumeFailure> {
        let name = resolved.name();
        if !resolved.is_reachable(&self.settings) {
            return Err(failure(
                "MountVolume.NodeAffinity check",
                name,
                "no matching NodeSelectorTerms".into(),
            ));
        }
        match resolved.backing() {
            Some(Backing::HostPath(source)) => {
                let (source, path) = (source.clone(), source.path.clone().into());
                let prepared = blocking(move || host_path::prepare(&source)).await;
                prepared.map_err(|error| failure("MountVolume.SetUp", name, error))?;
                Ok(Made::at(Place::Directory(path)))
            }
            Some(Backing::Local(source)) => {
                let local = local::Local {
                    path: source.path.clone().into(),
                    fs_type: source.fs_type.clone(),
                    options: resolved.mount_options().to_vec(),
                    read_only: resolved.read_only,
                };
                self.local(pod, resolved, local).await
            }
            Some(Backing::Csi(source)) => {
                let spec = resolved.volume.spec.as_ref();
                let access_modes = spec.and_then(|spec| spec.access_modes.as_deref());
                let request = Request {
                    pod,
                    name,
                    source: Source::persistent(source),
                    block: resolved.is_block(),
                    read_only: resolved.read_only,
                    access_modes: access_modes.unwrap_or_default(),
                    mount_options: resolved.mount_options(),
                    group: fs_group::Wish::of(pod).map(fs_group::Wish::group),
                    grow_to: resolved
                        .grown_to()
                        .and_then(|size| i64::try_from(Amount::parse(&size.0).ok()?.value()).ok()),
                };
                self.driven(request).await
            }
            None => {
                let error = format!("volume {volume:?} is of a kind that this node does not support");
                Err(failure("MountVolume.SetUp", name, error))
            }
        }
    }

    /// A volume that a driver makes for the pod alone.
    pub(super) async fn inline(
        &self,
        pod: &Pod,
        volume: &str,
        source: &CSIVolumeSource,
    ) -> Result<Made, VolumeFailure> {
        let source = Source::inline(source, pod, volume);
        let request = Request {
            pod,
            name: volume,
            block: false,
            read_only: source.read_only,
            source,
            access_modes: &["ReadWriteOnce".to_owned()],
            mount_options: &[],
            group: fs_group::Wish::of(pod).map(fs_group::Wish::group),
            grow_to: None,
        };
        self.driven(request).await
    }

    async fn driven(&self, request: Request<'_>) -> Result<Made, VolumeFailure> {
        let (pod, name, block) = (request.pod, request.name, request.block);
        let read_only = request.read_only || request.source.read_only;
        let published = self.csi.publish(request).await;
        let published = published.map_err(|CsiFailure { step, error }| match block {
            _ if step == LIVE_GROWTH => {
                VolumeFailure { reason: "VolumeResizeFailed", ..failure(step, name, error) }
            }
            true => block_failure(step, name, error),
            false => failure(step, name, error),
        })?;
        let group = fs_group::Wish::of(pod).filter(|_| published.give_to_group && !read_only);
        if let Some(group) = group {
            let (path, group) = (published.path.clone(), if published.fresh { group } else { group.again() });
            let owned = blocking(move || fs_group::own_wished(&path, group)).await;
            owned.map_err(|error| failure("MountVolume.SetUp", name, error))?;
        }
        let refresh_at = published.again.then(|| self.clock.now().checked_add(REPUBLISH).ok()).flatten();
        let place = if block { Place::Device(published.path) } else { Place::Directory(published.path) };
        let grown = published.grown.then(|| name.to_owned());
        Ok(Made { read_only, refresh_at, grown, ..Made::at(place) })
    }

    async fn local(
        &self,
        pod: &Pod,
        resolved: &Resolved,
        local: local::Local,
    ) -> Result<Made, VolumeFailure> {
        let (name, path) = (resolved.name().to_owned(), local.path.clone());
        if resolved.is_block() {
            let device = path.clone();
            let checked = blocking(move || local::device(&device)).await;
            checked.map_err(|error| block_failure("MapVolume.SetUp", &name, error))?;
            return Ok(Made::at(Place::Device(path)));
        }
        let own = own_dirs::made_here(&self.settings, resolved).then(|| path.clone());
        let checked = blocking(move || {
            own.map_or(Ok(()), |own| own_dirs::make(&own))?;
            local::check(&path).map(drop)
        });
        checked.await.map_err(|error| failure("MountVolume.NewMounter initialization", &name, error))?;
        let target = self.layout.volume(&pod_ref(pod).uid, "local-volume", &name);
        let group = fs_group::Wish::of(pod).filter(|_| !local.read_only);
        let place = target.clone();
        let mounted = blocking(move || {
            if is_mount_root(&target).unwrap_or_default() {
                return Ok(());
            }
            let is_directory = local::check(&local.path)?.is_dir();
            // Before anybody sees it: an agent that dies in between does it again.
            if let Some(group) = group.filter(|_| is_directory) {
                fs_group::own_wished(&local.path, group)?;
            }
            local::mount_on(&local, &target)?;
            match group.filter(|_| !is_directory) {
                Some(group) => fs_group::own_wished(&target, group),
                None => Ok(()),
            }
        });
        mounted.await.map_err(|error| failure("MountVolume.SetUp", &name, error))?;
        Ok(Made::at(Place::Directory(place)))
    }
}

/// An event about a volume as the kubelet words them.
pub(super) fn failure(what: &str, volume: &str, error: String) -> VolumeFailure {
    let text = format!("{what} failed for volume \"{volume}\" : {error}");
    VolumeFailure { reason: "FailedMount", text, error }
}

/// The same for devices.
pub(super) fn block_failure(what: &str, volume: &str, error: String) -> VolumeFailure {
    VolumeFailure { reason: "FailedMapVolume", ..failure(what, volume, error) }
}

/// Driver and handle of a pod's volume, by the persistent volume's name, from what is known of the claims.
pub(super) fn csi_of(claims: &Path, volume: &str) -> Option<(String, String)> {
    let records = fs::read_dir(claims).ok()?.filter_map(|entry| read(&entry.ok()?.path()));
    let resolved = records.into_iter().find(|resolved| resolved.name() == volume)?;
    match resolved.backing()? {
        Backing::Csi(source) => Some((source.driver.clone(), source.volume_handle.clone())),
        _ => None,
    }
}

/// What cannot be read is as good as not there: the API server is asked again.
fn read(record: &Path) -> Option<Resolved> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

fn write(record: &Path, resolved: &Resolved) -> Result<(), String> {
    let content = serde_json::to_vec(resolved).map_err(|error| error.to_string())?;
    write_private(record, &content)
}

/// Whole or not at all, for root only.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), String> {
    let write = || {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        let new = path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| format!("write {}: {error}", path.display()))
}
