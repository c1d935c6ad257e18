//! Carries out what [`super::rotation`] decides, for the containers that run.
//!
//! A log is renamed, then the shim is told to begin a new one: what it writes in between is in the renamed file, so no
//! line is lost and none is written twice. If the shim cannot, the name is given back. Not for: when to look.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use tokio::sync::Notify;

use super::rotation::{COMPRESSED, Limits, Step, UNFINISHED, plan};
use crate::{
    api::{Container, ContainerState},
    client::{Runtime, blocking},
    errors::ShimError,
};

/// A log that could not be rotated; it goes on growing.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// A file.
    #[error("{step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// To which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim did not begin a new file.
    #[error("begin a new log after {}", path.display())]
    Reopen {
        /// The log.
        path: PathBuf,
        /// Why.
        source: ShimError,
    },
}

/// Logs that have to be put aside, by pod and container; woken is who waits for the first.
#[derive(Debug, Default)]
pub(crate) struct FullLogs {
    known: Mutex<BTreeSet<(String, String)>>,
    added: Notify,
}

impl FullLogs {
    fn known(&self) -> MutexGuard<'_, BTreeSet<(String, String)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, uid: String, id: String) {
        self.known().insert((uid, id));
        self.added.notify_one();
    }
}

impl Runtime {
    /// Returns when some log may have to be put aside. Costs nothing while none is full, however many there are: the
    /// shims tell, but for those started by older programs.
    pub async fn full_logs(&self) {
        while self.0.full_logs.known().is_empty() && self.silent_about_logs().is_empty() {
            self.0.full_logs.added.notified().await;
        }
    }

    /// Puts full logs aside once, in the pods that are `wanted`. Goes on after a failure; what failed stays full.
    pub async fn rotate_logs(&self, now: Timestamp, wanted: impl Fn(&str) -> bool) -> Vec<RotateError> {
        let stamp = now.strftime("%Y%m%d-%H%M%S").to_string();
        let mut failures = Vec::new();
        let mut full = std::mem::take(&mut *self.0.full_logs.known());
        for uid in self.silent_about_logs() {
            let containers = self.pod(&uid).await.map(|pod| pod.containers).unwrap_or_default();
            full.extend(containers.into_iter().map(|container| (uid.clone(), container.id)));
        }
        for (uid, id) in full.into_iter().filter(|(uid, _)| wanted(uid)) {
            let Some(container) = self.container(&uid, &id).await else { continue };
            if !matches!(container.state, ContainerState::Running { .. }) {
                continue;
            }
            if let Err(error) = self.rotate_log(&uid, &container, &stamp).await {
                self.0.full_logs.known().insert((uid, id));
                failures.push(error);
            }
        }
        failures
    }

    async fn rotate_log(&self, uid: &str, container: &Container, stamp: &str) -> Result<(), RotateError> {
        let (path, stamp, limits) = (container.log_path.clone(), stamp.to_owned(), self.0.config.logs);
        let aside = blocking(move || prepare(&path, limits, &stamp)).await?;
        let path = &container.log_path;
        if let Some(aside) = &aside {
            fs::rename(path, aside).map_err(failed("rename", path))?;
        }
        // Also where there is nothing to put aside any more: from then on the shim tells again.
        self.reopen_log(uid, &container.id).await.map_err(|source| {
            if let Some(aside) = &aside {
                // Nothing was lost: the shim still writes to the same file.
                fs::rename(aside, path).ok();
            }
            RotateError::Reopen { path: path.clone(), source }
        })
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RotateError {
    let path = path.to_owned();
    move |source| RotateError::File { step, path, source }
}

/// Everything but the last step: that is the new name of the log. `None` when it is small, or gone.
fn prepare(path: &Path, limits: Limits, stamp: &str) -> Result<Option<PathBuf>, RotateError> {
    let size = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("look at", path))?.len(),
    };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(None);
    };
    if size < limits.max_size {
        return Ok(None);
    }
    let entries = fs::read_dir(dir).map_err(failed("list", dir))?.flatten();
    let files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let mut aside = None;
    for step in plan(name, size, &files, limits, stamp) {
        match step {
            Step::Remove(name) => {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
            Step::Compress(name) => compress(&dir.join(name))?,
            // Twice within a second: the next time will do.
            Step::PutAside(name) => aside = Some(dir.join(name)).filter(|path| !path.exists()),
        }
    }
    Ok(aside)
}

/// Whole or not at all; the plain file goes last.
fn compress(path: &Path) -> Result<(), RotateError> {
    let with = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let (tmp, done) = (with(UNFINISHED), with(COMPRESSED));
    let write = || -> io::Result<()> {
        let mut to = GzEncoder::new(File::create(&tmp)?, Compression::default());
        io::copy(&mut File::open(path)?, &mut to)?;
        to.finish()?.set_permissions(fs::metadata(path)?.permissions())?;
        fs::rename(&tmp, &done)
    };
    write().map_err(failed("compress", path))?;
    fs::remove_file(path).map_err(failed("remove", path))
}
