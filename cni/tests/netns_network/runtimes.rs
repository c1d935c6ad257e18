//! The plugin below other people's runtimes: Debian's podman and containerd.
//!
//! Each runs in a mount namespace of its own, with its directories in the test's. Their containers are a directory with
//! busybox, so that nothing is fetched.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::Ns;

const DEBIANS: &str = "/usr/lib/cni";

/// A machine with plugins, a configuration and a container's files.
struct Machine {
    ns: Ns,
    dir: TempDir,
}

impl Machine {
    fn new(name: &str, version: &str) -> Self {
        let (ns, dir) = (Ns::new(), TempDir::new().unwrap());
        ns.ip("link set lo up");
        ns.ip("addr add 192.0.2.1/32 dev lo");
        let path = |part: &str| {
            let path = dir.path().join(part);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for kind in ["portmap", "tuning", "firewall", "loopback"] {
            symlink(Path::new(DEBIANS).join(kind), path(&format!("bin/{kind}"))).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_orlop-cni"), path("bin/orlop-cni")).unwrap();
        let list = json!({"cniVersion": version, "name": name, "plugins": [
            {"type": "orlop-cni", "podCIDR": "10.244.1.0/24", "stateDir": path("state")},
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ]});
        fs::write(path("conf/10-orlop.conflist"), list.to_string()).unwrap();
        fs::copy("/bin/busybox", path("rootfs/bin/busybox")).unwrap();
        for applet in ["ip", "ping", "httpd", "sleep", "sh"] {
            symlink("busybox", path(&format!("rootfs/bin/{applet}"))).unwrap();
        }
        for empty in ["proc", "sys", "dev", "etc", "tmp", "run"] {
            fs::create_dir_all(path(&format!("rootfs/{empty}"))).unwrap();
        }
        Self { ns, dir }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    /// A script on this machine, in a mount namespace that goes with it. `$D` is the directory of all.
    fn script(&self, text: &str) -> String {
        let net = format!("--net={}", self.ns.path().display());
        let output = Command::new("nsenter")
            .args([&net, "unshare", "-m", "sh", "-euc", text])
            .env("D", self.dir.path())
            .env("CONTAINERS_CONF", self.path("containers.conf"))
            .output()
            .unwrap();
        let (said, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
        let said = String::from_utf8(said).unwrap();
        assert!(output.status.success(), "{said}\n{errors}");
        said
    }

    fn links(&self) -> Vec<Value> {
        self.ns.ip_json("link show").into_iter().filter(|link| link["ifname"] != "lo").collect()
    }

    /// Nothing of a container is left: no link, no address, no rule.
    fn assert_clean(&self) {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(3);
        while !self.links().is_empty() {
            assert!(std::time::Instant::now() < until, "{:?}", self.links());
        }
        let ledger = fs::read_to_string(self.path("state/addresses")).unwrap();
        let count = |word: &str| ledger.lines().filter(|line| line.starts_with(word)).count();
        assert!(count("assign ") > 0);
        assert_eq!(count("assign "), count("release "), "{ledger}");
        assert!(!self.ns.exec(&["iptables-save", "-t", "nat"]).contains("10.244.1."));
    }
}

#[test]
#[ignore = "netns tier"]
fn podman_runs_containers_with_it() {
    let machine = Machine::new("orlop", "0.4.0");
    let conf = format!(
        r#"[network]
        network_backend = "cni"
        cni_plugin_dirs = ["{bin}"]
        network_config_dir = "{conf}"
        default_network = "orlop"
        [engine]
        cgroup_manager = "cgroupfs"
        events_logger = "file"
        runtime = "crun"
        [containers]
        cgroups = "disabled"
        default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
        "#,
        bin = machine.path("bin").display(),
        conf = machine.path("conf").display(),
    );
    fs::write(machine.path("containers.conf"), conf).unwrap();
    // Of cgroups, crun knows either version, but not both at once as on some machines.
    let said = machine.script(
        r#"umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
        podman() { command podman --root "$D/root" --runroot "$D/run" --tmpdir "$D/tmp" --storage-driver vfs "$@"; }
        trap 'podman rm -f -t 0 -a >/dev/null' EXIT
        podman run -d --name server --network orlop -p 18080:80 --rootfs "$D/rootfs" httpd -f -p 80 >/dev/null
        address=$(podman inspect server -f '{{.NetworkSettings.Networks.orlop.IPAddress}}')
        echo "server $address"
        podman run --rm --network orlop --rootfs "$D/rootfs" ping -c1 "$address" | grep 'packet loss'
        curl -s -m 5 -o /dev/null -w 'host port %{http_code}\n' http://192.0.2.1:18080/
        podman run --rm --network orlop:ip=10.244.1.77,mac=0a:00:00:00:00:05 --rootfs "$D/rootfs" ip addr show eth0"#,
    );
    assert!(said.contains("server 10.244.1.2\n"), "{said}");
    assert!(said.contains(" 0% packet loss"), "{said}");
    assert!(said.contains("host port 404"), "{said}");
    assert!(said.contains("0a:00:00:00:00:05") && said.contains("inet 10.244.1.77/32"), "{said}");
    machine.assert_clean();
}

#[test]
#[ignore = "netns tier"]
fn containerd_runs_containers_with_it() {
    let machine = Machine::new("orlop", "1.0.0");
    let programs = std::env::var("ORLOP_CONTAINERD").unwrap_or_else(|_| "/usr/bin".to_owned());
    let conf = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n",
        root = machine.path("root"),
        state = machine.path("run"),
        socket = machine.path("sock"),
    );
    fs::write(machine.path("containerd.toml"), conf).unwrap();
    let cgroup = &machine.ns.0;
    // Its client looks for networks in these places only.
    let said = machine.script(&format!(
        r#"export PATH="{programs}:$PATH"
        mkdir -p "$D/over"; mount -t tmpfs none "$D/over"; mkdir "$D/over/upper" "$D/over/work"
        mount -t overlay -o "lowerdir=/etc,upperdir=$D/over/upper,workdir=$D/over/work" overlay /etc
        rm -rf /etc/cni; mkdir -p /etc/cni; cp -r "$D/conf" /etc/cni/net.d
        mount -t tmpfs none /opt; mkdir -p /opt/cni; cp -r "$D/bin" /opt/cni/bin
        containerd -c "$D/containerd.toml" 2>"$D/log" &
        trap "kill $!; wait $!" EXIT
        for _ in $(seq 100); do [ -S "$D/sock" ] && break; sleep 0.1; done
        ctr -a "$D/sock" run --rm --cgroup /{cgroup} --rootfs --cni "$D/rootfs" one /bin/ip addr show eth0"#
    ));
    assert!(said.contains("inet 10.244.1.2/32"), "{said}");
    machine.assert_clean();
}
