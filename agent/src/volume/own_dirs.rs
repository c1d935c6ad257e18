//! Directories of the bundled provisioner (`orlop.dev/local`): `<state_dir>/local-volumes/<pv>`.
//!
//! The controllers say which volumes there are and when they may go; a node makes the directory when a pod comes for it,
//! and removes it when the volume is being deleted, which a finalizer makes wait for that. Nothing here decides on its
//! own that data may go.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use orlop_model::event::Event;
use serde_json::json;

use super::{blocking, claim::Resolved, remove};
use crate::{pod::settings::Settings, source};

/// Names the node that has the directory.
const ON_NODE: &str = "orlop.dev/provisioned-on";
/// Keeps a volume until its node has removed the directory.
const FINALIZER: &str = "orlop.dev/local-directory";
const AGAIN: Duration = Duration::from_secs(30);

/// Where a node keeps such volumes; told in an annotation of the node.
#[must_use]
pub fn directory(state_dir: &Path) -> PathBuf {
    state_dir.join("local-volumes")
}

/// Whether the volume's directory is one of this node's.
pub(super) fn made_here(settings: &Settings, resolved: &Resolved) -> bool {
    path_of(settings, &resolved.volume).is_some()
}

/// The directory, if the volume is one of this node's; nothing else is ever made or removed.
fn path_of(settings: &Settings, volume: &PersistentVolume) -> Option<PathBuf> {
    let annotations = volume.metadata.annotations.as_ref()?;
    let name = volume.metadata.name.as_deref().filter(|name| !name.is_empty() && !name.contains('/'))?;
    let path = directory(&settings.state_dir).join(name);
    let told = Path::new(&volume.spec.as_ref()?.local.as_ref()?.path);
    let ours = annotations.get(ON_NODE).is_some_and(|node| *node == settings.node_name);
    (ours && told == path && !name.starts_with('.')).then_some(path)
}

/// Makes the directory, for everybody as such volumes are: who may write is the pod's business.
pub(super) fn make(path: &Path) -> Result<(), String> {
    let make = || {
        if path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))
    };
    make().map_err(|error: io::Error| format!("make {}: {error}", path.display()))
}

/// Removes directories of volumes that are being deleted; never ends.
pub async fn run(client: Client, settings: Arc<Settings>) {
    let api = Api::<PersistentVolume>::all(client);
    let mut events = source::watch(api.clone(), watcher::Config::default());
    let mut pending: Vec<Arc<PersistentVolume>> = Vec::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = tokio::time::sleep(AGAIN), if !pending.is_empty() => None,
        };
        let mut volumes = std::mem::take(&mut pending);
        match event {
            Some(Event::Reset(all)) => volumes = all,
            Some(Event::Apply(volume)) => volumes.push(volume),
            Some(Event::Delete(_)) | None => {}
        }
        for volume in volumes {
            if let Err(error) = let_go(&api, &settings, &volume).await {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                tracing::warn!(volume = name, error, "remove the directory of a volume");
                pending.push(volume);
            }
        }
    }
}

/// The data goes if that is the policy, and then the volume may go.
async fn let_go(
    api: &Api<PersistentVolume>,
    settings: &Settings,
    volume: &PersistentVolume,
) -> Result<(), String> {
    let finalizers: Vec<_> = volume.metadata.finalizers.iter().flatten().collect();
    let waits = finalizers.iter().any(|finalizer| *finalizer == FINALIZER);
    let Some(path) = path_of(settings, volume) else { return Ok(()) };
    if volume.metadata.deletion_timestamp.is_none() || !waits {
        return Ok(());
    }
    // Others still need it: a claim, first of all.
    if finalizers.len() > 1 {
        return Ok(());
    }
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if policy == Some("Delete") {
        let gone = path.clone();
        blocking(move || remove::tree(&gone)).await?;
        tracing::info!(path = %path.display(), "removed the directory of a volume");
    }
    let patch = json!({ "metadata": {
        "uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version, "finalizers": [],
    }});
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // Somebody changed it: the watch tells, and it is looked at again.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_this_node_are_touched() {
        let settings = Settings { node_name: "n1".into(), state_dir: "/s".into(), ..Settings::for_tests() };
        let path = |name: &str, node: &str, path: &str| {
            let volume = serde_norway::from_str(&format!(
                "{{metadata: {{name: {name}, annotations: {{orlop.dev/provisioned-on: {node}}}}}, spec: {{local: {{path: {path}}}}}}}"
            ));
            path_of(&settings, &volume.unwrap())
        };
        assert_eq!(path("pv", "n1", "/s/local-volumes/pv"), Some("/s/local-volumes/pv".into()));
        assert_eq!(path("pv", "n2", "/s/local-volumes/pv"), None);
        assert_eq!(path("pv", "n1", "/s/local-volumes/other"), None);
        assert_eq!(path("pv", "n1", "/etc"), None);
        assert_eq!(path("..", "n1", "/s/local-volumes/.."), None);
    }
}
