//! `[p]` `/configz`: the settings in force, by the names of upstream's KubeletConfiguration. What this node has no such setting
//! for is not there.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{config::Config, pod::words::go_duration};

/// As a kubelet shows it.
#[must_use]
pub fn configz(config: &Config) -> Value {
    let seconds = |seconds: u64| go_duration(Duration::from_secs(seconds));
    let policy = &config.resources;
    let (qps, burst) = config.pull_rate.map_or((0, 0), |rate| (rate.per_second(), rate.burst()));
    let enforced = if policy.enforce { "pods" } else { "none" };
    let swap = if policy.limited_swap { "LimitedSwap" } else { "NoSwap" };
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let reserved = json!({
        "cpu": format!("{}m", policy.reserved.cpu_milli),
        "memory": policy.reserved.memory.to_string(),
    });
    let server = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.node_ip.to_string(),
        "port": config.kubelet_port,
        "readOnlyPort": 0,
        "healthzPort": config.healthz_port,
        "healthzBindAddress": "127.0.0.1",
        "enableServer": true,
        "enableDebuggingHandlers": true,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true, "cacheTTL": seconds(120) },
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": { "cacheAuthorizedTTL": seconds(300), "cacheUnauthorizedTTL": seconds(30) },
        },
    });
    let node = json!({
        "clusterDomain": config.cluster_domain,
        "clusterDNS": dns,
        "resolvConf": "/etc/resolv.conf",
        "registerNode": true,
        "maxPods": config.max_pods,
        "nodeStatusUpdateFrequency": seconds(10),
        "nodeLeaseDurationSeconds": 40,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", config.cgroup_root.trim_start_matches('/')),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": [enforced],
        "systemReserved": reserved,
        "podPidsLimit": policy.pod_pids_limit.unwrap_or(-1),
        "memorySwap": { "swapBehavior": swap },
        "singleProcessOOMKill": policy.single_process_oom_kill,
        "failSwapOn": false,
    });
    let images_and_logs = json!({
        "registryPullQPS": qps,
        "registryBurst": burst,
        "serializeImagePulls": config.max_parallel_image_pulls == 1,
        "maxParallelImagePulls": config.max_parallel_image_pulls,
        "imageGCHighThresholdPercent": config.image_gc.high,
        "imageGCLowThresholdPercent": config.image_gc.low,
        "imageMinimumGCAge": go_duration(config.image_gc.min_age),
        "imageMaximumGCAge": go_duration(config.image_gc.max_age.unwrap_or_default()),
        "podLogsDir": config.log_dir,
        "containerLogMaxSize": config.container_logs.max_size.to_string(),
        "containerLogMaxFiles": config.container_logs.max_files,
        "containerLogMonitorInterval": seconds(10),
        "featureGates": { "MemoryQoS": policy.memory_qos },
    });
    let all = [server, node, images_and_logs].into_iter().filter_map(|group| match group {
        Value::Object(fields) => Some(fields),
        _ => None,
    });
    json!({ "kubeletconfig": all.flatten().collect::<Map<_, _>>() })
}
