//! [pure] From Kubernetes' words to a driver's: capabilities, contexts, names.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{CSIPersistentVolumeSource, CSIVolumeSource, Pod, Secret, SecretReference},
        storage::v1::{CSIDriver, CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use orlop_cri_api::csi::{
    NodeGetInfoResponse, VolumeCapability,
    volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume, access_mode::Mode},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A volume as its driver knows it, whether it outlives the pod or is the pod's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Driver.
    pub driver: String,
    /// The driver's name of the volume.
    pub handle: String,
    /// Made for the pod by the driver itself.
    pub ephemeral: bool,
    /// Nothing is written.
    pub read_only: bool,
    /// File system, where the driver lets choose.
    pub fs_type: String,
    /// What the driver wants to be told.
    pub attributes: BTreeMap<String, String>,
    /// For staging.
    pub stage_secret: Option<SecretReference>,
    /// For publishing.
    pub publish_secret: Option<SecretReference>,
    /// For growing.
    pub expand_secret: Option<SecretReference>,
}

impl Source {
    /// Of a persistent volume.
    #[must_use]
    pub fn persistent(source: &CSIPersistentVolumeSource) -> Source {
        Source {
            driver: source.driver.clone(),
            handle: source.volume_handle.clone(),
            ephemeral: false,
            read_only: source.read_only.unwrap_or_default(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            stage_secret: source.node_stage_secret_ref.clone(),
            publish_secret: source.node_publish_secret_ref.clone(),
            expand_secret: source.node_expand_secret_ref.clone(),
        }
    }

    /// Of a volume in a pod's spec.
    #[must_use]
    pub fn inline(source: &CSIVolumeSource, pod: &Pod, volume: &str) -> Source {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let secret = source.node_publish_secret_ref.as_ref();
        Source {
            driver: source.driver.clone(),
            handle: format!("csi-{}", hex::encode(Sha256::digest(format!("{uid}{volume}")))),
            ephemeral: true,
            read_only: source.read_only.unwrap_or_default(),
            fs_type: source.fs_type.clone().unwrap_or_default(),
            attributes: source.volume_attributes.clone().unwrap_or_default(),
            stage_secret: None,
            publish_secret: secret.map(|secret| SecretReference {
                name: Some(secret.name.clone()),
                namespace: pod.metadata.namespace.clone(),
            }),
            expand_secret: None,
        }
    }
}

/// What is written next to a mount; keys are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolData {
    #[serde(rename = "specVolID")]
    pub(super) spec_vol_id: String,
    pub(super) volume_handle: String,
    pub(super) driver_name: String,
    pub(super) node_name: String,
    #[serde(rename = "attachmentID", default)]
    pub(super) attachment_id: String,
    #[serde(default)]
    pub(super) volume_lifecycle_mode: String,
}

/// The name of a volume in `status.volumesInUse` and `volumesAttached`.
pub(super) fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// The VolumeAttachment that attaches a volume to a node.
pub(super) fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}"))))
}

/// The directory of a staged volume.
pub(super) fn staged_name(handle: &str) -> String {
    hex::encode(Sha256::digest(handle))
}

/// How a volume may be used.
pub(super) struct Use<'a> {
    pub(super) block: bool,
    pub(super) access_modes: &'a [String],
    pub(super) fs_type: &'a str,
    pub(super) mount_options: &'a [String],
    /// Given to drivers that want to set the group themselves.
    pub(super) group: Option<i64>,
    /// The driver tells one writer from several on a node.
    pub(super) knows_single_writer: bool,
}

pub(super) fn capability(wanted: &Use<'_>) -> VolumeCapability {
    let access_type = if wanted.block {
        AccessType::Block(BlockVolume {})
    } else {
        AccessType::Mount(MountVolume {
            fs_type: wanted.fs_type.to_owned(),
            mount_flags: wanted.mount_options.to_vec(),
            volume_mount_group: wanted.group.map(|group| group.to_string()).unwrap_or_default(),
        })
    };
    let first = wanted.access_modes.first().map_or("ReadWriteOnce", String::as_str);
    let mode = match (first, wanted.knows_single_writer) {
        ("ReadOnlyMany", _) => Mode::MultiNodeReaderOnly,
        ("ReadWriteMany", _) => Mode::MultiNodeMultiWriter,
        ("ReadWriteOncePod", true) => Mode::SingleNodeSingleWriter,
        (_, true) => Mode::SingleNodeMultiWriter,
        _ => Mode::SingleNodeWriter,
    };
    VolumeCapability { access_type: Some(access_type), access_mode: Some(AccessMode { mode: mode as i32 }) }
}

/// Whether files are given to the pod's group, by the driver's policy.
pub(super) fn gives_to_group(driver: Option<&CSIDriver>, fs_type: &str, access_modes: &[String]) -> bool {
    let policy = driver.and_then(|driver| driver.spec.fs_group_policy.as_deref());
    match policy.unwrap_or("ReadWriteOnceWithFSType") {
        "File" => true,
        "None" => false,
        _ => {
            let once = |mode: &String| matches!(mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod");
            !fs_type.is_empty() && access_modes.iter().any(once)
        }
    }
}

/// Whether somebody has to attach volumes before they are mounted. A driver that says nothing is one that needs it.
pub(super) fn attaches(driver: Option<&CSIDriver>) -> bool {
    driver.is_none_or(|driver| driver.spec.attach_required.unwrap_or(true))
}

/// Whether the driver makes volumes of this life.
pub(super) fn check_lifecycle(name: &str, driver: Option<&CSIDriver>, ephemeral: bool) -> Result<(), String> {
    let wanted = if ephemeral { "Ephemeral" } else { "Persistent" };
    let Some(driver) = driver else {
        return match ephemeral {
            true => {
                Err(format!("volume mode \"{wanted}\" not supported by driver {name} (no CSIDriver object)"))
            }
            false => Ok(()),
        };
    };
    let modes = driver.spec.volume_lifecycle_modes.clone().unwrap_or_else(|| vec!["Persistent".into()]);
    match modes.iter().any(|mode| mode == wanted) {
        true => Ok(()),
        false => {
            Err(format!("volume mode \"{wanted}\" not supported by driver {name} (only supports {modes:?})"))
        }
    }
}

/// What the driver is told of the volume, and of the pod if it wants to know.
pub(super) fn context(source: &Source, pod: &Pod, driver: Option<&CSIDriver>) -> HashMap<String, String> {
    let mut context: HashMap<String, String> = source.attributes.clone().into_iter().collect();
    if driver.and_then(|driver| driver.spec.pod_info_on_mount).unwrap_or_default() {
        let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let told = [
            ("pod.name", pod.metadata.name.clone()),
            ("pod.namespace", pod.metadata.namespace.clone()),
            ("pod.uid", pod.metadata.uid.clone()),
            ("serviceAccount.name", account),
            ("ephemeral", Some(source.ephemeral.to_string())),
        ];
        let told = told.map(|(key, value)| (format!("csi.storage.k8s.io/{key}"), value.unwrap_or_default()));
        context.extend(told);
    }
    context
}

pub(super) fn secrets(secret: &Secret) -> HashMap<String, String> {
    let data = secret.data.iter().flatten();
    data.map(|(key, ByteString(bytes))| (key.clone(), String::from_utf8_lossy(bytes).into_owned())).collect()
}

/// The drivers of a node with this one; or without it, if there is no info.
pub(super) fn csi_node(
    known: Option<CSINode>,
    node: &str,
    node_uid: &str,
    driver: &str,
    info: Option<&NodeGetInfoResponse>,
) -> CSINode {
    let mut object = known.unwrap_or_else(|| CSINode {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    });
    object.spec.drivers.retain(|known| known.name != driver);
    object.spec.drivers.extend(info.map(|info| {
        let topology = info.accessible_topology.as_ref().map(|topology| {
            let mut keys: Vec<_> = topology.segments.keys().cloned().collect();
            keys.sort();
            keys
        });
        let count = i32::try_from(info.max_volumes_per_node).ok().filter(|count| *count > 0);
        CSINodeDriver {
            name: driver.to_owned(),
            node_id: info.node_id.clone(),
            topology_keys: topology,
            allocatable: count.map(|count| VolumeNodeResources { count: Some(count) }),
        }
    }));
    object
}

/// Whether one of these versions is of the interface that is spoken here.
pub(super) fn is_spoken(versions: &[String]) -> bool {
    versions.iter().any(|version| {
        let version = version.strip_prefix('v').unwrap_or(version);
        version == "1" || version.starts_with("1.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_norway::from_str(text).unwrap()
    }

    #[test]
    fn names_are_the_kubelets() {
        // Of upstream's own records: sha256 of handle, driver and node.
        let hash = hex::encode(Sha256::digest("vol1csi.example.orgn1"));
        assert_eq!(attachment_name("vol1", "csi.example.org", "n1"), format!("csi-{hash}"));
        assert_eq!(unique_name("csi.example.org", "vol1"), "kubernetes.io/csi/csi.example.org^vol1");
        let data = VolData {
            spec_vol_id: "pv".into(),
            volume_handle: "vol1".into(),
            driver_name: "d".into(),
            node_name: "n1".into(),
            attachment_id: "csi-1".into(),
            volume_lifecycle_mode: "Persistent".into(),
        };
        assert_eq!(
            serde_json::to_string(&data).unwrap(),
            r#"{"specVolID":"pv","volumeHandle":"vol1","driverName":"d","nodeName":"n1","attachmentID":"csi-1","volumeLifecycleMode":"Persistent"}"#
        );
    }

    #[test]
    fn access_modes_become_the_interfaces() {
        let check = |mode: &str, knows: bool, expected: Mode| {
            let modes = [mode.to_owned()];
            let wanted = Use {
                block: false,
                access_modes: &modes,
                fs_type: "ext4",
                mount_options: &[],
                group: None,
                knows_single_writer: knows,
            };
            let found = capability(&wanted).access_mode.unwrap().mode;
            assert_eq!(found, expected as i32, "{mode} {knows}");
        };
        check("ReadWriteOnce", false, Mode::SingleNodeWriter);
        check("ReadWriteOnce", true, Mode::SingleNodeMultiWriter);
        check("ReadWriteOncePod", false, Mode::SingleNodeWriter);
        check("ReadWriteOncePod", true, Mode::SingleNodeSingleWriter);
        check("ReadOnlyMany", false, Mode::MultiNodeReaderOnly);
        check("ReadWriteMany", true, Mode::MultiNodeMultiWriter);
    }

    #[test]
    fn the_drivers_policy_says_who_gets_a_group() {
        let driver = |policy: &str| yaml::<CSIDriver>(&format!("{{spec: {{fsGroupPolicy: {policy}}}}}"));
        let (once, many) = (["ReadWriteOnce".to_owned()], ["ReadWriteMany".to_owned()]);
        assert!(gives_to_group(None, "ext4", &once));
        assert!(!gives_to_group(None, "", &once) && !gives_to_group(None, "ext4", &many));
        assert!(gives_to_group(Some(&driver("File")), "", &many));
        assert!(!gives_to_group(Some(&driver("None")), "ext4", &once));
    }

    #[test]
    fn a_driver_must_make_volumes_of_this_life() {
        let text = |driver: Option<&str>, ephemeral| {
            let driver = driver.map(yaml::<CSIDriver>);
            check_lifecycle("d", driver.as_ref(), ephemeral).err().unwrap_or_default()
        };
        assert_eq!(text(None, false), "");
        assert_eq!(
            text(None, true),
            "volume mode \"Ephemeral\" not supported by driver d (no CSIDriver object)"
        );
        assert_eq!(
            text(Some("{spec: {}}"), true),
            "volume mode \"Ephemeral\" not supported by driver d (only supports [\"Persistent\"])"
        );
        assert_eq!(text(Some("{spec: {volumeLifecycleModes: [Persistent, Ephemeral]}}"), true), "");
    }

    #[test]
    fn drivers_that_ask_hear_of_the_pod() {
        let pod: Pod = yaml(
            "{metadata: {name: p, namespace: ns, uid: u}, spec: {serviceAccountName: a, containers: []}}",
        );
        let source = Source::inline(&yaml("{driver: d, volumeAttributes: {a: b}}"), &pod, "v");
        assert_eq!(context(&source, &pod, None), HashMap::from([("a".into(), "b".into())]));
        let told = context(&source, &pod, Some(&yaml("{spec: {podInfoOnMount: true}}")));
        assert_eq!(told["csi.storage.k8s.io/pod.name"], "p");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "a");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "true");
    }

    #[test]
    fn a_nodes_drivers_come_and_go_one_by_one() {
        let info = NodeGetInfoResponse {
            node_id: "id".into(),
            max_volumes_per_node: 7,
            accessible_topology: Some(orlop_cri_api::csi::Topology {
                segments: HashMap::from([("b/zone".into(), "z".into()), ("a/host".into(), "h".into())]),
            }),
        };
        let first = csi_node(None, "n1", "u", "d", Some(&info));
        assert_eq!(first.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        let second = csi_node(Some(first.clone()), "n1", "u", "e", Some(&NodeGetInfoResponse::default()));
        assert_eq!(second.spec.drivers.len(), 2);
        assert_eq!(
            second.spec.drivers[0].topology_keys.as_deref(),
            Some(&["a/host".into(), "b/zone".into()][..])
        );
        assert_eq!(second.spec.drivers[0].allocatable.as_ref().unwrap().count, Some(7));
        let last = csi_node(Some(second), "n1", "u", "d", None);
        assert_eq!(last.spec.drivers.len(), 1);
    }

    #[test]
    fn versions() {
        let spoken = |version: &str| is_spoken(&[version.to_owned()]);
        assert!(spoken("1.0.0") && spoken("v1.9.0") && spoken("1"));
        assert!(!spoken("0.3.0") && !spoken("10.0.0") && !is_spoken(&[]));
    }
}
