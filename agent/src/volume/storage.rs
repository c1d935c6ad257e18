//! The door to what the API server knows of persistent volumes and CSI drivers.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, PersistentVolumeClaim, Secret},
        storage::v1::{CSIDriver, VolumeAttachment},
    },
    apimachinery::pkg::api::resource::Quantity,
};

use crate::worker::ports::ObjectFailure;

/// Objects around persistent volumes, read when they are needed: a node uses few of them, and seldom.
pub trait StorageObjects: Send + Sync {
    /// A claim.
    fn claim<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<PersistentVolumeClaim>, ObjectFailure>>;
    /// A volume.
    fn volume<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Arc<PersistentVolume>, ObjectFailure>>;
    /// What a CSI driver says of itself; many say nothing.
    fn driver<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Arc<CSIDriver>>, ObjectFailure>>;
    /// Tells a claim that its volume has this size.
    fn resized<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        size: Quantity,
    ) -> BoxFuture<'a, Result<(), ObjectFailure>>;
    /// What a driver needs to know; of any namespace, as the volume names it.
    fn secret<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<Secret>, ObjectFailure>>;
    /// The attachment of a volume to this node.
    fn attachment<'a>(&'a self, name: &'a str)
    -> BoxFuture<'a, Result<Arc<VolumeAttachment>, ObjectFailure>>;
}
