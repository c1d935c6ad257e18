//! One claim or volume among others → the steps, as text.

use expect_test::{Expect, expect};

use super::*;
use crate::testing::yaml;

const CLASSES: &[&str] = &[
    "{metadata: {name: now}, provisioner: example.org/fast}",
    "{metadata: {name: later}, provisioner: example.org/fast, volumeBindingMode: WaitForFirstConsumer}",
    "{metadata: {name: none}, provisioner: kubernetes.io/no-provisioner}",
];

/// `NAME PHASE [more spec] [| more metadata]`
fn claim_of(text: &str) -> Claim {
    let (text, meta) = text.split_once(" | ").unwrap_or((text, ""));
    let mut words = text.splitn(3, ' ');
    let (name, phase, more) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    Arc::new(yaml(&format!(
        "{{metadata: {{name: {name}, namespace: ns, uid: u-{name}, {meta}}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}, {more}}}, status: {{phase: {phase}}}}}"
    )))
}

/// The same for volumes.
fn volume_of(text: &str) -> Volume {
    let (text, meta) = text.split_once(" | ").unwrap_or((text, ""));
    let mut words = text.splitn(3, ' ');
    let (name, phase, more) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    Arc::new(yaml(&format!(
        "{{metadata: {{name: {name}, uid: u-{name}, {meta}}}, spec: {{accessModes: [ReadWriteOnce], capacity: {{storage: 5Gi}}, {more}}}, status: {{phase: {phase}}}}}"
    )))
}

/// Claims (`c …`) and volumes (`v …`); the first is the one that is looked at.
fn check(objects: &[&str], expected: Expect) {
    let of = |kind: &'static str| objects.iter().filter_map(move |object| object.strip_prefix(kind));
    let claims: Vec<_> = of("c ").map(claim_of).collect();
    let find = |key: &Key| claims.iter().find(|claim| Key::of(&claim.metadata) == *key).cloned();
    let world = World {
        claims: &find,
        volumes: of("v ").map(volume_of).collect(),
        classes: CLASSES.iter().map(|class| Arc::new(yaml(class))).collect(),
        nodes: vec![Arc::new(yaml("{metadata: {name: n1}}"))],
    };
    let steps = match objects[0].starts_with("c ") {
        true => claim(&claims[0], &world),
        false => volume(&world.volumes[0], &world),
    };
    expected.assert_eq(&text(&steps));
}

const DONE: &str = "annotations: {pv.kubernetes.io/bind-completed: 'yes'}";

#[test]
fn a_claim_gets_a_volume_step_by_step() {
    check(
        &["c a Pending", "v pv Available"],
        expect![[r#"
        volume {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"a","namespace":"ns","resourceVersion":null,"uid":"u-a"}}}
        volume status {"message":null,"phase":"Bound","reason":null}
        claim {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"volumeName":"pv"}}
        claim status {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"5Gi"},"phase":"Bound"}"#]],
    );
    // Cut off after the first write.
    check(
        &["c a Pending", "v pv Available claimRef: {namespace: ns, name: a, uid: u-a}"],
        expect![[r#"
        volume status {"message":null,"phase":"Bound","reason":null}
        claim {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"volumeName":"pv"}}
        claim status {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"5Gi"},"phase":"Bound"}"#]],
    );
    check(
        &[
            &format!("c a Pending volumeName: pv | {DONE}"),
            "v pv Bound claimRef: {namespace: ns, name: a, uid: u-a}",
        ],
        expect![[
            r#"claim status {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"5Gi"},"phase":"Bound"}"#
        ]],
    );
    check(
        &[
            &format!("c a Bound volumeName: pv | {DONE}"),
            "v pv Bound claimRef: {namespace: ns, name: a, uid: u-a}",
        ],
        expect![""],
    );
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    check(
        &["c a Pending"],
        expect!["FailedBinding: no persistent volumes available for this claim and no storage class is set"],
    );
    check(
        &["c a Pending storageClassName: now"],
        expect![[r#"
        claim {"metadata":{"annotations":{"volume.beta.kubernetes.io/storage-provisioner":"example.org/fast","volume.kubernetes.io/storage-provisioner":"example.org/fast"}}}
        ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'example.org/fast' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."#]],
    );
    check(
        &["c a Pending storageClassName: none"],
        expect!["ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"],
    );
    check(
        &["c a Pending storageClassName: nope"],
        expect![[r#"ProvisioningFailed: storageclass.storage.k8s.io "nope" not found"#]],
    );
    check(
        &["c a Pending storageClassName: later", "v pv Available storageClassName: later"],
        expect!["WaitForFirstConsumer: waiting for first consumer to be created before binding"],
    );
    check(
        &[
            "c a Pending storageClassName: later | annotations: {volume.kubernetes.io/selected-node: n1, volume.kubernetes.io/storage-provisioner: example.org/fast, volume.beta.kubernetes.io/storage-provisioner: example.org/fast}",
        ],
        expect![
            "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'example.org/fast' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        ],
    );
    check(&["c a Pending | deletionTimestamp: '2024-01-01T00:00:00Z'", "v pv Available"], expect![""]);
}

#[test]
fn a_named_volume_is_taken_or_refused() {
    check(&["c a Pending volumeName: pv"], expect![""]);
    check(
        &["c a Pending volumeName: pv", "v pv Available claimRef: {namespace: ns, name: b}"],
        expect![[r#"FailedBinding: volume "pv" already bound to a different claim."#]],
    );
    check(
        &["c a Pending volumeName: pv", "v pv Available volumeMode: Block"],
        expect![[r#"VolumeMismatch: Cannot bind to requested volume "pv": incompatible volumeMode"#]],
    );
    check(
        &["c a Pending volumeName: pv", "v pv Available"],
        expect![[r#"
        volume {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"a","namespace":"ns","resourceVersion":null,"uid":"u-a"}}}
        volume status {"message":null,"phase":"Bound","reason":null}
        claim {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes"}}}
        claim status {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"5Gi"},"phase":"Bound"}"#]],
    );
}

#[test]
fn a_bound_claim_may_lose_its_volume() {
    check(
        &[&format!("c a Bound volumeName: pv | {DONE}")],
        expect![[r#"
        claim status {"phase":"Lost"}
        ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"#]],
    );
    check(
        &[
            &format!("c a Bound volumeName: pv | {DONE}"),
            "v pv Bound claimRef: {namespace: ns, name: b, uid: u-b}",
        ],
        expect![[r#"
            claim status {"phase":"Lost"}
            ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"#]],
    );
    check(&[&format!("c a Lost volumeName: pv | {DONE}")], expect![""]);
}

#[test]
fn volumes_follow_their_claims() {
    check(
        &["v pv Pending"],
        expect![[r#"volume status {"message":null,"phase":"Available","reason":null}"#]],
    );
    check(
        &["v pv Pending claimRef: {namespace: ns, name: a}"],
        expect![[r#"volume status {"message":null,"phase":"Available","reason":null}"#]],
    );
    let bound = "claimRef: {namespace: ns, name: a, uid: u-a}";
    check(&[&format!("v pv Available {bound}"), "c a Pending"], expect![""]);
    check(
        &[&format!("v pv Available {bound}"), "c a Bound volumeName: pv"],
        expect![[r#"volume status {"message":null,"phase":"Bound","reason":null}"#]],
    );
    check(
        &[
            &format!("v pv Bound {bound} | annotations: {{pv.kubernetes.io/bound-by-controller: 'yes'}}"),
            "c a Bound volumeName: other",
        ],
        expect![[r#"
            volume {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":null}},"spec":{"claimRef":null}}
            volume status {"message":null,"phase":"Available","reason":null}"#]],
    );
}

#[test]
fn what_becomes_of_a_released_volume() {
    let gone = "claimRef: {namespace: ns, name: a, uid: before}";
    check(
        &[&format!("v pv Bound {gone}, persistentVolumeReclaimPolicy: Retain"), "c a Pending"],
        expect![[r#"volume status {"message":null,"phase":"Released","reason":null}"#]],
    );
    check(
        &[&format!("v pv Bound {gone}, persistentVolumeReclaimPolicy: Delete, hostPath: {{path: /tmp/x}}")],
        expect![[r#"
            volume status {"message":null,"phase":"Released","reason":null}
            remove /tmp/x
            delete pv"#]],
    );
    check(
        &[&format!(
            "v pv Bound {gone}, persistentVolumeReclaimPolicy: Delete, hostPath: {{path: /tmp/../etc}}"
        )],
        expect![[r#"
            volume status {"message":null,"phase":"Released","reason":null}
            volume status {"message":"host_path deleter only supports /tmp/.+ but received provided /tmp/../etc","phase":"Failed"}
            VolumeFailedDelete: host_path deleter only supports /tmp/.+ but received provided /tmp/../etc"#]],
    );
    check(
        &[&format!("v pv Released {gone}, persistentVolumeReclaimPolicy: Delete, local: {{path: /x}}")],
        expect![[r#"
            volume status {"message":"error getting deleter volume plugin for volume \"pv\": no deletable volume plugin matched","phase":"Failed"}
            VolumeFailedDelete: error getting deleter volume plugin for volume "pv": no deletable volume plugin matched"#]],
    );
    check(
        &[&format!(
            "v pv Bound {gone}, persistentVolumeReclaimPolicy: Delete, local: {{path: /x}} | annotations: {{pv.kubernetes.io/provisioned-by: p}}"
        )],
        expect![[r#"volume status {"message":null,"phase":"Released","reason":null}"#]],
    );
    check(
        &[&format!("v pv Released {gone}, persistentVolumeReclaimPolicy: Recycle")],
        expect![[r#"
        volume status {"message":"No recycler plugin found for the volume!","phase":"Failed"}
        VolumeFailedRecycle: No recycler plugin found for the volume!"#]],
    );
    check(&[&format!("v pv Failed {gone}, persistentVolumeReclaimPolicy: Recycle")], expect![""]);
}
