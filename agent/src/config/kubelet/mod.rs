//! The kubelet's configuration file: `kind: KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`. Pure.
//!
//! ```text
//!  --config ─▶ document ┐             fields: typed, by path   check: defaults, rules
//!  --config-dir *.conf ─┴─▶ merge ─────────▶ Fields ────────────────▶ Kubelet, Flags
//!                              └─ notes: fields that change nothing, by path
//! ```
//!
//! Later documents change earlier ones as a JSON merge patch does (KEP-3983). A field that upstream does not have, or
//! that is not honoured here, is a note; a value that cannot be used is an error. Not for: files (`config`).

mod check;
pub mod eviction;
mod fields;
mod read;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    args::Flags,
    cpu::{choose::How, set::CpuSet},
    images::rate::Rate,
    topology::Alignment,
};
use eviction::Eviction;
use fields::Fields;
use read::Read as _;
pub use read::{Note, Wrong};

/// The version that is understood.
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// The kind of document.
pub const KIND: &str = "KubeletConfiguration";

/// What the kubelet's configuration says and flags do not; without a file, upstream's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Kubelet {
    /// Directory of static pods.
    pub static_pods: Option<PathBuf>,
    /// How often it is looked at.
    pub static_pods_again: Duration,
    /// When pods are evicted.
    pub eviction: Eviction,
    /// Local storage of pods is limited.
    pub local_storage_isolation: bool,
    /// Who gets how long when the machine shuts down, lowest priority first; nothing: it is not waited for.
    pub shutdown: Vec<Phase>,
    /// Processors that no container has for itself, and that are not for pods.
    pub reserved_cpus: CpuSet,
    /// The static policy: Guaranteed pods may have processors for themselves.
    pub static_cpus: Option<StaticCpus>,
    /// How near to each other processors and devices are.
    pub alignment: Alignment,
    /// About the Node object.
    pub node: NodeObject,
    /// Address of the kubelet API instead of the node's.
    pub address: Option<IpAddr>,
    /// The kubelet API is on all addresses.
    pub all_addresses: bool,
    /// Certificate and key of the kubelet API, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Who signs its clients, PEM, instead of the cluster's CA.
    pub client_ca: Option<PathBuf>,
    /// The node's resolv.conf, from which those of pods are made; an empty path: none.
    pub resolv_conf: PathBuf,
    /// How often the logs of containers are looked at.
    pub log_monitor: Duration,
    /// Limits of processor time hold.
    pub cfs_quota: bool,
    /// The period over which they do.
    pub cfs_period: Duration,
    /// RuntimeDefault is the seccomp profile of containers that say nothing. Upstream's default is false, ours is not.
    pub seccomp_default: bool,
    /// Sysctls outside the safe set that pods may ask for; a trailing `*` stands for any rest.
    pub unsafe_sysctls: Vec<String>,
    /// Longest time before a container that fails is started again.
    pub longest_restart: Duration,
    /// How far from request to limit memory is throttled (MemoryQoS), in thousandths.
    pub throttling: u32,
    /// Events per second.
    pub events: Option<Rate>,
    /// The machine's log directory is served.
    pub system_logs: bool,
}

/// How containers get processors for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticCpus {
    /// Which ones.
    pub how: How,
    /// Others do not run on those that are reserved.
    pub strict: bool,
    /// How often it is looked whether all is as it should be.
    pub again: Duration,
}

/// About the Node object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeObject {
    /// It is created if it is not there.
    pub register: bool,
    /// With these taints.
    pub taints: Vec<Taint>,
    /// And this name of the machine at its provider.
    pub provider_id: Option<String>,
    /// How often the machine is looked at.
    pub status_every: Duration,
    /// How often the status is written though nothing has changed.
    pub report_every: Duration,
    /// How long its lease holds.
    pub lease_seconds: i32,
    /// At most so many images are told.
    pub max_images: usize,
}

/// A taint of a new Node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in the API")]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

/// Pods from this priority up to the next get so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// The lowest priority.
    pub priority: i32,
    /// How long.
    pub period: Duration,
}

impl Default for Kubelet {
    fn default() -> Self {
        Kubelet {
            static_pods: None,
            static_pods_again: Duration::from_secs(20),
            eviction: Eviction::default(),
            local_storage_isolation: true,
            shutdown: Vec::new(),
            reserved_cpus: CpuSet::default(),
            static_cpus: None,
            alignment: Alignment::default(),
            node: NodeObject::default(),
            address: None,
            all_addresses: false,
            tls: None,
            client_ca: None,
            resolv_conf: "/etc/resolv.conf".into(),
            log_monitor: Duration::from_secs(10),
            cfs_quota: true,
            cfs_period: Duration::from_millis(100),
            seccomp_default: true,
            unsafe_sysctls: Vec::new(),
            longest_restart: Duration::from_secs(300),
            throttling: 900,
            events: Rate::new(50, 100),
            system_logs: true,
        }
    }
}

impl Default for NodeObject {
    fn default() -> Self {
        NodeObject {
            register: true,
            taints: Vec::new(),
            provider_id: None,
            status_every: Duration::from_secs(10),
            report_every: Duration::from_secs(300),
            lease_seconds: 40,
            max_images: 50,
        }
    }
}

/// A document of a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file.
    pub file: PathBuf,
    /// What it says.
    pub value: Value,
}

/// What the documents say together.
#[derive(Debug, Default)]
pub struct Said {
    /// What flags do not say.
    pub kubelet: Kubelet,
    /// What is a flag too.
    pub flags: Flags,
    /// Fields that change nothing, with their files.
    pub notes: Vec<(PathBuf, Note)>,
}

/// A document that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {field} {value}: {reason}", file = file.display(), field = wrong.field, value = wrong.value, reason = wrong.reason)]
pub struct DocumentError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong in it.
    pub wrong: Wrong,
}

/// Whether a document is, or wants to be, a kubelet's configuration.
#[must_use]
pub fn is_one(document: &Value) -> bool {
    document.get("kind").is_some() || document.get("apiVersion").is_some()
}

/// Reads documents; later ones win. `cores`: processors of the machine.
///
/// # Errors
/// The first value that cannot be used.
pub fn read(documents: &[Document], cores: u32) -> Result<Said, DocumentError> {
    let mut notes = Vec::new();
    let mut merged = Value::Null;
    for Document { file, value } in documents {
        let within = |wrong| DocumentError { file: file.clone(), wrong };
        kind_of(value).map_err(within)?;
        // Each by itself first: what is wrong is told with its file.
        let mut own = Vec::new();
        Fields::read(value, "", &mut own).map_err(within)?;
        notes.extend(own.into_iter().map(|note| (file.clone(), note)));
        merge(&mut merged, value);
    }
    let whose = |field: &str| who_says(documents, field);
    let settled = |wrong: Wrong| DocumentError { file: whose(&wrong.field), wrong };
    let fields = match &merged {
        Value::Null => Fields::default(),
        merged => Fields::read(merged, "", &mut Vec::new()).map_err(settled)?,
    };
    let mut more = Vec::new();
    let (kubelet, flags) = check::settle(&fields, cores, &mut more).map_err(settled)?;
    notes.extend(more.into_iter().map(|note| (whose(&note.field), note)));
    Ok(Said { kubelet, flags, notes })
}

fn kind_of(document: &Value) -> Result<(), Wrong> {
    for (field, wanted) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let said = document.get(field).unwrap_or(&Value::Null);
        if said != wanted {
            return Err(Wrong::new(field, said, format!("must be {wanted}")));
        }
    }
    Ok(())
}

/// The last file with the field, or with the field that it is part of.
fn who_says(documents: &[Document], field: &str) -> PathBuf {
    let names: Vec<&str> = field.split(['.', '[']).collect();
    let (first, second) = (names[0], names.get(1).copied().unwrap_or_default());
    // Names of signals and resources have dots themselves.
    let rest = field.strip_prefix(first).unwrap_or_default().trim_start_matches('.');
    let says = |document: &&Document| {
        let part = document.value.get(first);
        part.is_some_and(|part| part.get(rest).is_some() || part.get(second).is_some())
    };
    let found = documents.iter().rev().find(says);
    let found = found.or_else(|| documents.iter().rev().find(|document| document.value.get(first).is_some()));
    found.or(documents.last()).map(|document| document.file.clone()).unwrap_or_default()
}

/// RFC 7396: objects are merged, all else is replaced, null removes.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => drop(target.remove(key)),
            value => merge(target.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Whether a file of a drop-in directory counts.
#[must_use]
pub fn is_drop_in(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conf")
}
