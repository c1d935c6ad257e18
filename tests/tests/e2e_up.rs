//! The first command a new user types.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::PathBuf, process::Command, time::Instant};

use orlop_tests::{
    leaks,
    playground::{given, run},
};

/// A test that fails leaves no node behind: without its directory nobody would find it any more.
struct Down(PathBuf);

impl Drop for Down {
    fn drop(&mut self) {
        if self.0.exists() {
            let _best_effort =
                Command::new(given("ORLOP_XTASK")).args(["down", "--dir"]).arg(&self.0).output();
        }
    }
}

#[test]
#[ignore = "e2e tier"]
fn up_shows_the_example_and_down_leaves_nothing() {
    let before = machine();
    let temp = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().unwrap();
    let dir = temp.path().join("playground");
    let _down = Down(dir.clone());
    let up = |extra: &[&str]| {
        run(Command::new(given("ORLOP_XTASK"))
            .args(["up", "--dir"])
            .arg(&dir)
            .arg("--bin")
            .arg(given("ORLOP_BIN"))
            .args(extra))
    };
    let said = up(&[]).text();
    assert!(said.contains("export KUBECONFIG=") && said.contains("kubectl get pods -o wide"), "{said}");
    for file in ["kubeconfig", "orlop.pid", "log", "bin/orlop"] {
        assert!(dir.join(file).exists(), "{file}");
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.join("kubeconfig")).unwrap());
    assert_eq!(mode & 0o777, 0o600, "the admin's key is nobody else's");
    let first_pid = std::fs::read_to_string(dir.join("orlop.pid")).unwrap();
    let again = Instant::now();
    let json: serde_json::Value =
        serde_json::from_str(up(&["--json"]).text().lines().last().unwrap()).unwrap();
    eprintln!("second run: {:?}", again.elapsed());
    assert_eq!(
        std::fs::read_to_string(dir.join("orlop.pid")).unwrap(),
        first_pid,
        "a second run starts nothing"
    );
    let id = json["nodes"][0]["netns"].as_str().unwrap().split('-').nth(1).unwrap().to_owned();
    let down = run(Command::new(given("ORLOP_XTASK")).args(["down", "--dir"]).arg(&dir));
    assert!(down.ok, "{}", down.stderr);
    assert_eq!(leaks::of_playground(&dir, &id), Vec::<String>::new());
    assert!(!dir.exists());
    assert_eq!(machine(), before, "routes and firewall of the machine are what they were");
}

/// What trying Orlop out must not change.
fn machine() -> [String; 3] {
    [
        run(Command::new("ip").args(["route", "show", "default"])).stdout,
        run(Command::new("nft").args(["list", "ruleset"])).stdout,
        run(&mut Command::new("iptables-save"))
            .stdout
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect(),
    ]
}

/// `--host` as on a machine of its own: a network namespace with a default route plays the host, so that this machine's
/// routes and firewall stay out of it.
#[test]
#[ignore = "e2e tier"]
fn up_on_the_host_itself_runs_the_example_and_down_leaves_nothing() {
    let temp = tempfile::Builder::new().prefix("orlop-e2e-").tempdir().unwrap();
    let dir = temp.path().join("playground");
    let script = "ip link set lo up && ip link add eth0 type veth peer name wire && ip addr add 198.19.0.2/24 dev eth0 \
                  && ip link set eth0 up && ip link set wire up && ip route add default via 198.19.0.1 || exit 9; \
                  \"$1\" up --host --dir \"$2\" --bin \"$3\"; up=$?; \
                  KUBECONFIG=\"$2/kubeconfig\" kubectl get pods; \
                  \"$1\" down --dir \"$2\"; down=$?; ip -br link; nft list ruleset; exit $((up + down))";
    let mut host = Command::new("unshare");
    host.args(["-n", "sh", "-c", script, "sh"]).arg(given("ORLOP_XTASK")).arg(&dir).arg(given("ORLOP_BIN"));
    let out = run(&mut host);
    let (said, stderr) = (out.stdout.clone(), out.stderr.clone());
    assert!(out.ok, "{said}{stderr}");
    assert_eq!(said.matches("Running").count(), 3, "{said}{stderr}");
    let after = said.split("removes every trace.").nth(1).unwrap();
    assert!(!after.contains("table ip orlop") && !after.contains("orl0"), "{after}");
    assert_eq!(leaks::of_playground(&dir, "host"), Vec::<String>::new());
    assert!(!dir.exists() && !std::path::Path::new("/sys/fs/cgroup/unified/orlop").exists());
}
