//! Persistent volumes, claims and storage classes: what is filled in, refused and kept fixed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use expect_test::expect;
use support::check;

#[tokio::test]
async fn claims_get_the_default_class_and_change_only_where_upstream_allows() {
    check(
        "
POST /api/v1/namespaces/default/persistentvolumeclaims /spec/storageClassName /spec/volumeMode /status /metadata/finalizers
  {metadata: {name: none}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
POST /apis/storage.k8s.io/v1/storageclasses /reclaimPolicy /volumeBindingMode
  {metadata: {name: old, annotations: {storageclass.kubernetes.io/is-default-class: 'false'}}, provisioner: p}
POST /apis/storage.k8s.io/v1/storageclasses /reclaimPolicy /volumeBindingMode
  {metadata: {name: fast, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p, volumeBindingMode: WaitForFirstConsumer}
PATCH /apis/storage.k8s.io/v1/storageclasses/fast type=application/merge-patch+json /allowVolumeExpansion
  {allowVolumeExpansion: true}
POST /api/v1/namespaces/default/persistentvolumeclaims /spec/storageClassName
  {metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
POST /api/v1/namespaces/default/persistentvolumeclaims /spec/storageClassName
  {metadata: {name: static}, spec: {storageClassName: '', accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}
POST /api/v1/namespaces/default/persistentvolumeclaims
  {metadata: {name: bad}, spec: {accessModes: [ReadWriteOnce, ReadWriteOncePod, Maybe], volumeMode: Tape, resources: {requests: {storage: '0'}}}}
POST /api/v1/namespaces/default/persistentvolumeclaims
  {metadata: {name: empty}, spec: {}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json
  {spec: {resources: {requests: {storage: 2Gi}}}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json /spec/volumeName
  {spec: {volumeName: pv}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json
  {spec: {volumeName: other}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data/status type=application/merge-patch+json /status/phase
  {status: {phase: Bound, capacity: {storage: 1Gi}}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json /spec/resources/requests/storage
  {spec: {resources: {requests: {storage: 2Gi}}}}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json
  {spec: {resources: {requests: {storage: 512Mi}}}}
PATCH /apis/storage.k8s.io/v1/storageclasses/fast type=application/merge-patch+json /allowVolumeExpansion
  {allowVolumeExpansion: false}
PATCH /api/v1/namespaces/default/persistentvolumeclaims/data type=application/merge-patch+json
  {spec: {resources: {requests: {storage: 3Gi}}}}
DELETE /api/v1/namespaces/default/persistentvolumeclaims/data /metadata/finalizers
PATCH /apis/storage.k8s.io/v1/storageclasses/fast type=application/merge-patch+json
  {provisioner: q}
",
        expect![[r#"
            201 null Filesystem {"phase":"Pending"} ["kubernetes.io/pvc-protection"]
            201 Delete Immediate
            201 Delete WaitForFirstConsumer
            200 true
            201 fast
            201
            422 Invalid PersistentVolumeClaim "bad" is invalid: [spec.accessModes: Unsupported value: "Maybe": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod", spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes, spec.resources[storage]: Invalid value: "0": must be greater than zero, spec.volumeMode: Unsupported value: "Tape": supported values: "Block", "Filesystem"]
            422 Invalid PersistentVolumeClaim "empty" is invalid: [spec.accessModes: Required value: at least 1 access mode is required, spec.resources[storage]: Required value]
            422 Invalid PersistentVolumeClaim "data" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
            200 pv
            422 Invalid PersistentVolumeClaim "data" is invalid: spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims
            200 Bound
            200 2Gi
            422 Invalid PersistentVolumeClaim "data" is invalid: spec.resources.requests.storage: Forbidden: field can not be less than status.capacity
            200 false
            403 Forbidden persistentvolumeclaims "data" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize
            200 ["kubernetes.io/pvc-protection"]
            422 Invalid StorageClass.storage.k8s.io "fast" is invalid: provisioner: Forbidden: updates to provisioner are forbidden.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn volumes_have_one_source_that_stays() {
    check(
        "
POST /api/v1/persistentvolumes /spec/persistentVolumeReclaimPolicy /spec/volumeMode /spec/hostPath /status/phase /metadata/finalizers
  {metadata: {name: h}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /tmp/x}}}
POST /api/v1/persistentvolumes
  {metadata: {name: l}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], local: {path: /a/../b}}}
POST /api/v1/persistentvolumes
  {metadata: {name: n}, spec: {persistentVolumeReclaimPolicy: Burn}}
POST /api/v1/persistentvolumes
  {metadata: {name: two}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], csi: {driver: d}, hostPath: {path: /x}}}
PATCH /api/v1/persistentvolumes/h type=application/merge-patch+json
  {spec: {hostPath: {path: /tmp/y}}}
PATCH /api/v1/persistentvolumes/h type=application/merge-patch+json /spec/persistentVolumeReclaimPolicy /spec/claimRef/name
  {spec: {persistentVolumeReclaimPolicy: Delete, claimRef: {namespace: default, name: c}}}
PATCH /api/v1/persistentvolumes/h type=application/merge-patch+json as=system:node:n1/system:nodes
  {metadata: {finalizers: []}}
GET /api/v1/persistentvolumes/h as=system:node:n1/system:nodes /metadata/name
",
        expect![[r#"
            201 Retain Filesystem {"path":"/tmp/x","type":""} Pending ["kubernetes.io/pv-protection"]
            422 Invalid PersistentVolume "l" is invalid: [spec.local.path: Invalid value: "/a/../b": must not contain '..', spec.nodeAffinity: Required value: Local volume requires node affinity]
            422 Invalid PersistentVolume "n" is invalid: [spec.accessModes: Required value, spec.capacity: Required value, spec.persistentVolumeReclaimPolicy: Unsupported value: "Burn": supported values: "Delete", "Recycle", "Retain", spec: Required value: must specify a volume type]
            422 Invalid PersistentVolume "two" is invalid: [spec.hostPath: Forbidden: may not specify more than 1 volume type, spec.csi.volumeHandle: Required value]
            422 Invalid PersistentVolume "h" is invalid: spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation
            200 Delete c
            403 Forbidden persistentvolumes "h" is forbidden: node "n1" can only let go of persistent volumes that were made on it and are being deleted
            200 h
        "#]],
    )
    .await;
}

#[tokio::test]
async fn nodes_read_the_claims_and_secrets_of_their_pods_only() {
    check(
        "
POST /api/v1/namespaces/default/persistentvolumeclaims
  {metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], volumeName: pv, resources: {requests: {storage: 1Gi}}}}
POST /api/v1/persistentvolumes
  {metadata: {name: pv}, spec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], claimRef: {namespace: default, name: data}, csi: {driver: d, volumeHandle: h, nodeStageSecretRef: {namespace: kube-system, name: s}}}}
POST /api/v1/namespaces/kube-system/secrets
  {metadata: {name: s}}
GET /api/v1/namespaces/default/persistentvolumeclaims/data as=system:node:n1/system:nodes
GET /api/v1/namespaces/kube-system/secrets/s as=system:node:n1/system:nodes
POST /api/v1/namespaces/default/pods
  {metadata: {name: p}, spec: {nodeName: n1, volumes: [{name: v, persistentVolumeClaim: {claimName: data}}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]}}
GET /api/v1/namespaces/default/persistentvolumeclaims/data as=system:node:n1/system:nodes /metadata/name
GET /api/v1/namespaces/kube-system/secrets/s as=system:node:n1/system:nodes /metadata/name
GET /api/v1/namespaces/default/persistentvolumeclaims/data as=system:node:n2/system:nodes
POST /apis/storage.k8s.io/v1/csinodes as=system:node:n1/system:nodes
  {metadata: {name: n2}, spec: {drivers: []}}
POST /apis/storage.k8s.io/v1/csinodes as=system:node:n1/system:nodes /metadata/name
  {metadata: {name: n1}, spec: {drivers: [{name: d, nodeID: n1}]}}
POST /api/v1/namespaces/default/pods
  {metadata: {name: q}, spec: {volumes: [{name: v, persistentVolumeClaim: {}}], containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}], volumeDevices: [{name: v, devicePath: /v}, {name: w, devicePath: ''}]}]}}
",
        expect![[r#"
            201
            201
            201
            403 Forbidden persistentvolumeclaims "data" is forbidden: User "system:node:n1" cannot get resource "persistentvolumeclaims" in API group "" in the namespace "default": no relationship found between node 'n1' and this object
            403 Forbidden secrets "s" is forbidden: User "system:node:n1" cannot get resource "secrets" in API group "" in the namespace "kube-system": no relationship found between node 'n1' and this object
            201
            200 data
            200 s
            403 Forbidden persistentvolumeclaims "data" is forbidden: User "system:node:n2" cannot get resource "persistentvolumeclaims" in API group "" in the namespace "default": no relationship found between node 'n2' and this object
            403 Forbidden csinodes.storage.k8s.io "" is forbidden: can only access CSINode with the same name as the requesting node
            201 n1
            422 Invalid Pod "q" is invalid: [spec.volumes[0].persistentVolumeClaim.claimName: Required value, spec.containers[0].volumeDevices[0].name: Invalid value: "v": must not already exist in volumeMounts, spec.containers[0].volumeDevices[0].devicePath: Invalid value: "/v": must not already exist as a path in volumeMounts, spec.containers[0].volumeDevices[1].name: Not found: "w", spec.containers[0].volumeDevices[1].devicePath: Required value]
        "#]],
    )
    .await;
}
