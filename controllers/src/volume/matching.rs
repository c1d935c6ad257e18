//! [pure] Which volume suits a claim: the smallest that is large enough and has all it asks for.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};

use crate::object::{is_deleting, labels, name, selector};
use crate::scheduler::affinity;

use super::words::{asked, capacity, claim_class, is_for, volume_class, volume_phase};

/// The best volume for a claim. With a node, only volumes that it reaches; with `only_promised`, only those that were
/// made for this claim.
pub(crate) fn best(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    node: Option<&Node>,
    only_promised: bool,
) -> Option<Arc<PersistentVolume>> {
    let promised = volumes.iter().find(|volume| is_for(volume, claim) && conflict(claim, volume).is_none());
    if only_promised || promised.is_some() {
        return promised.cloned();
    }
    let free = volumes.iter().filter(|volume| {
        volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_none())
            && volume_phase(volume) == "Available"
            && !is_deleting(&volume.metadata)
            && conflict(claim, volume).is_none()
            && selects(claim, volume)
            && node.is_none_or(|node| reaches(volume, node))
    });
    free.min_by_key(|volume| (capacity(volume), name(&volume.metadata).to_owned())).cloned()
}

/// Why a claim cannot have a volume, whoever it is for.
pub(super) fn conflict(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let mode = |mode: Option<&str>| mode.unwrap_or("Filesystem").to_owned();
    let (wanted, given) = (claim.spec.as_ref()?, volume.spec.as_ref()?);
    if capacity(volume) < asked(claim) {
        return Some("requested PV is too small");
    }
    if claim_class(claim) != volume_class(volume) {
        return Some("storageClassName does not match");
    }
    if mode(wanted.volume_mode.as_deref()) != mode(given.volume_mode.as_deref()) {
        return Some("incompatible volumeMode");
    }
    let modes: BTreeSet<&String> = given.access_modes.iter().flatten().collect();
    if !wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        return Some("incompatible accessMode");
    }
    None
}

fn selects(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let Some(given) = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return true };
    selector(Some(given)).is_ok_and(|selector| selector.matches(labels(&volume.metadata)))
}

/// Whether a volume can be used on a node.
pub(crate) fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required
        .is_none_or(|required| required.node_selector_terms.iter().any(|term| affinity::matches(term, node)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    /// `NAME SIZE [more spec]`
    fn volume(text: &str) -> Arc<PersistentVolume> {
        let mut words = text.splitn(3, ' ');
        let (name, size, more) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, labels: {{n: {name}}}}}, spec: {{capacity: {{storage: {size}}}, accessModes: [ReadWriteOnce], {more}}}, status: {{phase: Available}}}}"
        )))
    }

    fn check(claim: &str, volumes: &[&str], expected: &str) {
        let claim: PersistentVolumeClaim = yaml(&format!(
            "{{metadata: {{name: c, namespace: ns, uid: u}}, spec: {{resources: {{requests: {{storage: 2Gi}}}}, {claim}}}}}"
        ));
        let volumes: Vec<_> = volumes.iter().map(|text| volume(text)).collect();
        let node = yaml("{metadata: {name: n1}}");
        let found = best(&claim, &volumes, Some(&node), false);
        let found = found.as_ref().map_or("none", |volume| name(&volume.metadata));
        assert_eq!(found, expected, "{claim:?}");
    }

    #[test]
    fn the_smallest_that_is_large_enough() {
        let all = ["small 1Gi", "big 10Gi", "right 3Gi", "taken 2Gi claimRef: {namespace: ns, name: other}"];
        check("accessModes: [ReadWriteOnce]", &all, "right");
        check("accessModes: [ReadWriteMany]", &all, "none");
        check("accessModes: [ReadWriteOnce], volumeMode: Block", &all, "none");
        check("accessModes: [ReadWriteOnce], selector: {matchLabels: {n: big}}", &all, "big");
        check("accessModes: [ReadWriteOnce], storageClassName: fast", &all, "none");
    }

    #[test]
    fn what_is_promised_comes_first_and_what_is_elsewhere_never() {
        let elsewhere = "near 2Gi nodeAffinity: {required: {nodeSelectorTerms: [{matchFields: [{key: metadata.name, operator: In, values: [n2]}]}]}}";
        check("accessModes: [ReadWriteOnce]", &[elsewhere], "none");
        let promised = "mine 9Gi claimRef: {namespace: ns, name: c}";
        check("accessModes: [ReadWriteOnce]", &["right 2Gi", promised], "mine");
        let before = "mine 9Gi claimRef: {namespace: ns, name: c, uid: old}";
        check("accessModes: [ReadWriteOnce]", &["right 2Gi", before], "right");
    }
}
