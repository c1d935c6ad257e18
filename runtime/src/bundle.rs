//! Names of the files that make up a pod and a container on disk, and the container's id. Pure.
//!
//! ```text
//!  <run_dir>/pods/<uid>/            sandbox.json  s (socket)  lock  pid (shim)  init  ns/{net,ipc,uts,user}  shm/
//!                       c/<id>/     record.json  plan.json  process  cgroups  rootfs/  images/  ready  pid  exit
//!  <state_dir>/containers/<id>/     upper/  work/
//!  <run_dir>/seccomp/<hash>.bpf
//! ```

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub(crate) const SANDBOX: &str = "sandbox.json";
pub(crate) const SOCKET: &str = "s";
/// Pid of the first process, where containers share one.
pub(crate) const INIT: &str = "init";
pub(crate) const RECORD: &str = "record.json";
/// What the creator is to do.
pub(crate) const PLAN: &str = "plan.json";
pub(crate) const PROCESS: &str = "process";
pub(crate) const CGROUPS: &str = "cgroups";
pub(crate) const ROOTFS: &str = "rootfs";
/// Mount points of image volumes.
pub(crate) const IMAGES: &str = "images";
/// Written last: everything above is complete.
pub(crate) const READY: &str = "ready";
pub(crate) const PID: &str = "pid";
pub(crate) const EXIT: &str = "exit";

/// Paths under the run and state directories.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

impl Layout {
    pub(crate) fn pods(&self) -> PathBuf {
        self.run_dir.join("pods")
    }
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }
    pub(crate) fn namespace(&self, uid: &str, name: &str) -> PathBuf {
        self.pod(uid).join("ns").join(name)
    }
    pub(crate) fn shm(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("shm")
    }
    pub(crate) fn containers(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("c")
    }
    pub(crate) fn container(&self, uid: &str, id: &str) -> PathBuf {
        self.containers(uid).join(id)
    }
    /// Upper and work directory of the container's root file system.
    pub(crate) fn writable(&self, id: &str) -> PathBuf {
        self.writables().join(id)
    }
    pub(crate) fn writables(&self) -> PathBuf {
        self.state_dir.join("containers")
    }
    pub(crate) fn seccomp(&self) -> PathBuf {
        self.run_dir.join("seccomp")
    }
}

/// The same container of the same pod has the same id, whoever asks.
pub fn container_id(uid: &str, name: &str, attempt: u32) -> String {
    hex::encode(Sha256::digest(format!("{uid}/{name}/{attempt}")))
}

/// Whether a name may become a directory of its own: nothing that leads elsewhere.
pub(crate) fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 128 && name.chars().all(plain) && !name.starts_with('.')
}

/// `dir` as text: everything of ours is given to programs and the kernel as text.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_distinct() {
        let id = container_id("u", "web", 0);
        assert_eq!(id.len(), 64);
        assert_eq!(id, container_id("u", "web", 0));
        assert_ne!(id, container_id("u", "web", 1));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, good) in [("a-b.c", true), ("", false), ("..", false), ("a/b", false), (".x", false)] {
            assert_eq!(is_file_name(name), good, "{name:?}");
        }
    }
}
