//! The other side of the protocol: pods are attached by other people's plugins, one after the other.
//!
//! ```text
//!  conf dir ─▶ conf [p] ─▶ chain [p]: what each plugin reads ─▶ exec ─▶ the plugin
//!                            ▲ last result          record: begun ─▶ done ─▶ gone
//! ```
//!
//! As libcni and containerd do: the first file of the directory is the network, the result of one plugin is told to the
//! next, `DEL` goes the other way with the configuration and the result of `ADD`. Beyond them, an attachment is on
//! record before its first plugin runs, so that a kill at any moment leaves nothing behind that nobody knows of.
//!
//! Not for: which pods there should be (the agent), the network of our own ([`crate::Network`]).

mod chain;
pub(crate) mod conf;
mod desk;
mod error;
pub(crate) mod exec;
mod loopback;
mod record;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use orlop_model::hash::fnv64a;
use serde::Deserialize;
use serde_json::{Value, json};

pub use chain::{PortMapping, Wishes};
pub use error::ChainError;
pub use exec::PluginError;

use crate::{
    error::chain as causes,
    names::POD_INTERFACE,
    spec::{self, NEWEST, Version},
};
use chain::{Command, Told};
use conf::List;
use desk::Desk;
use record::{Record, Store};

/// Pods that share a lock wait for each other.
const TURNS: usize = 64;

/// Where other people's plugins are, and what they are to do.
#[derive(Clone, Debug)]
pub struct ChainConfig {
    /// Directory of configurations: the first in the order of names is the network.
    pub conf_dir: PathBuf,
    /// Directories of the plugins.
    pub bin_dirs: Vec<PathBuf>,
    /// Directory of what was given to whom, made if there is none.
    pub cache_dir: PathBuf,
    /// A plugin that takes longer is killed.
    pub time_limit: Duration,
}

/// A pod that wants to be attached.
#[derive(Clone, Debug)]
pub struct PodAttachment {
    /// Its uid: the id of the container for the plugins.
    pub uid: String,
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A path to its network namespace.
    pub netns: PathBuf,
    /// What it wishes.
    pub wishes: Wishes,
}

/// The pod network as other people's plugins make it, in the namespace of this process. Cheap to clone.
#[derive(Clone)]
pub struct Chain(Arc<Inner>);

struct Inner {
    config: ChainConfig,
    store: Store,
    turns: [tokio::sync::Mutex<()>; TURNS],
    /// What a program says of itself changes with the program only.
    versions: Mutex<HashMap<PathBuf, (Stamp, Vec<String>)>>,
}

/// Which of the programs that are at a path.
type Stamp = (Option<SystemTime>, u64, u64);

impl Chain {
    /// Makes the directory of records. There need not be a configuration yet.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(config: ChainConfig) -> Result<Self, ChainError> {
        let store = Store::open(&config.cache_dir).map_err(ChainError::record("open"))?;
        let turns = [const { tokio::sync::Mutex::const_new(()) }; TURNS];
        Ok(Self(Arc::new(Inner { config, store, turns, versions: Mutex::default() })))
    }

    /// Calls `ADD` of all plugins, and returns the pod's addresses. Of a pod that is attached, those it has.
    ///
    /// # Errors
    /// See [`ChainError`]; what was done is taken back, or is on record to be taken back by [`Chain::detach`].
    #[tracing::instrument(skip_all, fields(pod = %format!("{}/{}", pod.namespace, pod.name), uid = %pod.uid))]
    pub async fn attach(&self, pod: &PodAttachment) -> Result<Vec<IpAddr>, ChainError> {
        let (inner, pod) = (Arc::clone(&self.0), pod.clone());
        whole(async move { inner.attach(&pod).await }).await
    }

    /// Calls `DEL` of all plugins, as they were when the pod was attached; fine if it or its namespace is gone.
    ///
    /// # Errors
    /// See [`ChainError`]; call again.
    #[tracing::instrument(skip_all, fields(uid))]
    pub async fn detach(&self, uid: &str) -> Result<(), ChainError> {
        let (inner, uid) = (Arc::clone(&self.0), uid.to_owned());
        whole(async move { inner.detach(&uid).await }).await
    }

    /// Calls `CHECK` of all plugins, where they know it.
    ///
    /// # Errors
    /// What a plugin says is wrong.
    pub async fn check(&self, uid: &str) -> Result<(), ChainError> {
        let _turn = self.0.turn(uid).await;
        match self.0.records(uid)?.first() {
            Some(record) => self.0.check(record).await,
            None => Err(ChainError::Recorded(format!("there is none of {uid}"))),
        }
    }

    /// Calls `GC` of all plugins with all that is on record, where they know it.
    ///
    /// # Errors
    /// All that failed, one after the other.
    pub async fn collect(&self) -> Result<(), Vec<ChainError>> {
        self.0.collect().await
    }

    /// Whether pods can be attached: there is a network, its plugins are there, and say so themselves where they can.
    ///
    /// # Errors
    /// Why not.
    pub async fn status(&self) -> Result<(), ChainError> {
        let list = self.0.list()?;
        let version = self.0.version(&list).await?;
        if version >= Version::GC {
            self.0.tell_all(Command::Status, &list, version, &Told::default()).await.map_err(first)?;
        }
        Ok(())
    }

    /// All pods that are attached, or were about to be, with their addresses.
    ///
    /// # Errors
    /// When records cannot be read.
    pub fn attached(&self) -> Result<Vec<(String, Vec<IpAddr>)>, ChainError> {
        let records = self.0.store.all().map_err(ChainError::record("read"))?;
        Ok(records.into_iter().map(|record| (record.container_id.clone(), record.addresses())).collect())
    }
}

/// Runs to its end even if nobody waits for it any more: half of a chain is worse than none.
async fn whole<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The process is about to end: nobody will see the answer.
        Err(_) => std::future::pending().await,
    }
}

fn first(mut errors: Vec<ChainError>) -> ChainError {
    errors.swap_remove(0)
}

impl Inner {
    async fn turn(&self, uid: &str) -> tokio::sync::MutexGuard<'_, ()> {
        let slot = usize::try_from(fnv64a(uid.as_bytes()) % TURNS as u64).unwrap_or_default();
        self.turns[slot].lock().await
    }

    async fn attach(&self, pod: &PodAttachment) -> Result<Vec<IpAddr>, ChainError> {
        if !spec::valid_name(&pod.uid) {
            return Err(ChainError::Name(pod.uid.clone()));
        }
        let _turn = self.turn(&pod.uid).await;
        let identity = identity(&pod.netns);
        for record in self.records(&pod.uid)? {
            let addresses = record.addresses();
            if record.netns_identity == identity && !addresses.is_empty() {
                // A running pod is better left alone than given another address.
                if let Err(error) = self.check(&record).await {
                    tracing::warn!(
                        uid = pod.uid,
                        error = causes(&error),
                        "the pod's network is not as it was"
                    );
                }
                return Ok(addresses);
            }
            self.delete(&record).await?;
        }
        let list = self.list()?;
        let version = self.version(&list).await?;
        let mut record = Record::new(&list, &pod.uid, POD_INTERFACE);
        record.netns = pod.netns.clone();
        record.cni_args = args(pod);
        record.capability_args = pod.wishes.capability_args();
        record.netns_identity = identity;
        record.cni_version = version.to_string();
        self.store.write(&record).map_err(ChainError::record("write"))?;
        let added = self.add(&list, version, record.clone()).await;
        if added.is_err()
            && let Err(error) = self.delete(&record).await
        {
            tracing::warn!(uid = pod.uid, error = causes(&error), "take back what plugins have done");
        }
        added
    }

    async fn add(
        &self,
        list: &List,
        version: Version,
        mut record: Record,
    ) -> Result<Vec<IpAddr>, ChainError> {
        let mut desk = self.desk(&record).await?;
        loopback::up(&record.netns)?;
        let mut last = None;
        for plugin in chain::order(Command::Add, list) {
            let fault = |source| ChainError::plugin(&plugin.kind, Command::Add)(source);
            let told =
                Told { previous: last.as_ref(), args: Some(&record.capability_args), ..Told::default() };
            let stdin = chain::stdin(&list.name, version, plugin, &told);
            let answer = self.call(Command::Add, &plugin.kind, &record, &mut desk, &stdin).await?;
            if answer.iter().all(u8::is_ascii_whitespace) {
                return Err(fault(PluginError::NoResult));
            }
            let result: Value =
                serde_json::from_slice(&answer).map_err(PluginError::Answer).map_err(fault)?;
            spec::pod_result(&result, POD_INTERFACE).map_err(PluginError::Answer).map_err(fault)?;
            last = Some(result);
        }
        record.result = last;
        let addresses = record.addresses();
        if addresses.is_empty() {
            return Err(ChainError::NoAddress(list.name.clone()));
        }
        self.store.write(&record).map_err(ChainError::record("write"))?;
        Ok(addresses)
    }

    async fn detach(&self, uid: &str) -> Result<(), ChainError> {
        let _turn = self.turn(uid).await;
        for record in self.records(uid)? {
            self.delete(&record).await?;
        }
        Ok(())
    }

    /// The attachment's own plugins, whatever the network is by now.
    async fn delete(&self, record: &Record) -> Result<(), ChainError> {
        let list = record.list().map_err(|error| ChainError::Recorded(error.to_string()))?;
        let version = spoken(record, &list);
        let mut desk = self.desk(record).await?;
        let previous = record.result.as_ref().filter(|_| version >= Version::CHECK);
        let told = Told { previous, args: Some(&record.capability_args), ..Told::default() };
        for plugin in chain::order(Command::Del, &list) {
            let stdin = chain::stdin(&list.name, version, plugin, &told);
            self.call(Command::Del, &plugin.kind, record, &mut desk, &stdin).await?;
        }
        self.store.remove(record).map_err(ChainError::record("remove"))
    }

    async fn check(&self, record: &Record) -> Result<(), ChainError> {
        let list = record.list().map_err(|error| ChainError::Recorded(error.to_string()))?;
        let version = spoken(record, &list);
        if list.disable_check || version < Version::CHECK {
            return Ok(());
        }
        let mut desk = self.desk(record).await?;
        let told =
            Told { previous: record.result.as_ref(), args: Some(&record.capability_args), ..Told::default() };
        for plugin in chain::order(Command::Check, &list) {
            let stdin = chain::stdin(&list.name, version, plugin, &told);
            self.call(Command::Check, &plugin.kind, record, &mut desk, &stdin).await?;
        }
        Ok(())
    }

    async fn collect(&self) -> Result<(), Vec<ChainError>> {
        let list = self.list().map_err(|error| vec![error])?;
        let version = self.version(&list).await.map_err(|error| vec![error])?;
        if list.disable_gc || version < Version::GC {
            return Ok(());
        }
        let records = self.store.all().map_err(|error| vec![ChainError::record("read")(error)])?;
        let ours = records.iter().filter(|record| record.network_name == list.name);
        let valid: Vec<_> =
            ours.map(|record| (record.container_id.clone(), record.if_name.clone())).collect();
        let told = Told { valid: Some(&valid), ..Told::default() };
        self.tell_all(Command::Gc, &list, version, &told).await
    }

    /// For what is about the network as a whole: every plugin is called, and every failure reported.
    async fn tell_all(
        &self,
        command: Command,
        list: &List,
        version: Version,
        told: &Told<'_>,
    ) -> Result<(), Vec<ChainError>> {
        let mut errors = Vec::new();
        for plugin in chain::order(command, list) {
            let stdin = chain::stdin(&list.name, version, plugin, told).to_string();
            let environment = self.environment(command);
            if let Err(source) = self.run(&plugin.kind, &environment, exec::stdin(stdin.as_bytes())).await {
                errors.push(ChainError::plugin(&plugin.kind, command)(source));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    async fn call(
        &self,
        command: Command,
        kind: &str,
        record: &Record,
        desk: &mut Desk,
        stdin: &Value,
    ) -> Result<Vec<u8>, ChainError> {
        let text: Vec<_> = record.cni_args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        // A namespace that is gone is not named, as the specification wants it.
        let netns = Some(&record.netns).filter(|netns| command != Command::Del || netns.exists());
        let mut environment = self.environment(command);
        environment.extend([
            ("CNI_CONTAINERID", record.container_id.clone()),
            ("CNI_NETNS", netns.map(|netns| netns.to_string_lossy().into_owned()).unwrap_or_default()),
            ("CNI_IFNAME", record.if_name.clone()),
            ("CNI_ARGS", text.join(";")),
        ]);
        let stdin = desk.stdin(stdin.to_string().as_bytes()).map_err(ChainError::record("write"))?;
        let answer = self.run(kind, &environment, Ok(stdin)).await;
        answer.map_err(ChainError::plugin(kind, command))
    }

    fn environment(&self, command: Command) -> BTreeMap<&'static str, String> {
        let path = exec::join(&self.config.bin_dirs, ":");
        BTreeMap::from([("CNI_COMMAND", command.word().to_owned()), ("CNI_PATH", path)])
    }

    async fn run(
        &self,
        kind: &str,
        environment: &BTreeMap<&str, String>,
        stdin: std::io::Result<Stdio>,
    ) -> Result<Vec<u8>, PluginError> {
        let program = exec::find(kind, &self.config.bin_dirs)?;
        let stdin = stdin.map_err(|source| PluginError::Run { program: program.clone(), source })?;
        exec::run(&program, environment, stdin, self.config.time_limit).await
    }

    async fn desk(&self, record: &Record) -> Result<Desk, ChainError> {
        let desk = Desk::take(&self.config.cache_dir, &record.container_id, self.config.time_limit).await;
        desk.map_err(ChainError::record("lock"))
    }

    fn records(&self, uid: &str) -> Result<Vec<Record>, ChainError> {
        self.store.of(uid, POD_INTERFACE).map_err(ChainError::record("read"))
    }

    /// The network as it is configured now.
    fn list(&self) -> Result<List, ChainError> {
        let dir = &self.config.conf_dir;
        let none = || ChainError::NoConf(dir.clone());
        let fault = |path: &Path| {
            let path = path.to_owned();
            |source| ChainError::Read { path, source }
        };
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
            other => other.map_err(fault(dir))?,
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        let path = paths.filter(|path| conf::is_conf(path) && path.is_file()).min().ok_or_else(none)?;
        let text = fs::read(&path).map_err(fault(&path))?;
        conf::parse(&path, &text).map_err(ChainError::conf(path))
    }

    /// The version that the configuration and all its plugins have in common.
    async fn version(&self, list: &List) -> Result<Version, ChainError> {
        let mut supported = Vec::new();
        for plugin in &list.plugins {
            let versions = self.supported(&plugin.kind).await;
            let versions = versions.map_err(ChainError::plugin(&plugin.kind, Command::Version))?;
            supported.push((plugin.kind.clone(), versions));
        }
        chain::common_version(list, &supported).map_err(|(kind, supported)| {
            let wanted = list.versions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            ChainError::Version { kind, supported, wanted }
        })
    }

    async fn supported(&self, kind: &str) -> Result<Vec<String>, PluginError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            supported_versions: Vec<String>,
        }
        let program = exec::find(kind, &self.config.bin_dirs)?;
        let stamp = program.metadata().map(|meta| (meta.modified().ok(), meta.len(), meta.ino())).ok();
        let known = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&program).cloned();
        if let (Some(stamp), Some((known, versions))) = (stamp, known)
            && stamp == known
        {
            return Ok(versions);
        }
        let mut environment = self.environment(Command::Version);
        // Old plugins refuse to say anything without these.
        environment
            .extend(["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"].map(|name| (name, "dummy".to_owned())));
        let stdin = json!({ "cniVersion": NEWEST }).to_string();
        let answer = self.run(kind, &environment, exec::stdin(stdin.as_bytes())).await?;
        let answer: Answer = serde_json::from_slice(&answer).map_err(PluginError::Answer)?;
        if let Some(stamp) = stamp {
            let mut versions = self.versions.lock().unwrap_or_else(PoisonError::into_inner);
            versions.insert(program, (stamp, answer.supported_versions.clone()));
        }
        Ok(answer.supported_versions)
    }
}

/// The version in which an attachment was begun.
fn spoken(record: &Record, list: &List) -> Version {
    let spoken = record.cni_version.parse().ok();
    // A record of libcni's says it in its result only.
    let result = || record.result.as_ref()?.get("cniVersion")?.as_str()?.parse().ok();
    spoken.or_else(result).or_else(|| list.versions.first().copied()).unwrap_or(Version::CHECK)
}

/// As other runtimes name a pod to plugins.
fn args(pod: &PodAttachment) -> Vec<(String, String)> {
    let pairs = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.uid),
        ("K8S_POD_UID", &pod.uid),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

/// Tells a namespace from another one that comes to the same path later, or after the machine was started anew.
fn identity(netns: &Path) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let meta = fs::metadata(netns).map(|meta| format!("{}:{}", meta.dev(), meta.ino()));
    format!("{}/{}", boot.trim(), meta.unwrap_or_default())
}
