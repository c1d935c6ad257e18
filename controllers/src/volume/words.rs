//! [pure] Annotations, finalizers and small questions about claims and volumes.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use orlop_model::quantities::Quantity;

use crate::object::{Key, annotation, uid};

pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub(super) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
pub(super) const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class of a claim, empty for none; the old annotation still counts.
pub(crate) fn claim_class(claim: &PersistentVolumeClaim) -> &str {
    let given = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, OLD_CLASS).or(given).unwrap_or_default()
}

/// The class of a volume, empty for none.
pub(super) fn volume_class(volume: &PersistentVolume) -> &str {
    let given = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, OLD_CLASS).or(given).unwrap_or_default()
}

pub(super) fn bytes(quantity: Option<&ApiQuantity>) -> i128 {
    quantity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(0, |quantity| quantity.value())
}

/// Bytes that a claim asks for.
pub(super) fn asked(claim: &PersistentVolumeClaim) -> i128 {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    bytes(requests.and_then(|requests| requests.get("storage")))
}

/// Bytes that a volume has.
pub(super) fn capacity(volume: &PersistentVolume) -> i128 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    bytes(capacity.and_then(|capacity| capacity.get("storage")))
}

/// Who the volume is for, by name.
pub(super) fn claimant(volume: &PersistentVolume) -> Option<Key> {
    let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(Key::new(part(&reference.namespace), part(&reference.name)))
}

/// Whether the volume is for this claim: of that name and, if it says so, of that uid.
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let same_uid = match reference.uid.as_deref() {
        None | Some("") => true,
        Some(given) => given == uid(&claim.metadata),
    };
    same_uid && claimant(volume).as_ref() == Some(&Key::of(&claim.metadata))
}

pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// Whether the claim has its volume, for good.
pub(crate) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    claim_phase(claim) == "Bound" && !volume_name(claim).is_empty()
}

pub(super) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}
