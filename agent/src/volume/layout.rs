//! Where things of a pod are.

use std::path::PathBuf;

use crate::pod::settings::Settings;

/// Paths of this node.
#[derive(Clone, Debug)]
pub struct Layout {
    state_dir: PathBuf,
    run_dir: PathBuf,
}

impl Layout {
    /// Of the node's directories.
    pub fn new(settings: &Settings) -> Layout {
        Layout { state_dir: settings.state_dir.clone(), run_dir: settings.run_dir.clone() }
    }

    /// Directories of all pods.
    pub fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// Directory of a pod.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// A volume on the disk.
    pub fn volume(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.pod(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// What is known of all claimed volumes of a pod.
    pub fn claims(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("claims")
    }

    /// What is known of a claimed volume of a pod.
    pub fn claim(&self, uid: &str, volume: &str) -> PathBuf {
        self.claims(uid).join(format!("{volume}.json"))
    }

    /// What must not touch a disk, of all pods.
    pub fn memory(&self) -> PathBuf {
        self.run_dir.join("volumes")
    }

    /// What must not touch a disk, of one pod.
    pub fn memory_pod(&self, uid: &str) -> PathBuf {
        self.memory().join(uid)
    }

    /// A volume that must not touch a disk.
    pub fn memory_volume(&self, uid: &str, name: &str) -> PathBuf {
        self.memory_pod(uid).join(name)
    }

    /// Where a sub path of a volume is mounted for a container.
    pub fn sub_path(&self, uid: &str, volume: &str, container: &str, index: usize) -> PathBuf {
        self.pod(uid).join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }

    /// The termination log of one instance.
    pub fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.pod(uid).join("containers").join(container).join(attempt.to_string())
    }
}
