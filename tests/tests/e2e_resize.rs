//! Other resources for pods that run, asked for with kubectl and seen in the files of their cgroups.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, time::Duration};

use orlop_tests::{Playground, until};
use serde_json::Value;

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: big}, spec: {terminationGracePeriodSeconds: 1, containers: [ \
    {name: a, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, 'dd if=/dev/zero of=/dev/shm/x bs=1M count=24; exec sleep 600'], \
     resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}}, \
    {name: b, image: 'orlop.dev/example/busybox:v1', command: [sleep, '600'], \
     resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}], \
     resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}}]}}";

/// A cgroup file of a running container, found by the process in it: no word of ours is trusted.
fn cgroup_file(pid: &str, above: usize, controller: &str, v1: &str, v2: &str) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let of = |name: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1).unwrap().split(',').any(|c| c == name));
        line.map(|line| line.splitn(3, ':').nth(2).unwrap().trim_start_matches('/').to_owned())
    };
    let (root, path, file) = match of(controller) {
        Some(path) => (format!("/sys/fs/cgroup/{controller}"), path, v1),
        None => ("/sys/fs/cgroup".to_owned(), of("").unwrap(), v2),
    };
    let dir = PathBuf::from(root).join(path);
    let dir = dir.ancestors().nth(above).unwrap();
    fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
}

fn memory(pid: &str) -> String {
    cgroup_file(pid, 0, "memory", "memory.limit_in_bytes", "memory.max")
}

fn quota(pid: &str) -> String {
    let text = cgroup_file(pid, 0, "cpu", "cpu.cfs_quota_us", "cpu.max");
    text.split(' ').next().unwrap().to_owned()
}

fn mebibytes(amount: u64) -> String {
    (amount << 20).to_string()
}

fn container(p: &Playground, name: &str) -> Value {
    let pod = p.get(&["pod", "big"]);
    let all = pod["status"]["containerStatuses"].as_array().unwrap();
    all.iter().find(|status| status["name"] == name).unwrap().clone()
}

fn condition(p: &Playground, kind: &str) -> Value {
    let pod = p.get(&["pod", "big"]);
    let all = pod["status"]["conditions"].as_array().unwrap();
    all.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// The first process of a container, by what only it runs.
fn pid(p: &Playground, id: &str) -> String {
    let id = id.strip_prefix("orlop://").unwrap();
    let run = p.json["nodes"][0]["run"].as_str().map_or_else(|| p.dir.join("run"), PathBuf::from);
    let uid = p.get(&["pod", "big"])["metadata"]["uid"].as_str().unwrap().to_owned();
    let file = run.join("pods").join(uid).join("c").join(id).join("pid");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.split_whitespace().next().unwrap().to_owned()
}

fn resize(p: &Playground, container: &str, resources: &str) -> orlop_tests::playground::Output {
    let patch =
        format!("{{\"spec\":{{\"containers\":[{{\"name\":\"{container}\",\"resources\":{resources}}}]}}}}");
    p.kubectl(&["patch", "pod", "big", "--subresource", "resize", "--patch", &patch])
}

#[test]
#[ignore = "e2e tier"]
fn running_pods_get_other_resources() {
    let mut p = Playground::start();
    p.apply(POD).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/big", "--timeout=60s"]).text();
    let before = [container(&p, "a"), container(&p, "b")];
    let a = pid(&p, before[0]["containerID"].as_str().unwrap());
    assert_eq!((memory(&a), quota(&a)), (mebibytes(64), "20000".to_owned()));

    // In place: another limit, the same process.
    resize(&p, "a", r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"500m","memory":"128Mi"}}"#).text();
    until("the kernel has the new limits", Duration::from_secs(20), || {
        let now = (memory(&a), quota(&a));
        if now == (mebibytes(128), "50000".to_owned()) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    p.wait_for(&["get", "events"], |events| events.contains("Pod resize completed"));
    let pod_memory = cgroup_file(&a, 1, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(pod_memory, mebibytes(192), "the pod has the sum");
    until("the class has what its pods ask for", Duration::from_secs(20), || {
        let shares = cgroup_file(&a, 2, "cpu", "cpu.shares", "cpu.weight");
        if shares == "256" || shares == "10" { Ok(()) } else { Err(shares) }
    });
    let all: u64 = cgroup_file(&a, 3, "memory", "memory.limit_in_bytes", "memory.max").parse().unwrap();
    let capacity = p.get(&["node", "node1"])["status"]["capacity"]["memory"].as_str().unwrap().to_owned();
    assert_eq!(format!("{}Ki", all / 1024), capacity, "all pods together are held to the machine");
    let now = until("the status says so", Duration::from_secs(20), || {
        let now = container(&p, "a");
        if now["resources"]["limits"]["memory"] == "128Mi" { Ok(now) } else { Err(now.to_string()) }
    });
    assert_eq!(now["allocatedResources"]["cpu"], "150m", "{now}");
    assert_eq!((&now["containerID"], &now["restartCount"]), (&before[0]["containerID"], &0.into()));
    assert_eq!(condition(&p, "PodResizeInProgress"), Value::Null);
    let pod = p.get(&["pod", "big"]);
    assert_eq!(
        (&pod["metadata"]["generation"], &pod["status"]["observedGeneration"]),
        (&2.into(), &2.into())
    );

    // Less than is in use: told, and nothing is killed.
    resize(&p, "a", r#"{"requests":{"memory":"8Mi"},"limits":{"memory":"16Mi"}}"#).text();
    until("it is refused", Duration::from_secs(20), || {
        let told = condition(&p, "PodResizeInProgress");
        let text = told["message"].as_str().unwrap_or_default().to_owned();
        let refused = told["reason"] == "Error" && text.contains("below current usage");
        if refused { Ok(()) } else { Err(told.to_string()) }
    });
    assert_eq!(memory(&a), mebibytes(128));

    // A restart of the agent takes nothing back.
    p.kill_agent(1);
    p.up();
    resize(&p, "a", r#"{"requests":{"memory":"48Mi"},"limits":{"memory":"96Mi"}}"#).text();
    until("the next wish is met", Duration::from_secs(30), || {
        let now = (memory(&a), condition(&p, "PodResizeInProgress"));
        if now == (mebibytes(96), Value::Null) { Ok(()) } else { Err(format!("{now:?}")) }
    });

    // More than the node has, and what is not allowed at all.
    resize(&p, "a", r#"{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}"#).text();
    until("it is infeasible", Duration::from_secs(20), || {
        let told = condition(&p, "PodResizePending");
        if told["reason"] == "Infeasible" { Ok(()) } else { Err(told.to_string()) }
    });
    assert_eq!(quota(&a), "50000");
    let metrics = p.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/metrics"]).text();
    for line in [
        "kubelet_container_requested_resizes_total{operation=\"increase\",requirement=\"limits\",resource=\"cpu\"} 1\n",
        "kubelet_pod_infeasible_resizes_total{reason_detail=\"insufficient_node_allocatable\"} 1\n",
        "kubelet_pod_pending_resizes{reason=\"infeasible\"} 1\n",
        "kubelet_pod_resize_duration_milliseconds_count{success=\"true\"} ",
    ] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    resize(&p, "a", r#"{"requests":{"cpu":"150m"},"limits":{"cpu":"500m"}}"#).text();
    until("it is taken back", Duration::from_secs(20), || {
        let told = condition(&p, "PodResizePending");
        if told == Value::Null { Ok(()) } else { Err(told.to_string()) }
    });
    let refusal = resize(&p, "a", r#"{"limits":{"ephemeral-storage":"1Gi"}}"#).refusal();
    assert!(refusal.contains("only cpu and memory resources are mutable"), "{refusal}");

    // By a new instance where the policy says so; the other one goes on.
    resize(&p, "b", r#"{"requests":{"memory":"40Mi"},"limits":{"memory":"80Mi"}}"#).text();
    let now = until("b is started anew", Duration::from_secs(40), || {
        let now = container(&p, "b");
        if now["restartCount"] == 1 && now["state"]["running"].is_object() {
            Ok(now)
        } else {
            Err(now.to_string())
        }
    });
    let b = pid(&p, now["containerID"].as_str().unwrap());
    assert_eq!(memory(&b), mebibytes(80));
    assert_eq!(container(&p, "a")["restartCount"], 0);
    p.wait_for(&["get", "events"], |events| events.contains("Container b resize requires restart"));
}
