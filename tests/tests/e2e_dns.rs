//! Names as pods see them, through the resolvers of both C libraries and `dig`, with a dnsmasq for the outside world.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use orlop_tests::{Output, Playground, playground::run, until};

const HELLO: &str = include_str!("../../examples/hello.yaml");

/// A client, a pod with a host name behind a headless Service, and a name for something outside.
const NAMES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, labels: {app: db}}
spec:
  hostname: db-0
  subdomain: db
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '3600']}]
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{name: sql, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.test}
";

/// The name server of the world outside, in the first node's namespace. It ends with the test, or before.
struct World(Child);

impl World {
    fn start(p: &Playground) -> World {
        let mut dnsmasq = p.inside(1, "dnsmasq");
        dnsmasq.args([
            "--keep-in-foreground",
            "--port=5399",
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--local-ttl=5",
            "--address=/www.example.test/192.0.2.80",
            "--address=/db/192.0.2.99",
        ]);
        let dnsmasq = dnsmasq.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        World(dnsmasq.expect("start dnsmasq"))
    }

    fn stop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

fn dig(p: &Playground, node: usize, args: &[&str]) -> Output {
    run(p.inside(node, "dig").args(["+tries=1", "+time=4"]).args(args))
}

/// The first words of the answers' data.
fn short(p: &Playground, node: usize, args: &[&str]) -> String {
    dig(p, node, &[&["+short", "@10.43.0.10"], args].concat()).text().trim().to_owned()
}

/// The pinned network namespace of a pod on a node.
fn netns(p: &Playground, node: usize, pod: &str) -> PathBuf {
    let uid = p.kubectl(&["get", "pod", pod, "-ojsonpath={.metadata.uid}"]).text();
    let run_dir = p.json["nodes"][node - 1]["run"].as_str().unwrap();
    PathBuf::from(run_dir).join("pods").join(uid).join("ns/net")
}

/// What glibc's resolver finds in the place of that pod: its namespace, its resolv.conf.
fn glibc(
    p: &Playground,
    node: usize,
    netns: &std::path::Path,
    resolv: &str,
    name: &str,
) -> Result<String, String> {
    let file = p.dir.join("resolv.conf");
    fs::write(&file, resolv).unwrap();
    let line = "mount --bind \"$0\" /etc/resolv.conf && exec nsenter --net=\"$1\" getent ahostsv4 \"$2\"";
    let mut command = p.inside(node, "unshare");
    let out = run(command.args(["-m", "sh", "-c", line]).arg(&file).arg(netns).arg(name));
    let first = out.stdout.split_whitespace().next().map(str::to_owned);
    first.ok_or(out.stderr)
}

fn ip(p: &Playground, what: &[&str], path: &str) -> String {
    p.kubectl(&[&["get"], what, &[&format!("-ojsonpath={path}")]].concat()).text()
}

#[test]
#[ignore = "e2e tier"]
fn pods_find_services_pods_and_the_world() {
    let p = Playground::with(&[], &[("ORLOP_DNS_UPSTREAMS", "127.0.0.1:5399")]);
    let mut world = World::start(&p);
    p.apply(HELLO).text();
    p.apply(NAMES).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/client", "pod/db-0", "--timeout=30s"]).text();
    p.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).text();

    // As upstream's pods have it, and without the warning of a node that knows no DNS.
    let resolv = p.kubectl(&["exec", "db-0", "--", "cat", "/etc/resolv.conf"]).text();
    let lines: Vec<_> = resolv.lines().collect();
    assert!(
        lines[0].starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );
    assert_eq!(lines[1..], ["nameserver 10.43.0.10", "options ndots:5"]);
    let events = p.kubectl(&["get", "events", "-A", "-ojsonpath={.items[*].reason}"]).text();
    assert!(!events.contains("MissingClusterDNS"), "{events}");

    // musl's resolver, from the pod itself.
    let get = |url: &str| p.kubectl(&["exec", "client", "--", "/server", "get", url]).text();
    for host in [
        "hello",
        "hello.default",
        "hello.default.svc",
        "hello.default.svc.cluster.local",
        "hello.default.svc.cluster.local.",
    ] {
        assert!(get(&format!("http://{host}/")).contains("pod: hello-"), "{host}");
    }
    // glibc's, in the pod's place. Two dots are less than five: the search path comes first, and ends in the world.
    let place = netns(&p, 1, "client");
    let found = |name: &str| glibc(&p, 1, &place, &resolv, name);
    let hello = ip(&p, &["service", "hello"], "{.spec.clusterIP}");
    let db = ip(&p, &["pod", "db-0"], "{.status.podIP}");
    assert_eq!(found("hello"), Ok(hello.clone()));
    assert_eq!(found("db"), Ok(db.clone()), "the cluster's db before the world's");
    assert_eq!(found("db-0.db"), Ok(db.clone()));
    assert_eq!(found("www.example.test"), Ok("192.0.2.80".to_owned()));
    assert_eq!(found("outside"), Ok("192.0.2.80".to_owned()));
    found("nothing").unwrap_err();
    found("db.").expect("the world's, and nobody else's");

    // dig, from the node.
    assert_eq!(short(&p, 1, &["hello.default.svc.cluster.local"]), hello);
    assert_eq!(short(&p, 1, &["+tcp", "hello.default.svc.cluster.local"]), hello);
    assert_eq!(short(&p, 1, &["-x", &hello]), "hello.default.svc.cluster.local.");
    assert_eq!(short(&p, 1, &["-x", &db]), "db-0.db.default.svc.cluster.local.");
    assert_eq!(
        short(&p, 1, &["_sql._tcp.db.default.svc.cluster.local", "SRV"]),
        "0 100 5432 db-0.db.default.svc.cluster.local."
    );
    assert_eq!(short(&p, 1, &["dns-version.cluster.local", "TXT"]), "\"1.1.0\"");
    let missing = dig(&p, 1, &["@10.43.0.10", "nope.default.svc.cluster.local"]).text();
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("flags: qr aa rd ra"), "{missing}");
    assert!(missing.contains("SOA\tns.dns.cluster.local."), "{missing}");

    // A name follows its pods.
    p.kubectl(&["delete", "pod", "db-0"]).text();
    until("the name is gone", Duration::from_secs(5), || {
        let said = dig(&p, 1, &["@10.43.0.10", "db-0.db.default.svc.cluster.local"]).text();
        if said.contains("NXDOMAIN") { Ok(()) } else { Err(said) }
    });

    // The world goes away: what it said stands, what it did not say nobody knows.
    world.stop();
    std::thread::sleep(Duration::from_secs(5));
    let start = Instant::now();
    let stale = dig(&p, 1, &["+noall", "+answer", "@10.43.0.10", "www.example.test"]).text();
    let words: Vec<_> = stale.split_whitespace().collect();
    assert_eq!(words, ["www.example.test.", "30", "IN", "A", "192.0.2.80"]);
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let unknown = dig(&p, 1, &["@10.43.0.10", "new.example.test"]).text();
    assert!(unknown.contains("status: SERVFAIL"), "{unknown}");
    assert_eq!(found("hello"), Ok(hello.clone()), "names of the cluster are not the world's");

    // Who is no part of the cluster is told nothing.
    let node = p.json["nodes"][0]["address"].as_str().unwrap();
    let at_node = [&format!("@{node}"), "-p", "10053", "hello.default.svc.cluster.local"];
    let outside = run(Command::new("dig").args(["+tries=1", "+time=4"]).args(at_node)).text();
    assert!(outside.contains("status: REFUSED") && outside.contains("ANSWER: 0"), "{outside}");

    let name = p.json["nodes"][0]["name"].as_str().unwrap();
    let metrics = p.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{name}/proxy/metrics")]).text();
    for metric in [
        "coredns_dns_requests_total{",
        "coredns_dns_request_duration_seconds_bucket{",
        "coredns_cache_served_stale_total ",
        "coredns_proxy_request_duration_seconds_count{",
        "orlop_dns_refused_clients_total 1",
    ] {
        assert!(metrics.contains(metric), "{metric} is not among the metrics");
    }

    let alone = run(p.inside(1, "curl").args(["-sS", "--max-time", "2", "http://10.43.0.10:9153/metrics"]));
    assert!(alone.text().contains("coredns_dns_requests_total{"));
    let outside = format!("http://{node}:9153/metrics");
    run(Command::new("curl").args(["-sS", "--max-time", "2", &outside])).refusal();

    // `kubectl delete service --all -n kube-system` takes no name away for long.
    p.kubectl(&["delete", "service", "kube-dns", "-n", "kube-system"]).text();
    p.wait_for(&["get", "service", "kube-dns", "-n", "kube-system", "-ojsonpath={.spec.clusterIP}"], |ip| {
        ip == "10.43.0.10"
    });
    until("it is served again", Duration::from_secs(5), || {
        let out = dig(&p, 1, &["+short", "@10.43.0.10", "hello.default.svc.cluster.local"]);
        if out.stdout.trim() == hello { Ok(()) } else { Err(format!("{out:?}")) }
    });
}

#[test]
#[ignore = "e2e tier"]
fn a_node_that_answers_its_own_questions_does_so_alone() {
    let mut p = Playground::with_args(&["--nodes", "2"]);
    p.apply(HELLO).text();
    p.apply("{apiVersion: v1, kind: Pod, metadata: {name: far}, spec: {nodeName: node2, containers: [{name: c, image: 'orlop.dev/example/hello:v1', args: [sleep, '3600']}]}}").text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/far", "--timeout=30s"]).text();
    let hello = ip(&p, &["service", "hello"], "{.spec.clusterIP}");
    let place = netns(&p, 2, "far");
    let resolv = "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.43.0.10\noptions ndots:5\n";
    let found = |p: &Playground| glibc(p, 2, &place, resolv, "hello");
    assert_eq!(found(&p), Ok(hello.clone()), "from the first node's server");
    let asked = || {
        let metrics = p.kubectl(&["get", "--raw", "/api/v1/nodes/node2/proxy/metrics"]).text();
        let counts = metrics.lines().filter(|line| line.starts_with("coredns_dns_requests_total{"));
        counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    assert_eq!(asked(), 0);

    // Another agent, with the option: pods ask the address that they know, and this node answers.
    let line = p.command_line(2).with("--node-local-dns=true");
    p.stop_agent(2);
    p.start_agent(2, &line);
    until("this node answers", Duration::from_secs(20), || {
        found(&p).map_err(|error| error + " nothing found")?;
        if asked() > 0 { Ok(()) } else { Err("another one does".to_owned()) }
    });
    let memory = PathBuf::from(p.json["nodes"][1]["state"].as_str().unwrap()).join("memory/services");
    until("it is written down", Duration::from_secs(10), || {
        if memory.join("default_hello.json").exists() { Ok(()) } else { Err("no service".to_owned()) }
    });

    // No API server and no cluster DNS from here on, and then a new agent that never heard of either.
    p.stop_agent(1);
    assert_eq!(found(&p), Ok(hello.clone()));
    p.stop_agent(2);
    p.start_agent(2, &line);
    until("a new agent answers from memory", Duration::from_secs(20), || match found(&p) {
        Ok(address) if address == hello => Ok(()),
        other => Err(format!("{other:?}")),
    });
    p.up();
}
