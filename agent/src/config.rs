//! From words to a configuration that cannot be wrong: one clear error that names the flag and the value.

pub mod kubelet;
mod subids;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize as _;
use serde_json::Value;

use orlop_model::{ids::NodeName, names, net::Ipv4Net, quantities::Quantity};
use orlop_runtime::{
    ids::IdRange,
    image::{Registries, Thresholds, Verification},
    log::Limits as LogLimits,
    rlimits::Rlimit,
};

use crate::{
    args::{DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Flags, ModeArgs},
    images::{collect, rate::Rate},
    pod::{
        resources,
        settings::{Reserved, ResourcePolicy},
    },
};
use kubelet::{
    Document, DocumentError, Kubelet, Said,
    eviction::{Threshold, hard_thresholds},
};

/// The store's libraries tell how they work at `info`; operators want to know what changed.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn";

/// What every long-running mode needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// What survives a reboot.
    pub state_dir: PathBuf,
    /// What does not.
    pub run_dir: PathBuf,
    /// Container logs.
    pub log_dir: PathBuf,
    /// Control plane to join.
    pub kubeconfig: Option<PathBuf>,
    /// Hard thresholds of eviction, where a flag gives them.
    pub eviction_hard: Option<Vec<Threshold>>,
    /// Directory of static pods.
    pub static_pod_path: Option<PathBuf>,
    /// Addresses of this node's pods, where nobody else says them; else the first node's part of the cluster's.
    pub pod_cidr: Ipv4Net,
    /// This node.
    pub node_name: NodeName,
    /// Its address.
    pub node_ip: Ipv4Addr,
    /// Its labels besides those every node has.
    pub node_labels: BTreeMap<String, String>,
    /// Most pods here.
    pub max_pods: u32,
    /// Ids of the host for pods with a user namespace of their own.
    pub user_namespace_ids: IdRange,
    /// Resource limits of containers.
    pub rlimits: Vec<Rlimit>,
    /// What operators want of pods' resources.
    pub resources: ResourcePolicy,
    /// Port of the kubelet API.
    pub kubelet_port: u16,
    /// Port of `/healthz` without TLS, on the loopback address; 0 is none.
    pub healthz_port: u16,
    /// Cgroup subtree, relative to every hierarchy's mount point.
    pub cgroup_root: String,
    /// Where eBPF maps and links are pinned.
    pub bpffs: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// Where CRI is served.
    pub cri_socket: Option<PathBuf>,
    /// Where device plugins and monitoring agents have their sockets.
    pub kubelet_dir: PathBuf,
    /// MTU of pod interfaces, bytes.
    pub mtu: u32,
    /// Addresses of all pods.
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of a node's part.
    pub node_cidr_mask: u8,
    /// Cluster IPs.
    pub service_cidr: Ipv4Net,
    /// API server's address and port.
    pub listen: SocketAddr,
    /// Further names in its certificate.
    pub tls_san: Vec<String>,
    /// Controllers to run, in upstream's `*,-name` form.
    pub controllers: Vec<String>,
    /// Registries without TLS.
    pub plain_http_registries: Vec<String>,
    /// Mirrors and the like, by registry.
    pub registries: Registries,
    /// Docker configuration with the node's own credentials.
    pub docker_config: PathBuf,
    /// Configuration and directory of credential-provider plugins.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// Whether pods must show credentials for images that are here.
    pub verification: Verification,
    /// Images pulled at once.
    pub max_parallel_image_pulls: usize,
    /// How many pulls may begin in which time.
    pub pull_rate: Option<Rate>,
    /// Archives that are imported.
    pub image_dir: PathBuf,
    /// When images are removed.
    pub image_gc: Thresholds,
    /// How often it is looked whether any have to be.
    pub image_gc_period: Duration,
    /// When a container's log is put aside.
    pub container_logs: LogLimits,
    /// DNS servers of the cluster.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// What to log.
    pub log: String,
    /// What only the kubelet's own configuration says.
    pub kubelet: Kubelet,
    /// Fields of it that change nothing, for the log.
    pub warnings: Vec<String>,
}

/// A flag, an environment variable or a field of the configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_norway::Error,
    },
    /// The kubelet's own configuration cannot be used.
    #[error("kubelet configuration file {0}")]
    Kubelet(DocumentError),
    /// A value cannot be used.
    #[error("--{flag} {value:?}: {reason}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file has a field that is no flag, or a value that is none for it.
    #[error("configuration file {path}")]
    Flags {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A value is missing and cannot be found out.
    #[error("--{flag} is needed: {reason}")]
    Missing {
        /// The flag.
        flag: &'static str,
        /// Why there is no default.
        reason: String,
    },
}

impl Config {
    /// Reads the files, if any are named, and checks everything.
    ///
    /// # Errors
    /// The first value that cannot be used, with the flag's name, or with file and field.
    pub fn load(args: ModeArgs) -> Result<Self, ConfigError> {
        let (mut file, mut documents) = (Flags::default(), Vec::new());
        for document in args.config.as_deref().map(read_documents).transpose()?.unwrap_or_default() {
            if kubelet::is_one(&document.value) {
                documents.push(document);
            } else {
                let path = document.file;
                let more = serde_json::from_value(document.value);
                file = Flags::or(more.map_err(|source| ConfigError::Flags { path, source })?, file);
            }
        }
        for path in args.config_dir.as_deref().map(drop_ins).transpose()?.unwrap_or_default() {
            // Whatever they are: what is no part of the kubelet's configuration is an error there.
            documents.extend(read_documents(&path)?);
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let said = kubelet::read(&documents, cores).map_err(ConfigError::Kubelet)?;
        let Said { kubelet, flags, notes } = said;
        let mut config = Self::try_from(args.flags.or(file).or(flags))?;
        if !kubelet.reserved_cpus.is_empty() {
            // These are kept, whatever is said of amounts.
            config.resources.reserved.cpu_milli =
                i64::try_from(kubelet.reserved_cpus.len()).unwrap_or(i64::MAX / 1000) * 1000;
        }
        config.resources.static_cpus = kubelet.static_cpus.is_some();
        if config.resources.static_cpus && config.resources.reserved.cpu_milli == 0 {
            let reason = "the static CPU manager policy needs processors that are kept (reservedSystemCPUs, or cpu of \
                          systemReserved or kubeReserved)";
            return Err(ConfigError::Missing { flag: "system-reserved", reason: reason.to_owned() });
        }
        config.resources.cfs_period_us = kubelet
            .cfs_quota
            .then(|| u64::try_from(kubelet.cfs_period.as_micros()).unwrap_or(resources::PERIOD_US));
        config.resources.throttling = kubelet.throttling;
        config.resources.seccomp_unconfined = !kubelet.seccomp_default;
        config.resources.longest_restart = kubelet.longest_restart;
        config.static_pod_path = config.static_pod_path.or_else(|| kubelet.static_pods.clone());
        config.kubelet = kubelet;
        if let Some(hard) = config.eviction_hard.take() {
            config.kubelet.eviction.hard = hard;
        }
        config.warnings = notes
            .into_iter()
            .map(|(file, note)| format!("{}: {} {}", file.display(), note.field, note.text))
            .collect();
        Ok(config)
    }
}

/// The documents of a YAML (or JSON) file; those with nothing in them do not count.
fn read_documents(path: &Path) -> Result<Vec<Document>, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut documents = Vec::new();
    for document in serde_norway::Deserializer::from_str(&text) {
        let value = Value::deserialize(document)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
        if !value.is_null() {
            documents.push(Document { file: path.to_owned(), value });
        }
    }
    Ok(documents)
}

/// The files of a directory that count, in the order of their names.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |source| ConfigError::Read { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|entry| entry.path()));
    let mut files = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    files.retain(|path| kubelet::is_drop_in(path) && path.is_file());
    files.sort();
    Ok(files)
}

/// Reads and checks a `registries` file.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read_registries(path: &Path) -> Result<Registries, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let registries: Registries = serde_norway::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
    registries.check().map_err(|reason| value("registries", path.display(), reason))?;
    Ok(registries)
}

fn providers(
    config: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let missing =
        |flag| ConfigError::Missing { flag, reason: "plugins need configuration and directory".into() };
    match (config, bin_dir) {
        (None, None) => Ok(None),
        (Some(config), Some(dir)) => Ok(Some((config, absolute("image-credential-provider-bin-dir", dir)?))),
        (Some(_), None) => Err(missing("image-credential-provider-bin-dir")),
        (None, Some(_)) => Err(missing("image-credential-provider-config")),
    }
}

fn thresholds(
    high: Option<u8>,
    low: Option<u8>,
    min_age: Option<String>,
    max_age: Option<String>,
) -> Result<Thresholds, ConfigError> {
    let defaults = Thresholds::default();
    let (high, low) = (high.unwrap_or(defaults.high), low.unwrap_or(defaults.low));
    if high > 100 {
        return Err(value("image-gc-high-threshold-percent", high, "must be at most 100"));
    }
    if low >= high {
        let reason = format!("must be below the high threshold of {high}");
        return Err(value("image-gc-low-threshold-percent", low, reason));
    }
    let age = |flag, text: Option<String>| text.map(|text| parse_age(flag, &text)).transpose();
    let max_age = age("image-maximum-gc-age", max_age)?.filter(|age| !age.is_zero());
    let min_age = age("image-minimum-gc-age", min_age)?.unwrap_or(defaults.min_age);
    Ok(Thresholds { high, low, min_age, max_age })
}

fn log_limits(max_size: Option<String>, max_files: Option<usize>) -> Result<LogLimits, ConfigError> {
    let defaults = LogLimits::default();
    let flag = "container-log-max-size";
    let max_size = match max_size {
        None => defaults.max_size,
        Some(text) => {
            let size = Quantity::parse(&text).map_err(|error| value(flag, &text, error))?.value();
            u64::try_from(size)
                .ok()
                .filter(|size| *size > 0)
                .ok_or_else(|| value(flag, &text, "must be positive"))?
        }
    };
    let max_files = max_files.unwrap_or(defaults.max_files);
    if max_files < 2 {
        return Err(value("container-log-max-files", max_files, "must be 2 at least"));
    }
    Ok(LogLimits { max_size, max_files })
}

fn user_namespace_ids(said: Option<String>, max_pods: u32) -> Result<IdRange, ConfigError> {
    let flag = "user-namespace-ids";
    let pool = match said {
        None => {
            let text = |path| fs::read_to_string(path).unwrap_or_default();
            let of_user = subids::pool(&text("/etc/subuid"), &text("/etc/subgid"));
            let of_user = of_user.map_err(|reason| value(flag, subids::USER, reason))?;
            of_user.unwrap_or_else(|| IdRange::for_pods(max_pods))
        }
        Some(text) => {
            let numbers = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let (first, count) = numbers.ok_or_else(|| value(flag, &text, "must be `first:count`"))?;
            IdRange::pool(first, count).map_err(|reason| value(flag, &text, reason))?
        }
    };
    Ok(pool)
}

/// `cpu=500m,memory=1Gi`.
fn reserved(flag: &'static str, text: Option<String>) -> Result<Reserved, ConfigError> {
    let mut reserved = Reserved::default();
    for word in words(text) {
        let (name, amount) = word.split_once('=').ok_or_else(|| value(flag, &word, "must be NAME=AMOUNT"))?;
        let amount = Quantity::parse(amount).map_err(|error| value(flag, &word, error))?;
        let (field, amount) = match name {
            "cpu" => (&mut reserved.cpu_milli, amount.milli()),
            "memory" => (&mut reserved.memory, amount.value()),
            "ephemeral-storage" => (&mut reserved.ephemeral_storage, amount.value()),
            _ => return Err(value(flag, &word, "only cpu, memory and ephemeral-storage can be reserved")),
        };
        let amount = i64::try_from(amount).ok().filter(|amount| *amount >= 0);
        *field = amount.ok_or_else(|| value(flag, &word, "must not be negative"))?;
    }
    Ok(reserved)
}

/// The first is the default.
fn one_of<T: Copy>(
    flag: &'static str,
    text: Option<String>,
    choices: &[(&str, T); 2],
) -> Result<T, ConfigError> {
    let Some(text) = text else { return Ok(choices[0].1) };
    let found = choices.iter().find(|(name, _)| *name == text);
    let reason = || format!("must be {} or {}", choices[0].0, choices[1].0);
    found.map(|(_, choice)| *choice).ok_or_else(|| value(flag, &text, reason()))
}

fn parse_age(flag: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| value(flag, text, error))?;
    Duration::try_from(parsed).map_err(|_| value(flag, text, "must not be negative"))
}

fn period(flag: &'static str, text: Option<String>, default: Duration) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    let period = parse_age(flag, &text)?;
    if period.is_zero() { Err(value(flag, text, "must be positive")) } else { Ok(period) }
}

impl TryFrom<Flags> for Config {
    type Error = ConfigError;

    fn try_from(flags: Flags) -> Result<Self, ConfigError> {
        let Flags {
            state_dir,
            run_dir,
            log_dir,
            kubeconfig,
            static_pod_path,
            pod_cidr,
            node_name,
            node_ip,
            node_labels,
            max_pods,
            user_namespace_ids,
            system_reserved,
            kube_reserved,
            enforce_node_allocatable,
            eviction_hard,
            pod_max_pids,
            memory_swap_behavior,
            single_process_oom_kill,
            memory_qos,
            default_ulimits,
            kubelet_port,
            healthz_port,
            cgroup_root,
            bpffs,
            shim,
            cri_socket,
            kubelet_dir,
            mtu,
            cluster_cidr,
            node_cidr_mask,
            service_cidr,
            listen,
            tls_san,
            controllers,
            plain_http_registries,
            registries,
            docker_config,
            image_credential_provider_config,
            image_credential_provider_bin_dir,
            image_pull_credentials_verification_policy,
            preloaded_images_verification_allowlist,
            max_parallel_image_pulls,
            registry_qps,
            registry_burst,
            image_dir,
            image_gc_period,
            image_gc_high_threshold_percent,
            image_gc_low_threshold_percent,
            image_minimum_gc_age,
            image_maximum_gc_age,
            container_log_max_size,
            container_log_max_files,
            cluster_dns,
            cluster_domain,
            log,
        } = flags;
        let state_dir = absolute("state-dir", state_dir.unwrap_or_else(|| DEFAULT_STATE_DIR.into()))?;
        let run_dir = absolute("run-dir", run_dir.unwrap_or_else(|| DEFAULT_RUN_DIR.into()))?;
        let cluster_cidr: Ipv4Net =
            parse("cluster-cidr", cluster_cidr.unwrap_or_else(|| "10.42.0.0/16".to_owned()))?;
        let service_cidr: Ipv4Net =
            parse("service-cidr", service_cidr.unwrap_or_else(|| "10.43.0.0/16".to_owned()))?;
        if cluster_cidr.overlaps(&service_cidr) {
            let reason = format!("must not overlap the addresses of pods, {cluster_cidr}");
            return Err(value("service-cidr", service_cidr, reason));
        }
        let max_pods = max_pods.unwrap_or(110);
        let node_cidr_mask = node_cidr_mask.unwrap_or(24);
        if node_cidr_mask < cluster_cidr.prefix() || node_cidr_mask > 30 {
            let reason = format!("must lie between the cluster CIDR's {} and 30", cluster_cidr.prefix());
            return Err(value("node-cidr-mask", node_cidr_mask, reason));
        }
        let first_part = Ipv4Net::new(cluster_cidr.network(), node_cidr_mask)
            .map_err(|error| value("node-cidr-mask", node_cidr_mask, error))?;
        let pod_cidr = match pod_cidr {
            Some(text) => parse("pod-cidr", text)?,
            None => first_part,
        };
        Ok(Self {
            log_dir: absolute("log-dir", log_dir.unwrap_or_else(|| state_dir.join("log/pods")))?,
            bpffs: absolute("bpffs", bpffs.unwrap_or_else(|| run_dir.join("bpf")))?,
            shim: shim.map_or_else(shim_beside_us, Ok)?,
            cri_socket: cri_socket.map(|path| absolute("cri-socket", path)).transpose()?,
            kubelet_dir: absolute("kubelet-dir", kubelet_dir.unwrap_or_else(|| state_dir.clone()))?,
            node_name: parse_node_name(node_name)?,
            node_ip: node_ip.map_or_else(default_address, |text| parse("node-ip", text))?,
            node_labels: parse_labels(&node_labels.unwrap_or_default())?,
            max_pods,
            user_namespace_ids: self::user_namespace_ids(user_namespace_ids, max_pods)?,
            resources: ResourcePolicy {
                reserved: reserved("system-reserved", system_reserved)?
                    .plus(reserved("kube-reserved", kube_reserved)?),
                enforce: one_of(
                    "enforce-node-allocatable",
                    enforce_node_allocatable,
                    &[("pods", true), ("none", false)],
                )?,
                pod_pids_limit: pod_max_pids.filter(|limit| *limit > 0),
                limited_swap: one_of(
                    "memory-swap-behavior",
                    memory_swap_behavior,
                    &[("NoSwap", false), ("LimitedSwap", true)],
                )?,
                single_process_oom_kill: single_process_oom_kill.unwrap_or(false),
                memory_qos: memory_qos.unwrap_or(false),
                ..ResourcePolicy::default()
            },
            rlimits: words(default_ulimits)
                .into_iter()
                .map(|text| parse("default-ulimits", text))
                .collect::<Result<_, _>>()?,
            kubelet_port: kubelet_port.unwrap_or(10250),
            healthz_port: healthz_port.unwrap_or(10248),
            cgroup_root: parse_cgroup(cgroup_root.unwrap_or_else(|| "orlop".to_owned()))?,
            mtu: parse_mtu(mtu.unwrap_or(1500))?,
            listen: parse("listen", listen.unwrap_or_else(|| "0.0.0.0:6443".to_owned()))?,
            tls_san: words(tls_san),
            controllers: words(Some(controllers.unwrap_or_else(|| "*".to_owned()))),
            plain_http_registries: words(plain_http_registries),
            registries: registries.as_deref().map(read_registries).transpose()?.unwrap_or_default(),
            docker_config: docker_config.unwrap_or_else(|| state_dir.join("config.json")),
            credential_providers: providers(
                image_credential_provider_config,
                image_credential_provider_bin_dir,
            )?,
            verification: Verification {
                policy: image_pull_credentials_verification_policy
                    .map(|text| parse("image-pull-credentials-verification-policy", text))
                    .transpose()?
                    .unwrap_or_default(),
                allowlist: words(preloaded_images_verification_allowlist),
            },
            max_parallel_image_pulls: max_parallel_image_pulls.unwrap_or(4).max(1),
            pull_rate: Rate::new(registry_qps.unwrap_or(5), registry_burst.unwrap_or(10)),
            image_dir: absolute("image-dir", image_dir.unwrap_or_else(|| state_dir.join("images.d")))?,
            image_gc_period: period("image-gc-period", image_gc_period, collect::PERIOD)?,
            image_gc: thresholds(
                image_gc_high_threshold_percent,
                image_gc_low_threshold_percent,
                image_minimum_gc_age,
                image_maximum_gc_age,
            )?,
            container_logs: log_limits(container_log_max_size, container_log_max_files)?,
            cluster_dns: words(cluster_dns)
                .into_iter()
                .map(|text| parse("cluster-dns", text))
                .collect::<Result<_, _>>()?,
            cluster_domain: cluster_domain.unwrap_or_else(|| "cluster.local".to_owned()),
            log: log.unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            kubelet: Kubelet::default(),
            warnings: Vec::new(),
            state_dir,
            run_dir,
            kubeconfig,
            eviction_hard: eviction_hard
                .map(|text| hard_thresholds(&text).map_err(|reason| value("eviction-hard", text, reason)))
                .transpose()?,
            static_pod_path: static_pod_path.map(|dir| absolute("static-pod-path", dir)).transpose()?,
            pod_cidr,
            cluster_cidr,
            node_cidr_mask,
            service_cidr,
        })
    }
}

fn value(flag: &'static str, value: impl ToString, reason: impl ToString) -> ConfigError {
    ConfigError::Value { flag, value: value.to_string(), reason: reason.to_string() }
}

fn parse<T: std::str::FromStr<Err: ToString>>(flag: &'static str, text: String) -> Result<T, ConfigError> {
    text.parse().map_err(|error: T::Err| value(flag, &text, error.to_string()))
}

fn words(list: Option<String>) -> Vec<String> {
    let list = list.unwrap_or_default();
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn absolute(flag: &'static str, path: PathBuf) -> Result<PathBuf, ConfigError> {
    if path.is_absolute() { Ok(path) } else { Err(value(flag, path.display(), "must be an absolute path")) }
}

fn parse_node_name(given: Option<String>) -> Result<NodeName, ConfigError> {
    let name = match given {
        Some(name) => name,
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    NodeName::parse(&name).map_err(|reason| value("node-name", name, reason))
}

fn parse_labels(text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    text.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, label) = pair.split_once('=').unwrap_or((pair, ""));
            names::is_label_key(key).map_err(|reason| value("node-labels", key, reason))?;
            names::is_label_value(label).map_err(|reason| value("node-labels", label, reason))?;
            Ok((key.to_owned(), label.to_owned()))
        })
        .collect()
}

fn parse_cgroup(path: String) -> Result<String, ConfigError> {
    let part_ok = |part: &str| !part.is_empty() && part != "." && part != "..";
    if path.split('/').all(part_ok) {
        Ok(path)
    } else {
        Err(value(
            "cgroup-root",
            path,
            "must be a relative path without `.` or `..`; the root itself is not allowed",
        ))
    }
}

fn parse_mtu(mtu: u32) -> Result<u32, ConfigError> {
    // RFC 791: every host takes 576 bytes; 65535 is the largest IPv4 packet.
    if (576..=65_535).contains(&mtu) {
        Ok(mtu)
    } else {
        Err(value("mtu", mtu, "must lie between 576 and 65535"))
    }
}

fn shim_beside_us() -> Result<PathBuf, ConfigError> {
    let ours = std::env::current_exe().map_err(|error| ConfigError::Missing {
        flag: "shim",
        reason: format!("the path of this program is not known ({error})"),
    })?;
    Ok(ours.with_file_name("orlop-shim"))
}

/// The address that packets to the outside would carry. Connecting a UDP socket asks the routing table and sends nothing.
fn default_address() -> Result<Ipv4Addr, ConfigError> {
    let missing = |reason: String| ConfigError::Missing { flag: "node-ip", reason };
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(|error| missing(error.to_string()))?;
    socket
        .connect((Ipv4Addr::new(192, 0, 2, 1), 9))
        .map_err(|error| missing(format!("no default route ({error})")))?;
    match socket.local_addr() {
        Ok(SocketAddr::V4(address)) => Ok(*address.ip()),
        Ok(address) => Err(missing(format!("{address} is not IPv4"))),
        Err(error) => Err(missing(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, expected: expect_test::Expect) {
        let flags: Result<Flags, _> = serde_norway::from_str(yaml);
        let shown = match flags.map_err(|error| error.to_string()).map(Config::try_from) {
            Ok(Ok(config)) => format!(
                "{} {} {} {} {}",
                config.node_name, config.node_ip, config.cgroup_root, config.cluster_cidr, config.listen
            ),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn defaults_fill_what_is_not_said() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.1, shim: /bin/true}",
            expect_test::expect!["n1 10.0.0.1 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.300, shim: /s}",
            expect_test::expect![[r#"--node-ip "10.0.0.300": invalid IPv4 address syntax"#]],
        );
    }

    #[test]
    fn ulimits_are_checked() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.1, shim: /s, defaultUlimits: 'core=0,nofile=5:1'}",
            expect_test::expect![[r#"--default-ulimits "nofile=5:1": the soft limit is above the hard one"#]],
        );
    }

    #[test]
    fn pods_and_services_have_addresses_of_their_own() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, serviceCidr: 10.42.128.0/24}",
            expect_test::expect![[
                r#"--service-cidr "10.42.128.0/24": must not overlap the addresses of pods, 10.42.0.0/16"#
            ]],
        );
    }

    #[test]
    fn limits_of_logs_are_checked() {
        let check = |more: &str, expected: expect_test::Expect| {
            check(&format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {more}}}"), expected);
        };
        check(
            "containerLogMaxFiles: 1",
            expect_test::expect![[r#"--container-log-max-files "1": must be 2 at least"#]],
        );
        check(
            "containerLogMaxSize: 0",
            expect_test::expect![[r#"--container-log-max-size "0": must be positive"#]],
        );
        check(
            "containerLogMaxSize: 100Ki, containerLogMaxFiles: 3",
            expect_test::expect!["n1 10.0.0.3 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
    }

    #[test]
    fn values_about_images_are_checked() {
        let check = |more: &str, expected: expect_test::Expect| {
            check(&format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {more}}}"), expected);
        };
        check(
            "imageGcHighThresholdPercent: 70",
            expect_test::expect![[
                r#"--image-gc-low-threshold-percent "80": must be below the high threshold of 70"#
            ]],
        );
        check(
            "imageMaximumGcAge: -2h",
            expect_test::expect![[r#"--image-maximum-gc-age "-2h": must not be negative"#]],
        );
        check("imageGcPeriod: 0s", expect_test::expect![[r#"--image-gc-period "0s": must be positive"#]]);
        check(
            "imageMaximumGcAge: 1h30m, imageMinimumGcAge: 5m, registryQps: 0, imageGcPeriod: 1m",
            expect_test::expect!["n1 10.0.0.3 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
        check(
            "imagePullCredentialsVerificationPolicy: Sometimes",
            expect_test::expect![[
                r#"--image-pull-credentials-verification-policy "Sometimes": must be NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify"#
            ]],
        );
        check(
            "imageCredentialProviderConfig: /c",
            expect_test::expect![
                "--image-credential-provider-bin-dir is needed: plugins need configuration and directory"
            ],
        );
    }

    #[test]
    fn the_root_cgroup_is_refused() {
        check(
            "{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, cgroupRoot: /}",
            expect_test::expect![[
                r#"--cgroup-root "/": must be a relative path without `.` or `..`; the root itself is not allowed"#
            ]],
        );
    }

    #[test]
    fn files_of_both_kinds_are_read_and_merged() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1, kind: KubeletConfiguration";
        let file = write(
            "config.yaml",
            &format!(
                "nodeName: n1\nnodeIp: 10.0.0.1\nshim: /s\nmtu: 1400\nkubeReserved: memory=1Gi\n---\n\
                 {{{head}, maxPods: 5, port: 1, kubeReserved: {{cpu: '1'}}, what: 1}}\n---\n"
            ),
        );
        let drop_ins = dir.path().join("conf.d");
        fs::create_dir(&drop_ins).unwrap();
        write("conf.d/20.conf", &format!("{{{head}, port: 3, resolvConf: /r}}"));
        write("conf.d/10.conf", &format!("{{{head}, port: 2}}"));
        write("conf.d/30.conf.bak", "no YAML: [");
        let flags = Flags { max_pods: Some(7), ..Flags::default() };
        let load = || {
            let args = ModeArgs {
                config: Some(file.clone()),
                config_dir: Some(drop_ins.clone()),
                flags: flags.clone(),
            };
            Config::load(args)
        };
        let config = load().unwrap();
        // A flag wins over its field in the program's own file, and that over the kubelet's configuration.
        let shown = (config.max_pods, config.mtu, config.kubelet_port, config.resources.reserved.memory);
        assert_eq!(shown, (7, 1400, 3, 1 << 30));
        assert_eq!(config.resources.reserved.cpu_milli, 0);
        assert_eq!(config.kubelet.resolv_conf, Path::new("/r"));
        assert_eq!(config.warnings, [format!("{}: what there is no such field", file.display())]);
        let bad = write("conf.d/40.conf", &format!("{{{head}, cpuCFSQuota: 3}}"));
        assert_eq!(
            load().unwrap_err().to_string(),
            format!("kubelet configuration file {}: cpuCFSQuota 3: must be true or false", bad.display())
        );
        write("conf.d/40.conf", "maxPods: 3");
        let error = load().unwrap_err().to_string();
        assert!(
            error.ends_with("40.conf: apiVersion null: must be kubelet.config.k8s.io/v1beta1"),
            "{error}"
        );
    }

    #[test]
    fn processors_that_are_reserved_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.yaml");
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                    systemReserved: {cpu: 100m, memory: 1Gi}\nreservedSystemCPUs: 0,2-3\n";
        fs::write(&path, text).unwrap();
        let own: Flags = serde_norway::from_str("{nodeName: n1, nodeIp: 10.0.0.1, shim: /s}").unwrap();
        let args = ModeArgs { config: Some(path), config_dir: None, flags: own.clone() };
        let config = Config::load(args).unwrap();
        let reserved = config.resources.reserved;
        assert_eq!((reserved.cpu_milli, reserved.memory), (3000, 1 << 30));
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncpuManagerPolicy: static\n";
        let path = dir.path().join("static.yaml");
        fs::write(&path, text).unwrap();
        let args = |flags| ModeArgs { config: Some(path.clone()), config_dir: None, flags };
        let error = Config::load(args(own.clone())).unwrap_err().to_string();
        assert!(error.starts_with("--system-reserved is needed: the static CPU manager policy"), "{error}");
        let kept = Flags { kube_reserved: Some("cpu=500m".to_owned()), ..own };
        assert!(Config::load(args(kept)).unwrap().resources.static_cpus);
    }

    #[test]
    fn the_flag_wins_over_the_file() {
        let flag = Flags { max_pods: Some(7), ..Flags::default() };
        let file = Flags { max_pods: Some(9), mtu: Some(1400), ..Flags::default() };
        let merged = flag.or(file);
        assert_eq!((merged.max_pods, merged.mtu), (Some(7), Some(1400)));
    }
}
