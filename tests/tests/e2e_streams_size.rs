//! Streams at size with clients as people have them: files, connections and logs arrive whole, and the node's memory does
//! not grow with them. In a test of its own, since it measures memory.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use orlop_tests::{
    Playground,
    listen::{echo, listen},
    playground::{given, in_terminal, run},
    until,
};

const MIB: usize = 1 << 20;
/// What goes through one connection.
const LARGE: usize = 1024 * MIB;
/// A file for `kubectl cp`.
const FILE: usize = 200 * MIB;
/// How much the agent, with the API server in it, may grow.
const GROWTH: usize = 60 * MIB;

/// `long` writes numbered lines at a pace that fills several logs.
const PODS: &str = "{apiVersion: v1, kind: List, items: [\
  {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, \
    volumes: [{name: v, emptyDir: {}}], containers: [\
    {name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '3600'], \
     volumeMounts: [{name: v, mountPath: /v}]}]}},\
  {apiVersion: v1, kind: Pod, metadata: {name: long}, spec: {terminationGracePeriodSeconds: 0, restartPolicy: Never, containers: [\
    {name: c, image: 'orlop.dev/example/busybox:v1', command: [sh, -c, \
     'until [ -e /tmp/go ]; do sleep 0.1; done; n=0; while [ ! -e /tmp/enough ]; do n=$((n+1)); echo \"line $n of a log that is rotated\"; \
      [ $((n % 200)) != 0 ] || sleep 0.05; done; echo end $n']}]}}]}";

/// A kubectl with what makes it speak one protocol or the other.
struct Client<'a> {
    p: &'a Playground,
    /// Where the pod gives back what it hears.
    port: u16,
    program: std::path::PathBuf,
    env: &'static [(&'static str, &'static str)],
}

impl Client<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.p.kubectl_command(&self.program);
        command.args(args).envs(self.env.iter().copied());
        command
    }
}

#[test]
#[ignore = "e2e tier"]
fn streams_arrive_whole_and_memory_stays() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("kubelet.yaml");
    let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
                containerLogMaxSize: 1Mi\ncontainerLogMonitorInterval: 3s\n\
                evictionHard: {memory.available: 100Mi, nodefs.available: 1%}\n";
    fs::write(&config, text).unwrap();
    let p = Playground::with(&[], &[("ORLOP_CONFIG", config.to_str().unwrap())]);
    p.apply(PODS).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/p", "pod/long", "--timeout=60s"]).text();
    let random = temp.path().join("random");
    let fill = format!("head -c {FILE} /dev/urandom > {}", random.display());
    assert!(run(Command::new("sh").args(["-c", &fill])).ok);

    let port = listen(&p, "p", echo);
    let sockets = Client { p: &p, port, program: "kubectl".into(), env: &[] };
    let old = Client { p: &p, port, program: given("ORLOP_OLD_KUBECTL"), env: &[] };
    let follower = follow(&sockets, &temp.path().join("followed"));
    p.exec("long", &["touch", "/tmp/go"]).text();
    // What a first use costs once is not what is asked here.
    forward(&sockets, 2, MIB);
    let before = memory(&p);
    for client in [&sockets, &old] {
        terminal(client);
        copies(client, &random);
        forward(client, 50, MIB);
        forward(client, 1, if client.program == sockets.program { LARGE } else { 100 * MIB });
        let grown = memory(&p).saturating_sub(before);
        assert!(grown < GROWTH, "{} MiB more than {}", grown / MIB, before / MIB);
    }
    python(&p, port);
    no_line_is_missing(&p, follower, &temp.path().join("followed"));
    let grown = memory(&p).saturating_sub(before);
    assert!(grown < GROWTH, "{} MiB more than {}", grown / MIB, before / MIB);
}

/// Resident memory of the agent, by the kernel's account.
fn memory(p: &Playground) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", p.agent_pid(1))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// As coreutils sees it.
fn checksum(file: &Path) -> String {
    run(Command::new("sha256sum").arg(file)).text().split(' ').next().unwrap().to_owned()
}

/// Its size is the one that it has outside.
fn terminal(client: &Client<'_>) {
    let wait = "while [ \"$(stty size)\" != \"33 77\" ]; do sleep 0.05; done; stty size";
    let line = format!(
        "{} --kubeconfig {} exec -it p -- sh -c '{wait}'",
        client.program.display(),
        client.p.dir.join("kubeconfig").display()
    );
    assert_eq!(in_terminal(&line, (33, 77), client.env), "33 77\n");
}

fn copies(client: &Client<'_>, random: &Path) {
    let back = random.with_extension("back");
    run(&mut client.command(&["cp", random.to_str().unwrap(), "p:/v/copy"])).text();
    let there = client.p.exec("p", &["sha256sum", "/v/copy"]).text();
    assert_eq!(there.split(' ').next(), Some(&*checksum(random)), "to the pod");
    run(&mut client.command(&["cp", "p:/v/copy", back.to_str().unwrap()])).text();
    assert_eq!(checksum(&back), checksum(random), "from the pod");
    fs::remove_file(back).unwrap();
}

/// So many connections at once, each with so many bytes there and back.
fn forward(client: &Client<'_>, connections: usize, length: usize) {
    let mut command = client.command(&["port-forward", "pod/p", &format!(":{}", client.port)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Forwarding from 127.0.0.1:40123 -> 40000
    let line = lines.find(|line| line.contains("127.0.0.1")).unwrap();
    let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).unwrap();
    std::thread::spawn(move || lines.for_each(drop));
    std::thread::scope(|scope| {
        let talks: Vec<_> =
            (0..connections).map(|number| scope.spawn(move || talk(port, number, length))).collect();
        talks.into_iter().for_each(|talk| talk.join().unwrap());
    });
    end(child);
}

/// What each connection says at each place: no two are alike, and a lost or doubled piece shows.
fn fill(piece: &mut [u8], number: usize, at: usize) {
    for (offset, word) in piece.chunks_exact_mut(8).enumerate() {
        let place = u64::try_from(at / 8 + offset).unwrap();
        let mixed = (place ^ (u64::try_from(number).unwrap() << 48)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
}

fn talk(port: u16, number: usize, length: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        for at in (0..length).step_by(piece.len()) {
            fill(&mut piece, number, at);
            stream.write_all(&piece).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let (mut piece, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    for at in (0..length).step_by(piece.len()) {
        reader.read_exact(&mut piece).unwrap_or_else(|error| panic!("{number} at {at} of {length}: {error}"));
        fill(&mut expected, number, at);
        assert!(piece == expected, "connection {number} heard something else at {at}");
    }
    assert_eq!(reader.read(&mut piece).unwrap(), 0, "and nothing more");
    writer.join().unwrap();
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn follow(client: &Client<'_>, to: &Path) -> Child {
    let mut command = client.command(&["logs", "-f", "long"]);
    command.stdin(Stdio::null()).stdout(fs::File::create(to).unwrap()).spawn().unwrap()
}

/// Across several rotations, and the follower ends by itself.
fn no_line_is_missing(p: &Playground, mut follower: Child, followed: &Path) {
    let uid = p.kubectl(&["get", "pod", "long", "-ojsonpath={.metadata.uid}"]).text();
    let logs = p.dir.join(format!("state/log/pods/default_long_{uid}/c"));
    until("the log was rotated", Duration::from_secs(30), || {
        let files = fs::read_dir(&logs).unwrap().count();
        if files >= 4 { Ok(()) } else { Err(format!("{files} files")) }
    });
    // The container may end with it before the command itself has.
    drop(p.exec("long", &["touch", "/tmp/enough"]));
    let mut ended = None;
    until("the follower ends", Duration::from_secs(20), || {
        ended = follower.try_wait().unwrap();
        if ended.is_some() { Ok(()) } else { Err("it does not".into()) }
    });
    assert!(ended.unwrap().success());
    let text = fs::read_to_string(followed).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let count = lines.len() - 1;
    let wrong = (0..count).find(|at| lines[*at] != format!("line {} of a log that is rotated", at + 1));
    assert_eq!(wrong.map(|at| (at + 1, lines[at])), None, "of {count}");
    assert_eq!(lines[count], format!("end {count}"));
    assert!(text.len() > 3 * MIB, "several logs: {}", text.len());
}

const PYTHON: &str = r#"
import hashlib, sys, time
from kubernetes import client, config
from kubernetes.stream import stream, portforward

config.load_kube_config(sys.argv[1])
core = client.CoreV1Api()
exec = core.connect_get_namespaced_pod_exec

# A command with its input, and what it says on both streams.
said = stream(exec, "p", "default", command=["sh", "-c", "read a; echo out $a; echo err $a >&2; exit 3"],
              stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
said.write_stdin("word\n")
said.run_forever(timeout=20)
assert said.read_stdout() == "out word\n" and said.read_stderr() == "err word\n"
assert said.returncode == 3, said.returncode

# Much of it.
said = stream(exec, "p", "default", command=["sh", "-c", "seq 1 500000; sleep 0.1"],
              stdin=False, stdout=True, stderr=True, tty=False, _preload_content=False)
digest, length = hashlib.sha256(), 0
while said.is_open():
    said.update(timeout=20)
    part = said.read_stdout() if said.peek_stdout() else ""
    digest.update(part.encode())
    length += len(part)
expected = "".join(f"{n}\n" for n in range(1, 500001)).encode()
assert length == len(expected) and digest.digest() == hashlib.sha256(expected).digest(), (length, len(expected))

# A terminal that is resized.
said = stream(exec, "p", "default", command=["sh", "-c", "while [ \"$(stty size)\" != '33 77' ]; do sleep 0.05; done; stty size"],
              stdin=True, stdout=True, stderr=False, tty=True, _preload_content=False)
said.write_channel(4, '{"Width": 77, "Height": 33}')
said.run_forever(timeout=20)
assert said.read_stdout().strip() == "33 77"

# A container that is asked.
core.create_namespaced_pod("default", {"metadata": {"name": "asked"}, "spec": {"restartPolicy": "Never", "containers": [{
    "name": "c", "image": "orlop.dev/example/busybox:v1", "stdin": True,
    "command": ["sh", "-c", "while read a; do echo out $a; echo err $a >&2; [ $a = bye ] && exit 0; done"]}]}})
while core.read_namespaced_pod("asked", "default").status.phase != "Running":
    time.sleep(0.1)
said = stream(core.connect_get_namespaced_pod_attach, "asked", "default",
              stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
said.write_stdin("word\n")
assert said.readline_stdout(timeout=20) == "out word" and said.readline_stderr(timeout=20) == "err word"
said.write_stdin("bye\n")
said.run_forever(timeout=20)
assert not said.is_open() and said.read_stdout() == "out bye\n"

# A connection.
forward = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports=sys.argv[2])
sock = forward.socket(int(sys.argv[2]))
sock.settimeout(30)
text = bytes(range(256)) * 40000
got = b""
for start in range(0, len(text), 64000):
    sock.sendall(text[start:start + 64000])
    while len(got) < min(start + 64000, len(text)):
        got += sock.recv(65536)
assert got == text
forward.close()
print("all there")
"#;

/// The client from PyPI, over WebSockets.
fn python(p: &Playground, port: u16) {
    let script = p.dir.join("streams.py");
    fs::write(&script, PYTHON).unwrap();
    let mut python = Command::new(given("ORLOP_PYTHON"));
    let said = run(python.arg(&script).arg(p.dir.join("kubeconfig")).arg(port.to_string()));
    assert_eq!(said.text().trim(), "all there");
}
