//! What is kept on disk of pods and containers, and what it says together with what the shims wrote.
//!
//! The directories are the truth: there is no index that could disagree with them. Not for: talking to shims.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use orlop_shim::records::{ExitRecord, PidRecord};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    api::{Container, ContainerSpec, ContainerState, Exit, Resources, Sandbox, SandboxSpec, User},
    bundle::{self, Layout},
    cgroup::{Hierarchies, Stats},
    ids::IdRange,
    sandbox,
};

/// `sandbox.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) spec: SandboxSpec,
    /// The pod's own, as long as it is there.
    #[serde(default)]
    pub(crate) ids: Option<IdRange>,
    /// Ended for good: its ids are free, and it cannot be made again.
    #[serde(default)]
    pub(crate) stopped: bool,
    pub(crate) created_at: Timestamp,
}

/// `record.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) image_ref: String,
    pub(crate) image_id: String,
    pub(crate) log_path: PathBuf,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) stop_signal: Option<String>,
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdin_once: bool,
    #[serde(default)]
    pub(crate) tty: bool,
    /// Absent in records of earlier versions.
    #[serde(default)]
    pub(crate) user: Option<User>,
    /// What it is limited to, by its start or the last change. Absent in records of earlier versions.
    #[serde(default)]
    pub(crate) resources: Resources,
    pub(crate) created_at: Timestamp,
}

impl ContainerRecord {
    pub(crate) fn new(id: String, spec: &ContainerSpec, now: Timestamp) -> ContainerRecord {
        ContainerRecord {
            id,
            name: spec.name.clone(),
            attempt: spec.attempt,
            image_ref: spec.image_ref.clone(),
            image_id: spec.image.id.clone(),
            log_path: spec.log_path.clone(),
            labels: spec.labels.clone(),
            stop_signal: spec.stop_signal.clone().or_else(|| spec.image.config.stop_signal.clone()),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            user: None,
            resources: spec.resources.clone(),
            created_at: now,
        }
    }

    pub(crate) fn container(self, state: ContainerState) -> Container {
        let ContainerRecord { id, name, attempt, image_ref, image_id, log_path, labels, user, tty, .. } =
            self;
        Container { id, name, attempt, image_ref, image_id, user, tty, log_path, state, labels }
    }
}

/// Whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("new");
    fs::write(&tmp, bytes)?;
    fs::rename(&tmp, path)
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    write(path, &serde_json::to_vec(value)?)
}

/// `None` where there is no file. One that cannot be read is an error: it must not look like nothing.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the records under a run directory say, for commands that must not disturb a running agent: no shim is asked, so
/// `shim_alive` is false throughout, and unreadable records are left out.
pub fn list(run_dir: &Path) -> Vec<Sandbox> {
    let layout = Layout { state_dir: PathBuf::new(), run_dir: run_dir.to_owned() };
    let uids = directories(&layout.pods()).into_iter();
    uids.filter_map(|uid| {
        let SandboxRecord { spec, created_at, .. } = layout.sandbox(&uid).ok()??;
        let containers = layout.pod_containers(&uid);
        let netns = sandbox::pin(&layout, &spec, "net");
        Some(Sandbox { pod: spec.pod, netns, created_at, shim_alive: false, containers, labels: spec.labels })
    })
    .collect()
}

/// Counters of a container, for the same commands.
///
/// # Errors
/// There is no such pod, or its cgroup is gone.
pub fn stats(hierarchies: &Hierarchies, run_dir: &Path, uid: &str, id: &str) -> io::Result<Stats> {
    let layout = Layout { state_dir: PathBuf::new(), run_dir: run_dir.to_owned() };
    let sandbox = layout.sandbox(uid)?.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?;
    hierarchies.stats(&format!("{}/{id}", sandbox.spec.cgroup))
}

/// Names of the directories in a directory, in order; none if it is not there.
pub(crate) fn directories(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut names: Vec<String> = dirs.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Layout {
    pub(crate) fn sandbox(&self, uid: &str) -> io::Result<Option<SandboxRecord>> {
        read_json(&self.pod(uid).join(bundle::SANDBOX))
    }

    pub(crate) fn record(&self, uid: &str, id: &str) -> io::Result<Option<ContainerRecord>> {
        read_json(&self.container(uid, id).join(bundle::RECORD))
    }

    /// Where a container is, by what its shim wrote.
    pub(crate) fn container_state(&self, uid: &str, id: &str) -> ContainerState {
        let dir = self.container(uid, id);
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
        if let Some(exit) = text(bundle::EXIT).and_then(|text| ExitRecord::from_text(&text)) {
            return ContainerState::Exited(exit_of(&exit));
        }
        match text(bundle::PID).and_then(|text| PidRecord::from_text(&text)) {
            Some(PidRecord { pid, started, .. }) => {
                ContainerState::Running { pid, started_at: timestamp(started) }
            }
            None => ContainerState::Created,
        }
    }

    /// All containers of a pod, oldest first.
    pub(crate) fn pod_containers(&self, uid: &str) -> Vec<Container> {
        let state = |record: ContainerRecord| {
            let state = self.container_state(uid, &record.id);
            record.container(state)
        };
        self.pod_records(uid).into_iter().map(state).collect()
    }

    /// What was written down of them, oldest first.
    pub(crate) fn pod_records(&self, uid: &str) -> Vec<ContainerRecord> {
        let ids = directories(&self.containers(uid)).into_iter();
        let mut records: Vec<ContainerRecord> = ids
            .filter_map(|id| match self.record(uid, &id) {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(uid, id, %error, "unreadable container record");
                    None
                }
            })
            .collect();
        records.sort_by_key(|record| record.created_at);
        records
    }
}

pub(crate) fn timestamp(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}

pub(crate) fn exit_of(record: &ExitRecord) -> Exit {
    Exit {
        code: record.code,
        signal: Some(record.signal).filter(|signal| *signal != 0),
        oom_killed: record.oom,
        started_at: timestamp(record.started),
        finished_at: timestamp(record.finished),
    }
}
