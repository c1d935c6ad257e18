//! The kubelet API as kubectl, Prometheus and dashboards use it: what it tells is held against cgroup files, the pods' own
//! /proc, and the API server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use orlop_tests::{Playground, playground::run, until};
use serde_json::Value;

const PODS: &str = "{apiVersion: v1, kind: List, items: [\
  {apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {key: value}},\
  {apiVersion: v1, kind: Pod, metadata: {name: busy, labels: {app: busy}}, spec: {terminationGracePeriodSeconds: 0,\
    initContainers: [{name: first, image: 'orlop.dev/example/busybox:v1', command: [sleep, '0.2']}],\
    containers: [\
    {name: writes, image: 'orlop.dev/example/busybox:v1', resources: {limits: {memory: 64Mi, cpu: 500m}},\
      readinessProbe: {exec: {command: ['true']}, periodSeconds: 1},\
      volumeMounts: [{name: scratch, mountPath: /scratch}, {name: settings, mountPath: /settings}],\
      command: [sh, -c, 'echo a line; dd if=/dev/zero of=/big bs=1M count=5; dd if=/dev/zero of=/scratch/some bs=1M count=3; sync; \
                         exec sleep 1000']},\
    {name: sleeps, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000']}],\
    volumes: [{name: scratch, emptyDir: {}}, {name: settings, configMap: {name: settings}}]}},\
  {apiVersion: v1, kind: Pod, metadata: {name: flaky}, spec: {terminationGracePeriodSeconds: 0, containers: [\
    {name: a, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000'],\
      readinessProbe: {exec: {command: [sh, -c, 'cat /proc/sys/kernel/random/uuid; false']}, periodSeconds: 1}},\
    {name: b, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000'],\
      readinessProbe: {exec: {command: [sh, -c, 'cat /proc/sys/kernel/random/uuid; false']}, periodSeconds: 1}},\
    {name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000'],\
      readinessProbe: {exec: {command: [sh, -c, 'cat /proc/sys/kernel/random/uuid; false']}, periodSeconds: 1}}]}},\
  {apiVersion: v1, kind: Pod, metadata: {name: gone}, spec: {restartPolicy: Never, containers: [\
    {name: c, image: 'orlop.dev/example/busybox:v1', command: ['true']}]}}]}";

/// A sample of a metric.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Reads the text form of Prometheus as strictly as its description has it.
fn parse(text: &str) -> Vec<Sample> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == ':')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    assert!(text.ends_with('\n'), "the last line has no end");
    let (mut samples, mut types, mut series) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    // The family that is being written: its lines must stand together.
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (kind, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            let (name, rest) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name) && !rest.is_empty(), "{line}");
            match kind {
                "HELP" => assert!(!types.contains_key(name), "help after the type: {line}"),
                "TYPE" => {
                    assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                    assert!(types.insert(name.to_owned(), rest.to_owned()).is_none(), "twice: {line}");
                    family = name.to_owned();
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("{line}"));
        let (name, mut rest) = line.split_at(end);
        let mut labels = BTreeMap::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let mut at = inside;
            loop {
                let (label, after) = at.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(is_name(label) && !label.contains(':'), "{line}");
                let (mut value, mut chars) = (String::new(), after.char_indices());
                let close = loop {
                    match chars.next().unwrap_or_else(|| panic!("{line}")) {
                        (end, '"') => break end,
                        (_, '\\') => match chars.next() {
                            Some((_, 'n')) => value.push('\n'),
                            Some((_, c @ ('\\' | '"'))) => value.push(c),
                            _ => panic!("{line}"),
                        },
                        (_, c) => value.push(c),
                    }
                };
                assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
                at = &after[close + 1..];
                match at.strip_prefix(',') {
                    Some(more) => at = more,
                    None => break,
                }
            }
            rest = at.strip_prefix('}').unwrap_or_else(|| panic!("{line}"));
        }
        let mut words = rest.strip_prefix(' ').unwrap_or_else(|| panic!("{line}")).split(' ');
        let value: f64 = words.next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"));
        if let Some(time) = words.next() {
            time.parse::<i64>().unwrap_or_else(|_| panic!("{line}"));
        }
        assert!(words.next().is_none() && is_name(name), "{line}");
        let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let of = match of_histogram {
            Some(base) if types.get(base).is_some_and(|kind| kind == "histogram") => base,
            _ => name,
        };
        assert_eq!(of, family, "apart from its family: {line}");
        if types[of] == "counter" {
            assert!(value >= 0.0, "{line}");
        }
        assert!(series.insert((name.to_owned(), labels.clone())), "the same series twice: {line}");
        samples.push(Sample { name: name.to_owned(), labels, value });
    }
    samples
}

fn has(sample: &Sample, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(label, value)| sample.labels.get(*label).map(String::as_str) == Some(*value))
}

/// The value of the one series with these labels.
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let found: Vec<_> = samples.iter().filter(|sample| sample.name == name && has(sample, labels)).collect();
    match found[..] {
        [one] => one.value,
        _ => panic!("{name} {labels:?}: {found:?}"),
    }
}

struct Kubelet<'a> {
    p: &'a Playground,
    address: String,
    admin: Vec<String>,
}

impl Kubelet<'_> {
    fn of(p: &Playground) -> Kubelet<'_> {
        let node = p.get(&["node", "node1"]);
        let address = node["status"]["addresses"][0]["address"].as_str().unwrap().to_owned();
        let admin = p.kubectl(&["config", "view", "--raw", "-o", "json"]).text();
        let admin: Value = serde_json::from_str(&admin).unwrap();
        let mut identity = Vec::new();
        for (flag, field) in [("--cert", "client-certificate-data"), ("--key", "client-key-data")] {
            let (file, data) = (p.dir.join(field), admin["users"][0]["user"][field].as_str().unwrap());
            let decode = format!("echo {data} | base64 -d > {}", file.display());
            run(Command::new("sh").args(["-c", &decode])).text();
            identity.extend([flag.to_owned(), file.to_str().unwrap().to_owned()]);
        }
        Kubelet { p, address, admin: identity }
    }

    /// Body and code.
    fn ask(&self, method: &str, path: &str, args: &[String]) -> String {
        let url = format!("https://{}:10250/{path}", self.address);
        run(self.p.inside(1, "curl").args(["-sk", "-w", "%{http_code}", "-X", method, &url]).args(args))
            .text()
    }

    fn as_admin(&self, method: &str, path: &str) -> String {
        self.ask(method, path, &self.admin)
    }

    /// Through the API server.
    fn proxied(&self, path: &str) -> String {
        self.p.kubectl(&["get", "--raw", &format!("/api/v1/nodes/node1/proxy/{path}")]).text()
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.proxied(path)).unwrap()
    }
}

/// A file of the cgroup of a pod, or of a container of it; of several the first that is there.
fn cgroup_file(uid: &str, id: Option<&str>, files: [&str; 2]) -> String {
    fn search(dir: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                match entry.file_name() == name {
                    true => found.push(entry.path()),
                    false => search(&entry.path(), name, found),
                }
            }
        }
    }
    let mut found = Vec::new();
    search(Path::new("/sys/fs/cgroup"), &format!("pod{uid}"), &mut found);
    let places =
        files.iter().flat_map(|file| found.iter().map(move |dir| dir.join(id.unwrap_or(".")).join(file)));
    let mut texts = places.filter_map(|path| fs::read_to_string(path).ok());
    texts.next().unwrap_or_else(|| panic!("no {files:?} of pod {uid} in {found:?}"))
}

/// Nanoseconds of processor time.
fn cpu(uid: &str, id: Option<&str>) -> u64 {
    let text = cgroup_file(uid, id, ["cpuacct.usage", "cpu.stat"]);
    match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
        Some(micros) => micros.parse::<u64>().unwrap() * 1000,
        None => text.trim().parse().unwrap(),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn find<'a>(list: &'a Value, path: &[&str], wanted: &str) -> &'a Value {
    let all = list.as_array().unwrap();
    let is_it = |item: &&Value| path.iter().fold(*item, |item, key| &item[key]) == wanted;
    all.iter().find(is_it).unwrap_or_else(|| panic!("no {wanted}: {list}"))
}

/// /pods is what the API server has, /runningpods/ what runs.
fn pods_are_listed(p: &Playground, kubelet: &Kubelet<'_>) {
    until("the node has all that the API has", Duration::from_secs(20), || {
        let (told, known) = (kubelet.json("pods"), p.get(&["pods", "-A"]));
        let plain = |list: &Value| -> BTreeMap<String, Value> {
            let items = list["items"].as_array().unwrap().iter().cloned().map(|mut item| {
                let fields = item.as_object_mut().unwrap();
                fields.remove("kind");
                fields.remove("apiVersion");
                (item["metadata"]["uid"].as_str().unwrap().to_owned(), item)
            });
            items.collect()
        };
        let (told, known) = (plain(&told), plain(&known));
        assert!(known.len() >= 2);
        if told == known { Ok(()) } else { Err(format!("{told:#?}\n{known:#?}")) }
    });
    let running = kubelet.json("runningpods/");
    assert_eq!(running["kind"], "PodList");
    let busy = find(&running["items"], &["metadata", "name"], "busy");
    let names = busy["spec"]["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), ["sleeps", "writes"].into());
    let names: Vec<_> =
        running["items"].as_array().unwrap().iter().map(|pod| &pod["metadata"]["name"]).collect();
    assert!(!names.contains(&&Value::from("gone")), "{names:?}");
}

/// Numbers of the summary lie between those that the kernel tells before and after it, or are what the pod has written.
fn the_summary_is_true(p: &Playground, kubelet: &Kubelet<'_>, uid: &str, id: &str) {
    let bytes = || -> u64 {
        let dev = p.exec("busy", &["cat", "/proc/net/dev"]).text();
        let line = dev.lines().find_map(|line| line.trim_start().strip_prefix("eth0:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    // Something to count.
    p.kubectl(&[
        "exec",
        "busy",
        "-c",
        "writes",
        "--",
        "sh",
        "-c",
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
    ])
    .text();
    let talk = format!("echo hello | nc -w 2 {} 10250 || true", kubelet.address);
    p.kubectl(&["exec", "busy", "-c", "writes", "--", "sh", "-c", &talk]).text();
    let before = (cpu(uid, None), cpu(uid, Some(id)), bytes());
    assert!(before.2 > 0, "nothing was received");
    let all = kubelet.json("stats/summary");
    let after = (cpu(uid, None), cpu(uid, Some(id)), bytes());
    let pod = find(&all["pods"], &["podRef", "uid"], uid);
    assert_eq!((&pod["podRef"]["name"], &pod["podRef"]["namespace"]), (&"busy".into(), &"default".into()));
    let writes = find(&pod["containers"], &["name"], "writes");
    let used = |from: &Value| number(&from["cpu"]["usageCoreNanoSeconds"]);
    assert!((before.0..=after.0).contains(&used(pod)), "{before:?} {after:?} {pod}");
    assert!((before.1..=after.1).contains(&used(writes)), "{before:?} {after:?} {writes}");
    let received = number(&pod["network"]["rxBytes"]);
    assert!((before.2..=after.2).contains(&received), "{before:?} {after:?} {received}");
    let memory: u64 =
        cgroup_file(uid, Some(id), ["memory.usage_in_bytes", "memory.current"]).trim().parse().unwrap();
    let usage = number(&writes["memory"]["usageBytes"]);
    assert!(usage.abs_diff(memory) < 4 << 20, "{usage} {memory}");
    let working = number(&writes["memory"]["workingSetBytes"]);
    assert!(working <= usage && number(&writes["memory"]["availableBytes"]) == (64 << 20) - working);
    let near = |value: &Value, mib: u64| (mib << 20..(mib << 20) + (200 << 10)).contains(&number(value));
    assert!(near(&writes["rootfs"]["usedBytes"], 5), "{}", writes["rootfs"]);
    let scratch = find(&pod["volume"], &["name"], "scratch");
    assert!(near(&scratch["usedBytes"], 3), "{scratch}");
    assert!(number(&find(&pod["volume"], &["name"], "settings")["inodesUsed"]) > 0);
    assert!(near(&pod["ephemeral-storage"]["usedBytes"], 8), "{}", pod["ephemeral-storage"]);
    assert!(number(&writes["logs"]["usedBytes"]) > 0);
    assert!(number(&pod["process_stats"]["process_count"]) >= 2);
    let started = p.get(&["pod", "busy"])["status"]["startTime"].clone();
    assert_eq!(pod["startTime"], started);
    let gone = all["pods"].as_array().unwrap().iter().any(|pod| pod["podRef"]["name"] == "gone");
    assert!(!gone, "a pod that has ended uses nothing");
    let node = &all["node"];
    assert_eq!(node["nodeName"], "node1");
    let df = run(Command::new("stat").args(["-f", "-c", "%S %b %a %c"]).arg(&p.dir)).text();
    let df: Vec<u64> = df.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert_eq!(number(&node["fs"]["capacityBytes"]), df[0] * df[1]);
    assert!(number(&node["fs"]["availableBytes"]).abs_diff(df[0] * df[2]) < 500 << 20);
    assert_eq!(number(&node["fs"]["inodes"]), df[3]);
    assert!(number(&node["runtime"]["imageFs"]["usedBytes"]) > 1 << 20);
    assert!(number(&node["runtime"]["containerFs"]["usedBytes"]) >= 5 << 20);
    assert!(number(&node["rlimit"]["maxpid"]) > number(&node["rlimit"]["curproc"]));
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let total: u64 = meminfo.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
    let whole = number(&node["memory"]["availableBytes"]) + number(&node["memory"]["workingSetBytes"]);
    assert_eq!(whole, total);
    // The second look tells the use of processors too.
    std::thread::sleep(Duration::from_millis(1100));
    let short = kubelet.json("stats/summary?only_cpu_and_memory=true");
    let pod = find(&short["pods"], &["podRef", "uid"], uid);
    assert!(pod["cpu"]["usageNanoCores"].is_u64() && pod.get("volume").is_none(), "{pod}");
    assert!(number(&short["node"]["cpu"]["usageNanoCores"]) > 0 && short["node"].get("fs").is_none());
}

fn cadvisors_series_are_true(kubelet: &Kubelet<'_>, uid: &str, id: &str) -> Vec<Sample> {
    let before = cpu(uid, Some(id));
    let samples = parse(&kubelet.proxied("metrics/cadvisor"));
    let after = cpu(uid, Some(id));
    let of = |container| [("namespace", "default"), ("pod", "busy"), ("container", container)];
    let writes = of("writes");
    let seconds = value(&samples, "container_cpu_usage_seconds_total", &writes);
    let bounds = Duration::from_nanos(before).as_secs_f64()..=Duration::from_nanos(after).as_secs_f64();
    assert!(bounds.contains(&seconds), "{seconds} {bounds:?}");
    let exact = |name: &str, labels: &[(&str, &str)], expected: f64| {
        let seen = value(&samples, name, labels);
        assert!((seen - expected).abs() < 0.5, "{name} {labels:?}: {seen}");
    };
    exact("container_spec_memory_limit_bytes", &writes, f64::from(64 << 20));
    exact("container_spec_cpu_quota", &writes, 50_000.0);
    exact("container_processes", &of("sleeps"), 1.0);
    exact("container_spec_memory_limit_bytes", &of("sleeps"), 0.0);
    assert!(value(&samples, "container_memory_working_set_bytes", &writes) > 0.0);
    let series = |name: &str| {
        samples.iter().filter(|s| s.name == name && has(s, &[("pod", "busy")])).collect::<Vec<_>>()
    };
    // One row for the pod, one for each container; the network is the sandbox's.
    let rows: Vec<_> =
        series("container_memory_working_set_bytes").iter().map(|s| s.labels["container"].clone()).collect();
    assert_eq!(
        rows.iter().cloned().collect::<BTreeSet<_>>(),
        ["", "sleeps", "writes"].map(str::to_owned).into()
    );
    assert_eq!(rows.len(), 3);
    let network = series("container_network_receive_bytes_total");
    assert_eq!(network.len(), 1);
    assert!(has(network[0], &[("container", ""), ("name", uid), ("interface", "eth0")]), "{network:?}");
    let image = &series("container_start_time_seconds")
        .iter()
        .find(|s| s.labels["container"] == "writes")
        .unwrap()
        .labels;
    assert_eq!((&*image["image"], &*image["name"]), ("orlop.dev/example/busybox:v1", id));
    let cores = run(Command::new("nproc").args(["--all"])).text().trim().parse::<f64>().unwrap();
    assert!(value(&samples, "machine_cpu_cores", &[]) <= cores);
    samples
}

fn counts_are_true(p: &Playground, kubelet: &Kubelet<'_>) -> Vec<Sample> {
    let samples = parse(&kubelet.proxied("metrics"));
    let pods = p.get(&["pods", "-A"])["items"].as_array().unwrap().len();
    let exact = |name: &str, labels: &[(&str, &str)], expected: usize| {
        let seen = value(&samples, name, labels);
        assert!(
            (seen - f64::from(u32::try_from(expected).unwrap())).abs() < 0.5,
            "{name} {labels:?}: {seen}"
        );
    };
    exact("kubelet_node_name", &[("node", "node1")], 1);
    exact("kubelet_desired_pods", &[("static", "")], pods);
    exact("kubelet_active_pods", &[("static", "")], pods - 1);
    exact("kubelet_running_containers", &[("container_state", "running")], 5);
    exact("kubelet_started_pods_total", &[], 3);
    exact("kubelet_started_pods_errors_total", &[], 0);
    exact("kubelet_started_containers_total", &[("container_type", "container")], 6);
    exact("kubelet_started_containers_total", &[("container_type", "init_container")], 1);
    exact("kubelet_pod_start_duration_seconds_count", &[], 3);
    exact("kubelet_pod_start_total_duration_seconds_count", &[], 3);
    exact("kubelet_runtime_operations_total", &[("operation_type", "start_container")], 7);
    exact("kubelet_run_podsandbox_duration_seconds_count", &[("runtime_handler", "")], 3);
    assert!(value(&samples, "kubelet_pod_status_sync_duration_seconds_count", &[]) >= 2.0);
    assert!(value(&samples, "kubelet_container_log_filesystem_used_bytes", &[("container", "writes")]) > 0.0);
    let asked =
        [("path", "stats"), ("method", "GET"), ("server_type", "readwrite"), ("long_running", "false")];
    // Two were answered, two refused.
    exact("kubelet_http_requests_total", &asked, 4);
    assert!(value(&samples, "rest_client_requests_total", &[("code", "200"), ("method", "PATCH")]) >= 3.0);
    let agent = format!("/proc/{}/status", p.agent_pid(1));
    let status = fs::read_to_string(agent).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: f64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
    let told = value(&samples, "process_resident_memory_bytes", &[]) / 1024.0;
    assert!((0.5..2.0).contains(&(told / kib)), "{told} {kib}");
    samples
}

fn probes_are_counted_while_they_run(p: &Playground, kubelet: &Kubelet<'_>, uid: &str) -> Vec<Sample> {
    let samples = parse(&kubelet.proxied("metrics/probes"));
    let labels = [
        ("probe_type", "Readiness"),
        ("result", "successful"),
        ("container", "writes"),
        ("pod", "busy"),
        ("namespace", "default"),
        ("pod_uid", uid),
    ];
    assert!(value(&samples, "prober_probe_total", &labels) >= 1.0);
    let failed = [("result", "failed"), ("container", "a"), ("pod", "flaky")];
    assert!(value(&samples, "prober_probe_total", &failed) >= 1.0);
    assert!(value(&samples, "prober_probe_duration_seconds_count", &[("container", "writes")]) >= 1.0);
    p.kubectl(&["delete", "pod", "busy"]).text();
    until("the probes' series are gone", Duration::from_secs(20), || {
        let left = kubelet.proxied("metrics/probes");
        if left.contains("busy") { Err(left) } else { Ok(()) }
    });
    samples
}

fn settings_and_health(p: &Playground, kubelet: &Kubelet<'_>) {
    let settings = &kubelet.json("configz")["kubeletconfig"];
    let capacity = &p.get(&["node", "node1"])["status"]["capacity"];
    assert_eq!(settings["maxPods"].to_string(), capacity["pods"].as_str().unwrap());
    assert_eq!((&settings["kind"], &settings["port"]), (&"KubeletConfiguration".into(), &10250.into()));
    assert_eq!(settings["containerLogMaxFiles"], 5);
    assert_eq!(settings["imageMinimumGCAge"], "2m0s");
    assert_eq!(kubelet.proxied("healthz").trim(), "ok");
    let checks = kubelet.proxied("healthz?verbose");
    assert!(checks.contains("[+]syncloop ok") && checks.contains("healthz check passed"), "{checks}");
    let plain = |path: &str| {
        let url = format!("http://127.0.0.1:10248{path}");
        run(p.inside(1, "curl").args(["-s", "-w", "%{http_code}", &url])).text()
    };
    assert_eq!(plain("/healthz"), "ok\n200");
    assert_eq!(plain("/healthz/syncloop"), "ok\n200");
    assert_eq!(plain("/pods"), "404 page not found\n404");
    pages_for_people(kubelet);
    assert_eq!(kubelet.as_admin("POST", "pods"), "Method Not Allowed\n405");
    assert_eq!(kubelet.as_admin("DELETE", "metrics/cadvisor"), "Method Not Allowed\n405");
    assert_eq!(kubelet.as_admin("GET", "checkpoint/default/busy/writes"), "Method Not Allowed\n405");
    let refused = kubelet.as_admin("POST", "checkpoint/default/busy/writes");
    assert_eq!(refused, "this node cannot checkpoint containers\n404");
    assert_eq!(kubelet.as_admin("GET", "nothing"), "404 page not found\n404");
}

fn pages_for_people(kubelet: &Kubelet<'_>) {
    let status = kubelet.proxied("statusz");
    assert!(status.starts_with("\nkubelet statusz\nWarning: ") && status.contains("\nUp: 0 hr "), "{status}");
    let flags = kubelet.proxied("flagz");
    assert!(flags.starts_with("\nkubelet flags\n") && flags.contains("\nnode-name=node1\n"), "{flags}");
    let with = |more: &[&str]| -> Vec<String> {
        kubelet.admin.iter().cloned().chain(more.iter().map(ToString::to_string)).collect()
    };
    let json = kubelet.ask("GET", "statusz", &with(&["-H", "Accept: application/json"]));
    assert_eq!(json, "only text/plain is acceptable\n406");
    let name = format!("orlop-test-{}.log", std::process::id());
    let file = Path::new("/var/log").join(&name);
    fs::write(&file, "a line\n").unwrap();
    let (listed, read) = (kubelet.proxied("logs/"), kubelet.proxied(&format!("logs/{name}")));
    fs::remove_file(&file).unwrap();
    assert!(listed.contains(&format!("<a href=\"{name}\">{name}</a>\n")), "{listed}");
    assert_eq!(read, "a line\n");
    for path in ["logs/../../etc/passwd", "logs/%2e%2e/%2e%2e/etc/passwd", "logs/none"] {
        let answer = kubelet.ask("GET", path, &with(&["--path-as-is"]));
        assert_eq!(answer, "404 page not found\n404", "{path}");
    }
}

fn rights_are_asked_for(p: &Playground, kubelet: &Kubelet<'_>) {
    let token = p.kubectl(&["create", "token", "default"]).text();
    let stranger = ["-H".to_owned(), format!("Authorization: Bearer {}", token.trim())];
    let who = "user=system:serviceaccount:default:default";
    for (path, rights) in [
        ("pods", "pods proxy"),
        ("runningpods/", "pods proxy"),
        ("stats/summary", "stats"),
        ("metrics", "metrics"),
        ("metrics/cadvisor", "metrics"),
        ("metrics/probes", "metrics"),
        ("metrics/slis", "metrics"),
        ("logs/", "log"),
        ("statusz", "statusz"),
        ("flagz", "configz proxy"),
        ("configz", "configz proxy"),
        ("healthz/syncloop", "healthz proxy"),
        ("nothing", "proxy"),
    ] {
        assert_eq!(kubelet.ask("GET", path, &[]), "Unauthorized\n401", "{path}");
        let words = format!("Forbidden ({who}, verb=get, resource=nodes, subresource(s)=[{rights}])\n403");
        assert_eq!(kubelet.ask("GET", path, &stranger), words, "{path}");
    }
    let refused = kubelet.ask("POST", "checkpoint/a/b/c", &stranger);
    assert_eq!(
        refused,
        format!("Forbidden ({who}, verb=create, resource=nodes, subresource(s)=[checkpoint])\n403")
    );
    let proxied = p.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/pods", "--as", "jane"]).refusal();
    let words = "nodes \"node1\" is forbidden: User \"jane\" cannot get resource \"nodes/proxy\" in API group \"\" at the cluster scope";
    assert!(proxied.contains(words), "{proxied}");
    let missing = p.kubectl(&["get", "--raw", "/api/v1/nodes/other/proxy/pods"]).refusal();
    assert!(missing.contains("nodes \"other\" not found"), "{missing}");
    // What the kubelet refuses arrives as it is.
    let unknown = p.kubectl(&["get", "--raw", "/api/v1/nodes/node1/proxy/nothing"]).refusal();
    assert!(unknown.contains("could not find the requested resource"), "{unknown}");
}

/// Every metric is described, and every one that is described is there, but for those that need an occasion.
fn the_page_tells_all_metrics(seen: &[Vec<Sample>]) {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kubelet-api.md")).unwrap();
    let (mut always, mut told) = (BTreeSet::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let name = row.split('`').nth(1).unwrap().to_owned();
        if name.starts_with('/') {
            continue;
        }
        if !row.contains("*once*") {
            always.insert(name.clone());
        }
        assert!(told.insert(name), "twice: {row}");
    }
    let base = |sample: &Sample| {
        let histogram = |end: &&&str| told.contains(sample.name.strip_suffix(**end).unwrap_or_default());
        match ["_bucket", "_sum", "_count"].iter().find(histogram) {
            Some(end) => sample.name.strip_suffix(*end).unwrap().to_owned(),
            None => sample.name.clone(),
        }
    };
    let names: BTreeSet<String> = seen.iter().flatten().map(base).collect();
    assert_eq!(
        names.difference(&told).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "not in docs/kubelet-api.md"
    );
    assert_eq!(always.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "not told by the node");
}

fn a_start_has_its_stages(p: &Playground) {
    let trace = |args: &[&str]| {
        let mut trace = Command::new(p.dir.join("bin/orlop"));
        run(trace.arg("trace").arg("--run-dir").arg(p.dir.join("run")).args(args))
    };
    let text = until("all is told", Duration::from_secs(20), || {
        let text = trace(&["default/busy"]).text();
        if text.contains("status written: ready") { Ok(text) } else { Err(text) }
    });
    let mut at = 0;
    for stage in [
        "seen",
        "admission",
        "sandbox",
        "network",
        "create",
        "init",
        "all containers started",
        "status written: running",
        "status written: ready",
    ] {
        at = text[at..]
            .find(stage)
            .map(|found| at + found)
            .unwrap_or_else(|| panic!("{stage} is missing or too early:\n{text}"));
    }
    // The init container sleeps for 200 ms, from a little before the agent hears that it runs.
    let init = text.lines().find(|line| line.contains("   init   ") || line.contains("   init ")).unwrap();
    let took: u64 = init.split_whitespace().nth(1).unwrap().trim_end_matches("ms").parse().unwrap();
    assert!((150..5000).contains(&took), "{text}");
    assert!(text.lines().any(|line| line.contains("readiness probe") && line.contains("writes")), "{text}");
    assert!(
        trace(&[]).text().lines().any(|line| line.starts_with("default     gone ")),
        "{}",
        trace(&[]).text()
    );
    assert!(trace(&["nobody"]).refusal().contains("has not seen the start of a pod \"nobody\""));
}

/// A probe that never says the same twice does not make an event each time.
fn texts_that_differ_are_told_as_one(p: &Playground) {
    let args =
        ["get", "events", "--field-selector", "involvedObject.name=flaky,reason=Unhealthy", "-o", "json"];
    let text =
        p.wait_for(&args, |text| text.contains("(combined from similar events): Readiness probe failed: "));
    let events: Value = serde_json::from_str(&text).unwrap();
    // Nine texts, and one for the rest; all containers of a pod together.
    assert_eq!(events["items"].as_array().unwrap().len(), 10, "{text}");
}

#[test]
#[ignore = "e2e tier"]
fn the_kubelet_api_tells_the_truth() {
    let p = Playground::start();
    p.apply(PODS).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/busy", "--timeout=60s"]).text();
    p.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/gone", "--timeout=60s"]).text();
    p.kubectl(&[
        "exec",
        "busy",
        "-c",
        "writes",
        "--",
        "sh",
        "-c",
        "until [ -e /scratch/some ]; do sleep 0.1; done; sync",
    ])
    .text();
    let kubelet = Kubelet::of(&p);
    let pod = p.get(&["pod", "busy"]);
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let writes = find(&pod["status"]["containerStatuses"], &["name"], "writes");
    let id = writes["containerID"].as_str().unwrap().split("://").nth(1).unwrap();

    pods_are_listed(&p, &kubelet);
    the_summary_is_true(&p, &kubelet, uid, id);
    let cadvisor = cadvisors_series_are_true(&kubelet, uid, id);
    let resource = parse(&kubelet.proxied("metrics/resource"));
    settings_and_health(&p, &kubelet);
    rights_are_asked_for(&p, &kubelet);
    a_start_has_its_stages(&p);
    let counts = counts_are_true(&p, &kubelet);
    let probes = probes_are_counted_while_they_run(&p, &kubelet, uid);
    texts_that_differ_are_told_as_one(&p);
    the_page_tells_all_metrics(&[cadvisor, resource, counts, probes]);
}
