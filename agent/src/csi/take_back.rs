//! The end of volumes on this node: unpublished with the pod, unstaged with the last one.

use std::{collections::BTreeSet, path::Path};

use futures::future::join_all;
use orlop_cri_api::csi::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};

use super::{
    Csi,
    driver::Driver,
    places::{Places, RECORD, children, clear, read, text},
    words,
};

impl Csi {
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
