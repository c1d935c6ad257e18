//! CSI drivers on this node: they register themselves, and mount volumes for pods.
//!
//! ```text
//!  <kubelet_dir>/plugins_registry/*.sock ─▶ registry ─ GetInfo, NodeGetInfo ─▶ CSINode
//!  volume ─▶ Csi::publish ─ stage, publish ─▶ driver (unix socket) ─▶ mounts
//!
//!  <state_dir>/plugins/kubernetes.io/csi/<driver>/<hash>/{globalmount, vol_data.json}      staged, once per volume
//!  <state_dir>/plugins/kubernetes.io/csi/volumeDevices/{staging/<pv>, publish/<pv>/<uid>}  devices
//!  <state_dir>/pods/<uid>/volumes/kubernetes.io~csi/<pv>/{mount, vol_data.json}            published, per pod
//! ```
//! Layout and the keys of `vol_data.json` are the kubelet's: drivers and operators look there. The file is written before
//! the driver is called and removed after: whatever a crash leaves is found and undone. Calls are idempotent, which the
//! interface asks of drivers. Not for: which volume a pod gets, or attaching (a controller's).

mod driver;
mod places;
mod publish;
mod registry;
mod room;
mod shared;
mod take_back;
mod transport;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

pub use publish::{CsiFailure, LIVE_GROWTH, Published, Request};
pub use registry::run;
pub use room::Room;
pub use take_back::left_in_use;
pub use words::Source;

use crate::{volume::storage::StorageObjects, worker::ports::Objects};

/// Makes the directories that drivers use; before anything is mounted below.
pub fn prepare(state_dir: &Path, kubelet_dir: &Path) {
    for dir in ["plugins_registry", "plugins"].map(|name| kubelet_dir.join(name)) {
        if let Err(error) = std::fs::create_dir_all(&dir) {
            tracing::error!(dir = %dir.display(), %error, "no CSI drivers");
        }
    }
    for dir in ["pods", "plugins"].map(|name| state_dir.join(name)) {
        if let Err(error) = shared::share(&dir) {
            tracing::warn!(dir = %dir.display(), %error, "what drivers in pods mount is not seen here");
        }
    }
}

/// The drivers of this node and what they have mounted.
pub struct Csi {
    node: String,
    state_dir: PathBuf,
    storage: Arc<dyn StorageObjects>,
    objects: Arc<dyn Objects>,
    drivers: Mutex<BTreeMap<String, Arc<driver::Driver>>>,
    /// One at a time for each volume: staging is shared by pods.
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    in_use: watch::Sender<BTreeSet<String>>,
}

impl Csi {
    /// Without drivers yet.
    #[must_use]
    pub fn new(
        node: String,
        state_dir: PathBuf,
        storage: Arc<dyn StorageObjects>,
        objects: Arc<dyn Objects>,
    ) -> Csi {
        let in_use = watch::Sender::new(left_in_use(&state_dir));
        Csi { node, state_dir, storage, objects, drivers: Mutex::default(), turns: Mutex::default(), in_use }
    }

    /// Attachable volumes that pods use or are about to, as `status.volumesInUse` names them.
    #[must_use]
    pub fn in_use(&self) -> watch::Receiver<BTreeSet<String>> {
        self.in_use.subscribe()
    }

    fn drivers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<driver::Driver>>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn driver(&self, name: &str) -> Result<Arc<driver::Driver>, String> {
        let found = self.drivers().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    fn turn(&self, driver: &str, handle: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(words::unique_name(driver, handle)).or_default())
    }
}
