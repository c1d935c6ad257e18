//! [pure] What the binder does about one claim or one volume.
//!
//! Binding is four writes in a fixed order: the volume names the claim, says so in its phase, then the claim the same.
//! Each is left out when it is done already, so that a binding that was cut off goes on where it stopped.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use crate::object::{Key, annotation, is_deleting, name, uid};

use super::words::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, OLD_PROVISIONER, PROVISIONED_BY, PROVISIONER, SELECTED_NODE,
    claim_class, claim_phase, claimant, is_for, policy, volume_name, volume_phase,
};
use super::{Claim, Volume, matching};

/// What the binder knows.
pub(super) struct World<'a> {
    pub(super) claims: &'a dyn Fn(&Key) -> Option<Claim>,
    pub(super) volumes: Vec<Volume>,
    pub(super) classes: Vec<Arc<StorageClass>>,
    pub(super) nodes: Vec<Arc<Node>>,
}

impl World<'_> {
    fn volume(&self, wanted: &str) -> Option<&Volume> {
        self.volumes.iter().find(|volume| name(&volume.metadata) == wanted)
    }

    fn class(&self, wanted: &str) -> Option<&StorageClass> {
        self.classes.iter().find(|class| name(&class.metadata) == wanted).map(AsRef::as_ref)
    }
}

/// One write, or one thing to tell.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Merged into the volume.
    Volume(Volume, Value),
    /// Merged into the status of the volume.
    VolumeStatus(Volume, Value),
    /// Merged into the claim.
    Claim(Claim, Value),
    /// Merged into the status of the claim.
    ClaimStatus(Claim, Value),
    /// Removes a directory below /tmp of the machine that this runs on.
    RemoveDirectory(Volume, String),
    /// Deletes the volume.
    Delete(Volume),
    /// Told about a claim: warning, reason, message.
    TellClaim(Claim, bool, &'static str, String),
    /// Told about a volume.
    TellVolume(Volume, bool, &'static str, String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Volume(_, patch) => write!(f, "volume {patch}"),
            Step::VolumeStatus(_, status) => write!(f, "volume status {status}"),
            Step::Claim(_, patch) => write!(f, "claim {patch}"),
            Step::ClaimStatus(_, status) => write!(f, "claim status {status}"),
            Step::RemoveDirectory(_, path) => write!(f, "remove {path}"),
            Step::Delete(volume) => write!(f, "delete {}", name(&volume.metadata)),
            Step::TellClaim(_, _, reason, message) | Step::TellVolume(_, _, reason, message) => {
                write!(f, "{reason}: {message}")
            }
        }
    }
}

/// Whether the claim still waits for a volume.
pub(super) fn waits(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_none() && !is_deleting(&claim.metadata)
}

/// What to do about a claim.
pub(super) fn claim(claim: &Claim, world: &World<'_>) -> Vec<Step> {
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        return bound(claim, world);
    }
    if is_deleting(&claim.metadata) {
        return Vec::new();
    }
    match volume_name(claim) {
        "" => unbound(claim, world),
        wanted => asks_for(claim, wanted, world),
    }
}

fn unbound(claim: &Claim, world: &World<'_>) -> Vec<Step> {
    let class = world.class(claim_class(claim));
    let selected = annotation(&claim.metadata, SELECTED_NODE);
    let delayed = selected.is_none() && class.is_some_and(waits_for_consumer);
    let node = selected.and_then(|selected| world.nodes.iter().find(|node| name(&node.metadata) == selected));
    if let Some(volume) = matching::best(claim, &world.volumes, node.map(AsRef::as_ref), delayed) {
        return bind(claim, &volume);
    }
    let tell =
        |warning, reason, message: &str| Step::TellClaim(claim.clone(), warning, reason, message.to_owned());
    let mut steps = pending(claim);
    steps.extend(match (claim_class(claim), class) {
        ("", _) => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            vec![tell(false, "FailedBinding", text)]
        }
        _ if delayed => {
            vec![tell(
                false,
                "WaitForFirstConsumer",
                "waiting for first consumer to be created before binding",
            )]
        }
        (wanted, None) => {
            let text = format!("storageclass.storage.k8s.io \"{wanted}\" not found");
            vec![tell(true, "ProvisioningFailed", &text)]
        }
        (_, Some(class)) if class.provisioner.starts_with("kubernetes.io/") => {
            let text = format!("no volume plugin matched name: {}", class.provisioner);
            vec![tell(true, "ProvisioningFailed", &text)]
        }
        (_, Some(class)) => ask_provisioner(claim, &class.provisioner),
    });
    steps
}

/// Volumes of this class are chosen, or made, when it is known where they are needed.
pub(crate) fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

fn ask_provisioner(claim: &Claim, provisioner: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let asked = |key| annotation(&claim.metadata, key) == Some(provisioner);
    if !(asked(PROVISIONER) && asked(OLD_PROVISIONER)) {
        let annotations = json!({ PROVISIONER: provisioner, OLD_PROVISIONER: provisioner });
        steps.push(Step::Claim(claim.clone(), json!({ "metadata": { "annotations": annotations } })));
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    steps.push(Step::TellClaim(claim.clone(), false, "ExternalProvisioning", text));
    steps
}

/// The claim names its volume.
fn asks_for(claim: &Claim, wanted: &str, world: &World<'_>) -> Vec<Step> {
    let Some(volume) = world.volume(wanted) else { return pending(claim) };
    let taken = volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some());
    let mut steps = pending(claim);
    if taken && !is_for(volume, claim) {
        let text = format!("volume \"{wanted}\" already bound to a different claim.");
        steps.push(Step::TellClaim(claim.clone(), true, "FailedBinding", text));
    } else if let Some(conflict) = matching::conflict(claim, volume).filter(|_| !taken) {
        let text = format!("Cannot bind to requested volume \"{wanted}\": {conflict}");
        steps.push(Step::TellClaim(claim.clone(), true, "VolumeMismatch", text));
    } else {
        return bind(claim, volume);
    }
    steps
}

fn pending(claim: &Claim) -> Vec<Step> {
    match claim_phase(claim) {
        "Pending" => Vec::new(),
        _ => vec![Step::ClaimStatus(claim.clone(), json!({ "phase": "Pending" }))],
    }
}

fn bound(claim: &Claim, world: &World<'_>) -> Vec<Step> {
    let lost = |reason, text: &str| match claim_phase(claim) {
        "Lost" => Vec::new(),
        _ => vec![
            Step::ClaimStatus(claim.clone(), json!({ "phase": "Lost" })),
            Step::TellClaim(claim.clone(), true, reason, text.to_owned()),
        ],
    };
    let wanted = volume_name(claim);
    if wanted.is_empty() {
        let text = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lost("ClaimLost", text);
    }
    let Some(volume) = world.volume(wanted) else {
        return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none() || is_for(volume, claim) {
        return bind(claim, volume);
    }
    lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

/// All that is missing between the two.
fn bind(claim: &Claim, volume: &Volume) -> Vec<Step> {
    let mut steps = Vec::new();
    let (meta, spec) = (&claim.metadata, volume.spec.as_ref());
    let reference = spec.and_then(|spec| spec.claim_ref.as_ref());
    if reference.and_then(|reference| reference.uid.as_deref()) != Some(uid(meta)) {
        let mut patch = json!({ "spec": { "claimRef": {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace, "name": meta.name,
            "uid": meta.uid, "resourceVersion": meta.resource_version,
        }}});
        if reference.is_none() {
            patch["metadata"] = json!({ "annotations": { BOUND_BY_CONTROLLER: "yes" } });
        }
        steps.push(Step::Volume(volume.clone(), patch));
    }
    steps.extend(phase(volume, "Bound"));
    let by_us = volume_name(claim).is_empty();
    if by_us || annotation(meta, BIND_COMPLETED).is_none() {
        let mut annotations = json!({ BIND_COMPLETED: "yes" });
        let mut patch = json!({});
        if by_us {
            annotations[BOUND_BY_CONTROLLER] = "yes".into();
            patch["spec"] = json!({ "volumeName": name(&volume.metadata) });
        }
        patch["metadata"] = json!({ "annotations": annotations });
        steps.push(Step::Claim(claim.clone(), patch));
    }
    if claim_phase(claim) != "Bound" {
        let status = json!({
            "phase": "Bound",
            "accessModes": spec.and_then(|spec| spec.access_modes.clone()),
            "capacity": spec.and_then(|spec| spec.capacity.clone()),
        });
        steps.push(Step::ClaimStatus(claim.clone(), status));
    }
    steps
}

fn phase(volume: &Volume, wanted: &str) -> Option<Step> {
    let status = json!({ "phase": wanted, "message": null, "reason": null });
    (volume_phase(volume) != wanted).then(|| Step::VolumeStatus(volume.clone(), status))
}

/// What to do about a volume.
pub(super) fn volume(volume: &Volume, world: &World<'_>) -> Vec<Step> {
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let (Some(reference), Some(key)) = (reference, claimant(volume)) else {
        return phase(volume, "Available").into_iter().collect();
    };
    let Some(wanted) = reference.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return phase(volume, "Available").into_iter().collect();
    };
    let claim = (world.claims)(&key).filter(|claim| uid(&claim.metadata) == wanted);
    let Some(claim) = claim else { return released(volume) };
    match volume_name(&claim) {
        // The claim's own turn completes it.
        "" => Vec::new(),
        other if other == name(&volume.metadata) => phase(volume, "Bound").into_iter().collect(),
        _ if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            released(volume)
        }
        _ => unbind(volume),
    }
}

/// The claim went to another volume.
fn unbind(volume: &Volume) -> Vec<Step> {
    let patch = match annotation(&volume.metadata, BOUND_BY_CONTROLLER) {
        Some(_) => json!({
            "metadata": { "annotations": { BOUND_BY_CONTROLLER: null } }, "spec": { "claimRef": null },
        }),
        // The user's wish stays.
        None => json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } }),
    };
    [Step::Volume(volume.clone(), patch)].into_iter().chain(phase(volume, "Available")).collect()
}

/// The claim is gone.
fn released(volume: &Volume) -> Vec<Step> {
    if volume_phase(volume) == "Failed" {
        return Vec::new();
    }
    let mut steps: Vec<_> = phase(volume, "Released").into_iter().collect();
    if is_deleting(&volume.metadata) {
        return steps;
    }
    let failed = |reason: &'static str, text: String| {
        let status = json!({ "phase": "Failed", "message": text });
        [Step::VolumeStatus(volume.clone(), status), Step::TellVolume(volume.clone(), true, reason, text)]
    };
    let host_path = volume.spec.as_ref().and_then(|spec| spec.host_path.as_ref());
    match (policy(volume), host_path) {
        ("Delete", Some(source)) if is_below_tmp(&source.path) => {
            steps.push(Step::RemoveDirectory(volume.clone(), source.path.clone()));
            steps.push(Step::Delete(volume.clone()));
        }
        ("Delete", Some(source)) => {
            let text =
                format!("host_path deleter only supports /tmp/.+ but received provided {}", source.path);
            steps.extend(failed("VolumeFailedDelete", text));
        }
        // Whoever made it.
        ("Delete", None) if annotation(&volume.metadata, PROVISIONED_BY).is_some() => {}
        ("Delete", None) => {
            let text = format!(
                "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin matched",
                name(&volume.metadata)
            );
            steps.extend(failed("VolumeFailedDelete", text));
        }
        ("Recycle", _) => {
            let text = "No recycler plugin found for the volume!".to_owned();
            steps.extend(failed("VolumeFailedRecycle", text));
        }
        _ => {}
    }
    steps
}

fn is_below_tmp(path: &str) -> bool {
    let below = path.strip_prefix("/tmp/").is_some_and(|rest| !rest.trim_matches('/').is_empty());
    below && path.split('/').all(|part| part != "..")
}

/// One step a line.
#[cfg(test)]
pub(super) fn text(steps: &[Step]) -> String {
    steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
