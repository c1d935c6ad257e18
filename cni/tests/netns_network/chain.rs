//! Other people's plugins: Debian's, one after the other, and some that do not behave.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use orlop_cni::runtime::{Chain, ChainConfig, ChainError, PodAttachment, PortMapping, Wishes};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Ns, cable};

const DEBIANS: &str = "/usr/lib/cni";
const TTL: &str = "/proc/sys/net/ipv4/ip_default_ttl";
/// Says a test's process what to attach; see [`in_a_process_of_its_own`].
const ORDER: &str = "ORLOP_TEST_CHAIN";

/// A node whose network is made by plugins.
struct Node {
    ns: Ns,
    dir: TempDir,
    time_limit: Duration,
}

/// A list of Debian's plugins. `nf_tables` or not is the machine's choice, as for the plugins' users.
fn debians(dir: &TempDir) -> Value {
    json!({
        "cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "debians", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "dataDir": dir.path().join("ipam"), "ranges": [[{"subnet": "10.88.0.0/24"}]],
                    "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            {"type": "tuning", "sysctl": {"net.ipv4.ip_default_ttl": "77"}},
        ]
    })
}

impl Node {
    fn new() -> Self {
        let (ns, dir) = (Ns::new(), TempDir::new().unwrap());
        ns.ip("link set lo up");
        fs::create_dir_all(dir.path().join("bin")).unwrap();
        Self { ns, dir, time_limit: Duration::from_secs(30) }
    }

    fn configure(&self, name: &str, list: &Value) {
        fs::create_dir_all(self.dir.path().join("conf")).unwrap();
        fs::write(self.dir.path().join("conf").join(name), list.to_string()).unwrap();
    }

    /// A plugin of our own making: a shell script.
    fn plugin(&self, name: &str, script: &str) {
        let path = self.dir.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn config(&self) -> ChainConfig {
        ChainConfig {
            conf_dir: self.dir.path().join("conf"),
            bin_dirs: vec![self.dir.path().join("bin"), DEBIANS.into()],
            cache_dir: self.dir.path().join("cache"),
            time_limit: self.time_limit,
        }
    }

    /// One life of an agent.
    fn with<T: Send>(&self, f: impl AsyncFnOnce(Chain) -> T + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = self.config();
        self.ns.inside(|| runtime().block_on(async { f(Chain::open(config).unwrap()).await }))
    }

    fn attach(&self, pod: &PodAttachment) -> Result<Vec<IpAddr>, String> {
        self.with(async |chain| chain.attach(pod).await).map_err(|error| text(&error))
    }

    fn detach(&self, uid: &str) -> Result<(), String> {
        self.with(async |chain| chain.detach(uid).await).map_err(|error| text(&error))
    }

    /// All that attachments can leave on the node, as others see it.
    fn traces(&self) -> Vec<String> {
        let links =
            self.ns.ip_json("link show").into_iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
        let links = links.filter(|name| !["lo", "cni0", "up0"].contains(&name.as_str()));
        let rules = self.ns.exec(&["iptables-save", "-t", "nat"]);
        let of_pods = |line: &&str| {
            let rule = line.starts_with("-A ") || line.starts_with(':');
            rule && (line.contains("10.88.0.") || line.contains("CNI-DN-") || line.contains("CNI-SN-"))
        };
        let rules: Vec<_> = rules.lines().filter(of_pods).map(str::to_owned).collect();
        let files = |path: &str| {
            let entries = fs::read_dir(self.dir.path().join(path)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let addresses = files("ipam/debians").into_iter().filter(|name| name.parse::<Ipv4Addr>().is_ok());
        links
            .chain(rules)
            .chain(addresses)
            .chain(files("cache/results"))
            .chain(files("cache/running"))
            .collect()
    }
}

fn text(error: &ChainError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn pod(uid: &str, ns: &Ns, wishes: Wishes) -> PodAttachment {
    let name = format!("pod-{uid}");
    PodAttachment { uid: uid.into(), namespace: "default".into(), name, netns: ns.path(), wishes }
}

fn v4(addresses: &[IpAddr]) -> Ipv4Addr {
    let only = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    only.unwrap()
}

/// Answers a word with it.
fn echo(ns: &Ns, port: u16) -> TcpListener {
    let listener = ns.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let serving = listener.try_clone().unwrap();
    std::thread::spawn(move || {
        for stream in serving.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut word = [0; 4];
            if stream.read_exact(&mut word).is_ok() && (word == *b"stop" || stream.write_all(&word).is_err())
            {
                return;
            }
        }
    });
    listener
}

fn answers(from: &Ns, address: Ipv4Addr, port: u16) -> bool {
    let to = SocketAddr::from((address, port));
    let Ok(mut stream) = from.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(2))) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut word = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut word).is_ok()
}

fn wishes() -> Wishes {
    let port = PortMapping { host_port: 18080, container_port: 8080, protocol: "tcp".into(), host_ip: None };
    Wishes { ports: vec![port], ingress: Some(50_000_000), egress: Some(40_000_000), ..Wishes::default() }
}

#[test]
#[ignore = "netns tier"]
fn debians_plugins_make_a_pod_network_and_take_it_away_again() {
    let (node, outside, ns) = (Node::new(), Ns::new(), Ns::new());
    cable(&node.ns, "up0", "192.0.2.1/24", &outside, "up0", "192.0.2.2/24");
    node.configure("10-first.conflist", &debians(&node.dir));
    node.configure("20-second.conflist", &json!({"name": "never", "plugins": []}));
    let pod = pod("c1", &ns, wishes());
    node.with(async |chain| {
        chain.status().await.unwrap();
        let addresses = chain.attach(&pod).await.unwrap();
        assert_eq!(chain.attach(&pod).await.unwrap(), addresses, "attaching again changes nothing");
        assert_eq!(chain.attached().unwrap(), [("c1".to_owned(), addresses)]);
        // Debian's portmap asks for its rules of IPv6 too, which it has not made.
        let wrong = text(&chain.check("c1").await.unwrap_err());
        assert!(
            wrong.starts_with(r#"plugin type="portmap" failed (check): could not check ipv6"#),
            "{wrong}"
        );
    });
    // A new process knows what the one before did.
    let address = v4(&node.attach(&pod).unwrap());
    assert!(node.ns.ping(address));
    assert!(ns.ip("addr show dev eth0").contains(&format!("{address}/24")));
    assert!(ns.ip("link show lo").contains("LOOPBACK,UP"));
    let _server = echo(&ns, 8080);
    assert!(answers(&outside, Ipv4Addr::new(192, 0, 2, 1), 18080), "the host's port leads to the pod");
    assert!(node.ns.exec(&["tc", "qdisc"]).contains("tbf"));
    assert_eq!(ns.exec(&["cat", TTL]).trim(), "77");
    let record = node.dir.path().join("cache/results/debians-c1-eth0");
    assert_eq!(record.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // Whatever the network is by now: the pod goes with the plugins it came with.
    node.configure(
        "00-new.conflist",
        &json!({"name": "new", "cniVersion": "1.0.0", "plugins": [{"type": "none"}]}),
    );
    for _ in 0..2 {
        node.detach("c1").unwrap();
        assert_eq!(node.traces(), Vec::<String>::new());
    }
    assert!(!answers(&outside, Ipv4Addr::new(192, 0, 2, 1), 18080));
}

#[test]
#[ignore = "netns tier"]
fn a_pod_whose_namespace_is_gone_leaves_nothing() {
    let (node, ns) = (Node::new(), Ns::new());
    let mut list = debians(&node.dir);
    // Debian's bridge forgets these rules where there is no namespace to find the address in.
    list["plugins"][0]["ipMasq"] = false.into();
    node.configure("10.conflist", &list);
    let first = node.attach(&pod("c1", &ns, wishes())).unwrap();
    ns.delete();
    // The same pod in a new namespace, as after the machine was started anew.
    let ns = Ns::new();
    let second = node.attach(&pod("c1", &ns, wishes())).unwrap();
    assert_ne!(first, second);
    assert!(node.ns.ping(v4(&second)));
    ns.delete();
    node.detach("c1").unwrap();
    assert_eq!(node.traces(), Vec::<String>::new());
}

#[test]
#[ignore = "netns tier"]
fn a_check_finds_what_somebody_took_away() {
    let (node, ns) = (Node::new(), Ns::new());
    let mut list = debians(&node.dir);
    list["plugins"]
        .as_array_mut()
        .unwrap()
        .retain(|plugin| plugin["type"] == "bridge" || plugin["type"] == "tuning");
    node.configure("10.conflist", &list);
    node.attach(&pod("c1", &ns, Wishes::default())).unwrap();
    let check = || node.with(async |chain| chain.check("c1").await).map_err(|error| text(&error));
    assert_eq!(check(), Ok(()));
    ns.exec(&["sh", "-c", &format!("echo 64 > {TTL}")]);
    assert!(check().unwrap_err().starts_with(r#"plugin type="tuning" failed (check): "#));
    assert!(node.with(async |chain| chain.check("c2").await).is_err());
}

#[test]
#[ignore = "netns tier"]
fn a_plugin_that_fails_is_named_and_the_others_are_taken_back() {
    let (mut node, ns) = (Node::new(), Ns::new());
    let versions = r#"[ "$CNI_COMMAND" = VERSION ] && { echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'; exit; }
        [ "$CNI_COMMAND" = DEL ] && exit 0"#;
    let with = |last: &str| {
        let mut list = debians(&node.dir);
        list["plugins"].as_array_mut().unwrap().push(json!({"type": last}));
        list
    };
    let plugins = [
        ("says", r#"echo '{"code":7,"msg":"no","details":"really"}'; exit 1"#, r#"failed (add): no: really"#),
        ("silent", "echo aside >&2; exit 3", "failed (add): exit status: 3 with no error message: aside"),
        ("empty", "exit 0", "failed (add): it gave no result"),
        ("junk", "echo '{'", "failed (add): its answer is not valid"),
        ("wrong", r#"echo '{"ips":7}'"#, "failed (add): its answer is not valid"),
        ("nothing", r#"echo '{"cniVersion":"1.0.0"}'"#, "the plugins of network debians gave no address"),
        ("killed", "kill -9 $$", "failed (add): signal: 9 (SIGKILL) with no error message"),
    ];
    for (name, script, expected) in plugins {
        node.plugin(name, &format!("{versions}\n{script}"));
        node.configure("10.conflist", &with(name));
        let error = node.attach(&pod("c1", &ns, wishes())).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(name == "nothing" || error.starts_with(&format!("plugin type={name:?}")), "{error}");
        assert_eq!(node.traces(), Vec::<String>::new(), "{name}");
    }
    node.plugin("slow", &format!("{versions}\nsleep 100 & sleep 100"));
    node.configure("10.conflist", &with("slow"));
    node.time_limit = Duration::from_millis(1500);
    let began = Instant::now();
    let error = node.attach(&pod("c1", &ns, wishes())).unwrap_err();
    assert_eq!(error, r#"plugin type="slow" failed (add): timed out after 1.5s"#);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(node.traces(), Vec::<String>::new());
}

#[test]
#[ignore = "netns tier"]
fn whether_a_network_can_be_used_is_said_in_words() {
    let node = Node::new();
    let status = || node.with(async |chain| chain.status().await).map_err(|error| text(&error));
    let conf = node.dir.path().join("conf");
    let not = format!("cni plugin not initialized: no network conf found in {}", conf.display());
    assert_eq!(status(), Err(not));
    node.configure(
        "10.conflist",
        &json!({"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "none"}]}),
    );
    assert!(
        status()
            .unwrap_err()
            .starts_with(r#"plugin type="none" failed (version): failed to find plugin "none" in path ["#)
    );
    node.configure(
        "10.conflist",
        &json!({"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "bridge"}]}),
    );
    assert!(status().unwrap_err().starts_with(r#"plugin type="bridge" supports ["0.1.0", "#));
    node.plugin(
        "new",
        r#"cat > "$(dirname $0)/../$CNI_COMMAND"
        case $CNI_COMMAND in
        VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}' ;;
        STATUS) [ -e "$(dirname $0)/../well" ] || { echo '{"code":50,"msg":"not yet"}'; exit 1; } ;;
        GC) ;;
        *) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"}]}' ;;
        esac"#,
    );
    node.configure("10.conflist", &json!({"name": "n", "cniVersion": "1.1.0", "plugins": [{"type": "new"}]}));
    assert_eq!(status(), Err(r#"plugin type="new" failed (status): not yet"#.to_owned()));
    fs::write(node.dir.path().join("well"), "").unwrap();
    assert_eq!(status(), Ok(()));

    let ns = Ns::new();
    node.attach(&pod("c1", &ns, Wishes::default())).unwrap();
    node.with(async |chain| chain.collect().await.unwrap());
    let told: Value = serde_json::from_slice(&fs::read(node.dir.path().join("GC")).unwrap()).unwrap();
    assert_eq!(told["cni.dev/valid-attachments"], json!([{"containerID": "c1", "ifname": "eth0"}]));
    assert_eq!((&told["name"], &told["cniVersion"]), (&json!("n"), &json!("1.1.0")));
    node.configure("00.conflist", &json!({"name": "broken"}));
    assert!(status().unwrap_err().ends_with("00.conflist: it has no plugins"));
}

/// What the test below kills: one process that attaches one pod. Alone, it does that for a pod of its own.
#[test]
#[ignore = "netns tier"]
fn in_a_process_of_its_own() {
    if let Ok(order) = std::env::var(ORDER) {
        let order: BTreeMap<String, PathBuf> = serde_json::from_str(&order).unwrap();
        let config = ChainConfig {
            conf_dir: order["conf"].clone(),
            bin_dirs: vec![DEBIANS.into()],
            cache_dir: order["cache"].clone(),
            time_limit: Duration::from_secs(30),
        };
        let pod = PodAttachment {
            uid: "c1".into(),
            namespace: "default".into(),
            name: "pod".into(),
            netns: order["netns"].clone(),
            wishes: wishes(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { Chain::open(config).unwrap().attach(&pod).await.unwrap() });
        return;
    }
    let (node, ns) = (Node::new(), Ns::new());
    node.configure("10.conflist", &debians(&node.dir));
    assert!(attaching(&node, &ns).wait().unwrap().success());
    assert_eq!(node.with(async |chain| chain.attached().unwrap()).len(), 1);
    assert!(node.traces().len() > 3);
}

fn attaching(node: &Node, ns: &Ns) -> std::process::Child {
    let path = |name: &str| node.dir.path().join(name);
    let order = json!({"conf": path("conf"), "cache": path("cache"), "netns": ns.path()});
    Command::new("nsenter")
        .arg(format!("--net={}", node.ns.path().display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "chain::in_a_process_of_its_own"])
        .env(ORDER, order.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "netns tier"]
fn killed_at_any_moment_nothing_is_left_that_nobody_knows_of() {
    let (node, ns) = (Node::new(), Ns::new());
    node.configure("10.conflist", &debians(&node.dir));
    // The moments are parts of what it takes on this machine: the second time, when all files are in memory.
    let took = (0..2).map(|_| {
        let begun = Instant::now();
        assert!(attaching(&node, &ns).wait().unwrap().success());
        let took = begun.elapsed();
        for (uid, _) in node.with(async |chain| chain.attached().unwrap()) {
            node.detach(&uid).unwrap();
        }
        took
    });
    let took = took.min().unwrap();
    let mut unfinished = 0;
    for round in 0..24 {
        let mut process = attaching(&node, &ns);
        std::thread::sleep(took * round / 24);
        process.kill().unwrap();
        unfinished += u32::from(!process.wait().unwrap().success());
        if round % 2 == 0 {
            // The pod comes up all the same.
            let address = v4(&node.attach(&pod("c1", &ns, wishes())).unwrap());
            assert!(node.ns.ping(address), "round {round}");
            assert_eq!(node.with(async |chain| chain.attached().unwrap()).len(), 1, "round {round}");
        }
        // Or whoever comes next takes back what is on record.
        for (uid, _) in node.with(async |chain| chain.attached().unwrap()) {
            node.detach(&uid).unwrap();
        }
        assert_eq!(node.traces(), Vec::<String>::new(), "round {round}");
        assert!(ns.ip_json("link show").iter().all(|link| link["ifname"] != "eth0"), "round {round}");
    }
    assert!(unfinished > 10, "only {unfinished} of 24 were killed before their end, which took {took:?}");
}
