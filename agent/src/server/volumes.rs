//! The directories of pods' volumes, for those who say how full they are. Not for: making volumes (`crate::volume`).

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod as ApiPod;

use super::Places;
use crate::usage::{file_system, series::FileSystem};

/// A volume's directory.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) system: FileSystem,
    /// It takes the node's disk.
    pub(super) local: bool,
    /// It is a file system of its own: what of it is in use, nobody has to count.
    pub(super) own: bool,
}

/// The volumes of a pod that have a directory, by name. What is in memory, or a file system of its own, does not take the
/// node's disk.
pub(super) fn volumes(places: &Places, uid: &str) -> Vec<Found> {
    let pods = places.state_dir.join("pods");
    let device = fs::metadata(&pods).map(|meta| meta.dev()).ok();
    let plugins = entries(&pods.join(uid).join("volumes"));
    let on_disk = plugins.into_iter().flat_map(|plugin| entries(&plugin));
    let in_memory = entries(&places.run_dir.join("volumes").join(uid));
    let mut found: Vec<Found> = on_disk
        .map(|path| (path, true))
        .chain(in_memory.into_iter().map(|path| (path, false)))
        .filter_map(|(path, on_disk)| {
            let name = path.file_name()?.to_str()?.to_owned();
            // Where CSI drivers put them.
            let path = Some(path.join("mount")).filter(|mount| csi(&path) && mount.is_dir()).unwrap_or(path);
            let local = on_disk && Some(fs::metadata(&path).ok()?.dev()) == device;
            Some(Found { name, system: file_system(&path)?, path, local, own: on_disk && !local })
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn csi(path: &Path) -> bool {
    path.parent().is_some_and(|plugin| plugin.ends_with("kubernetes.io~csi"))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

pub(super) fn has_claims(pod: &ApiPod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.persistent_volume_claim.is_some())
}

pub(super) fn claim(pod: &ApiPod, volume: &str) -> Option<String> {
    let volume = pod.spec.as_ref()?.volumes.iter().flatten().find(|one| one.name == volume)?;
    Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_found_where_their_plugins_put_them() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places {
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            log_dir: PathBuf::new(),
            cgroup_root: String::new(),
        };
        for path in [
            "state/pods/u/volumes/kubernetes.io~empty-dir/scratch",
            "state/pods/u/volumes/kubernetes.io~csi/data/mount",
            "state/pods/u/volumes/kubernetes.io~csi/early",
            "state/pods/other/volumes/kubernetes.io~empty-dir/x",
            "run/volumes/u/token",
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("state/pods/u/volumes/file"), "").unwrap();
        let found = volumes(&places, "u");
        let shown: Vec<_> =
            found.iter().map(|one| (&*one.name, one.path.ends_with("mount"), one.local, one.own)).collect();
        let expected = [
            ("data", true, true, false),
            ("early", false, true, false),
            ("scratch", false, true, false),
            ("token", false, false, false),
        ];
        assert_eq!(shown, expected);
        assert!(volumes(&places, "nobody").is_empty());
    }

    #[test]
    fn a_volume_may_belong_to_a_claim() {
        let pod = serde_norway::from_str(
            "{spec: {containers: [], volumes: [{name: a, emptyDir: {}}, {name: b, persistentVolumeClaim: {claimName: c}}]}}",
        );
        let pod: ApiPod = pod.unwrap();
        assert!(has_claims(&pod) && !has_claims(&ApiPod::default()));
        assert_eq!([claim(&pod, "a"), claim(&pod, "b"), claim(&pod, "x")], [None, Some("c".into()), None]);
    }
}
