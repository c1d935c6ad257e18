//! Tables: what `kubectl get` shows, made by the server.
//!
//! Per kind a list of columns and a function that makes the cells; the texts are upstream's, to the letter, because
//! people and scripts read them. Columns of priority 1 are always sent; the client hides them without `-o wide`.
//!
//! Not here: which form a client takes ([`crate::codec::media`]), list metadata beyond `metadata.resourceVersion`.

mod age;
mod endpoints;
mod event;
mod node;
mod plain;
mod pod;
mod read;
mod service;
mod storage;
mod workload;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::codec::media::MetaVersion;
use crate::kinds::{Gvk, Kind};

pub use age::human_duration;

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

/// A column: name, type, priority.
#[derive(Clone, Copy, Debug)]
struct Column(&'static str, &'static str, u8);

const fn text(name: &'static str) -> Column {
    Column(name, "string", 0)
}

const fn int(name: &'static str) -> Column {
    Column(name, "integer", 0)
}

const fn wide(name: &'static str) -> Column {
    Column(name, "string", 1)
}

type Cells = fn(&Value, Timestamp) -> Vec<Value>;

/// How a kind is shown.
#[derive(Clone, Copy)]
struct Printer {
    columns: &'static [Column],
    cells: Cells,
}

fn printer(gvk: &Gvk) -> Printer {
    match (gvk.group, gvk.kind) {
        ("", "Pod") => pod::PRINTER,
        ("", "Node") => node::PRINTER,
        ("", "Service") => service::PRINTER,
        ("", "Endpoints") => endpoints::ENDPOINTS,
        ("discovery.k8s.io", "EndpointSlice") => endpoints::SLICE,
        ("networking.k8s.io", "NetworkPolicy") => plain::NETWORK_POLICY,
        ("" | "events.k8s.io", "Event") => event::PRINTER,
        ("apps", "Deployment") => workload::DEPLOYMENT,
        ("apps", "ReplicaSet") => workload::REPLICA_SET,
        ("apps", "DaemonSet") => workload::DAEMON_SET,
        ("apps", "StatefulSet") => workload::STATEFUL_SET,
        ("autoscaling", "Scale") => workload::SCALE,
        ("", "Namespace") => plain::NAMESPACE,
        ("", "ConfigMap") => plain::CONFIG_MAP,
        ("", "Secret") => plain::SECRET,
        ("", "ServiceAccount") => plain::SERVICE_ACCOUNT,
        ("coordination.k8s.io", "Lease") => plain::LEASE,
        ("", "PersistentVolume") => storage::VOLUME,
        ("", "PersistentVolumeClaim") => storage::CLAIM,
        ("storage.k8s.io", "StorageClass") => storage::STORAGE_CLASS,
        ("storage.k8s.io", "VolumeAttachment") => storage::ATTACHMENT,
        ("storage.k8s.io", "CSINode") => storage::CSI_NODE,
        ("storage.k8s.io", "CSIDriver") => storage::CSI_DRIVER,
        ("storage.k8s.io", "CSIStorageCapacity") => storage::CSI_STORAGE_CAPACITY,
        _ => plain::GENERIC,
    }
}

/// A `Table` of objects of one kind, in their order.
///
/// `metadata` holds the resourceVersion of a single object and is empty otherwise: the caller knows the list's.
pub fn to_table(
    kind: &Kind,
    objects: &[Value],
    include: IncludeObject,
    version: MetaVersion,
    now: Timestamp,
) -> Value {
    let Printer { columns, cells } = printer(&kind.gvk);
    let columns: Vec<Value> = columns
        .iter()
        .map(|Column(name, ty, priority)| {
            let format = if *name == "Name" && *priority == 0 { "name" } else { "" };
            json!({"name": name, "type": ty, "format": format, "description": "", "priority": priority})
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let included = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => partial_object_metadata(object, version),
                IncludeObject::Object => object.clone(),
            };
            let mut row = json!({"cells": cells(object, now), "object": included});
            if let Some(conditions) = pod::row_conditions(&kind.gvk, object) {
                row["conditions"] = conditions;
            }
            row
        })
        .collect();
    let mut metadata = json!({});
    if let [single] = objects
        && let Some(revision) = single.pointer("/metadata/resourceVersion")
    {
        metadata["resourceVersion"] = revision.clone();
    }
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// An object's metadata as an object of its own.
pub fn partial_object_metadata(object: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
