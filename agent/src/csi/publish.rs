//! Mounting volumes through drivers, and taking them back.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use futures::future::join_all;
use k8s_openapi::api::{
    core::v1::{Pod, SecretReference},
    storage::v1::CSIDriver,
};
use orlop_cri_api::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest,
    NodeStageVolumeRequest, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest,
    node_service_capability::rpc::Type as Rpc, volume_usage::Unit,
};

use serde_json::json;

use super::{
    Csi,
    driver::Driver,
    words::{self, Source, Use, VolData},
};
use crate::{
    pod::desired::pod_ref,
    volume::{
        persistent::write_private,
        sub_path::{detach, is_mount_root},
    },
    worker::ports::TokenRequest,
};

const RECORD: &str = "vol_data.json";

/// A volume that a pod needs.
pub struct Request<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Name of the persistent volume, or of the pod's own.
    pub name: &'a str,
    /// What the driver knows it as.
    pub source: Source,
    /// A device instead of files.
    pub block: bool,
    /// The pod only reads.
    pub read_only: bool,
    /// Of the persistent volume.
    pub access_modes: &'a [String],
    /// Of the persistent volume.
    pub mount_options: &'a [String],
    /// The pod's group.
    pub group: Option<i64>,
    /// Bytes, where the volume has grown since its claim was told how large it is.
    pub grow_to: Option<i64>,
}

/// A volume that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Directory or device.
    pub path: PathBuf,
    /// It was made just now.
    pub fresh: bool,
    /// Its files are to be given to the pod's group.
    pub give_to_group: bool,
    /// The driver made use of what the volume has grown by.
    pub grown: bool,
    /// The driver wants to hear of it again and again.
    pub again: bool,
}

/// At which step it went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiFailure {
    /// As events name it: `MountVolume.MountDevice` …
    pub step: &'static str,
    /// What went wrong.
    pub error: String,
}

/// Free and used room of a volume, as its driver counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes: all, free, used.
    pub bytes: (i64, i64, i64),
    /// Files: all, free, used.
    pub inodes: (i64, i64, i64),
}

/// Paths of one volume for one pod.
struct Places {
    /// Handed to the driver.
    staging: PathBuf,
    staged_record: PathBuf,
    target: PathBuf,
    record: PathBuf,
}

fn failed(step: &'static str) -> impl Fn(String) -> CsiFailure {
    move |error| CsiFailure { step, error }
}

impl Csi {
    fn plugins(&self) -> PathBuf {
        self.state_dir.join("plugins/kubernetes.io/csi")
    }

    fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    fn places(&self, uid: &str, name: &str, driver: &str, handle: &str, block: bool) -> Places {
        let (plugins, pod) = (self.plugins(), self.pods().join(uid));
        if block {
            let devices = plugins.join("volumeDevices");
            return Places {
                staging: devices.join("staging").join(name),
                staged_record: devices.join(name).join("data").join(RECORD),
                target: devices.join("publish").join(name).join(uid),
                record: pod.join("volumeDevices/kubernetes.io~csi").join(name).join(RECORD),
            };
        }
        let staged = plugins.join(driver).join(words::staged_name(handle));
        let own = pod.join("volumes/kubernetes.io~csi").join(name);
        Places {
            staging: staged.join("globalmount"),
            staged_record: staged.join(RECORD),
            target: own.join("mount"),
            record: own.join(RECORD),
        }
    }

    /// Brings a volume to a pod; what is there already stays.
    ///
    /// # Errors
    /// When the driver is not there or refuses, or the volume is not attached.
    pub async fn publish(&self, request: Request<'_>) -> Result<Published, CsiFailure> {
        let (mount_device, set_up) = match request.block {
            true => ("MapVolume.SetUpDevice", "MapVolume.SetUp"),
            false => ("MountVolume.MountDevice", "MountVolume.SetUp"),
        };
        let Source { driver: name, handle, ephemeral, .. } = &request.source;
        let uid = request.pod.metadata.uid.as_deref().unwrap_or_default();
        let turn = self.turn(name, handle);
        let _turn = turn.lock().await;
        let object = self.storage.driver(name).await.map_err(|error| failed(set_up)(error.to_string()))?;
        let object = object.as_deref();
        words::check_lifecycle(name, object, *ephemeral).map_err(failed(set_up))?;
        let attaches = !ephemeral && words::attaches(object);
        if attaches {
            let unique = words::unique_name(name, handle);
            self.in_use.send_if_modified(|in_use| in_use.insert(unique));
        }
        let fs_type = request.source.fs_type.as_str();
        let mut published = Published {
            path: PathBuf::new(),
            fresh: true,
            grown: false,
            again: object.and_then(|object| object.spec.requires_republish).unwrap_or_default(),
            give_to_group: !request.block && words::gives_to_group(object, fs_type, request.access_modes),
        };
        let places = self.places(uid, request.name, name, handle, request.block);
        published.path.clone_from(&places.target);
        published.fresh = !is_mount_root(&places.target).unwrap_or_default();
        if !published.fresh && !published.again {
            return Ok(published);
        }
        let client_failed = |error: String| match ephemeral {
            true => failed(set_up)(format!(
                "kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {error}"
            )),
            false => failed(mount_device)(format!(
                "kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: {error}"
            )),
        };
        let driver = self.driver(name).map_err(client_failed)?;
        let attachment =
            if attaches { words::attachment_name(handle, name, &self.node) } else { String::new() };
        let publish_context = self.attached(&attachment, handle).await?;

        let sets_group = driver.can(Rpc::VolumeMountGroup);
        published.give_to_group &= !sets_group;
        let capability = words::capability(&Use {
            block: request.block,
            access_modes: request.access_modes,
            fs_type,
            mount_options: request.mount_options,
            group: request.group.filter(|_| sets_group),
            knows_single_writer: driver.can(Rpc::SingleNodeMultiWriter),
        });
        let data = VolData {
            spec_vol_id: request.name.to_owned(),
            volume_handle: handle.clone(),
            driver_name: name.clone(),
            node_name: self.node.clone(),
            attachment_id: attachment,
            volume_lifecycle_mode: if *ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
        };
        // Whoever looks for users of the volume finds this pod from here on.
        keep(&places.record, &data).map_err(failed(set_up))?;
        let stages = !ephemeral && driver.can(Rpc::StageUnstageVolume);
        if stages && published.fresh {
            keep(&places.staged_record, &data).map_err(failed(mount_device))?;
            let secrets = self.secrets(request.source.stage_secret.as_ref()).await;
            let stage = NodeStageVolumeRequest {
                volume_id: handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: text(&places.staging),
                volume_capability: Some(capability.clone()),
                secrets: secrets.map_err(failed(mount_device))?,
                volume_context: request.source.attributes.clone().into_iter().collect(),
            };
            make_dir(&places.staging).map_err(failed(mount_device))?;
            driver.stage(stage).await.map_err(failed(mount_device))?;
        }
        let secrets = self.secrets(request.source.publish_secret.as_ref()).await;
        let publish = NodePublishVolumeRequest {
            volume_id: handle.clone(),
            publish_context,
            staging_target_path: if stages { text(&places.staging) } else { String::new() },
            target_path: text(&places.target),
            volume_capability: Some(capability.clone()),
            readonly: request.read_only || request.source.read_only,
            secrets: secrets.map_err(failed(set_up))?,
            volume_context: self.context(&request, object).await.map_err(failed(set_up))?,
        };
        make_dir(places.target.parent().unwrap_or(&places.target)).map_err(failed(set_up))?;
        driver.publish(publish).await.map_err(failed(set_up))?;
        let grows = request
            .grow_to
            .filter(|_| published.fresh && driver.can(Rpc::ExpandVolume) && !request.read_only);
        if let Some(bytes) = grows {
            let secrets = self.secrets(request.source.expand_secret.as_ref()).await;
            let expand = NodeExpandVolumeRequest {
                volume_id: handle.clone(),
                volume_path: text(&places.target),
                capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
                staging_target_path: if stages { text(&places.staging) } else { String::new() },
                volume_capability: Some(capability),
                secrets: secrets.map_err(failed("MountVolume.Resize"))?,
            };
            driver.expand(expand).await.map_err(failed("MountVolume.Resize"))?;
            published.grown = true;
        }
        Ok(published)
    }

    /// What the driver is told, with the tokens that it asks for.
    async fn context(
        &self,
        request: &Request<'_>,
        driver: Option<&CSIDriver>,
    ) -> Result<HashMap<String, String>, String> {
        let mut context = words::context(&request.source, request.pod, driver);
        let mut tokens = serde_json::Map::new();
        for wanted in driver.iter().flat_map(|driver| driver.spec.token_requests.iter().flatten()) {
            let account = request.pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
            let audience = wanted.audience.clone();
            let ask = TokenRequest {
                pod: pod_ref(request.pod),
                service_account: account.filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
                audience: Some(audience.clone()).filter(|audience| !audience.is_empty()),
                expiration_seconds: wanted.expiration_seconds.unwrap_or(3600),
            };
            let token = self.objects.token(&ask).await;
            let token = token.map_err(|error| format!("failed to fetch token: {error}"))?;
            let expires = token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            tokens.insert(audience, json!({ "token": token.token, "expirationTimestamp": expires }));
        }
        if !tokens.is_empty() {
            let tokens = serde_json::Value::Object(tokens).to_string();
            context.insert("csi.storage.k8s.io/serviceAccount.tokens".into(), tokens);
        }
        Ok(context)
    }

    /// What whoever attached the volume has to say to the driver; empty where nobody has to.
    async fn attached(&self, attachment: &str, handle: &str) -> Result<HashMap<String, String>, CsiFailure> {
        if attachment.is_empty() {
            return Ok(HashMap::new());
        }
        let step = "MountVolume.WaitForAttach";
        let found = self.storage.attachment(attachment).await;
        let found = found.map_err(|error| failed(step)(error.to_string()))?;
        let status = found.status.clone().unwrap_or_default();
        if found.metadata.deletion_timestamp.is_some() {
            return Err(failed(step)("volume attachment is being deleted".to_owned()));
        }
        match (status.attached, status.attach_error.and_then(|error| error.message)) {
            (true, _) => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
            (false, Some(error)) => Err(failed(step)(error)),
            (false, None) => Err(failed(step)(format!("volume {handle} has not been attached yet"))),
        }
    }

    async fn secrets(&self, reference: Option<&SecretReference>) -> Result<HashMap<String, String>, String> {
        let Some(reference) = reference else { return Ok(HashMap::new()) };
        let (namespace, name) = (&reference.namespace, &reference.name);
        let (namespace, name) =
            (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
        let found = self.storage.secret(namespace, name).await;
        found
            .map(|secret| words::secrets(&secret))
            .map_err(|error| format!("failed to get secret {namespace}/{name}: {error}"))
    }

    /// Takes all volumes of a pod back. `known` says driver and handle of a volume whose own record cannot be read.
    ///
    /// # Errors
    /// All that went wrong; a next try goes on with the rest.
    pub async fn unpublish_pod(
        &self,
        uid: &str,
        known: impl Fn(&str) -> Option<(String, String)> + Sync,
    ) -> Result<(), String> {
        let pod = self.pods().join(uid);
        let mut jobs = Vec::new();
        for (kind, block) in [("volumes", false), ("volumeDevices", true)] {
            for dir in children(&pod.join(kind).join("kubernetes.io~csi")) {
                let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let recorded = read(&dir.join(RECORD)).map(|data| (data.driver_name, data.volume_handle));
                let volume = recorded.or_else(|| known(&name));
                jobs.push(async move {
                    match volume {
                        Some((driver, handle)) => self.unpublish(uid, &name, &driver, &handle, block).await,
                        None => {
                            tracing::warn!(
                                uid,
                                volume = name,
                                "nobody knows whose volume this was: only unmounted"
                            );
                            clear(&dir.join("mount"), &dir)
                        }
                    }
                });
            }
        }
        let failures: Vec<_> = join_all(jobs).await.into_iter().filter_map(Result::err).collect();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    async fn unpublish(
        &self,
        uid: &str,
        name: &str,
        driver_name: &str,
        handle: &str,
        block: bool,
    ) -> Result<(), String> {
        let turn = self.turn(driver_name, handle);
        let _turn = turn.lock().await;
        let places = self.places(uid, name, driver_name, handle, block);
        let failed = |error: String| format!("UnmountVolume.TearDown failed for volume \"{name}\" : {error}");
        let driver = self.driver(driver_name).map_err(failed)?;
        let request =
            NodeUnpublishVolumeRequest { volume_id: handle.to_owned(), target_path: text(&places.target) };
        driver.unpublish(request).await.map_err(failed)?;
        clear(&places.target, places.record.parent().unwrap_or(&places.record)).map_err(failed)?;
        self.unstage(&driver, driver_name, handle, &places).await
    }

    /// With the last pod, the volume goes from the node.
    async fn unstage(
        &self,
        driver: &Driver,
        name: &str,
        handle: &str,
        places: &Places,
    ) -> Result<(), String> {
        if self.is_used(name, handle) {
            return Ok(());
        }
        if read(&places.staged_record).is_some() || places.staging.exists() {
            let staging_target_path = text(&places.staging);
            let request = NodeUnstageVolumeRequest { volume_id: handle.to_owned(), staging_target_path };
            let failed =
                |error| format!("UnmountVolume.UnmountDevice failed for volume {handle:?} : {error}");
            driver.unstage(request).await.map_err(failed)?;
            clear(&places.staging, places.staged_record.parent().unwrap_or(&places.staging))
                .map_err(failed)?;
        }
        let unique = words::unique_name(name, handle);
        self.in_use.send_if_modified(|in_use| in_use.remove(&unique));
        Ok(())
    }

    /// Whether any pod on the disk has the volume, or is about to.
    fn is_used(&self, driver: &str, handle: &str) -> bool {
        children(&self.pods()).iter().any(|pod| {
            ["volumes/kubernetes.io~csi", "volumeDevices/kubernetes.io~csi"].iter().any(|kind| {
                children(&pod.join(kind))
                    .iter()
                    .filter_map(|volume| read(&volume.join(RECORD)))
                    .any(|data| data.driver_name == driver && data.volume_handle == handle)
            })
        })
    }

    /// Takes back what no pod uses, whoever left it.
    pub(super) async fn sweep(&self, name: &str) {
        let Ok(driver) = self.driver(name) else { return };
        for staged in children(&self.plugins().join(name)) {
            let Some(data) = read(&staged.join(RECORD)).filter(|data| data.driver_name == name) else {
                continue;
            };
            let turn = self.turn(name, &data.volume_handle);
            let _turn = turn.lock().await;
            let places = self.places("", &data.spec_vol_id, name, &data.volume_handle, false);
            if let Err(error) = self.unstage(&driver, name, &data.volume_handle, &places).await {
                tracing::warn!(
                    driver = name,
                    volume = data.volume_handle,
                    error,
                    "a volume that nobody uses"
                );
            }
        }
    }

    /// The room in a volume of a pod, by the name of the persistent volume; nothing where the driver does not count.
    pub async fn room(&self, uid: &str, name: &str) -> Option<Room> {
        let dir = self.pods().join(uid).join("volumes/kubernetes.io~csi").join(name);
        let data = read(&dir.join(RECORD))?;
        let driver = self.driver(&data.driver_name).ok().filter(|driver| driver.can(Rpc::GetVolumeStats))?;
        let request = NodeGetVolumeStatsRequest {
            volume_id: data.volume_handle,
            volume_path: text(&dir.join("mount")),
            staging_target_path: String::new(),
        };
        let mut room = Room::default();
        for usage in driver.stats(request).await.ok()?.usage {
            let amounts = (usage.total, usage.available, usage.used);
            match usage.unit() {
                Unit::Bytes => room.bytes = amounts,
                Unit::Inodes => room.inodes = amounts,
                Unit::Unknown => {}
            }
        }
        Some(room)
    }
}

/// Attachable volumes that pods had when the agent before this one ended: until they are taken back, nobody may detach
/// them.
#[must_use]
pub fn left_in_use(state_dir: &Path) -> BTreeSet<String> {
    let volumes = children(&state_dir.join("pods")).into_iter().flat_map(|pod| {
        let kinds = ["volumes/kubernetes.io~csi", "volumeDevices/kubernetes.io~csi"];
        kinds.into_iter().flat_map(move |kind| children(&pod.join(kind)))
    });
    let records = volumes.filter_map(|volume| read(&volume.join(RECORD)));
    let attached = records.filter(|data| !data.attachment_id.is_empty());
    attached.map(|data| words::unique_name(&data.driver_name, &data.volume_handle)).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn keep(record: &Path, data: &VolData) -> Result<(), String> {
    let content = serde_json::to_vec(data).map_err(|error| error.to_string())?;
    write_private(record, &content)
}

/// What cannot be read is as good as not there.
fn read(record: &Path) -> Option<VolData> {
    serde_json::from_slice(&fs::read(record).ok()?).ok()
}

fn make_dir(path: &Path) -> Result<(), String> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o750);
    builder.recursive(true).create(path).map_err(|error| format!("make {}: {error}", path.display()))
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Removes an empty mount point and the directory with the record. Never what is in a volume: a directory that still
/// holds something is an error.
fn clear(target: &Path, dir: &Path) -> Result<(), String> {
    let clear = || -> io::Result<()> {
        detach(target)?;
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        match fs::symlink_metadata(target) {
            Ok(found) if found.is_dir() => gone(fs::remove_dir(target))?,
            Ok(_) => gone(fs::remove_file(target))?,
            Err(_) => {}
        }
        gone(fs::remove_file(dir.join(RECORD)))?;
        gone(fs::remove_file(dir.join("vol_data.new")))?;
        gone(fs::remove_dir(dir))
    };
    clear().map_err(|error| format!("remove {}: {error}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_record_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = dir.path().join("x").join(RECORD);
        assert!(read(&record).is_none());
        let data = VolData {
            spec_vol_id: "pv".into(),
            volume_handle: "h".into(),
            driver_name: "d".into(),
            node_name: "n".into(),
            attachment_id: String::new(),
            volume_lifecycle_mode: String::new(),
        };
        keep(&record, &data).unwrap();
        assert_eq!(read(&record), Some(data));
        fs::write(&record, "{\"volumeHandle\": ").unwrap();
        assert!(read(&record).is_none());
        // Data that is in the way stays.
        let target = record.with_file_name("mount");
        fs::create_dir_all(target.join("precious")).unwrap();
        clear(&target, record.parent().unwrap()).unwrap_err();
        assert!(target.join("precious").exists());
        fs::remove_dir(target.join("precious")).unwrap();
        clear(&target, record.parent().unwrap()).unwrap();
        assert!(!record.parent().unwrap().exists());
    }
}
