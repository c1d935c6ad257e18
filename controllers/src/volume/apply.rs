//! Carries the binder's steps out, in their order.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::error::{SyncError, Trying, is_not_found};
use crate::object::{Key, name, namespace};
use crate::record::Recorder;

use super::bind::Step;

pub(super) struct Hand {
    pub(super) client: Client,
    pub(super) cache: Arc<Cache>,
    pub(super) recorder: Recorder,
}

impl Hand {
    /// One step; after an error the rest is planned anew.
    pub(super) async fn apply(&self, step: Step) -> Result<(), SyncError> {
        tracing::debug!(%step, "volumes");
        match step {
            Step::Volume(volume, mut patch) => {
                // Nobody else may have given it away meanwhile.
                patch["metadata"]["uid"] = json!(volume.metadata.uid);
                patch["metadata"]["resourceVersion"] = json!(volume.metadata.resource_version);
                let answer =
                    self.volumes().patch(name(&volume.metadata), &params(), &Patch::Merge(patch)).await;
                self.took(answer, &volume.metadata, |written| self.cache.volumes.absorb(written))
            }
            Step::VolumeStatus(volume, mut status) => {
                status["lastPhaseTransitionTime"] = json!(Time(Timestamp::now()));
                let patch = json!({ "metadata": { "uid": volume.metadata.uid }, "status": status });
                let api = self.volumes();
                let answer = api.patch_status(name(&volume.metadata), &params(), &Patch::Merge(patch)).await;
                self.took(answer, &volume.metadata, |written| self.cache.volumes.absorb(written))
            }
            Step::Claim(claim, mut patch) => {
                patch["metadata"]["uid"] = json!(claim.metadata.uid);
                let api = self.claims(&claim);
                let answer = api.patch(name(&claim.metadata), &params(), &Patch::Merge(patch)).await;
                self.took(answer, &claim.metadata, |written| self.cache.claims.absorb(written))
            }
            Step::ClaimStatus(claim, status) => {
                let patch: Value = json!({ "metadata": { "uid": claim.metadata.uid }, "status": status });
                let api = self.claims(&claim);
                let answer = api.patch_status(name(&claim.metadata), &params(), &Patch::Merge(patch)).await;
                self.took(answer, &claim.metadata, |written| self.cache.claims.absorb(written))
            }
            Step::RemoveDirectory(volume, path) => self.remove(&volume, &path).await,
            Step::Delete(volume) => delete(&self.client, &volume).await,
            Step::TellClaim(claim, warning, reason, message) => {
                tell(&self.recorder, &*claim, warning, reason, message);
                Ok(())
            }
            Step::TellVolume(volume, warning, reason, message) => {
                tell(&self.recorder, &*volume, warning, reason, message);
                Ok(())
            }
        }
    }

    /// The answer of a write; an object that is gone needs none.
    fn took<K>(
        &self,
        answer: kube::Result<K>,
        meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
        absorb: impl FnOnce(K),
    ) -> Result<(), SyncError> {
        match answer {
            Err(error) if is_not_found(&error) => Ok(()),
            answer => answer.trying(|| format!("change {}", Key::of(meta))).map(absorb),
        }
    }

    /// As upstream's deleter of host paths, which is for trying things out: on the machine of the controllers.
    async fn remove(&self, volume: &PersistentVolume, path: &str) -> Result<(), SyncError> {
        let gone = path.to_owned();
        let removed = tokio::task::spawn_blocking(move || remove_all(Path::new(&gone))).await;
        let error = match removed {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tell(&self.recorder, volume, true, "VolumeFailedDelete", error.clone());
        Err(SyncError::Object(format!("remove {path}: {error}")))
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.client.clone())
    }

    fn claims(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.client.clone(), namespace(&claim.metadata))
    }
}

fn params() -> PatchParams {
    PatchParams::default()
}

fn remove_all(path: &Path) -> std::io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if found.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
}

/// Deletes exactly this volume; its finalizers keep it as long as somebody needs it.
pub(super) async fn delete(client: &Client, volume: &PersistentVolume) -> Result<(), SyncError> {
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: volume.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let volume = name(&volume.metadata);
    match Api::<PersistentVolume>::all(client.clone()).delete(volume, &params).await {
        Err(error) if is_not_found(&error) => Ok(()),
        answer => answer.trying(|| format!("delete volume {volume}")).map(drop),
    }
}

pub(super) fn tell<K: kube::Resource<DynamicType = ()>>(
    recorder: &Recorder,
    about: &K,
    warning: bool,
    reason: &'static str,
    message: String,
) {
    match warning {
        true => recorder.warning(about, reason, message),
        false => recorder.normal(about, reason, message),
    }
}
