//! Persistent volumes, claims and CSI drivers, read one by one: a node may only see what its own pods use.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Secret},
        storage::v1::{CSIDriver, VolumeAttachment},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::objects::failure;
use crate::{volume::storage::StorageObjects, worker::ports::ObjectFailure};

/// The API server's, where there is one.
pub struct ApiStorage(pub Option<Client>);

impl ApiStorage {
    fn client(&self) -> Result<Client, ObjectFailure> {
        self.0.clone().ok_or_else(|| ObjectFailure::Other("this node has no API server".into()))
    }
}

impl StorageObjects for ApiStorage {
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, ObjectFailure>> {
        async move {
            let got = Api::<PersistentVolumeClaim>::namespaced(self.client()?, namespace).get(name).await;
            got.map(Arc::new).map_err(|error| failure(&error, "persistentvolumeclaims", name))
        }
        .boxed()
    }

    fn volume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<PersistentVolume>, ObjectFailure>> {
        async move {
            let got = Api::<PersistentVolume>::all(self.client()?).get(name).await;
            got.map(Arc::new).map_err(|error| failure(&error, "persistentvolumes", name))
        }
        .boxed()
    }

    fn driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ObjectFailure>> {
        async move {
            let got = Api::<CSIDriver>::all(self.client()?).get_opt(name).await;
            let got = got.map_err(|error| failure(&error, "csidrivers.storage.k8s.io", name))?;
            Ok(got.map(Arc::new))
        }
        .boxed()
    }

    fn resized<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        size: Quantity,
    ) -> BoxFuture<'a, Result<(), ObjectFailure>> {
        async move {
            // The conditions of a resize are over with it.
            let patch = json!({ "status": {
                "capacity": { "storage": size }, "conditions": null, "allocatedResourceStatuses": null,
            } });
            let api = Api::<PersistentVolumeClaim>::namespaced(self.client()?, namespace);
            let written = api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            written.map(drop).map_err(|error| failure(&error, "persistentvolumeclaims", name))
        }
        .boxed()
    }

    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>> {
        async move {
            let got = Api::<Secret>::namespaced(self.client()?, namespace).get(name).await;
            got.map(Arc::new).map_err(|error| failure(&error, "secret", name))
        }
        .boxed()
    }

    fn attachment<'a>(
        &'a self,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<VolumeAttachment>, ObjectFailure>> {
        async move {
            let got = Api::<VolumeAttachment>::all(self.client()?).get(name).await;
            got.map(Arc::new).map_err(|error| failure(&error, "volumeattachments.storage.k8s.io", name))
        }
        .boxed()
    }
}
