//! Pods from the files of a directory, for a node that must run them whatever becomes of the API server.
//!
//! ```text
//!  inotify, every 20 s ─▶ read what changed ─▶ manifest ─▶ combine ─▶ pods ─▶ source::pods
//!                                                              └─▶ their objects ─▶ NodeObjects
//! ```
//!
//! A file that cannot be used is one warning and no other file's problem; what it said when it last was readable
//! stands. Not for: what a manifest means (`manifest`), or showing static pods in the API ([`crate::mirror`]).

mod combine;
pub mod manifest;
pub mod objects;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use self::{
    combine::{Files, combine},
    manifest::{Reader, Rules},
    objects::NodeObjects,
};
use crate::{
    images::collect::NodeEvents,
    watch_dir,
    worker::ports::{Clock, ObjectRef},
};

/// Files often come together.
const GATHER: Duration = Duration::from_millis(50);
/// A kubelet's limit for a manifest.
const LARGEST: u64 = 10 << 20;

/// The directory and who is told what is in it.
pub struct Directory {
    /// The directory.
    pub dir: PathBuf,
    /// How often it is looked at without news.
    pub period: Duration,
    /// This node.
    pub node: String,
    /// What is a valid object.
    pub rules: Rules,
    /// The pods' objects.
    pub objects: NodeObjects,
    /// Hears of objects that changed.
    pub changes: mpsc::UnboundedSender<ObjectRef>,
    /// Hears of files that cannot be used.
    pub events: Option<Arc<dyn NodeEvents>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Directory {
    /// Says all static pods whenever there is news of any, for as long as somebody listens.
    pub async fn run(self, pods: mpsc::Sender<Vec<Arc<Pod>>>) {
        let dir = self.dir.display().to_string();
        let mut watch = watch_dir::watch(&self.dir, "static-pods")
            .inspect_err(
                |error| tracing::warn!(dir, %error, "static pods not watched, only looked at now and then"),
            )
            .ok();
        let (mut files, mut said) = (Files::new(), None);
        loop {
            match read_dir(&self.dir) {
                Ok(found) => self.update(&mut files, found),
                // What cannot be read now is not gone.
                Err(error) => tracing::warn!(dir, %error, "static pods not read"),
            }
            let combined = combine(&files);
            self.complain(&mut files, combined.problems).await;
            for object in self.objects.set(combined.objects) {
                // At the end of the process nobody listens any more.
                let _ended = self.changes.send(object);
            }
            let uids: Vec<_> = combined.pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
            if said.as_ref() != Some(&uids) {
                tracing::info!(dir, pods = uids.len(), "static pods");
                if pods.send(combined.pods).await.is_err() {
                    return;
                }
                said = Some(uids);
            }
            let news = async {
                match &mut watch {
                    Some(watch) => watch_dir::next(watch).await,
                    None => std::future::pending().await,
                }
            };
            if timeout(self.period, news).await.is_ok() {
                sleep(GATHER).await;
            }
        }
    }

    /// Reads what changed.
    fn update(&self, files: &mut Files, found: BTreeMap<String, io::Result<Vec<u8>>>) {
        files.retain(|file, _| found.contains_key(file));
        for (file, bytes) in found {
            let entry = files.entry(file.clone()).or_default();
            let reader = Reader {
                node: &self.node,
                file: &self.dir.join(&file).display().to_string(),
                seen: self.clock.now(),
                rules: self.rules,
            };
            let read = match bytes {
                Ok(bytes) => {
                    let digest = hex::encode(Sha256::digest(&bytes));
                    if entry.digest.as_ref() == Some(&digest) {
                        continue;
                    }
                    entry.digest = Some(digest);
                    String::from_utf8(bytes)
                        .map_err(|error| error.to_string())
                        .and_then(|text| reader.read(&text))
                }
                Err(error) => Err(error.to_string()),
            };
            match read {
                Ok(set) => (entry.set, entry.problem) = (Some(set), None),
                Err(problem) => entry.problem = Some(problem),
            }
        }
    }

    /// Each problem is told once.
    async fn complain(&self, files: &mut Files, problems: BTreeMap<String, String>) {
        for (file, entry) in files {
            let problem = problems.get(file);
            if entry.told.as_ref() == problem {
                continue;
            }
            entry.told = problem.cloned();
            let Some(problem) = problem else { continue };
            let file = self.dir.join(file).display().to_string();
            tracing::error!(file, problem, "static pod file not used");
            if let Some(events) = &self.events {
                events.warn("InvalidStaticPod", format!("{file}: {problem}")).await;
            }
        }
    }
}

/// The files that may hold manifests; no directory is an empty one.
fn read_dir(dir: &Path) -> io::Result<BTreeMap<String, io::Result<Vec<u8>>>> {
    let mut files = BTreeMap::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Links are followed, as configuration management likes them.
        let is_file = fs::metadata(entry.path()).is_ok_and(|meta| meta.is_file());
        if !name.starts_with('.') && is_file {
            files.insert(name, read_file(&entry.path()));
        }
    }
    Ok(files)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 10 MiB"));
    }
    Ok(bytes)
}
