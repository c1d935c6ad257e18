//! The starts of the last pods, for whoever asks where the time went.
//!
//! ```text
//! manager, pod workers ─ what they do and hear ─▶ Traces (the last 512) ─ JSON ─▶ <run_dir>/trace.sock ─▶ orlop trace
//! ```
//! The socket is root's. Whoever connects gets all traces and the end of the stream; nothing is read from it.

use std::{
    collections::VecDeque,
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, net::UnixListener};

use crate::pod::trace::Trace;

/// Pods that are remembered.
const KEPT: usize = 512;
/// A reader that takes longer has gone away.
const PATIENCE: Duration = Duration::from_secs(10);

/// The traces. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces(Arc<Mutex<VecDeque<Trace>>>);

impl Traces {
    /// Where a node tells them.
    #[must_use]
    pub fn socket(run_dir: &Path) -> PathBuf {
        run_dir.join("trace.sock")
    }

    fn all(&self) -> MutexGuard<'_, VecDeque<Trace>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod begins to start; the oldest is forgotten for it.
    pub(super) fn begin(&self, trace: Trace) {
        let mut all = self.all();
        all.retain(|known| known.pod.uid != trace.pod.uid);
        if all.len() >= KEPT {
            all.pop_front();
        }
        all.push_back(trace);
    }

    /// Changes the trace of a pod that still starts.
    pub(super) fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Trace) -> T) -> Option<T> {
        let mut all = self.all();
        // Those that start are the newest.
        all.iter_mut().rev().find(|trace| trace.pod.uid == uid).filter(|trace| !trace.over()).map(change)
    }

    /// Serves the socket for ever.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(self, path: &Path) -> io::Result<impl Future<Output = ()> + use<>> {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(async move {
            loop {
                let Ok((mut stream, _)) = listener.accept().await else {
                    // Out of file descriptors, most likely: let some close.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let traces: Vec<Trace> = self.all().iter().cloned().collect();
                tokio::spawn(async move {
                    let Ok(text) = serde_json::to_vec(&traces) else { return };
                    // A reader that went away wants no more.
                    let _gone = tokio::time::timeout(PATIENCE, stream.write_all(&text)).await;
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::pod::desired::Desired;

    fn trace(uid: &str) -> Trace {
        let pod = serde_norway::from_str(&format!("{{metadata: {{name: p, namespace: n, uid: {uid}}}}}"));
        Trace::begin(&Desired::new(Arc::new(pod.unwrap())), Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn the_last_pods_are_told_to_root() {
        let dir = tempfile::tempdir().unwrap();
        let traces = Traces::default();
        for number in 0..KEPT + 3 {
            traces.begin(trace(&format!("u{number}")));
        }
        traces.begin(trace("u9"));
        assert_eq!(traces.with("u9", |trace| trace.pod.uid.clone()).as_deref(), Some("u9"));
        assert_eq!(traces.with("u2", |_| ()), None);
        let path = Traces::socket(dir.path());
        let serving = tokio::spawn(traces.listen(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut text = String::new();
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.read_to_string(&mut text).await.unwrap();
        let told: Vec<Trace> = serde_json::from_str(&text).unwrap();
        assert_eq!((told.len(), &*told[0].pod.uid, &*told[KEPT - 1].pod.uid), (KEPT, "u3", "u9"));
        serving.abort();
    }
}
