//! Mounting volumes through drivers.

use std::{collections::HashMap, path::PathBuf};

use k8s_openapi::api::{
    core::v1::{Pod, SecretReference},
    storage::v1::CSIDriver,
};
use orlop_cri_api::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    VolumeCapability, node_service_capability::rpc::Type as Rpc,
};

use serde_json::json;

use super::{
    Csi,
    driver::Driver,
    places::{keep, make_dir, text},
    words::{self, Source, Use, VolData},
};
use crate::{pod::desired::pod_ref, volume::sub_path::is_mount_root, worker::ports::TokenRequest};

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

/// The step at which a volume that pods use gets larger.
pub const LIVE_GROWTH: &str = "NodeExpandVolume.NodeExpandVolume";

/// At which step it went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsiFailure {
    /// As events name it: `MountVolume.MountDevice` …
    pub step: &'static str,
    /// What went wrong.
    pub error: String,
}

fn failed(step: &'static str) -> impl Fn(String) -> CsiFailure {
    move |error| CsiFailure { step, error }
}

impl Csi {
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
        let grow_to = request.grow_to.filter(|_| !request.read_only);
        if !published.fresh && !published.again && grow_to.is_none() {
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
        let staged = if stages { text(&places.staging) } else { String::new() };
        if let Some(bytes) = grow_to.filter(|_| !published.fresh && driver.can(Rpc::ExpandVolume)) {
            let path = text(&places.target);
            let grown = self.grow(&driver, &request, path, staged.clone(), capability.clone(), bytes).await;
            grown.map_err(failed(LIVE_GROWTH))?;
            published.grown = true;
        }
        if !published.fresh && !published.again {
            return Ok(published);
        }
        let secrets = self.secrets(request.source.publish_secret.as_ref()).await;
        let publish = NodePublishVolumeRequest {
            volume_id: handle.clone(),
            publish_context,
            staging_target_path: staged.clone(),
            target_path: text(&places.target),
            volume_capability: Some(capability.clone()),
            readonly: request.read_only || request.source.read_only,
            secrets: secrets.map_err(failed(set_up))?,
            volume_context: self.context(&request, object).await.map_err(failed(set_up))?,
        };
        make_dir(places.target.parent().unwrap_or(&places.target)).map_err(failed(set_up))?;
        driver.publish(publish).await.map_err(failed(set_up))?;
        if let Some(bytes) = grow_to.filter(|_| published.fresh && driver.can(Rpc::ExpandVolume)) {
            let path = text(&places.target);
            let grown = self.grow(&driver, &request, path, staged, capability, bytes).await;
            grown.map_err(failed("MountVolume.Resize"))?;
            published.grown = true;
        }
        Ok(published)
    }

    /// Whether a driver can make use of what a volume has grown by while pods use it.
    #[must_use]
    pub fn can_grow(&self, driver: &str) -> bool {
        self.driver(driver).is_ok_and(|driver| driver.can(Rpc::ExpandVolume))
    }

    async fn grow(
        &self,
        driver: &Driver,
        request: &Request<'_>,
        volume_path: String,
        staging_target_path: String,
        capability: VolumeCapability,
        bytes: i64,
    ) -> Result<(), String> {
        let expand = NodeExpandVolumeRequest {
            volume_id: request.source.handle.clone(),
            volume_path,
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            staging_target_path,
            volume_capability: Some(capability),
            secrets: self.secrets(request.source.expand_secret.as_ref()).await?,
        };
        driver.expand(expand).await
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
}
