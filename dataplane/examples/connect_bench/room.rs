//! Namespaces, cgroup and server of the measurement; all gone when it ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::measure::{Client, pin};

pub(crate) const SERVER_PORT: u16 = 8080;
pub(crate) const BACKENDS: [SocketAddrV4; 3] = [backend(1), backend(2), backend(3)];
const CLIENT: &str = "10.42.1.1";
const CGROUP: &str = "ORLOP_BENCH_CGROUP";
const CGROUP2: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

const fn backend(last: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 42, 2, last), SERVER_PORT)
}

pub(crate) struct Room {
    pub(crate) cgroup: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) inside: Client,
    pub(crate) outside: Client,
    server: Child,
    _scratch: tempfile::TempDir,
}

/// Runs this program again in namespaces of its own, and removes the cgroup afterwards.
pub(crate) fn outside() {
    let mount = CGROUP2.iter().find(|dir| Path::new(dir).join("cgroup.controllers").exists());
    let cgroup = Path::new(mount.expect("cgroup2")).join(format!("orlop-bench-{}", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .arg("inside")
        .args(std::env::args().skip(1))
        .env(CGROUP, &cgroup)
        .status();
    fs::remove_dir(&cgroup).unwrap();
    assert!(status.unwrap().success(), "the measurement failed");
}

/// Accepts on every address, for ever.
pub(crate) fn serve() {
    pin(1);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVER_PORT)).unwrap();
    // A full round fits into the queue: a server that waits for the CPU costs no retransmitted SYN.
    rustix::net::listen(&listener, 4096).unwrap();
    println!("listening");
    std::io::stdout().flush().unwrap();
    for connection in listener.incoming() {
        drop(connection);
    }
}

impl Room {
    pub(crate) fn furnish() -> Self {
        let cgroup = PathBuf::from(std::env::var_os(CGROUP).unwrap());
        let mut server = Command::new("unshare")
            .args(["--net", "--"])
            .arg(std::env::current_exe().unwrap())
            .arg("server")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = server.id();
        let within = format!("nsenter -t {pid} -n");
        sh("ip link set lo up");
        sh(&format!("ip link add client type veth peer name server netns {pid}"));
        sh(&format!("ip address add {CLIENT}/32 dev client && ip link set client up"));
        sh(&format!("{within} ip link set lo up && {within} ip link set server up"));
        for backend in BACKENDS {
            sh(&format!("{within} ip address add {}/32 dev server", backend.ip()));
        }
        sh(&format!("{within} ip route add {CLIENT}/32 dev server"));
        sh(&format!("ip route add default dev client src {CLIENT}"));
        let scratch = tempfile::tempdir().unwrap();
        Self {
            inside: Client::start(Some(&cgroup)),
            outside: Client::start(None),
            bpffs: scratch.path().join("bpf"),
            cgroup,
            server,
            _scratch: scratch,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Err(error) = self.server.kill().and_then(|()| self.server.wait()) {
            eprintln!("the server did not end: {error}");
        }
    }
}

/// Runs a command that must succeed.
pub(crate) fn sh(command: &str) {
    let output = Command::new("bash").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
