//! Namespaces with names of their own that vanish with the test, and oracles.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use orlop_cni::{Attachment, Network, NetworkConfig, Overlay, Peer};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(3);

/// A named network namespace.
pub(crate) struct Ns(pub(crate) String);

impl Ns {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orltest-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name]);
        Self(name)
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    /// Runs on a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        let enter = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            f()
        };
        std::thread::scope(|scope| scope.spawn(enter).join()).unwrap_or_else(|p| std::panic::resume_unwind(p))
    }

    /// `ip -n NAME …`, words separated by spaces.
    pub(crate) fn ip(&self, words: &str) -> String {
        let words: Vec<_> = ["-n", &self.0].into_iter().chain(words.split_whitespace()).collect();
        run("ip", &words)
    }

    /// The same with `-j`.
    pub(crate) fn ip_json(&self, words: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j {words}"));
        match text.trim() {
            "" => Vec::new(),
            text => serde_json::from_str(text).unwrap(),
        }
    }

    pub(crate) fn exec(&self, words: &[&str]) -> String {
        let net = format!("--net={}", self.path().display());
        run("nsenter", &[&[net.as_str()], words].concat())
    }

    /// One echo request; true if it is answered within a second.
    pub(crate) fn ping(&self, to: impl Into<IpAddr>) -> bool {
        let net = format!("--net={}", self.path().display());
        let to = to.into();
        let (program, to) = (if to.is_ipv4() { "ping" } else { "ping6" }, to.to_string());
        let words = [net.as_str(), "busybox", program, "-c1", "-W1", &to];
        Command::new("nsenter").args(words).output().unwrap().status.success()
    }

    /// Connects and sends some bytes there and back. Returns the client's address as the server sees it.
    pub(crate) fn tcp(&self, server: &Ns, to: impl Into<IpAddr>) -> IpAddr {
        let to = to.into();
        let listener = server.inside(|| TcpListener::bind((any(to), 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let address = SocketAddr::from((to, port));
        let client = self.inside(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
        let (accepted, seen) = listener.accept().unwrap();
        exchange(&client, &accepted);
        seen.ip()
    }

    /// One datagram there and one back. Returns the client's address as the server sees it.
    pub(crate) fn udp(&self, server: &Ns, to: impl Into<IpAddr>) -> IpAddr {
        let to = to.into();
        let bind = || {
            let socket = UdpSocket::bind((any(to), 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let (server, client) = (server.inside(bind), self.inside(bind));
        client.connect((to, server.local_addr().unwrap().port())).unwrap();
        client.send(b"ping").unwrap();
        let mut buffer = [0; 16];
        let (length, seen) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], seen).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
        seen.ip()
    }

    pub(crate) fn delete(&self) {
        Command::new("ip").args(["netns", "del", &self.0]).output().unwrap();
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        self.delete();
    }
}

/// All addresses of this one's family.
fn any(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// More than fits into one packet, in both directions.
fn exchange(client: &TcpStream, server: &TcpStream) {
    use std::io::{Read, Write};
    const SIZE: usize = 100_000;
    let receive = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = vec![0; SIZE];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    };
    let send = |mut stream: &TcpStream| stream.write_all(&[7; SIZE]).unwrap();
    for (from, to) in [(client, server), (server, client)] {
        std::thread::scope(|scope| {
            scope.spawn(|| send(from));
            assert!(receive(to).iter().all(|b| *b == 7));
        });
    }
}

/// A node: its namespace and its state.
pub(crate) struct Node {
    pub(crate) ns: Ns,
    pub(crate) dir: TempDir,
    pub(crate) pod_cidr: &'static str,
}

impl Node {
    pub(crate) fn new(pod_cidr: &'static str) -> Self {
        let ns = Ns::new();
        ns.ip("link set lo up");
        Self { ns, dir: TempDir::new().unwrap(), pod_cidr }
    }

    pub(crate) fn config(&self) -> NetworkConfig {
        NetworkConfig {
            name: None,
            state_dir: self.dir.path().to_owned(),
            pod_cidrs: self.pod_cidr.split(',').map(|net| net.parse().unwrap()).collect(),
            cluster_cidrs: ["10.244.0.0/16", "fd00:10::/56"].map(|net| net.parse().unwrap()).into(),
            node_ips: Vec::new(),
            overlay: Overlay::Auto,
            mtu: Some(1450),
        }
    }

    /// Runs inside the node, as the agent would: on a runtime whose threads live in the node's namespace.
    pub(crate) fn run<T: Send>(&self, f: impl AsyncFnOnce() -> T + Send) -> T {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        self.ns.inside(|| runtime().block_on(f()))
    }

    /// One life of an agent: opens the network, does something, and goes away.
    pub(crate) fn with<T: Send>(&self, f: impl AsyncFnOnce(Network) -> T + Send) -> T {
        self.run(async || f(Network::open(self.config()).await.unwrap()).await)
    }

    /// The same for a network of the plugin's.
    pub(crate) fn with_named<T: Send>(&self, name: &str, f: impl AsyncFnOnce(Network) -> T + Send) -> T {
        let config = NetworkConfig { name: Some(name.to_owned()), ..self.config() };
        self.run(async || f(Network::open(config).await.unwrap()).await)
    }

    /// Attaches one pod and returns its address.
    pub(crate) fn attach(&self, uid: &str, pod: &Ns) -> IpAddr {
        self.attach_all(uid, pod)[0]
    }

    /// Attaches one pod and returns its addresses.
    pub(crate) fn attach_all(&self, uid: &str, pod: &Ns) -> Vec<IpAddr> {
        self.with(async |net| net.attach(&attachment(uid, pod)).await.unwrap().addresses)
    }

    /// Names of the links that are ours, without those that are down and about to go.
    pub(crate) fn links(&self) -> Vec<String> {
        let ours = |link: &Value| link["ifname"].as_str().unwrap().starts_with("orl");
        let doomed = |link: &Value| link["group"] == "1869769828" && link["operstate"] == "DOWN";
        let links = self.ns.ip_json("link show").into_iter().filter(|link| ours(link) && !doomed(link));
        links.map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until what was cut off is taken apart.
    pub(crate) fn settle(&self) {
        let until = Instant::now() + PATIENCE;
        while self.ns.ip("link show").contains(": orl") {
            assert!(Instant::now() < until, "{}", self.ns.ip("link show"));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Destinations of the routes that are ours.
    pub(crate) fn routes(&self) -> Vec<String> {
        let to = |route: Value| format!("{} {}", route["dst"].as_str().unwrap(), way(&route));
        let all = ["route show proto 111", "-6 route show proto 111"].map(|words| self.ns.ip_json(words));
        let mut routes: Vec<_> = all.into_iter().flatten().map(to).collect();
        routes.sort();
        routes
    }
}

fn way(route: &Value) -> &str {
    let part = |key: &str| route[key].as_str();
    let kind = part("type").filter(|kind| *kind == "unreachable");
    part("gateway").or(kind).or(part("dev")).unwrap()
}

pub(crate) fn attachment(uid: &str, pod: &Ns) -> Attachment {
    Attachment::of_pod(uid, "default", &format!("pod-{uid}"), &pod.path())
}

/// Other nodes: their pod CIDRs and their addresses.
pub(crate) fn peers(nodes: &[(&str, &str)]) -> Vec<Peer> {
    let peer = |(cidrs, addresses): &(&str, &str)| Peer {
        pod_cidrs: cidrs.split(',').map(|cidr| cidr.parse().unwrap()).collect(),
        addresses: addresses.split(',').map(|address| address.parse().unwrap()).collect(),
    };
    nodes.iter().map(peer).collect()
}

/// A cable between two namespaces, with an address at either end. Asking for a link that was just set up makes
/// the kernel finish setting it up; before, it may drop packets.
pub(crate) fn cable(a: &Ns, a_name: &str, a_address: &str, b: &Ns, b_name: &str, b_address: &str) {
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.0));
    for (ns, name, address) in [(a, a_name, a_address), (b, b_name, b_address)] {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ns.exec(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad")]);
        ns.ip(&format!("addr add {address} dev {name} {nodad}"));
        ns.ip(&format!("link set {name} up"));
    }
    a.ip(&format!("link show {a_name}"));
    b.ip(&format!("link show {b_name}"));
}

/// A file system of two pages, so that it fills up.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn mount(at: &Path) -> Self {
        run("mount", &["-t", "tmpfs", "-o", "size=8k", "orltest", at.to_str().unwrap()]);
        Self(at.to_owned())
    }

    /// Takes all pages that are left; what is free in a page that was begun stays.
    pub(crate) fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        std::fs::write(&filler, [0; 16 << 10]).unwrap_err();
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).output().unwrap();
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
