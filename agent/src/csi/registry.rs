//! Plugins that announce themselves by a socket in `plugins_registry`, as the kubelet's plugin watcher takes them in.
//!
//! Not for: plugins of other types, which are others' to take in.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Node, storage::v1::CSINode};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use orlop_cri_api::{
    csi::NodeGetInfoResponse,
    registration::{InfoRequest, PluginInfo, RegistrationStatus, registration_client::RegistrationClient},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Csi,
    driver::Driver,
    transport::{Http, connect, origin, within},
    words,
};

const LOOK: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(10);
/// The drivers' names of the node, by driver, in JSON.
const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";

/// Takes drivers in and lets them go; never ends.
pub async fn run(csi: Arc<Csi>, client: Client, kubelet_dir: PathBuf) {
    let dir = kubelet_dir.join("plugins_registry");
    let mut known: BTreeMap<PathBuf, (u64, Option<String>)> = BTreeMap::new();
    let mut failed: HashMap<PathBuf, Instant> = HashMap::new();
    loop {
        let found = sockets(&dir);
        let gone = known.extract_if(.., |path, (inode, _)| found.get(path) != Some(inode));
        for (path, (_, driver)) in gone.collect::<Vec<_>>() {
            let Some(driver) = driver else { continue };
            // One socket may take another's place.
            if !known.values().any(|(_, other)| other.as_ref() == Some(&driver)) {
                tracing::info!(driver, socket = %path.display(), "CSI driver went away");
                forget(&csi, &client, &driver).await;
            }
        }
        failed.retain(|path, _| found.contains_key(path));
        for (path, inode) in found {
            let waits = failed.get(&path).is_some_and(|at| at.elapsed() < AGAIN);
            if known.contains_key(&path) || waits {
                continue;
            }
            match register(&csi, &client, &path).await {
                Ok(driver) => {
                    failed.remove(&path);
                    if let Some(driver) = &driver {
                        tracing::info!(driver, socket = %path.display(), "CSI driver registered");
                        csi.sweep(driver).await;
                    }
                    known.insert(path, (inode, driver));
                }
                Err(error) => {
                    tracing::warn!(socket = %path.display(), error, "plugin not registered");
                    failed.insert(path, Instant::now());
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Sockets by path, with what tells one from its successor.
fn sockets(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let found = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        metadata.file_type().is_socket().then(|| (entry.path(), metadata.ino()))
    });
    found.collect()
}

/// The driver's name; nothing for plugins of other types.
async fn register(csi: &Csi, client: &Client, socket: &Path) -> Result<Option<String>, String> {
    let mut plugin = registrar(socket).await?;
    let info = within(PATIENCE, plugin.get_info(InfoRequest {})).await?.into_inner();
    if info.r#type != "CSIPlugin" {
        return Ok(None);
    }
    let taken = take_in(csi, client, socket, &info).await;
    let error = taken.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { plugin_registered: taken.is_ok(), error };
    within(PATIENCE, plugin.notify_registration_status(status)).await?;
    taken.map(|()| Some(info.name))
}

async fn registrar(socket: &Path) -> Result<RegistrationClient<Http>, String> {
    let http = within(PATIENCE, connect(socket)).await?;
    Ok(RegistrationClient::with_origin(http, origin()))
}

async fn take_in(csi: &Csi, client: &Client, socket: &Path, plugin: &PluginInfo) -> Result<(), String> {
    let (name, versions) = (&plugin.name, &plugin.supported_versions);
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(format!("{name:?} is not a name of a CSI driver"));
    }
    if !words::is_spoken(versions) {
        return Err(format!("none of the versions {versions:?} of the CSI driver {name} is supported"));
    }
    let endpoint = match plugin.endpoint.as_str() {
        "" => socket.to_owned(),
        endpoint => endpoint.into(),
    };
    let (driver, info) = Driver::ask(endpoint).await?;
    publish(csi, client, name, Some(&info)).await?;
    csi.drivers().insert(name.clone(), Arc::new(driver));
    Ok(())
}

async fn forget(csi: &Csi, client: &Client, driver: &str) {
    csi.drivers().remove(driver);
    if let Err(error) = publish(csi, client, driver, None).await {
        tracing::warn!(driver, error, "CSINode");
    }
}

/// Tells the cluster which drivers the node has: CSINode, and for old controllers labels and an annotation of the Node.
async fn publish(
    csi: &Csi,
    client: &Client,
    driver: &str,
    info: Option<&NodeGetInfoResponse>,
) -> Result<(), String> {
    let text = |error: kube::Error| error.to_string();
    let nodes = Api::<Node>::all(client.clone());
    let node = nodes.get_metadata(&csi.node).await.map_err(text)?;
    let annotations = node.metadata.annotations.unwrap_or_default();
    let ids = annotations.get(NODE_IDS).and_then(|ids| serde_json::from_str::<Value>(ids).ok());
    let mut ids = ids.and_then(|ids| ids.as_object().cloned()).unwrap_or_default();
    match info {
        Some(info) => drop(ids.insert(driver.to_owned(), info.node_id.clone().into())),
        None => drop(ids.remove(driver)),
    }
    let ids = (!ids.is_empty()).then(|| Value::Object(ids).to_string());
    let segments = info.and_then(|info| info.accessible_topology.as_ref()).map(|topology| &topology.segments);
    let patch = json!({ "metadata": { "annotations": { NODE_IDS: ids }, "labels": segments } });
    nodes.patch(&csi.node, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(text)?;

    let api = Api::<CSINode>::all(client.clone());
    for _ in 0..5 {
        let known = api.get_opt(&csi.node).await.map_err(text)?;
        let exists = known.is_some();
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let wanted = words::csi_node(known, &csi.node, &uid, driver, info);
        let written = match exists {
            true => api.replace(&csi.node, &PostParams::default(), &wanted).await,
            false => api.create(&PostParams::default(), &wanted).await,
        };
        match written {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written.map(drop).map_err(text),
        }
    }
    Err("CSINode changes all the time".into())
}
