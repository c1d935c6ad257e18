//! The fields of KubeletConfiguration, as they are named upstream, and what comes of each here. Pure.
//!
//! `docs/configuration.md` has the same list for people; a test compares them.
//! Not for: defaults and rules (`check`).

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use serde_json::Value;

use super::read::{Note, object};

/// What comes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// The node does what it says.
    Acts,
    /// It is read and checked, and nothing acts on it yet.
    Waits,
}

/// Fields of upstream that are not honoured: name, the values that are what happens here anyway (JSON, separated by
/// `|`; nothing set is always one), and why.
pub(super) type Unsupported = &'static [(&'static str, &'static str, &'static str)];

const CRI: &str = "the runtime is part of this program";
const SYSTEMD: &str = "cgroups are made directly, below --cgroup-root";
const GO: &str = "there is no Go runtime here";
const PROXY: &str = "there are no iptables rules here";

/// Notes a field that is not honoured, unless it says what happens anyway.
pub(super) fn unsupported(
    table: Unsupported,
    key: &str,
    value: &Value,
    field: String,
    notes: &mut Vec<Note>,
) {
    let text = match table.iter().find(|(name, ..)| *name == key) {
        None => "there is no such field".to_owned(),
        Some((_, same, why)) => {
            let said = value.to_string();
            // What is on unless it is switched off does not stay the same when it is.
            let switched_off = same.split('|').any(|same| same == "true") && said == "false";
            if (is_nothing(value) && !switched_off) || same.split('|').any(|same| same == said) {
                return;
            }
            format!("is not supported: {why}")
        }
    };
    notes.push(Note { field, text });
}

/// Notes a field that nothing acts on yet.
pub(super) fn waits(support: Support, value: &Value, field: &str, notes: &mut Vec<Note>) {
    if support == Support::Waits && !is_nothing(value) {
        notes.push(Note { field: field.to_owned(), text: "nothing acts on it yet".to_owned() });
    }
}

/// What a tool writes that writes every field (kubeadm does).
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(said) => !said,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
    }
}

/// What is not honoured.
pub(super) const UNSUPPORTED: Unsupported = &[
    ("apiVersion", "\"kubelet.config.k8s.io/v1beta1\"", "other versions are not known"),
    ("cgroupDriver", "\"cgroupfs\"", SYSTEMD),
    ("cgroupRoot", "", SYSTEMD),
    ("cgroupsPerQOS", "true", "pods always have cgroups by class"),
    ("configMapAndSecretChangeDetectionStrategy", "\"Watch\"", "objects are watched"),
    ("containerLogMaxWorkers", "1", "logs are rotated one after the other"),
    ("containerRuntimeEndpoint", "", CRI),
    ("contentType", "", "the API is spoken in JSON"),
    ("enableContentionProfiling", "", GO),
    ("enableControllerAttachDetach", "true", "volumes are never attached by the node"),
    ("enableDebugFlagsHandler", "true", GO),
    ("enableDebuggingHandlers", "true", "they cannot be switched off"),
    ("enableProfilingHandler", "true", GO),
    ("enableServer", "true", "it cannot be switched off"),
    ("enableSystemLogQuery", "", "journals are not read"),
    ("failCgroupV1", "", "cgroup v1 is supported"),
    ("failSwapOn", "", "swap is no reason not to start"),
    ("featureGates", "", "features are on or off as docs say, there are no gates"),
    (
        "hairpinMode",
        "\"promiscuous-bridge\"|\"hairpin-veth\"",
        "there is no bridge, pods always reach themselves",
    ),
    ("healthzBindAddress", "\"127.0.0.1\"", "there is no such port"),
    ("healthzPort", "10248", "there is no such port"),
    ("httpCheckFrequency", "\"20s\"", "static pods come from files only"),
    ("imageServiceEndpoint", "", CRI),
    ("iptablesDropBit", "15", PROXY),
    ("iptablesMasqueradeBit", "14", PROXY),
    ("kernelMemcgNotification", "", "memory is looked at often enough"),
    ("kind", "\"KubeletConfiguration\"", "it is another kind"),
    ("kubeAPIBurst", "100", "requests to the API server are not limited"),
    ("kubeAPIQPS", "50", "requests to the API server are not limited"),
    ("kubeReservedCgroup", "", "only pods are held to limits"),
    ("kubeletCgroups", "", SYSTEMD),
    ("logging", "{\"format\":\"text\"}", "see --log"),
    ("makeIPTablesUtilChains", "true", PROXY),
    ("maxOpenFiles", "1000000", "as many as may be"),
    ("memoryManagerPolicy", "\"None\"", "there is no memory manager"),
    ("oomScoreAdj", "", "it is the service manager's business"),
    ("podCIDR", "", "it comes from the Node object"),
    ("protectKernelDefaults", "", "sysctls of the host are never changed"),
    ("qosReserved", "", "upstream's alpha feature QOSReserved"),
    ("readOnlyPort", "", "nothing is served to strangers"),
    ("reservedMemory", "", "there is no memory manager"),
    ("rotateCertificates", "", "the client certificate is that of the kubeconfig"),
    ("runOnce", "", "upstream has dropped it"),
    ("runtimeRequestTimeout", "\"2m0s\"|\"2m\"", CRI),
    ("serverTLSBootstrap", "", "the certificate is self-signed or of files"),
    ("showHiddenMetricsForVersion", "", "there are no hidden metrics"),
    ("staticPodURL", "", "static pods come from files only"),
    ("staticPodURLHeader", "", "static pods come from files only"),
    ("streamingConnectionIdleTimeout", "\"4h0m0s\"|\"4h\"", "idle streams stay"),
    ("syncFrequency", "\"1m0s\"|\"1m\"", "pods are looked at when something changes"),
    ("systemCgroups", "", SYSTEMD),
    ("systemReservedCgroup", "", "only pods are held to limits"),
    ("tlsCipherSuites", "", "those of the TLS library"),
    ("tlsMinVersion", "\"VersionTLS12\"", "TLS 1.2 and 1.3"),
    ("topologyManagerPolicyOptions", "", "the fewest memory nodes are taken, of eight at most"),
    ("tracing", "", "spans are not exported"),
    ("volumePluginDir", "", "there are no flexvolumes"),
    ("volumeStatsAggPeriod", "\"1m0s\"|\"1m\"", "volumes are not measured"),
];

object! {
    /// The file, as it is written.
    Fields, else UNSUPPORTED; {
        "address" address: IpAddr, Acts;
        "allowedUnsafeSysctls" allowed_unsafe_sysctls: Vec<String>, Acts;
        "authentication" authentication: Authentication, Acts;
        "authorization" authorization: Authorization, Acts;
        "clusterDNS" cluster_dns: Vec<IpAddr>, Acts;
        "clusterDomain" cluster_domain: String, Acts;
        "containerLogMaxFiles" container_log_max_files: u32, Acts;
        "containerLogMaxSize" container_log_max_size: String, Acts;
        "containerLogMonitorInterval" container_log_monitor_interval: Duration, Acts;
        "cpuCFSQuota" cpu_cfs_quota: bool, Acts;
        "cpuCFSQuotaPeriod" cpu_cfs_quota_period: Duration, Acts;
        "cpuManagerPolicy" cpu_manager_policy: String, Acts;
        "cpuManagerPolicyOptions" cpu_manager_policy_options: BTreeMap<String, String>, Acts;
        "cpuManagerReconcilePeriod" cpu_manager_reconcile_period: Duration, Acts;
        "crashLoopBackOff" crash_loop_back_off: CrashLoopBackOff, Acts;
        "enableSystemLogHandler" enable_system_log_handler: bool, Acts;
        "enforceNodeAllocatable" enforce_node_allocatable: Vec<String>, Acts;
        "eventBurst" event_burst: u32, Acts;
        "eventRecordQPS" event_record_qps: u32, Acts;
        "evictionHard" eviction_hard: BTreeMap<String, String>, Acts;
        "evictionMaxPodGracePeriod" eviction_max_pod_grace_period: i32, Acts;
        "evictionMinimumReclaim" eviction_minimum_reclaim: BTreeMap<String, String>, Acts;
        "evictionPressureTransitionPeriod" eviction_pressure_transition_period: Duration, Acts;
        "evictionSoft" eviction_soft: BTreeMap<String, String>, Acts;
        "evictionSoftGracePeriod" eviction_soft_grace_period: BTreeMap<String, Duration>, Acts;
        "fileCheckFrequency" file_check_frequency: Duration, Acts;
        "imageGCHighThresholdPercent" image_gc_high_threshold_percent: i32, Acts;
        "imageGCLowThresholdPercent" image_gc_low_threshold_percent: i32, Acts;
        "imageMaximumGCAge" image_maximum_gc_age: Duration, Acts;
        "imageMinimumGCAge" image_minimum_gc_age: Duration, Acts;
        "imagePullCredentialsVerificationPolicy" image_pull_credentials_verification_policy: String, Acts;
        "kubeReserved" kube_reserved: BTreeMap<String, String>, Acts;
        "localStorageCapacityIsolation" local_storage_capacity_isolation: bool, Acts;
        "maxParallelImagePulls" max_parallel_image_pulls: i32, Acts;
        "maxPods" max_pods: u32, Acts;
        "memorySwap" memory_swap: MemorySwap, Acts;
        "memoryThrottlingFactor" memory_throttling_factor: f64, Acts;
        "mergeDefaultEvictionSettings" merge_default_eviction_settings: bool, Acts;
        "nodeLeaseDurationSeconds" node_lease_duration_seconds: i32, Acts;
        "nodeStatusMaxImages" node_status_max_images: i32, Acts;
        "nodeStatusReportFrequency" node_status_report_frequency: Duration, Acts;
        "nodeStatusUpdateFrequency" node_status_update_frequency: Duration, Acts;
        "podLogsDir" pod_logs_dir: PathBuf, Acts;
        "podPidsLimit" pod_pids_limit: i64, Acts;
        "podsPerCore" pods_per_core: u32, Acts;
        "port" port: u16, Acts;
        "preloadedImagesVerificationAllowlist" preloaded_images_verification_allowlist: Vec<String>, Acts;
        "providerID" provider_id: String, Acts;
        "registerNode" register_node: bool, Acts;
        "registerWithTaints" register_with_taints: Vec<Taint>, Acts;
        "registryBurst" registry_burst: u32, Acts;
        "registryPullQPS" registry_pull_qps: u32, Acts;
        "reservedSystemCPUs" reserved_system_cpus: String, Acts;
        "resolvConf" resolv_conf: PathBuf, Acts;
        "seccompDefault" seccomp_default: bool, Acts;
        "serializeImagePulls" serialize_image_pulls: bool, Acts;
        "shutdownGracePeriod" shutdown_grace_period: Duration, Acts;
        "shutdownGracePeriodByPodPriority" shutdown_grace_period_by_pod_priority: Vec<ShutdownByPriority>, Acts;
        "shutdownGracePeriodCriticalPods" shutdown_grace_period_critical_pods: Duration, Acts;
        "singleProcessOOMKill" single_process_oom_kill: bool, Acts;
        "staticPodPath" static_pod_path: PathBuf, Acts;
        "systemReserved" system_reserved: BTreeMap<String, String>, Acts;
        "tlsCertFile" tls_cert_file: PathBuf, Acts;
        "tlsPrivateKeyFile" tls_private_key_file: PathBuf, Acts;
        "topologyManagerPolicy" topology_manager_policy: String, Acts;
        "topologyManagerScope" topology_manager_scope: String, Acts;
        "userNamespaces" user_namespaces: UserNamespaces, Acts;
    }
}

object! {
    /// `authentication`.
    Authentication, else &[]; {
        "anonymous" anonymous: Anonymous, Acts;
        "webhook" webhook: AuthenticationWebhook, Acts;
        "x509" x509: X509, Acts;
    }
}

object! {
    /// `authentication.anonymous`.
    Anonymous, else &[("enabled", "false", "nothing is served to strangers")]; {}
}

object! {
    /// `authentication.webhook`.
    AuthenticationWebhook, else &[
        ("cacheTTL", "\"2m\"|\"2m0s\"", "two minutes"),
        ("enabled", "true", "tokens are always asked about"),
    ]; {}
}

object! {
    /// `authentication.x509`.
    X509, else &[]; {
        "clientCAFile" client_ca_file: PathBuf, Acts;
    }
}

object! {
    /// `authorization`.
    Authorization, else &[("mode", "\"Webhook\"", "the API server is always asked")]; {
        "webhook" webhook: AuthorizationWebhook, Acts;
    }
}

object! {
    /// `authorization.webhook`.
    AuthorizationWebhook, else &[
        ("cacheAuthorizedTTL", "\"5m\"|\"5m0s\"", "five minutes"),
        ("cacheUnauthorizedTTL", "\"30s\"", "thirty seconds"),
    ]; {}
}

object! {
    /// `crashLoopBackOff`.
    CrashLoopBackOff, else &[]; {
        "maxContainerRestartPeriod" max_container_restart_period: Duration, Acts;
    }
}

object! {
    /// `memorySwap`.
    MemorySwap, else &[]; {
        "swapBehavior" swap_behavior: String, Acts;
    }
}

object! {
    /// `userNamespaces`.
    UserNamespaces, else &[("idsPerPod", "65536", "each pod has 65536 ids")]; {}
}

object! {
    /// One of `registerWithTaints`.
    Taint, else &[("timeAdded", "", "taints of the start have no time")]; {
        "effect" effect: String, Acts;
        "key" key: String, Acts;
        "value" value: String, Acts;
    }
}

object! {
    /// One of `shutdownGracePeriodByPodPriority`.
    ShutdownByPriority, else &[]; {
        "priority" priority: i32, Acts;
        "shutdownGracePeriodSeconds" shutdown_grace_period_seconds: i64, Acts;
    }
}

/// Every field that is known, and what comes of it; `None`: a warning.
#[cfg(test)]
pub(super) fn all() -> BTreeMap<&'static str, Option<Support>> {
    let own = Fields::FIELDS.iter().map(|(name, support)| (*name, Some(*support)));
    let others = UNSUPPORTED.iter().map(|(name, ..)| (*name, None));
    own.chain(others).filter(|(name, _)| !matches!(*name, "apiVersion" | "kind")).collect()
}
