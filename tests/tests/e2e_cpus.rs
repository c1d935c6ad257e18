//! Processors that containers have for themselves (static policy), from the kubelet's own configuration file.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf, time::Duration};

use orlop_tests::{Playground, until};

const CONFIG: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
    cpuManagerPolicy: static\nreservedSystemCPUs: '0'\ncpuManagerReconcilePeriod: 1s\nmaxPods: 7\n\
    topologyManagerPolicy: single-numa-node\n\
    registerWithTaints: [{key: test.orlop.dev/x, effect: PreferNoSchedule}]\n\
    crashLoopBackOff: {maxContainerRestartPeriod: 1s}\nfailCgroupV1: true\n";

fn pod(p: &Playground, name: &str, resources: &str) {
    p.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, containers: [\
         {{name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '600'], resources: {resources}}}]}}}}"
    ))
    .text();
    p.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"]).text();
}

/// Where the kernel lets a container's processes run.
fn runs_on(p: &Playground, pod: &str, cpus: &str) {
    until(&format!("{pod} runs on {cpus}"), Duration::from_secs(20), || {
        let text = p.exec(pod, &["grep", "Cpus_allowed_list", "/proc/1/status"]).text();
        let list = text.split_whitespace().nth(1).unwrap_or_default();
        if list == cpus { Ok(()) } else { Err(text) }
    });
}

/// The kernel's limit of processor time of a pod's container, found by the process in it.
fn quota(p: &Playground, pod: &str) -> String {
    let object = p.get(&["pod", pod]);
    let id = object["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().to_owned();
    let run = p.json["nodes"][0]["run"].as_str().map_or_else(|| p.dir.join("run"), PathBuf::from);
    let of_pod = run.join("pods").join(object["metadata"]["uid"].as_str().unwrap());
    let file = of_pod.join("c").join(id.strip_prefix("orlop://").unwrap()).join("pid");
    let pid = fs::read_to_string(file).unwrap().split_whitespace().next().unwrap().to_owned();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |controller: &str| {
        let mut lines = groups.lines().map(|line| line.splitn(3, ':').skip(1));
        lines.find_map(|mut parts| (parts.next()? == controller).then(|| parts.next().unwrap().to_owned()))
    };
    let text = match path("cpu") {
        Some(path) => fs::read_to_string(format!("/sys/fs/cgroup/cpu{path}/cpu.cfs_quota_us")),
        None => fs::read_to_string(format!("/sys/fs/cgroup{}/cpu.max", path("").unwrap())),
    };
    let text = text.unwrap();
    text.split_whitespace().next().unwrap().replace("max", "-1")
}

const WHOLE: &str = "{limits: {cpu: 1, memory: 16Mi}}";

#[test]
#[ignore = "e2e tier"]
fn whole_processors_are_for_one_container_alone() {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim().to_owned();
    let last: u32 = online.rsplit(['-', ',']).next().unwrap().parse().unwrap();
    assert!(last > 0, "this test needs two processors");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubelet.yaml");
    fs::write(&file, CONFIG).unwrap();
    let mut p = Playground::with(&[], &[("ORLOP_CONFIG", file.to_str().unwrap())]);
    let node = p.get(&["nodes"])["items"][0].clone();
    let cpu = |list: &str| node["status"][list]["cpu"].as_str().unwrap().parse::<u32>().unwrap();
    assert_eq!(cpu("capacity") - cpu("allocatable"), 1, "one is reserved");
    assert_eq!(node["status"]["capacity"]["pods"], "7");
    assert_eq!(node["spec"]["taints"][0]["key"], "test.orlop.dev/x");
    assert!(
        p.log().contains("kubelet.yaml: failCgroupV1 is not supported: cgroup v1 is supported"),
        "{}",
        p.log()
    );

    pod(&p, "shares", "{}");
    runs_on(&p, "shares", &online);
    pod(&p, "whole", WHOLE);
    // The reserved one is the first, and nothing else of this machine is taken.
    runs_on(&p, "whole", "1");
    let rest = if last == 1 { "0".to_owned() } else { format!("0,2-{last}") };
    runs_on(&p, "shares", &rest);

    assert_eq!(quota(&p, "whole"), "-1", "who is alone is not held to its time as well");

    // The next agent knows who has what.
    p.kill_agent(1);
    p.up();
    pod(&p, "later", "{requests: {memory: 16Mi}}");
    runs_on(&p, "later", &rest);
    runs_on(&p, "whole", "1");
    assert_eq!(quota(&p, "whole"), "-1");
    let limit = "jsonpath={.status.containerStatuses[0].resources.limits.cpu}";
    assert_eq!(p.kubectl(&["get", "pod", "whole", "-o", limit]).text(), "1");
    let resized = p.kubectl(&[
        "patch", "pod", "whole", "--subresource", "resize", "--patch",
        "{\"spec\":{\"containers\":[{\"name\":\"c\",\"resources\":{\"limits\":{\"cpu\":\"500m\",\"memory\":\"16Mi\"},\"requests\":{\"cpu\":\"500m\",\"memory\":\"16Mi\"}}}]}}",
    ]);
    resized.text();
    p.wait_for(
        &[
            "get",
            "pod",
            "whole",
            "-o",
            "jsonpath={.status.conditions[?(@.type=='PodResizePending')].message}",
        ],
        |text| text == "Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy",
    );
    p.kubectl(&["delete", "pod", "whole", "--now"]).text();
    runs_on(&p, "shares", &online);
    runs_on(&p, "later", &online);

    // Without the policy everybody gets all of them back.
    pod(&p, "again", WHOLE);
    runs_on(&p, "again", "1");
    p.kill_agent(1);
    fs::write(&file, CONFIG.replace("static", "none")).unwrap();
    p.up();
    runs_on(&p, "again", &online);
    runs_on(&p, "shares", &online);
    until("its time is limited again", Duration::from_secs(10), || {
        let quota = quota(&p, "again");
        if quota == "100000" { Ok(()) } else { Err(quota) }
    });
}
