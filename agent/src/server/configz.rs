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
        "address": config.node_ip().to_string(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Flags;

    #[test]
    fn settings_have_upstreams_names_and_forms() {
        let text = |text: &str| Some(text.to_owned());
        let flags = Flags {
            node_name: text("n"),
            node_ip: text("10.0.0.1"),
            shim: Some("/shim".into()),
            system_reserved: text("cpu=500m,memory=1Gi"),
            enforce_node_allocatable: text("none"),
            image_maximum_gc_age: text("36h"),
            registry_qps: Some(0),
            healthz_port: Some(0),
            ..Flags::default()
        };
        let shown = configz(&Config::try_from(flags).unwrap());
        let settings = &shown["kubeletconfig"];
        for (field, expected) in [
            ("address", json!("10.0.0.1")),
            ("healthzPort", json!(0)),
            ("maxPods", json!(110)),
            ("podPidsLimit", json!(-1)),
            ("cgroupRoot", json!("/orlop")),
            ("systemReserved", json!({ "cpu": "500m", "memory": "1073741824" })),
            ("enforceNodeAllocatable", json!(["none"])),
            ("memorySwap", json!({ "swapBehavior": "NoSwap" })),
            ("registryPullQPS", json!(0)),
            ("imageMinimumGCAge", json!("2m0s")),
            ("imageMaximumGCAge", json!("36h0m0s")),
            ("containerLogMaxSize", json!("10485760")),
            ("serializeImagePulls", json!(false)),
        ] {
            assert_eq!(settings[field], expected, "{field}");
        }
        assert_eq!(settings["authentication"]["webhook"]["cacheTTL"], "2m0s");
    }
}
