//! From what the file says to what the node does: upstream's defaults and rules. Pure.
//!
//! What is a flag too becomes one, so that the flags given at the start win; the rest is a [`Kubelet`].

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use orlop_model::quantities::Quantity;

use super::{
    Kubelet, NodeObject, Phase, StaticCpus, Taint,
    eviction::eviction,
    fields::{Fields, ShutdownByPriority},
    read::{Note, Wrong, join},
};
use crate::{
    args::Flags,
    cpu::{choose::How, reconcile, set::CpuSet},
    images::rate::Rate,
    topology::{Alignment, Policy, Scope},
};

/// Pods of this priority and above are critical (`system-cluster-critical`).
const CRITICAL: i32 = 2_000_000_000;

/// Both halves of what the file says.
pub(super) fn settle(fields: &Fields, cores: u32, notes: &mut Vec<Note>) -> Result<(Kubelet, Flags), Wrong> {
    Ok((kubelet(fields, notes)?, flags(fields, cores, notes)?))
}

fn kubelet(fields: &Fields, notes: &mut Vec<Note>) -> Result<Kubelet, Wrong> {
    let defaults = Kubelet::default();
    let authentication = fields.authentication.clone().unwrap_or_default();
    let client_ca = authentication.x509.and_then(|x509| x509.client_ca_file);
    Ok(Kubelet {
        static_pods: path(fields.static_pod_path.as_ref()),
        static_pods_again: period(fields.file_check_frequency, defaults.static_pods_again),
        eviction: eviction(fields, notes)?,
        local_storage_isolation: fields.local_storage_capacity_isolation.unwrap_or(true),
        shutdown: shutdown(fields)?,
        reserved_cpus: reserved_cpus(fields)?,
        static_cpus: static_cpus(fields, notes)?,
        alignment: alignment(fields)?,
        node: node(fields)?,
        address: fields.address.filter(|address| !address.is_unspecified()),
        all_addresses: fields.address.is_some_and(|address| address.is_unspecified()),
        tls: tls(fields)?,
        client_ca: path(client_ca.as_ref()),
        resolv_conf: fields.resolv_conf.clone().unwrap_or(defaults.resolv_conf),
        log_monitor: log_monitor(fields, defaults.log_monitor)?,
        cfs_quota: fields.cpu_cfs_quota.unwrap_or(true),
        cfs_period: cfs_period(fields, defaults.cfs_period)?,
        seccomp_default: fields.seccomp_default.unwrap_or(true),
        unsafe_sysctls: unsafe_sysctls(fields)?,
        longest_restart: longest_restart(fields, defaults.longest_restart)?,
        throttling: throttling(fields, defaults.throttling)?,
        system_logs: fields.enable_system_log_handler.unwrap_or(true),
        events: Rate::new(fields.event_record_qps.unwrap_or(50), not_zero(fields.event_burst).unwrap_or(100)),
    })
}

/// Upstream takes nothing for "as ever".
fn period(said: Option<Duration>, default: Duration) -> Duration {
    said.filter(|period| !period.is_zero()).unwrap_or(default)
}

fn not_zero<T: Default + PartialEq>(said: Option<T>) -> Option<T> {
    said.filter(|number| *number != T::default())
}

fn path(said: Option<&PathBuf>) -> Option<PathBuf> {
    said.filter(|path| !path.as_os_str().is_empty()).cloned()
}

fn between<T: PartialOrd + Copy + serde::Serialize + std::fmt::Display>(
    field: &str,
    said: Option<T>,
    least: T,
    most: T,
) -> Result<Option<T>, Wrong> {
    match said {
        Some(number) if number < least || number > most => {
            Err(Wrong::new(field, number, format!("must lie between {least} and {most}")))
        }
        said => Ok(said),
    }
}

fn node(fields: &Fields) -> Result<NodeObject, Wrong> {
    let defaults = NodeObject::default();
    let seconds = not_zero(fields.node_lease_duration_seconds);
    let seconds = between("nodeLeaseDurationSeconds", seconds, 1, i32::MAX)?;
    let images = between("nodeStatusMaxImages", fields.node_status_max_images, -1, i32::MAX)?;
    let update = period(fields.node_status_update_frequency, defaults.status_every);
    // Whoever looks more often, and says nothing of reports, wants them as often (as upstream has it).
    let report = match not_zero(fields.node_status_update_frequency) {
        Some(update) => update,
        None => defaults.report_every,
    };
    Ok(NodeObject {
        register: fields.register_node.unwrap_or(true),
        taints: taints(fields)?,
        provider_id: fields.provider_id.clone().filter(|id| !id.is_empty()),
        status_every: update,
        report_every: period(fields.node_status_report_frequency, report),
        lease_seconds: seconds.unwrap_or(defaults.lease_seconds),
        max_images: match images {
            None => defaults.max_images,
            Some(-1) => usize::MAX,
            Some(images) => usize::try_from(images).unwrap_or_default(),
        },
    })
}

fn taints(fields: &Fields) -> Result<Vec<Taint>, Wrong> {
    let mut found = Vec::new();
    for (i, said) in fields.register_with_taints.iter().flatten().enumerate() {
        let at = |name: &str| format!("registerWithTaints[{i}].{name}");
        let taint = Taint {
            key: said.key.clone().unwrap_or_default(),
            value: said.value.clone().unwrap_or_default(),
            effect: said.effect.clone().unwrap_or_default(),
        };
        orlop_model::names::is_label_key(&taint.key)
            .map_err(|reason| Wrong::new(&at("key"), &taint.key, reason.to_string()))?;
        orlop_model::names::is_label_value(&taint.value)
            .map_err(|reason| Wrong::new(&at("value"), &taint.value, reason.to_string()))?;
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
            let reason = "must be NoSchedule, PreferNoSchedule or NoExecute";
            return Err(Wrong::new(&at("effect"), &taint.effect, reason));
        }
        found.push(taint);
    }
    Ok(found)
}

fn shutdown(fields: &Fields) -> Result<Vec<Phase>, Wrong> {
    let all = fields.shutdown_grace_period.unwrap_or_default();
    let critical = fields.shutdown_grace_period_critical_pods.unwrap_or_default();
    let named = [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)];
    for (field, period) in named {
        if !period.is_zero() && period < Duration::from_secs(1) {
            return Err(Wrong::new(field, format!("{period:?}"), "must be 0 or one second at least"));
        }
    }
    if critical > all {
        let reason = format!("must not be longer than shutdownGracePeriod, {all:?}");
        return Err(Wrong::new("shutdownGracePeriodCriticalPods", format!("{critical:?}"), reason));
    }
    let by_priority = fields.shutdown_grace_period_by_pod_priority.clone().unwrap_or_default();
    if !by_priority.is_empty() && !all.is_zero() {
        let reason = "must not be given together with shutdownGracePeriod";
        return Err(Wrong::new("shutdownGracePeriodByPodPriority", by_priority.len(), reason));
    }
    if by_priority.is_empty() {
        let phases = [(0, all - critical), (CRITICAL, critical)];
        let phases = phases.map(|(priority, period)| Phase { priority, period });
        return Ok(if all.is_zero() { Vec::new() } else { phases.into() });
    }
    let mut phases = Vec::new();
    for (i, ShutdownByPriority { priority, shutdown_grace_period_seconds }) in by_priority.iter().enumerate()
    {
        let seconds = shutdown_grace_period_seconds.unwrap_or(0);
        let field = format!("shutdownGracePeriodByPodPriority[{i}].shutdownGracePeriodSeconds");
        let Ok(positive) = u64::try_from(seconds) else {
            return Err(Wrong::new(&field, seconds, "must not be negative"));
        };
        phases.push(Phase { priority: priority.unwrap_or(0), period: Duration::from_secs(positive) });
    }
    phases.sort_by_key(|phase| phase.priority);
    if let Some(pair) = phases.windows(2).find(|pair| pair[0].priority == pair[1].priority) {
        let reason = "a priority must not be named twice";
        return Err(Wrong::new("shutdownGracePeriodByPodPriority", pair[0].priority, reason));
    }
    Ok(phases)
}

fn reserved_cpus(fields: &Fields) -> Result<CpuSet, Wrong> {
    let text = fields.reserved_system_cpus.clone().unwrap_or_default();
    text.parse().map_err(|error: crate::cpu::set::NoCpuSet| {
        Wrong::new("reservedSystemCPUs", &text, error.to_string())
    })
}

fn alignment(fields: &Fields) -> Result<Alignment, Wrong> {
    let (policy, scope) =
        (fields.topology_manager_policy.as_deref(), fields.topology_manager_scope.as_deref());
    let policy = match policy.unwrap_or_default() {
        "" | "none" => Policy::None,
        "best-effort" => Policy::BestEffort,
        "restricted" => Policy::Restricted,
        "single-numa-node" => Policy::SingleNode,
        other => {
            let reason = "must be none, best-effort, restricted or single-numa-node";
            return Err(Wrong::new("topologyManagerPolicy", other, reason));
        }
    };
    let scope = match scope.unwrap_or_default() {
        "" | "container" => Scope::Container,
        "pod" => Scope::Pod,
        other => return Err(Wrong::new("topologyManagerScope", other, "must be container or pod")),
    };
    Ok(Alignment { policy, scope })
}

fn static_cpus(fields: &Fields, notes: &mut Vec<Note>) -> Result<Option<StaticCpus>, Wrong> {
    let mut cpus = StaticCpus {
        how: How::default(),
        strict: false,
        again: period(fields.cpu_manager_reconcile_period, reconcile::PERIOD),
    };
    for (name, said) in fields.cpu_manager_policy_options.iter().flatten() {
        let at = join("cpuManagerPolicyOptions", name);
        let on = said.parse().map_err(|_| Wrong::new(&at, said, "must be \"true\" or \"false\""))?;
        match name.as_str() {
            "full-pcpus-only" => cpus.how.whole_cores = on,
            "distribute-cpus-across-numa" => cpus.how.spread = on,
            "strict-cpu-reservation" => cpus.strict = on,
            "align-by-socket" | "distribute-cpus-across-cores" | "prefer-align-cpus-by-uncorecache" => {
                if on {
                    notes.push(Note {
                        field: at,
                        text: "is not supported: processors are packed, or spread over memory nodes"
                            .to_owned(),
                    });
                }
            }
            _ => return Err(Wrong::new(&at, said, "there is no such option")),
        }
    }
    let options = fields.cpu_manager_policy_options.as_ref().is_some_and(|options| !options.is_empty());
    match fields.cpu_manager_policy.as_deref() {
        None | Some("" | "none") if options => {
            let reason = "options need cpuManagerPolicy: static";
            Err(Wrong::new("cpuManagerPolicyOptions", &fields.cpu_manager_policy_options, reason))
        }
        None | Some("" | "none") => Ok(None),
        Some("static") => Ok(Some(cpus)),
        Some(other) => Err(Wrong::new("cpuManagerPolicy", other, "must be none or static")),
    }
}

fn tls(fields: &Fields) -> Result<Option<(PathBuf, PathBuf)>, Wrong> {
    match (path(fields.tls_cert_file.as_ref()), path(fields.tls_private_key_file.as_ref())) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
        (Some(certificate), None) => Err(Wrong::new("tlsCertFile", certificate, "needs tlsPrivateKeyFile")),
        (None, Some(key)) => Err(Wrong::new("tlsPrivateKeyFile", key, "needs tlsCertFile")),
    }
}

fn log_monitor(fields: &Fields, default: Duration) -> Result<Duration, Wrong> {
    match fields.container_log_monitor_interval {
        None => Ok(default),
        Some(period) if period >= Duration::from_secs(3) => Ok(period),
        Some(period) => {
            let reason = "must be three seconds at least";
            Err(Wrong::new("containerLogMonitorInterval", format!("{period:?}"), reason))
        }
    }
}

fn cfs_period(fields: &Fields, default: Duration) -> Result<Duration, Wrong> {
    match fields.cpu_cfs_quota_period {
        None => Ok(default),
        Some(period) if (Duration::from_millis(1)..=Duration::from_secs(1)).contains(&period) => Ok(period),
        Some(period) => {
            Err(Wrong::new("cpuCFSQuotaPeriod", format!("{period:?}"), "must lie between 1ms and 1s"))
        }
    }
}

/// Names, or beginnings of names with a `*` at the end, of what has a namespace of its own in pods.
fn unsafe_sysctls(fields: &Fields) -> Result<Vec<String>, Wrong> {
    const NAMESPACED: [&str; 5] = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.", "net."];
    let said = fields.allowed_unsafe_sysctls.iter().flatten();
    let said: Vec<String> = said.map(|pattern| pattern.replace('/', ".")).collect();
    for (i, pattern) in said.iter().enumerate() {
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(word) {
            let reason = "must be a name, or the beginning of names and a *";
            return Err(Wrong::new(&format!("allowedUnsafeSysctls[{i}]"), pattern, reason));
        }
        if !NAMESPACED.iter().any(|prefix| name.starts_with(prefix)) {
            let reason =
                format!("only those of a pod's own can be allowed: {}", NAMESPACED.join("*, ") + "*");
            return Err(Wrong::new(&format!("allowedUnsafeSysctls[{i}]"), pattern, reason));
        }
    }
    Ok(said)
}

fn longest_restart(fields: &Fields, default: Duration) -> Result<Duration, Wrong> {
    let said = fields.crash_loop_back_off.as_ref().and_then(|said| said.max_container_restart_period);
    match said {
        None => Ok(default),
        Some(period) if (Duration::from_secs(1)..=default).contains(&period) => Ok(period),
        Some(period) => {
            let reason = "must lie between 1s and 300s";
            Err(Wrong::new("crashLoopBackOff.maxContainerRestartPeriod", format!("{period:?}"), reason))
        }
    }
}

/// Thousandths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
fn throttling(fields: &Fields, default: u32) -> Result<u32, Wrong> {
    match fields.memory_throttling_factor {
        None => Ok(default),
        Some(factor) if factor > 0.0 && factor <= 1.0 => Ok((factor * 1000.0).round() as u32),
        Some(factor) => Err(Wrong::new("memoryThrottlingFactor", factor, "must be above 0, and 1 at most")),
    }
}

fn flags(fields: &Fields, cores: u32, notes: &mut Vec<Note>) -> Result<Flags, Wrong> {
    let percent = |field, said: Option<i32>| {
        let said = between(field, said, 0, 100)?;
        Ok(said.and_then(|percent| u8::try_from(percent).ok()))
    };
    let high = percent("imageGCHighThresholdPercent", fields.image_gc_high_threshold_percent)?;
    let low = percent("imageGCLowThresholdPercent", fields.image_gc_low_threshold_percent)?;
    if low.unwrap_or(80) >= high.unwrap_or(85) {
        let field = if low.is_some() { "imageGCLowThresholdPercent" } else { "imageGCHighThresholdPercent" };
        let reason = "the low threshold must be below the high one";
        return Err(Wrong::new(field, low.or(high), reason));
    }
    let files = between("containerLogMaxFiles", fields.container_log_max_files, 2, u32::MAX)?;
    Ok(Flags {
        max_pods: max_pods(fields, cores),
        log_dir: path(fields.pod_logs_dir.as_ref()),
        kubelet_port: not_zero(fields.port),
        cluster_domain: fields.cluster_domain.clone().filter(|domain| !domain.is_empty()),
        cluster_dns: fields.cluster_dns.as_ref().map(|servers| commas(servers.iter().map(IpAddr::to_string))),
        pod_max_pids: fields.pod_pids_limit,
        system_reserved: reserved("systemReserved", fields.system_reserved.as_ref(), notes)?,
        kube_reserved: reserved("kubeReserved", fields.kube_reserved.as_ref(), notes)?,
        enforce_node_allocatable: enforce(fields, notes)?,
        memory_swap_behavior: swap(fields)?,
        single_process_oom_kill: fields.single_process_oom_kill,
        image_pull_credentials_verification_policy: verification(fields)?,
        preloaded_images_verification_allowlist: fields
            .preloaded_images_verification_allowlist
            .as_ref()
            .map(|list| commas(list.iter().cloned())),
        max_parallel_image_pulls: parallel_pulls(fields)?,
        registry_qps: fields.registry_pull_qps,
        registry_burst: not_zero(fields.registry_burst),
        image_gc_high_threshold_percent: high,
        image_gc_low_threshold_percent: low,
        image_minimum_gc_age: not_zero(fields.image_minimum_gc_age).map(millis),
        image_maximum_gc_age: maximum_age(fields)?.map(millis),
        container_log_max_size: log_size(fields)?,
        container_log_max_files: files.and_then(|files| usize::try_from(files).ok()),
        ..Flags::default()
    })
}

fn commas(list: impl Iterator<Item = String>) -> String {
    list.collect::<Vec<_>>().join(",")
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

fn max_pods(fields: &Fields, cores: u32) -> Option<u32> {
    let per_core = not_zero(fields.pods_per_core).map(|pods| pods.saturating_mul(cores));
    match (not_zero(fields.max_pods), per_core) {
        (most, None) => most,
        (most, Some(per_core)) => Some(most.unwrap_or(110).min(per_core)),
    }
}

/// As the flags write it.
fn reserved(
    field: &str,
    said: Option<&BTreeMap<String, String>>,
    notes: &mut Vec<Note>,
) -> Result<Option<String>, Wrong> {
    let Some(said) = said else { return Ok(None) };
    let mut words = Vec::new();
    for (name, amount) in said {
        let at = join(field, name);
        let quantity = Quantity::parse(amount).map_err(|error| Wrong::new(&at, amount, error.to_string()))?;
        if quantity.milli() < 0 {
            return Err(Wrong::new(&at, amount, "must not be negative"));
        }
        match name.as_str() {
            "cpu" | "memory" | "ephemeral-storage" => words.push(format!("{name}={amount}")),
            "pid" => {
                let text = "is not supported: pods together have no limit of processes".to_owned();
                notes.push(Note { field: at, text });
            }
            _ => {
                return Err(Wrong::new(
                    &at,
                    amount,
                    "only cpu, memory, ephemeral-storage and pid can be reserved",
                ));
            }
        }
    }
    Ok(Some(words.join(",")))
}

fn enforce(fields: &Fields, notes: &mut Vec<Note>) -> Result<Option<String>, Wrong> {
    let Some(said) = &fields.enforce_node_allocatable else { return Ok(None) };
    let field = "enforceNodeAllocatable";
    for (i, word) in said.iter().enumerate() {
        match word.as_str() {
            "pods" => {}
            "none" if said.len() == 1 => {}
            "none" => return Err(Wrong::new(field, said, "none must stand alone")),
            "system-reserved"
            | "kube-reserved"
            | "system-reserved-compressible"
            | "kube-reserved-compressible" => {
                let text = format!("{word} is not supported: only pods are held to limits");
                notes.push(Note { field: format!("{field}[{i}]"), text });
            }
            _ => {
                let reason = "must be pods, none, system-reserved or kube-reserved";
                return Err(Wrong::new(&format!("{field}[{i}]"), word, reason));
            }
        }
    }
    let pods = said.iter().any(|word| word == "pods");
    Ok(Some(if pods { "pods" } else { "none" }.to_owned()))
}

fn swap(fields: &Fields) -> Result<Option<String>, Wrong> {
    let said = fields.memory_swap.as_ref().and_then(|swap| swap.swap_behavior.clone());
    match said.as_deref() {
        None | Some("") => Ok(None),
        Some("NoSwap" | "LimitedSwap") => Ok(said),
        Some(other) => Err(Wrong::new("memorySwap.swapBehavior", other, "must be NoSwap or LimitedSwap")),
    }
}

fn verification(fields: &Fields) -> Result<Option<String>, Wrong> {
    let Some(said) = &fields.image_pull_credentials_verification_policy else { return Ok(None) };
    if said.is_empty() {
        return Ok(None);
    }
    let parsed = said.parse::<orlop_runtime::image::VerificationPolicy>();
    parsed.map_err(|reason| Wrong::new("imagePullCredentialsVerificationPolicy", said, reason))?;
    Ok(Some(said.clone()))
}

fn parallel_pulls(fields: &Fields) -> Result<Option<usize>, Wrong> {
    let field = "maxParallelImagePulls";
    let said = between(field, fields.max_parallel_image_pulls, 1, i32::MAX)?;
    match (fields.serialize_image_pulls, said) {
        (Some(true), Some(number)) if number > 1 => {
            Err(Wrong::new(field, number, "must not be above 1 unless serializeImagePulls is false"))
        }
        (Some(true), _) => Ok(Some(1)),
        // As many as there are.
        (Some(false), None) => Ok(Some(1 << 16)),
        (_, said) => Ok(said.and_then(|number| usize::try_from(number).ok())),
    }
}

fn maximum_age(fields: &Fields) -> Result<Option<Duration>, Wrong> {
    let maximum = not_zero(fields.image_maximum_gc_age);
    let minimum = period(fields.image_minimum_gc_age, Duration::from_secs(120));
    match maximum {
        Some(maximum) if maximum <= minimum => {
            let reason = format!("must be longer than imageMinimumGCAge, {minimum:?}");
            Err(Wrong::new("imageMaximumGCAge", format!("{maximum:?}"), reason))
        }
        maximum => Ok(maximum),
    }
}

fn log_size(fields: &Fields) -> Result<Option<String>, Wrong> {
    let Some(said) = fields.container_log_max_size.clone().filter(|said| !said.is_empty()) else {
        return Ok(None);
    };
    let wrong = |reason: String| Wrong::new("containerLogMaxSize", &said, reason);
    let size = Quantity::parse(&said).map_err(|error| wrong(error.to_string()))?;
    if size.value() <= 0 { Err(wrong("must be positive".to_owned())) } else { Ok(Some(said)) }
}
