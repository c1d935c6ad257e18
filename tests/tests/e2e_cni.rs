//! A node whose pod network is made by Debian's CNI plugins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use orlop_tests::{Playground, playground::run, until};
use serde_json::{Value, json};

/// The network of the node, and a plugin that can be told to fail.
struct Network {
    dir: tempfile::TempDir,
}

impl Network {
    fn new() -> Self {
        let network = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(network.path("conf")).unwrap();
        fs::create_dir_all(network.path("bin")).unwrap();
        let script = r#"#!/bin/sh
            [ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'; exit; }
            [ "$CNI_COMMAND" = ADD ] && { echo '{"code":100,"msg":"out of order"}'; exit 1; }
            exit 0"#;
        fs::write(network.path("bin/broken"), script).unwrap();
        fs::set_permissions(network.path("bin/broken"), fs::Permissions::from_mode(0o755)).unwrap();
        network.configure("10-debians.conflist", &network.debians());
        network
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    fn configure(&self, name: &str, list: &Value) {
        fs::write(self.path("conf").join(name), list.to_string()).unwrap();
    }

    fn debians(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "debians", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "dataDir": self.path("ipam"), "ranges": [[{"subnet": "10.88.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}]},
                "capabilities": {"ips": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            {"type": "tuning"},
        ]})
    }

    fn start(&self) -> Playground {
        let bin = format!("{},/usr/lib/cni", self.path("bin").display());
        let conf = self.path("conf");
        Playground::with(&[], &[("ORLOP_CNI_CONF_DIR", conf.to_str().unwrap()), ("ORLOP_CNI_BIN_DIR", &bin)])
    }

    /// Addresses that host-local has given away.
    fn given(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.path("ipam/debians")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.parse::<Ipv4Addr>().is_ok()).collect()
    }
}

fn pod(name: &str, extra: &str, port: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}, annotations: {{{extra}}}}}, spec: {{terminationGracePeriodSeconds: 1, \
         containers: [{{name: c, image: 'orlop.dev/example/hello:v1', args: [serve], ports: [{{containerPort: 8080{port}}}]}}]}}}}"
    )
}

fn ready(p: &Playground, name: &str) -> String {
    p.kubectl(&["wait", "pod", name, "--for=condition=Ready", "--timeout=60s"]).text();
    p.kubectl(&["get", "pod", name, "-o", "jsonpath={.status.podIP}"]).text()
}

fn get(p: &Playground, url: &str) -> String {
    let out = run(p.inside(1, "curl").args(["-sS", "--max-time", "3", url]));
    format!("{}{}", out.stdout, out.stderr)
}

fn in_node(p: &Playground, program: &str, args: &[&str]) -> String {
    run(p.inside(1, program).args(args)).text()
}

/// Records of attachments, wherever the node keeps them.
fn records(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let found = |path: PathBuf| match path.ends_with("cni/results") {
        true => fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect(),
        false
            if path.is_dir()
                && !path.is_symlink()
                && path.components().count() < dir.components().count() + 9 =>
        {
            records(&path)
        }
        false => Vec::new(),
    };
    entries.filter(|path| !path.ends_with("images") && !path.ends_with("pods")).flat_map(found).collect()
}

#[test]
#[ignore = "e2e tier"]
fn debians_plugins_serve_pods_and_what_is_wrong_with_them_is_said() {
    let network = Network::new();
    let p = network.start();
    let wishes = "kubernetes.io/ingress-bandwidth: 50M, kubernetes.io/egress-bandwidth: 40M, orlop.dev/addresses: 10.88.0.77";
    p.apply(&pod("web", wishes, ", hostPort: 18080")).text();
    assert_eq!(ready(&p, "web"), "10.88.0.77");
    assert!(get(&p, "http://10.88.0.77:8080/").contains("web"));
    let node = p.json["nodes"][0]["address"].as_str().unwrap().to_owned();
    assert!(get(&p, &format!("http://{node}:18080/")).contains("web"), "hostPort");
    assert_eq!(in_node(&p, "tc", &["qdisc"]).matches("tbf").count(), 2, "ingress and egress");
    // Through a Service, whose load balancer does not care who made the network.
    p.kubectl(&["expose", "pod", "web", "--port=80", "--target-port=8080"]).text();
    let service = p.kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text();
    until("the service answers", Duration::from_secs(20), || {
        let said = get(&p, &format!("http://{service}/"));
        if said.contains("web") { Ok(()) } else { Err(said) }
    });

    let mut broken = network.debians();
    broken["plugins"].as_array_mut().unwrap().push(json!({"type": "broken"}));
    network.configure("00-broken.conflist", &broken);
    p.apply(&pod("late", "", "")).text();
    let words = r#"Failed to create pod sandbox: plugin type="broken" failed (add): out of order"#;
    p.wait_for(&["get", "events", "-o", "jsonpath={.items[*].message}"], |said| said.contains(words));
    assert_eq!(network.given(), BTreeSet::from(["10.88.0.77".to_owned()]), "what failed is taken back");
    fs::remove_file(network.path("conf/00-broken.conflist")).unwrap();
    ready(&p, "late");

    // Without a network the node says so; pods that run go on.
    fs::rename(network.path("conf/10-debians.conflist"), network.path("away")).unwrap();
    let condition = ["get", "node", "node1", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')]}"];
    let not_ready = "NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
    p.wait_for(&condition, |said| said.contains("KubeletNotReady") && said.contains(not_ready));
    assert!(get(&p, "http://10.88.0.77:8080/").contains("web"));
    fs::rename(network.path("away"), network.path("conf/10-debians.conflist")).unwrap();
    p.wait_for(&condition, |said| said.contains("KubeletReady"));

    p.kubectl(&["delete", "pod", "web", "late", "--wait=true"]).text();
    assert_eq!(network.given(), BTreeSet::new());
    assert_eq!(records(&p.dir), Vec::<PathBuf>::new());
}

#[test]
#[ignore = "e2e tier"]
fn an_agent_killed_while_pods_come_and_go_leaks_nothing() {
    let network = Network::new();
    let mut p = network.start();
    let names: Vec<_> = (0..9).map(|n| format!("p{n}")).collect();
    for (round, batch) in names.chunks(3).enumerate() {
        for (at, name) in batch.iter().enumerate() {
            p.apply(&pod(name, "", &format!(", hostPort: {}", 19000 + 3 * round + at))).text();
        }
        std::thread::sleep(Duration::from_millis(60 * round as u64));
        p.kill_agent(1);
        p.up();
    }
    let addresses: BTreeSet<_> = names.iter().map(|name| ready(&p, name)).collect();
    assert_eq!(addresses.len(), names.len());
    assert_eq!(network.given(), addresses);
    assert_eq!(records(&p.dir).len(), names.len());
    let node = p.json["nodes"][0]["address"].as_str().unwrap().to_owned();
    for (at, name) in names.iter().enumerate() {
        assert!(get(&p, &format!("http://{node}:{}/", 19000 + at)).contains(name), "{name}");
    }
    for name in &names {
        p.kubectl(&["delete", "pod", name, "--wait=false"]).text();
    }
    std::thread::sleep(Duration::from_millis(300));
    p.kill_agent(1);
    p.up();
    p.wait_for(&["get", "pods", "-o", "name"], str::is_empty);
    until("everything is taken away", Duration::from_secs(30), || {
        let rules = in_node(&p, "iptables-save", &["-t", "nat"]);
        let rules =
            rules.lines().filter(|line| line.contains("CNI-DN-") || line.contains("10.88.0.")).count();
        let links = in_node(&p, "ip", &["-o", "link", "show", "type", "veth", "master", "cni0"]);
        let left = (network.given(), records(&p.dir), rules, links);
        if left == (BTreeSet::new(), Vec::new(), 0, String::new()) {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}
