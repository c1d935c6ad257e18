//! [pure] Which persistent volume a pod's volume means, whether the pod may have it, and what kind of thing it is.
//!
//! The words are the kubelet's (`desired_state_of_world_populator`). Not for: asking the API server, mounting.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Container, HostPathVolumeSource, LocalVolumeSource, PersistentVolume,
    PersistentVolumeClaim, Pod, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use orlop_model::quantities::Quantity as Amount;
use serde::{Deserialize, Serialize};

use crate::pod::{admission, settings::Settings};

/// The claim that a volume of a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) claim: String,
    /// The pod only reads.
    pub(super) read_only: bool,
    /// It is made for the pod and goes with it.
    pub(super) ephemeral: bool,
}

impl Wanted {
    /// `None`: the volume is no claim.
    pub(super) fn of(pod: &Pod, volume: &Volume) -> Option<Wanted> {
        if volume.ephemeral.is_some() {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let claim = format!("{name}-{}", volume.name);
            return Some(Wanted { claim, read_only: false, ephemeral: true });
        }
        let source = volume.persistent_volume_claim.as_ref()?;
        let read_only = source.read_only.unwrap_or_default();
        Some(Wanted { claim: source.claim_name.clone(), read_only, ephemeral: false })
    }
}

/// A volume that a pod was promised; kept on the node while the pod is there, so that neither a new agent nor a new boot
/// has to ask for what cannot change meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Resolved {
    /// The volume.
    pub(super) volume: PersistentVolume,
    /// The pod only reads.
    pub(super) read_only: bool,
    /// Size that the claim was told of when it was asked.
    #[serde(default)]
    pub(super) told: Option<Quantity>,
}

/// What a persistent volume is on this node.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Backing<'a> {
    HostPath(&'a HostPathVolumeSource),
    Local(&'a LocalVolumeSource),
    Csi(&'a CSIPersistentVolumeSource),
}

impl Resolved {
    pub(super) fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }

    /// `None`: of a kind that this node does not know.
    pub(super) fn backing(&self) -> Option<Backing<'_>> {
        let spec = self.volume.spec.as_ref()?;
        let host_path = spec.host_path.as_ref().map(Backing::HostPath);
        let local = || spec.local.as_ref().map(Backing::Local);
        host_path.or_else(local).or_else(|| spec.csi.as_ref().map(Backing::Csi))
    }

    /// A device instead of files.
    pub(super) fn is_block(&self) -> bool {
        self.volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref()) == Some("Block")
    }

    pub(super) fn mount_options(&self) -> &[String] {
        self.volume.spec.as_ref().and_then(|spec| spec.mount_options.as_deref()).unwrap_or_default()
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.volume.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// A group that may use the volume; every process of the pod is in it.
    pub(super) fn gid(&self) -> Option<i64> {
        self.annotation("pv.beta.kubernetes.io/gid")?.parse().ok()
    }

    /// With other sizes, of the claim and of the volume; the volume is the same.
    pub(super) fn sized(mut self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Resolved {
        if volume.metadata.uid == self.volume.metadata.uid {
            self.told = told(claim);
            let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
            self.volume.spec.get_or_insert_default().capacity = capacity;
        }
        self
    }

    /// What the volume holds, where that is more than the claim knows.
    pub(super) fn grown_to(&self) -> Option<Quantity> {
        let given = self.volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?;
        let bytes =
            |quantity: &Quantity| Amount::parse(&quantity.0).map(|amount| amount.value()).unwrap_or(0);
        (bytes(given) > bytes(self.told.as_ref()?)).then(|| given.clone())
    }

    /// Whether this node can reach it.
    pub(super) fn is_reachable(&self, settings: &Settings) -> bool {
        let affinity = self.volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let required = affinity.and_then(|affinity| affinity.required.as_ref());
        required.is_none_or(|required| {
            required.node_selector_terms.iter().any(|term| admission::term_fits(settings, term))
        })
    }
}

/// Size that a claim was told of.
pub(super) fn told(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage").cloned()
}

/// The name of the claim's volume, once a pod may start with it.
pub(super) fn check_claim(
    pod: &Pod,
    wanted: &Wanted,
    claim: &PersistentVolumeClaim,
) -> Result<String, String> {
    if wanted.ephemeral && !is_for(pod, claim) {
        let name = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
            meta.name.clone().unwrap_or_default()
        };
        return Err(format!(
            "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
            claim.metadata.namespace.as_deref().unwrap_or_default(),
            name(&claim.metadata),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
            name(&pod.metadata),
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".into());
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) != Some("Bound") {
        return Err("PVC is not bound".into());
    }
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone());
    volume.filter(|name| !name.is_empty()).ok_or_else(|| "PVC has empty pvc.Spec.VolumeName".into())
}

fn is_for(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|owner| owner.controller == Some(true));
    controllers.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// The volume knows the claim too.
pub(super) fn check_volume(volume: &PersistentVolume, claim_uid: Option<&str>) -> Result<(), String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let reference = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let Some(reference) = reference else {
        return Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
        ));
    };
    let (found, wanted) = (reference.uid.as_deref().unwrap_or_default(), claim_uid.unwrap_or_default());
    if found != wanted {
        return Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {found} does not point to claim.UID {wanted}"
        ));
    }
    Ok(())
}

/// Containers use a device as a device and files as files.
pub(super) fn check_use(pod: &Pod, volume: &str, is_block: bool) -> Result<(), String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let all: Vec<&Container> = spec.containers.iter().chain(spec.init_containers.iter().flatten()).collect();
    let mounted = all.iter().any(|c| c.volume_mounts.iter().flatten().any(|mount| mount.name == volume));
    let opened = all.iter().any(|c| c.volume_devices.iter().flatten().any(|device| device.name == volume));
    match (is_block, mounted, opened) {
        (true, true, _) => {
            Err(format!("volume {volume} has volumeMode Block, but is specified in volumeMounts"))
        }
        (false, _, true) => {
            Err(format!("volume {volume} has volumeMode Filesystem, but is specified in volumeDevices"))
        }
        _ => Ok(()),
    }
}

/// Volumes that any container of the pod uses; what none uses is not set up.
pub(super) fn used(pod: &Pod) -> BTreeSet<String> {
    let spec = pod.spec.iter();
    let all = spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    all.flat_map(|container| {
        let mounts = container.volume_mounts.iter().flatten().map(|mount| mount.name.clone());
        mounts.chain(container.volume_devices.iter().flatten().map(|device| device.name.clone()))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const POD: &str = "{metadata: {name: p, namespace: ns, uid: u}, spec: {containers: [{name: c, \
        volumeMounts: [{name: files, mountPath: /f}], volumeDevices: [{name: disk, devicePath: /d}]}], volumes: []}}";

    fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_norway::from_str(text).unwrap()
    }

    /// A volume of the pod and its claim → the volume's name, or why not.
    fn check(volume: &str, claim: &str, expect: Expect) {
        let pod: Pod = yaml(POD);
        let wanted = Wanted::of(&pod, &yaml(volume)).unwrap();
        let answer = check_claim(&pod, &wanted, &yaml(claim));
        let (Ok(text) | Err(text)) = answer;
        expect.assert_eq(&format!("{}{} {text}", wanted.claim, if wanted.read_only { " ro" } else { "" }));
    }

    #[test]
    fn a_claim_must_be_bound_and_stay() {
        let volume = "{name: v, persistentVolumeClaim: {claimName: data, readOnly: true}}";
        let bound = "spec: {volumeName: pv}, status: {phase: Bound}";
        check(volume, &format!("{{{bound}}}"), expect!["data ro pv"]);
        check(volume, "{status: {phase: Pending}}", expect!["data ro PVC is not bound"]);
        check(
            volume,
            "{spec: {}, status: {phase: Bound}}",
            expect!["data ro PVC has empty pvc.Spec.VolumeName"],
        );
        check(
            volume,
            &format!("{{metadata: {{deletionTimestamp: '2024-01-01T00:00:00Z'}}, {bound}}}"),
            expect!["data ro PVC is being deleted"],
        );
    }

    #[test]
    fn an_ephemeral_claim_must_be_the_pods_own() {
        let volume = "{name: v, ephemeral: {}}";
        let claim = |uid: &str| {
            format!(
                "{{metadata: {{name: p-v, namespace: ns, ownerReferences: [{{apiVersion: v1, kind: Pod, name: p, uid: {uid}, controller: true}}]}}, spec: {{volumeName: pv}}, status: {{phase: Bound}}}}"
            )
        };
        check(volume, &claim("u"), expect!["p-v pv"]);
        check(
            volume,
            &claim("other"),
            expect!["p-v PVC ns/p-v was not created for pod ns/p (pod is not owner)"],
        );
    }

    #[test]
    fn volume_and_claim_must_name_each_other() {
        let check = |spec: &str, expect: Expect| {
            let volume: PersistentVolume = yaml(&format!("{{metadata: {{name: pv}}, spec: {spec}}}"));
            let answer = check_volume(&volume, Some("u1"));
            expect.assert_eq(&answer.err().unwrap_or_default());
        };
        check("{claimRef: {uid: u1}}", expect![""]);
        check(
            "{}",
            expect![
                "found PV object pv but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim"
            ],
        );
        check(
            "{claimRef: {uid: u2}}",
            expect!["found PV object pv but its pv.Spec.ClaimRef.UID u2 does not point to claim.UID u1"],
        );
    }

    #[test]
    fn devices_are_no_files() {
        let pod: Pod = yaml(POD);
        assert_eq!(check_use(&pod, "files", false), Ok(()));
        assert_eq!(check_use(&pod, "disk", true), Ok(()));
        let text = |answer: Result<(), String>| answer.unwrap_err();
        assert_eq!(
            text(check_use(&pod, "files", true)),
            "volume files has volumeMode Block, but is specified in volumeMounts"
        );
        assert_eq!(
            text(check_use(&pod, "disk", false)),
            "volume disk has volumeMode Filesystem, but is specified in volumeDevices"
        );
    }

    #[test]
    fn a_volume_may_have_grown_since_the_claim_heard_of_it() {
        let grown = |told: Option<&str>| {
            let volume = yaml("{metadata: {name: pv}, spec: {capacity: {storage: 2Gi}}}");
            let told = told.map(|told| Quantity(told.to_owned()));
            Resolved { volume, read_only: false, told }.grown_to().map(|size| size.0)
        };
        assert_eq!(grown(Some("1Gi")).as_deref(), Some("2Gi"));
        assert_eq!(grown(Some("2Gi")), None);
        assert_eq!(grown(None), None);
    }

    #[test]
    fn only_kinds_that_are_known_have_a_backing() {
        let backing = |spec: &str| {
            let volume = yaml(&format!("{{metadata: {{name: pv}}, spec: {spec}}}"));
            let resolved = Resolved { volume, read_only: false, told: None };
            resolved.backing().map(|backing| format!("{backing:?}").split('(').next().unwrap().to_owned())
        };
        assert_eq!(backing("{local: {path: /x}}").as_deref(), Some("Local"));
        assert_eq!(backing("{hostPath: {path: /x}}").as_deref(), Some("HostPath"));
        assert_eq!(backing("{csi: {driver: d, volumeHandle: h}}").as_deref(), Some("Csi"));
        assert_eq!(backing("{nfs: {server: s, path: /x}}"), None);
    }
}
