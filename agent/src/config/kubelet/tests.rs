//! What files say, and what comes of it: what differs from the defaults, the notes, or the error.

use super::{fields::Support, *};

const HEAD: [(&str, &str); 2] = [("apiVersion", API_VERSION), ("kind", KIND)];

/// The fields of what `{:?}` shows.
fn parts(debug: &str) -> Vec<String> {
    let inner = debug.split_once(" { ").and_then(|(_, rest)| rest.strip_suffix(" }")).unwrap_or_default();
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
        let last = parts.last_mut().unwrap();
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            c => last.push(c),
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).collect()
}

fn documents(texts: &[&str]) -> Vec<Document> {
    let document = |(i, text): (usize, &&str)| {
        let text = if text.is_empty() { "{}" } else { text };
        let mut value: Value = serde_norway::from_str(text).unwrap();
        for (name, said) in HEAD {
            value[name] = said.into();
        }
        Document { file: format!("/{i}.conf").into(), value }
    };
    texts.iter().enumerate().map(document).collect()
}

fn outcome(documents: &[Document]) -> String {
    let said = match read(documents, 4) {
        Ok(said) => said,
        Err(error) => return format!("error {error}"),
    };
    let usual = parts(&format!("{:?}", Kubelet::default()));
    let changed = parts(&format!("{:?}", said.kubelet)).into_iter().filter(|part| !usual.contains(part));
    let flags = parts(&format!("{:?}", said.flags)).into_iter().filter(|part| !part.ends_with(": None"));
    let notes =
        said.notes.iter().map(|(file, note)| format!("! {}: {} {}", file.display(), note.field, note.text));
    let lines: Vec<_> = changed.chain(flags.map(|flag| format!("--{flag}"))).chain(notes).collect();
    lines.join("\n")
}

fn check(text: &str, expected: &str) {
    assert_eq!(outcome(&documents(&[text])), expected, "{text}");
}

#[test]
fn what_flags_say_too() {
    for (text, expected) in [
        ("", ""),
        ("maxPods: 7", "--max_pods: Some(7)"),
        ("maxPods: 0", ""),
        ("podsPerCore: 3", "--max_pods: Some(12)"),
        ("{podsPerCore: 50, maxPods: 9}", "--max_pods: Some(9)"),
        ("port: 10260", "--kubelet_port: Some(10260)"),
        ("podLogsDir: /logs", "--log_dir: Some(\"/logs\")"),
        ("clusterDomain: example.org", "--cluster_domain: Some(\"example.org\")"),
        ("clusterDNS: [10.0.0.10, 10.0.0.11]", "--cluster_dns: Some(\"10.0.0.10,10.0.0.11\")"),
        ("podPidsLimit: -1", "--pod_max_pids: Some(-1)"),
        ("systemReserved: {cpu: 500m, memory: 1Gi}", "--system_reserved: Some(\"cpu=500m,memory=1Gi\")"),
        ("kubeReserved: {ephemeral-storage: 1Gi}", "--kube_reserved: Some(\"ephemeral-storage=1Gi\")"),
        ("enforceNodeAllocatable: [none]", "--enforce_node_allocatable: Some(\"none\")"),
        ("enforceNodeAllocatable: [pods]", "--enforce_node_allocatable: Some(\"pods\")"),
        ("enforceNodeAllocatable: []", "--enforce_node_allocatable: Some(\"none\")"),
        ("memorySwap: {swapBehavior: LimitedSwap}", "--memory_swap_behavior: Some(\"LimitedSwap\")"),
        ("memorySwap: {}", ""),
        ("singleProcessOOMKill: true", "--single_process_oom_kill: Some(true)"),
        ("serializeImagePulls: true", "--max_parallel_image_pulls: Some(1)"),
        ("serializeImagePulls: false", "--max_parallel_image_pulls: Some(65536)"),
        ("maxParallelImagePulls: 3", "--max_parallel_image_pulls: Some(3)"),
        ("{serializeImagePulls: false, maxParallelImagePulls: 2}", "--max_parallel_image_pulls: Some(2)"),
        ("registryPullQPS: 0", "--registry_qps: Some(0)"),
        ("registryBurst: 20", "--registry_burst: Some(20)"),
        ("imageGCHighThresholdPercent: 90", "--image_gc_high_threshold_percent: Some(90)"),
        ("imageGCLowThresholdPercent: 10", "--image_gc_low_threshold_percent: Some(10)"),
        ("imageMinimumGCAge: 5m", "--image_minimum_gc_age: Some(\"300000ms\")"),
        ("imageMaximumGCAge: 168h", "--image_maximum_gc_age: Some(\"604800000ms\")"),
        ("containerLogMaxSize: 5Mi", "--container_log_max_size: Some(\"5Mi\")"),
        ("containerLogMaxFiles: 3", "--container_log_max_files: Some(3)"),
        (
            "imagePullCredentialsVerificationPolicy: AlwaysVerify",
            "--image_pull_credentials_verification_policy: Some(\"AlwaysVerify\")",
        ),
        (
            "preloadedImagesVerificationAllowlist: [a.example/x, b.example/*]",
            "--preloaded_images_verification_allowlist: Some(\"a.example/x,b.example/*\")",
        ),
    ] {
        check(text, expected);
    }
}

#[test]
fn what_only_the_file_says() {
    for (text, expected) in [
        ("address: 127.0.0.1", "address: Some(127.0.0.1)"),
        ("address: 0.0.0.0", "all_addresses: true"),
        ("authentication: {x509: {clientCAFile: /ca.crt}}", "client_ca: Some(\"/ca.crt\")"),
        ("authorization: {mode: Webhook}", ""),
        ("{tlsCertFile: /c, tlsPrivateKeyFile: /k}", "tls: Some((\"/c\", \"/k\"))"),
        ("resolvConf: /run/systemd/resolve/resolv.conf", "resolv_conf: \"/run/systemd/resolve/resolv.conf\""),
        ("resolvConf: ''", "resolv_conf: \"\""),
        ("containerLogMonitorInterval: 3s", "log_monitor: 3s"),
        ("cpuCFSQuota: false", "cfs_quota: false"),
        ("cpuCFSQuotaPeriod: 5ms", "cfs_period: 5ms"),
        ("seccompDefault: false", "seccomp_default: false"),
        ("seccompDefault: true", ""),
        (
            "allowedUnsafeSysctls: ['net.core.*', kernel/msgmax]",
            "unsafe_sysctls: [\"net.core.*\", \"kernel.msgmax\"]",
        ),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 2s}", "longest_restart: 2s"),
        ("memoryThrottlingFactor: 0.8", "throttling: 800"),
        ("eventRecordQPS: 0", "events: None"),
        ("{eventRecordQPS: 5, eventBurst: 7}", "events: Some(Rate { per_second: 5, burst: 7 })"),
        (
            "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {full-pcpus-only: 'true', strict-cpu-reservation: 'false'}}",
            "static_cpus: Some(StaticCpus { how: How { whole_cores: true, spread: false }, strict: false, again: 10s })",
        ),
        (
            "{cpuManagerPolicy: static, cpuManagerReconcilePeriod: 3s, cpuManagerPolicyOptions: {align-by-socket: 'true'}}",
            "static_cpus: Some(StaticCpus { how: How { whole_cores: false, spread: false }, strict: false, again: 3s })\n\
             ! /0.conf: cpuManagerPolicyOptions.align-by-socket is not supported: processors are packed, or spread over \
             memory nodes",
        ),
        ("cpuManagerPolicy: none", ""),
        ("reservedSystemCPUs: 0-1,3", "reserved_cpus: CpuSet({0, 1, 3})"),
        (
            "{registerNode: false, providerID: 'aws:///i-1', nodeLeaseDurationSeconds: 20, nodeStatusMaxImages: -1}",
            "node: NodeObject { register: false, taints: [], provider_id: Some(\"aws:///i-1\"), status_every: 10s, \
             report_every: 300s, lease_seconds: 20, max_images: 18446744073709551615 }",
        ),
        (
            "{nodeStatusUpdateFrequency: 4s, registerWithTaints: [{key: a.b/c, effect: NoSchedule}]}",
            "node: NodeObject { register: true, taints: [Taint { key: \"a.b/c\", value: \"\", effect: \"NoSchedule\" }], \
             provider_id: None, status_every: 4s, report_every: 4s, lease_seconds: 40, max_images: 50 }",
        ),
        (
            "{nodeStatusUpdateFrequency: 4s, nodeStatusReportFrequency: 1m}",
            "node: NodeObject { register: true, taints: [], provider_id: None, status_every: 4s, report_every: 60s, \
             lease_seconds: 40, max_images: 50 }",
        ),
    ] {
        check(text, expected);
    }
}

/// Without the notes: those that wait act one day.
fn quietly(text: &str) -> String {
    let outcome = outcome(&documents(&[text]));
    let lines: Vec<_> = outcome.lines().filter(|line| !line.ends_with("nothing acts on it yet")).collect();
    lines.join("\n")
}

#[test]
fn what_waits_for_its_part_of_the_node() {
    for (text, expected) in [
        ("staticPodPath: /etc/manifests", "static_pods: Some(\"/etc/manifests\")"),
        ("staticPodPath: ''", ""),
        ("fileCheckFrequency: 3s", "static_pods_again: 3s"),
        ("fileCheckFrequency: 0s", ""),
        ("localStorageCapacityIsolation: false", "local_storage_isolation: false"),
        (
            "{shutdownGracePeriod: 30s, shutdownGracePeriodCriticalPods: 10s}",
            "shutdown: [Phase { priority: 0, period: 20s }, Phase { priority: 2000000000, period: 10s }]",
        ),
        (
            "shutdownGracePeriodByPodPriority: [{priority: 100, shutdownGracePeriodSeconds: 5}, {priority: 0, \
             shutdownGracePeriodSeconds: 60}]",
            "shutdown: [Phase { priority: 0, period: 60s }, Phase { priority: 100, period: 5s }]",
        ),
    ] {
        assert_eq!(quietly(text), expected, "{text}");
    }
}

#[test]
fn thresholds() {
    let shown = |text: &str| match read(&documents(&[text]), 4) {
        Err(error) => format!("error {error}"),
        Ok(Said { kubelet: Kubelet { eviction, .. }, .. }) => {
            let one = |threshold: &eviction::Threshold| {
                let eviction::Threshold { signal, least, grace, reclaim } = threshold;
                let mut text = format!("{}<{least}", signal.name());
                if !grace.is_zero() {
                    text += &format!(" for {grace:?}");
                }
                if let Some(more) = reclaim {
                    text += &format!(" +{more}");
                }
                text
            };
            let all = eviction.hard.iter().chain(&eviction.soft).map(one).collect::<Vec<_>>().join(", ");
            format!("{all}; {}s {:?}", eviction.max_pod_grace_seconds, eviction.pressure_transition)
        }
    };
    for (text, expected) in [
        (
            "",
            "memory.available<100Mi, nodefs.available<10%, nodefs.inodesFree<5%, imagefs.available<15%, \
             imagefs.inodesFree<5%; 0s 300s",
        ),
        ("evictionHard: {memory.available: 500Mi}", "memory.available<500Mi; 0s 300s"),
        ("evictionHard: {memory.available: '500'}", "memory.available<500; 0s 300s"),
        ("evictionHard: {}", "; 0s 300s"),
        (
            "evictionHard: {pid.available: 7%, nodefs.available: 0%, imagefs.available: 100%}",
            "pid.available<7%; 0s 300s",
        ),
        (
            "{evictionHard: {nodefs.available: 1Gi}, mergeDefaultEvictionSettings: true}",
            "memory.available<100Mi, nodefs.available<1Gi, nodefs.inodesFree<5%, imagefs.available<15%, \
             imagefs.inodesFree<5%; 0s 300s",
        ),
        (
            "{evictionHard: {}, evictionSoft: {memory.available: 1.5Gi}, evictionSoftGracePeriod: {memory.available: 1m30s}, \
             evictionMinimumReclaim: {memory.available: 5%}, evictionMaxPodGracePeriod: 60, \
             evictionPressureTransitionPeriod: 30s}",
            "memory.available<1536Mi for 90s +5%; 60s 30s",
        ),
        ("evictionPressureTransitionPeriod: 0s", &shown("")),
        (
            "evictionSoft: {memory.available: 1Gi}",
            "error /0.conf: evictionSoft.memory.available \"1Gi\": needs evictionSoftGracePeriod.memory.available",
        ),
        (
            "evictionHard: {memory.available: -1Gi}",
            "error /0.conf: evictionHard.memory.available \"-1Gi\": must not be negative",
        ),
        (
            "evictionHard: {memory.available: '0'}",
            "error /0.conf: evictionHard.memory.available \"0\": must be positive",
        ),
        (
            "evictionHard: {memory.available: 101%}",
            "error /0.conf: evictionHard.memory.available \"101%\": must lie between 0% and 100%",
        ),
        (
            "evictionHard: {memory.available: x%}",
            "error /0.conf: evictionHard.memory.available \"x%\": must be a percentage as in 10%",
        ),
        (
            "evictionMaxPodGracePeriod: -1",
            "error /0.conf: evictionMaxPodGracePeriod -1: must not be negative",
        ),
    ] {
        assert_eq!(shown(text), expected, "{text}");
    }
    assert_eq!(eviction::Eviction::default().kept_free(eviction::Signal::NodefsAvailable, 1000), 100);
    assert_eq!(
        eviction::Eviction::default().kept_free(eviction::Signal::MemoryAvailable, 1 << 30),
        100 << 20
    );
    assert_eq!(eviction::Eviction::default().kept_free(eviction::Signal::PidAvailable, 1000), 0);
}

#[test]
fn what_changes_nothing_is_named() {
    for (text, expected) in [
        ("noSuchField: 1", "! /0.conf: noSuchField there is no such field"),
        ("maxpods: 1", "! /0.conf: maxpods there is no such field"),
        (
            "authentication: {x509: {clientCaFile: /x}}",
            "! /0.conf: authentication.x509.clientCaFile there is no such field",
        ),
        (
            "evictionMinimumReclaim: {foo: '1'}",
            "! /0.conf: evictionMinimumReclaim.foo there is no such signal",
        ),
        (
            "evictionSoftGracePeriod: {memory.available: 1m}",
            "! /0.conf: evictionSoftGracePeriod.memory.available there is no soft threshold of this name",
        ),
        (
            "systemReserved: {pid: '100'}",
            "--system_reserved: Some(\"\")\n! /0.conf: systemReserved.pid is not supported: pods together have no limit of processes",
        ),
        (
            "enforceNodeAllocatable: [pods, kube-reserved]",
            "--enforce_node_allocatable: Some(\"pods\")\n! /0.conf: enforceNodeAllocatable[1] kube-reserved is not supported: only pods are held to limits",
        ),
        (
            "cgroupDriver: systemd",
            "! /0.conf: cgroupDriver is not supported: cgroups are made directly, below --cgroup-root",
        ),
        ("cgroupDriver: cgroupfs", ""),
        ("readOnlyPort: 10255", "! /0.conf: readOnlyPort is not supported: nothing is served to strangers"),
        (
            "authentication: {anonymous: {enabled: true}}",
            "! /0.conf: authentication.anonymous.enabled is not supported: nothing is served to strangers",
        ),
        ("authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 2m0s}}", ""),
        (
            "authentication: {webhook: {enabled: false}}",
            "! /0.conf: authentication.webhook.enabled is not supported: tokens are always asked about",
        ),
        (
            "authorization: {mode: AlwaysAllow}",
            "! /0.conf: authorization.mode is not supported: the API server is always asked",
        ),
        (
            "featureGates: {MemoryQoS: true}",
            "! /0.conf: featureGates is not supported: features are on or off as docs say, there are no gates",
        ),
        ("featureGates: {}", ""),
        (
            "cgroupsPerQOS: false",
            "! /0.conf: cgroupsPerQOS is not supported: pods always have cgroups by class",
        ),
        ("makeIPTablesUtilChains: true", ""),
        (
            "userNamespaces: {idsPerPod: 131072}",
            "! /0.conf: userNamespaces.idsPerPod is not supported: each pod has 65536 ids",
        ),
        ("userNamespaces: {idsPerPod: 65536}", ""),
        (
            "kubeAPIQPS: 5",
            "! /0.conf: kubeAPIQPS is not supported: requests to the API server are not limited",
        ),
    ] {
        assert_eq!(quietly(text), expected, "{text}");
    }
}

#[test]
fn what_nothing_acts_on_yet_is_named() {
    let examples = [
        ("cpuManagerPolicy", "none"),
        ("cpuManagerPolicyOptions", "{full-pcpus-only: 'true'}"),
        ("cpuManagerReconcilePeriod", "5s"),
        ("evictionHard", "{memory.available: 1Gi}"),
        ("evictionMaxPodGracePeriod", "5"),
        ("evictionMinimumReclaim", "{memory.available: 1Gi}"),
        ("evictionPressureTransitionPeriod", "5s"),
        ("evictionSoft", "{memory.available: 1Gi}"),
        ("evictionSoftGracePeriod", "{memory.available: 1m}"),
        ("fileCheckFrequency", "5s"),
        ("localStorageCapacityIsolation", "true"),
        ("maxPods", "5"),
        ("mergeDefaultEvictionSettings", "true"),
        ("shutdownGracePeriod", "5s"),
        ("shutdownGracePeriodByPodPriority", "[{priority: 1}]"),
        ("shutdownGracePeriodCriticalPods", "5s"),
        ("staticPodPath", "/a"),
        ("tlsCertFile", "/a"),
        ("tlsPrivateKeyFile", "/a"),
    ];
    for (name, support) in Fields::FIELDS {
        let example = examples.iter().find(|(known, _)| known == name).map(|(_, example)| *example);
        assert!(example.is_some() || *support == Support::Acts, "an example of {name} is missing");
        let value: Value = serde_norway::from_str(example.unwrap_or("{}")).unwrap();
        let mut notes = Vec::new();
        let object: Value = [(name.to_string(), value)].into_iter().collect();
        if example.is_some() {
            Fields::read(&object, "", &mut notes).unwrap();
        }
        let told = notes.iter().any(|note| note.field == *name && note.text == "nothing acts on it yet");
        assert_eq!(told, *support == Support::Waits, "{name}");
    }
}

#[test]
fn what_cannot_be_used_is_an_error() {
    for (text, expected) in [
        ("maxPods: many", "maxPods \"many\": must be a whole number from 0 to 4294967295"),
        ("maxPods: -1", "maxPods -1: must be a whole number from 0 to 4294967295"),
        ("port: 70000", "port 70000: must be a whole number from 0 to 65535"),
        ("clusterDNS: 10.0.0.10", "clusterDNS \"10.0.0.10\": must be a list"),
        ("clusterDNS: [10.0.0.10, x]", "clusterDNS[1] \"x\": must be an IP address"),
        ("address: here", "address \"here\": must be an IP address"),
        ("cpuCFSQuota: 'yes'", "cpuCFSQuota \"yes\": must be true or false"),
        ("cpuCFSQuotaPeriod: 2s", "cpuCFSQuotaPeriod \"2s\": must lie between 1ms and 1s"),
        ("fileCheckFrequency: 20", "fileCheckFrequency 20: must be a duration as in 1h30m, 20s or 100ms"),
        (
            "fileCheckFrequency: 1 day",
            "fileCheckFrequency \"1 day\": must be a duration as in 1h30m, 20s or 100ms",
        ),
        ("fileCheckFrequency: -1s", "fileCheckFrequency \"-1s\": must not be negative"),
        ("staticPodPath: [a]", "staticPodPath [\"a\"]: must be a path"),
        ("systemReserved: {cpu: 1}", "systemReserved.cpu 1: must be a string"),
        (
            "systemReserved: {cpu: 1x}",
            "systemReserved.cpu \"1x\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ("systemReserved: {cpu: '-1'}", "systemReserved.cpu \"-1\": must not be negative"),
        (
            "kubeReserved: {gpu: '1'}",
            "kubeReserved.gpu \"1\": only cpu, memory, ephemeral-storage and pid can be reserved",
        ),
        (
            "enforceNodeAllocatable: [some]",
            "enforceNodeAllocatable[0] \"some\": must be pods, none, system-reserved or kube-reserved",
        ),
        (
            "enforceNodeAllocatable: [none, pods]",
            "enforceNodeAllocatable [\"none\",\"pods\"]: none must stand alone",
        ),
        (
            "memorySwap: {swapBehavior: Always}",
            "memorySwap.swapBehavior \"Always\": must be NoSwap or LimitedSwap",
        ),
        ("memorySwap: NoSwap", "memorySwap \"NoSwap\": must be an object"),
        (
            "{serializeImagePulls: true, maxParallelImagePulls: 2}",
            "maxParallelImagePulls 2: must not be above 1 unless serializeImagePulls is false",
        ),
        ("maxParallelImagePulls: 0", "maxParallelImagePulls 0: must lie between 1 and 2147483647"),
        ("imageGCHighThresholdPercent: 101", "imageGCHighThresholdPercent 101: must lie between 0 and 100"),
        (
            "imageGCLowThresholdPercent: 90",
            "imageGCLowThresholdPercent 90: the low threshold must be below the high one",
        ),
        ("imageMaximumGCAge: 1m", "imageMaximumGCAge \"60s\": must be longer than imageMinimumGCAge, 120s"),
        ("containerLogMaxFiles: 1", "containerLogMaxFiles 1: must lie between 2 and 4294967295"),
        ("containerLogMaxSize: '0'", "containerLogMaxSize \"0\": must be positive"),
        (
            "containerLogMonitorInterval: 1s",
            "containerLogMonitorInterval \"1s\": must be three seconds at least",
        ),
        (
            "imagePullCredentialsVerificationPolicy: Sometimes",
            "imagePullCredentialsVerificationPolicy \"Sometimes\": must be NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify",
        ),
        (
            "allowedUnsafeSysctls: ['*']",
            "allowedUnsafeSysctls[0] \"*\": must be a name, or the beginning of names and a *",
        ),
        (
            "allowedUnsafeSysctls: [vm.swappiness]",
            "allowedUnsafeSysctls[0] \"vm.swappiness\": only those of a pod's own can be allowed: kernel.shm*, kernel.msg*, kernel.sem*, fs.mqueue.*, net.*",
        ),
        (
            "crashLoopBackOff: {maxContainerRestartPeriod: 10m}",
            "crashLoopBackOff.maxContainerRestartPeriod \"600s\": must lie between 1s and 300s",
        ),
        ("memoryThrottlingFactor: 1.5", "memoryThrottlingFactor 1.5: must be above 0, and 1 at most"),
        ("reservedSystemCPUs: 0-", "reservedSystemCPUs \"0-\": must be a list of processors as in 0-3,8"),
        ("nodeLeaseDurationSeconds: -1", "nodeLeaseDurationSeconds -1: must lie between 1 and 2147483647"),
        ("nodeStatusMaxImages: -2", "nodeStatusMaxImages -2: must lie between -1 and 2147483647"),
        (
            "registerWithTaints: [{key: a, effect: Sometimes}]",
            "registerWithTaints[0].effect \"Sometimes\": must be NoSchedule, PreferNoSchedule or NoExecute",
        ),
        ("cpuManagerPolicy: dynamic", "cpuManagerPolicy \"dynamic\": must be none or static"),
        (
            "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {fast: 'true'}}",
            "cpuManagerPolicyOptions.fast \"true\": there is no such option",
        ),
        (
            "{cpuManagerPolicy: static, cpuManagerPolicyOptions: {full-pcpus-only: 'yes'}}",
            "cpuManagerPolicyOptions.full-pcpus-only \"yes\": must be \"true\" or \"false\"",
        ),
        (
            "cpuManagerPolicyOptions: {full-pcpus-only: 'true'}",
            "cpuManagerPolicyOptions {\"full-pcpus-only\":\"true\"}: options need cpuManagerPolicy: static",
        ),
        ("tlsCertFile: /a", "tlsCertFile \"/a\": needs tlsPrivateKeyFile"),
        (
            "shutdownGracePeriodCriticalPods: 10s",
            "shutdownGracePeriodCriticalPods \"10s\": must not be longer than shutdownGracePeriod, 0ns",
        ),
        ("shutdownGracePeriod: 10ms", "shutdownGracePeriod \"10ms\": must be 0 or one second at least"),
        (
            "{shutdownGracePeriod: 10s, shutdownGracePeriodByPodPriority: [{priority: 1}]}",
            "shutdownGracePeriodByPodPriority 1: must not be given together with shutdownGracePeriod",
        ),
        (
            "shutdownGracePeriodByPodPriority: [{priority: 1}, {priority: 1}]",
            "shutdownGracePeriodByPodPriority 1: a priority must not be named twice",
        ),
        (
            "shutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: -1}]",
            "shutdownGracePeriodByPodPriority[0].shutdownGracePeriodSeconds -1: must not be negative",
        ),
    ] {
        check(text, &format!("error /0.conf: {expected}"));
    }
}

#[test]
fn later_files_change_earlier_ones() {
    let check =
        |texts: &[&str], expected: &str| assert_eq!(outcome(&documents(texts)), expected, "{texts:?}");
    check(&["maxPods: 1", "maxPods: 2", "port: 3"], "--max_pods: Some(2)\n--kubelet_port: Some(3)");
    check(
        &["systemReserved: {cpu: '1', memory: 1Gi}", "systemReserved: {memory: 2Gi}"],
        "--system_reserved: Some(\"cpu=1,memory=2Gi\")",
    );
    check(
        &["clusterDNS: [10.0.0.1, 10.0.0.2]", "clusterDNS: [10.0.0.3]"],
        "--cluster_dns: Some(\"10.0.0.3\")",
    );
    check(&["maxPods: 1", "maxPods: null"], "");
    check(
        &["imageGCHighThresholdPercent: 90", "imageGCLowThresholdPercent: 88"],
        "--image_gc_high_threshold_percent: Some(90)\n--image_gc_low_threshold_percent: Some(88)",
    );
    // What is wrong is told with the file that says it last.
    check(
        &["maxPods: x", "maxPods: 1"],
        "error /0.conf: maxPods \"x\": must be a whole number from 0 to 4294967295",
    );
    check(
        &["systemReserved: {cpu: -1m}", "systemReserved: {memory: 1Gi}"],
        "error /0.conf: systemReserved.cpu \"-1m\": must not be negative",
    );
    check(
        &["evictionHard: {memory.available: 1Gi}", "evictionHard: {nodefs.available: -1%}"],
        "error /1.conf: evictionHard.nodefs.available \"-1%\": must lie between 0% and 100%",
    );
    check(&["", "what: 1"], "! /1.conf: what there is no such field");
}

#[test]
fn other_kinds_of_documents() {
    let check = |text: &str, expected: &str| {
        let document = Document { file: "/f".into(), value: serde_norway::from_str(text).unwrap() };
        assert_eq!(outcome(&[document]), expected, "{text}");
    };
    check("kind: Pod", "error /f: apiVersion null: must be kubelet.config.k8s.io/v1beta1");
    check(
        "{apiVersion: kubelet.config.k8s.io/v1, kind: KubeletConfiguration}",
        "error /f: apiVersion \"kubelet.config.k8s.io/v1\": must be kubelet.config.k8s.io/v1beta1",
    );
    check(
        "{apiVersion: kubelet.config.k8s.io/v1beta1, kind: Other}",
        "error /f: kind \"Other\": must be KubeletConfiguration",
    );
    check("[1]", "error /f: apiVersion null: must be kubelet.config.k8s.io/v1beta1");
    assert_eq!(outcome(&[]), "");
}

/// kubeadm writes every field, most of them as nothing.
#[test]
fn what_kubeadm_writes_is_understood() {
    let text = "
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s, enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook, webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}}
cgroupDriver: cgroupfs
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: ''
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging: {flushFrequency: 0, options: {json: {infoBufferSize: '0'}, text: {infoBufferSize: '0'}}, verbosity: 0}
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: ''
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
";
    check(
        text,
        "client_ca: Some(\"/etc/kubernetes/pki/ca.crt\")\n--cluster_dns: Some(\"10.96.0.10\")\n\
         --cluster_domain: Some(\"cluster.local\")\n\
         ! /0.conf: rotateCertificates is not supported: the client certificate is that of the kubeconfig",
    );
}

#[test]
fn the_page_says_what_the_code_does() {
    let page = include_str!("../../../../docs/configuration.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let said: std::collections::BTreeMap<&str, &str> =
        rows.map(|(name, rest)| (name, rest.split(" |").next().unwrap_or_default())).collect();
    let word = |support: &Option<Support>| match support {
        Some(Support::Acts) => "honoured",
        Some(Support::Waits) => "read",
        None => "warned",
    };
    let known = fields::all();
    let known: std::collections::BTreeMap<&str, &str> =
        known.iter().map(|(name, support)| (*name, word(support))).collect();
    let differ = |(name, word): &(&&str, &&str)| said.get(**name) != Some(*word);
    assert_eq!(
        known.iter().filter(differ).collect::<Vec<_>>(),
        [],
        "the page says something else, or nothing"
    );
    let unknown: Vec<_> = said.keys().filter(|name| !known.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
