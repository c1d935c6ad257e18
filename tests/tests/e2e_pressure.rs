//! A node that runs short, or goes down: who has to go, in which order, with which words.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, time::Duration};

use orlop_tests::{Playground, until};

/// A node whose pods have so much together, with a kubelet's configuration.
fn node(memory_mib: u64, settings: &str) -> (tempfile::TempDir, Playground) {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let reserved = total - memory_mib * 1024;
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("kubelet.yaml");
    let text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nsystemReserved: {{memory: {reserved}Ki}}\n{settings}"
    );
    fs::write(&file, text).unwrap();
    let playground = Playground::with(&[], &[("ORLOP_CONFIG", file.to_str().unwrap())]);
    (temp, playground)
}

fn pod(name: &str, spec: &str, container: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: node1, terminationGracePeriodSeconds: 1, {spec} \
         containers: [{{name: c, image: 'orlop.dev/example/busybox:v1', {container}}}]}}}}\n"
    )
}

fn status(p: &Playground, pod: &str, what: &str) -> String {
    p.kubectl(&["get", "pod", pod, &format!("-ojsonpath={what}")]).text()
}

#[test]
#[ignore = "e2e tier"]
fn pods_are_evicted_before_the_node_is_out_of_memory() {
    let settings = "evictionHard: {memory.available: 200Mi}\nevictionPressureTransitionPeriod: 3s\n";
    let (_temp, p) = node(700, settings);
    let eat =
        |mib: u32| format!("command: [sh, -c, 'head -c {mib}m /dev/zero > /dev/shm/eaten; sleep 3600'], ");
    let shm = "volumes: [{name: shm, emptyDir: {medium: Memory}}],";
    let mount = "volumeMounts: [{name: shm, mountPath: /dev/shm}]";
    let ask = |mib: u32| format!("resources: {{requests: {{memory: {mib}Mi}}}}, {mount}");
    p.apply(&pod("within", shm, &(eat(50) + &ask(100)))).text();
    p.apply(&pod("beyond", shm, &(eat(200) + &ask(100)))).text();
    p.apply(&pod("hog", shm, &(eat(300) + mount))).text();
    p.wait_for(&["get", "pod", "hog", "-ojsonpath={.status.phase} {.status.reason}"], |said| {
        said == "Failed Evicted"
    });
    let message = status(&p, "hog", "{.status.message}");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 200Mi, available: "),
        "{message}"
    );
    assert!(message.contains(". Container c was using 3"), "{message}");
    assert!(message.ends_with(", request is 0, has larger consumption of memory. "), "{message}");
    let disrupted = status(&p, "hog", "{.status.conditions[?(@.type=='DisruptionTarget')].reason}");
    assert_eq!(disrupted, "TerminationByKubelet");
    // Nobody is taken who asks for nothing, as long as the node says so.
    let condition = "-ojsonpath={.status.conditions[?(@.type=='MemoryPressure')].status}";
    p.wait_for(&["get", "node", "node1", condition], |status| status == "True");
    p.apply(&pod("late", "", "command: [sleep, '3600']")).text();
    p.wait_for(&["get", "pod", "late", "-ojsonpath={.status.phase}: {.status.message}"], |said| {
        said == "Failed: Pod was rejected: The node had condition: [MemoryPressure]. "
    });
    p.wait_for(&["get", "node", "node1", condition], |status| status == "False");
    for other in ["within", "beyond"] {
        assert_eq!(
            status(&p, other, "{.status.phase} {.status.containerStatuses[0].restartCount}"),
            "Running 0"
        );
    }
    let events = p.kubectl(&["get", "events", "-A"]).text();
    for said in
        ["EvictionThresholdMet", "Attempting to reclaim memory", "NodeHasInsufficientMemory", "Evicted"]
    {
        assert!(events.contains(said), "{said}: {events}");
    }
    let evicted = ["get", "events", "--field-selector", "reason=Evicted,involvedObject.name=hog", "-o"];
    let annotations =
        p.kubectl(&[&evicted[..], &["jsonpath={.items[0].metadata.annotations}"]].concat()).text();
    let annotations: serde_json::Value = serde_json::from_str(&annotations).unwrap();
    assert_eq!(
        (&annotations["starved_resource"], &annotations["offending_containers"]),
        (&"memory".into(), &"c".into())
    );
    let metrics = p.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/metrics"]).text();
    let counted =
        metrics.lines().filter(|line| line.starts_with("kubelet_evictions{") && line.ends_with(" 1"));
    assert_eq!(counted.count(), 1, "{metrics}");
    assert!(metrics.contains("kubelet_eviction_stats_age_seconds_count{eviction_signal="), "{metrics}");
}

#[test]
#[ignore = "e2e tier"]
fn pods_are_held_to_their_disk_make_room_and_end_in_order() {
    let (_temp, mut p) = node(
        2000,
        "evictionHard: {memory.available: 100Mi}\nshutdownGracePeriod: 20s\nshutdownGracePeriodCriticalPods: 5s\n",
    );
    let write = |to: &str| format!("command: [sh, -c, 'head -c 4m /dev/zero > {to}; sleep 3600'], ");
    let volume = "volumes: [{name: v, emptyDir: {sizeLimit: 2Mi}}],";
    p.apply(&pod("volume", volume, &(write("/v/x") + "volumeMounts: [{name: v, mountPath: /v}]"))).text();
    p.apply(&pod("layer", "", &(write("/x") + "resources: {limits: {ephemeral-storage: 2Mi}}"))).text();
    let wait = |p: &Playground, pod: &str, message: &str| {
        let what = "-ojsonpath={.status.phase} {.status.reason}: {.status.message}";
        p.wait_for(&["get", "pod", pod, what], |said| said == format!("Failed Evicted: {message}"));
    };
    wait(&p, "volume", "Usage of EmptyDir volume \"v\" exceeds the limit \"2Mi\". ");
    wait(&p, "layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. ");
    let dir = p.json["nodes"][0]["state"].as_str().unwrap().to_owned();
    until("what they wrote is gone", Duration::from_secs(10), || {
        let uid = status(&p, "volume", "{.metadata.uid}");
        let left = fs::read_dir(format!("{dir}/pods/{uid}"));
        if left.is_err() { Ok(()) } else { Err(format!("{left:?}")) }
    });

    // A critical pod that does not fit: the least that makes room goes.
    let cpus: u32 =
        p.kubectl(&["get", "node", "node1", "-ojsonpath={.status.allocatable.cpu}"]).text().parse().unwrap();
    let ask = |milli: u32| format!("command: [sleep, '3600'], resources: {{requests: {{cpu: {milli}m}}}}");
    p.apply(&pod("large", "", &ask(cpus * 1000 - 500))).text();
    p.apply(&pod("small", "", &ask(300))).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/large", "pod/small", "--timeout=30s"]).text();
    let trap = "command: [sh, -c, 'trap \"sleep 1; exit 0\" TERM; sleep 3600 & wait'], ";
    p.apply(&pod(
        "critical",
        "priorityClassName: system-node-critical,",
        &(trap.to_owned() + "resources: {requests: {cpu: 400m}}"),
    ))
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/critical", "--timeout=30s"]).text();
    assert_eq!(
        status(&p, "small", "{.status.phase} {.status.reason}: {.status.message}"),
        "Failed Preempting: Preempted in order to admit critical pod"
    );
    assert_eq!(status(&p, "large", "{.status.phase}"), "Running");
    let metrics = p.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/metrics"]).text();
    for line in [
        "kubelet_preemptions{preemption_signal=\"cpu\"} 1\n",
        "kubelet_evictions{eviction_signal=\"emptydirfs.limit\"} 1\n",
        "kubelet_evictions{eviction_signal=\"ephemeralpodfs.limit\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }

    // The machine goes down: the critical pod ends last, and the agent after it.
    let agent = rustix::process::Pid::from_raw(p.agent_pid(1)).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::from_named_raw(30).unwrap()).unwrap();
    until("the agent ended", Duration::from_secs(25), || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", agent.as_raw_nonzero())).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
    p.up();
    let ended = |pod: &str| {
        let what = "{.status.phase} {.status.reason}: {.status.message}";
        let said = status(&p, pod, what);
        assert_eq!(
            said, "Failed Terminated: Pod was terminated in response to imminent node shutdown.",
            "{pod}"
        );
        status(&p, pod, "{.status.containerStatuses[0].state.terminated.finishedAt}")
    };
    assert!(ended("large") <= ended("critical"));
    p.wait_for(&["get", "nodes"], |nodes| nodes.contains(" Ready "));
}
