//! Claims, volumes, storage classes, and what CSI drivers register.

use serde_json::Value;

use super::read::{age, at, count, flag, name, or, strings};
use super::{Column, Printer, int, text, wide};

const UNSET: &str = "<unset>";

const fn boolean(name: &'static str) -> Column {
    Column(name, "boolean", 0)
}

pub(super) const VOLUME: Printer = Printer {
    columns: &[
        text("Name"),
        text("Capacity"),
        text("Access Modes"),
        text("Reclaim Policy"),
        text("Status"),
        text("Claim"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Reason"),
        text("Age"),
        wide("VolumeMode"),
    ],
    cells: |o, now| {
        let claim = match o.pointer("/spec/claimRef") {
            Some(claim) if claim.is_object() => {
                format!("{}/{}", at(claim, "/namespace"), at(claim, "/name"))
            }
            _ => String::new(),
        };
        vec![
            name(o),
            at(o, "/spec/capacity/storage").into(),
            modes(o, "/spec/accessModes").into(),
            at(o, "/spec/persistentVolumeReclaimPolicy").into(),
            phase(o).into(),
            claim.into(),
            class(o).into(),
            or(at(o, "/spec/volumeAttributesClassName"), UNSET).into(),
            at(o, "/status/reason").into(),
            age(o, now),
            or(at(o, "/spec/volumeMode"), UNSET).into(),
        ]
    },
};

pub(super) const CLAIM: Printer = Printer {
    columns: &[
        text("Name"),
        text("Status"),
        text("Volume"),
        text("Capacity"),
        text("Access Modes"),
        text("StorageClass"),
        text("VolumeAttributesClass"),
        text("Age"),
        wide("VolumeMode"),
    ],
    cells: |o, now| {
        let volume = at(o, "/spec/volumeName");
        let (capacity, modes) = match volume {
            "" => (String::new(), String::new()),
            _ => (at(o, "/status/capacity/storage").to_owned(), modes(o, "/status/accessModes")),
        };
        vec![
            name(o),
            phase(o).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(o).into(),
            or(at(o, "/spec/volumeAttributesClassName"), UNSET).into(),
            age(o, now),
            or(at(o, "/spec/volumeMode"), UNSET).into(),
        ]
    },
};

pub(super) const STORAGE_CLASS: Printer = Printer {
    columns: &[
        text("Name"),
        text("Provisioner"),
        text("ReclaimPolicy"),
        text("VolumeBindingMode"),
        text("AllowVolumeExpansion"),
        text("Age"),
    ],
    cells: |o, now| {
        let default = |key: &str| at(o, &format!("/metadata/annotations/{key}")) == "true";
        let default = default("storageclass.kubernetes.io~1is-default-class")
            || default("storageclass.beta.kubernetes.io~1is-default-class");
        let shown = format!("{}{}", at(o, "/metadata/name"), if default { " (default)" } else { "" });
        vec![
            shown.into(),
            at(o, "/provisioner").into(),
            or(at(o, "/reclaimPolicy"), "Delete").into(),
            or(at(o, "/volumeBindingMode"), UNSET).into(),
            flag(o, "/allowVolumeExpansion").into(),
            age(o, now),
        ]
    },
};

pub(super) const ATTACHMENT: Printer = Printer {
    columns: &[text("Name"), text("Attacher"), text("PV"), text("Node"), boolean("Attached"), text("Age")],
    cells: |o, now| {
        vec![
            name(o),
            at(o, "/spec/attacher").into(),
            at(o, "/spec/source/persistentVolumeName").into(),
            at(o, "/spec/nodeName").into(),
            flag(o, "/status/attached").into(),
            age(o, now),
        ]
    },
};

pub(super) const CSI_NODE: Printer = Printer {
    columns: &[text("Name"), int("Drivers"), text("Age")],
    cells: |o, now| vec![name(o), count(o, "/spec/drivers").into(), age(o, now)],
};

pub(super) const CSI_DRIVER: Printer = Printer {
    columns: &[
        text("Name"),
        boolean("AttachRequired"),
        boolean("PodInfoOnMount"),
        boolean("StorageCapacity"),
        text("TokenRequests"),
        boolean("RequiresRepublish"),
        text("Modes"),
        text("Age"),
    ],
    cells: |o, now| {
        let requests = super::read::list(o, "/spec/tokenRequests");
        let audiences: Vec<_> = requests.iter().map(|request| at(request, "/audience")).collect();
        let modes = strings(o, "/spec/volumeLifecycleModes").join(",");
        vec![
            name(o),
            o.pointer("/spec/attachRequired").and_then(Value::as_bool).unwrap_or(true).into(),
            flag(o, "/spec/podInfoOnMount").into(),
            flag(o, "/spec/storageCapacity").into(),
            or(&audiences.join(","), UNSET).into(),
            flag(o, "/spec/requiresRepublish").into(),
            or(&modes, "<none>").into(),
            age(o, now),
        ]
    },
};

pub(super) const CSI_STORAGE_CAPACITY: Printer = Printer {
    columns: &[text("Name"), text("StorageClassName"), text("Capacity")],
    cells: |o, _| vec![name(o), at(o, "/storageClassName").into(), or(at(o, "/capacity"), UNSET).into()],
};

fn phase(object: &Value) -> &str {
    match object.pointer("/metadata/deletionTimestamp") {
        Some(Value::String(_)) => "Terminating",
        _ => at(object, "/status/phase"),
    }
}

/// The old annotation still counts.
fn class(object: &Value) -> &str {
    let old = at(object, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    or(old, at(object, "/spec/storageClassName"))
}

fn modes(object: &Value, pointer: &str) -> String {
    let given = strings(object, pointer);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown: Vec<_> =
        short.iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| *short).collect();
    shown.join(",")
}
