//! kubectl exec, cp, attach and port-forward through the API server, over WebSockets and over SPDY.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use orlop_tests::{
    Playground,
    listen::{echo, listen},
    playground::{Output, given, in_terminal, run},
    until,
};

/// What kubectl takes instead of WebSockets.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];
const PODS: &str = "{apiVersion: v1, kind: List, items: [\
  {apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {terminationGracePeriodSeconds: 0, containers: [\
    {name: c, image: 'orlop.dev/example/busybox:v1', command: [sleep, '1000']}]}},\
  {apiVersion: v1, kind: Pod, metadata: {name: talks}, spec: {terminationGracePeriodSeconds: 0, containers: [\
    {name: c, image: 'orlop.dev/example/busybox:v1', stdin: true, command: [sh, -c, 'while read line; do echo heard $line; done']}]}}]}";

fn kubectl(p: &Playground, env: &[(&str, &str)], args: &[&str]) -> Command {
    let mut command = p.kubectl_command("kubectl");
    command.args(args).envs(env.iter().copied());
    command
}

fn with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { ok: out.status.success(), stdout: text(out.stdout), stderr: text(out.stderr) }
}

fn commands(p: &Playground, env: &[(&str, &str)]) {
    let exec = |args: &[&str]| kubectl(p, env, &[&["exec", "p"], args].concat());
    let out = run(&mut exec(&["--", "sh", "-c", "echo out; echo err >&2; exit 7"]));
    assert!(!out.ok && out.stdout == "out\n", "{out:?}");
    assert_eq!(out.stderr, "err\ncommand terminated with exit code 7\n");
    assert_eq!(
        with_input(&mut exec(&["-i", "--", "wc", "-c"]), &vec![b'x'; 300_000]).text().trim(),
        "300000"
    );
    let missing = run(&mut exec(&["--", "no-such-program"]));
    assert!(missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let stranger = run(&mut exec(&["-c", "other", "--", "true"]));
    assert!(stranger.stderr.contains("container other is not valid for pod p"), "{stranger:?}");
    // A terminal, as a person has it.
    let shown = exec(&[
        "-it",
        "--",
        "sh",
        "-c",
        "while [ \"$(stty size)\" = '24 80' ]; do sleep 0.05; done; stty size; tty",
    ]);
    let words: Vec<_> =
        shown.get_args().map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''"))).collect();
    let shown = in_terminal(&format!("kubectl {}", words.join(" ")), (33, 77), env);
    assert_eq!(shown, "33 77\n/dev/pts/0\n");
}

/// There and back, with every byte.
fn copies(p: &Playground, env: &[(&str, &str)]) {
    let (there, back) = (p.dir.join("there"), p.dir.join("back"));
    let bytes: Vec<u8> =
        (0..20_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(&there, &bytes).unwrap();
    run(&mut kubectl(p, env, &["cp", there.to_str().unwrap(), "p:/tmp/copy"])).text();
    run(&mut kubectl(p, env, &["cp", "p:/tmp/copy", back.to_str().unwrap()])).text();
    assert!(fs::read(&back).unwrap() == bytes, "the copy is another file");
    fs::remove_file(back).unwrap();
}

fn attached(p: &Playground, env: &[(&str, &str)], word: &str) {
    let mut attach = kubectl(p, env, &["attach", "-i", "talks"]);
    let mut child =
        attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(format!("{word}\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == format!("heard {word}")));
    end(child);
    p.wait_for(&["logs", "talks"], |text| text.contains(&format!("heard {word}")));
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Gives back one line and leaves.
fn one_line(mut stream: TcpStream) {
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
}

/// Writes all, says that it was all, and reads it back.
fn talk(port: u16, number: usize, length: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let sent: Vec<u8> = (0..length).map(|at| u8::try_from((at / 7 + number) % 251).unwrap()).collect();
    let mut reader = stream.try_clone().unwrap();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stream.write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        reader.read_to_end(&mut got).unwrap();
    });
    assert!(got == sent, "connection {number} got {} bytes of {length}", got.len());
}

fn forwards(p: &Playground, env: &[(&str, &str)], echo: u16) {
    let mut forward = kubectl(p, env, &["port-forward", "pod/p", &format!(":{echo}"), ":1"]);
    let mut child = forward.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Forwarding from 127.0.0.1:40123 -> 7000
    let mut port = |to: u16| -> u16 {
        let end = format!("-> {to}");
        let line = lines.find(|line| line.contains("127.0.0.1") && line.ends_with(&end)).unwrap();
        line.split([':', ' ']).find_map(|word| word.parse().ok()).unwrap()
    };
    let (open, closed) = (port(echo), port(1));
    std::thread::spawn(move || lines.for_each(drop));
    std::thread::scope(|scope| {
        let talks: Vec<_> = (0..50).map(|number| scope.spawn(move || talk(open, number, 200_000))).collect();
        talks.into_iter().for_each(|talk| talk.join().unwrap());
    });
    talk(open, 50, 50_000_000);
    let mut nobody = TcpStream::connect(("127.0.0.1", closed)).unwrap();
    nobody.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(matches!(nobody.read(&mut [0]), Ok(0) | Err(_)), "nobody listens there");
    end(child);
}

const FORWARD: &str = r#"
import base64, ssl, struct, sys, time
import websocket
from kubernetes import client, config
from kubernetes.stream import portforward

config.load_kube_config(sys.argv[1])
echoes, one_line = int(sys.argv[2]), int(sys.argv[3])
core = client.CoreV1Api()
forward = portforward(core.connect_get_namespaced_pod_portforward, "p", "default", ports=f"{echoes},1")
sock = forward.socket(echoes)
sock.settimeout(30)
text = bytes(range(256)) * 4000
got = b""
for start in range(0, len(text), 32000):
    sock.sendall(text[start:start + 32000])
    while len(got) < min(start + 32000, len(text)):
        got += sock.recv(65536)
assert got == text
for _ in range(100):
    if forward.error(1):
        break
    time.sleep(0.1)
assert "error forwarding port 1 to pod" in forward.error(1), forward.error(1)
assert forward.error(echoes) is None
forward.close()

# The same with text frames, without the client's help.
conf = client.Configuration.get_default_copy()
tls = {"ca_certs": conf.ssl_ca_cert, "certfile": conf.cert_file, "keyfile": conf.key_file}
url = conf.host.replace("https", "wss") + "/api/v1/namespaces/default/pods/p/portforward"
connect = lambda query: websocket.create_connection(url + query, sslopt=tls, timeout=30, subprotocols=["v4.base64.channel.k8s.io"])
ws = connect(f"?ports={one_line}")
assert ws.subprotocol == "v4.base64.channel.k8s.io", ws.subprotocol
number = base64.b64encode(struct.pack("<H", one_line)).decode()
assert [ws.recv(), ws.recv()] == ["0" + number, "1" + number]
ws.send("0" + base64.b64encode(b"hello\n").decode())
said = b""
while True:
    opcode, frame = ws.recv_data(control_frame=True)
    if opcode == websocket.ABNF.OPCODE_CLOSE:
        break
    assert opcode == websocket.ABNF.OPCODE_TEXT and frame[:1] == b"0", (opcode, frame)
    said += base64.b64decode(frame[1:])
assert said == b"hello\n", said
for query in ["", "?ports=0", "?ports=x"]:
    try:
        connect(query)
        sys.exit("a forward to no port")
    except websocket.WebSocketBadStatusException as error:
        assert error.status_code == 400, error
print("forwarded")
"#;

/// The older form of port-forward, with two channels of a WebSocket for each port.
fn python_forwards(p: &Playground, echoes: u16, one_line: u16) {
    let script = p.dir.join("forward.py");
    fs::write(&script, FORWARD).unwrap();
    let mut python = Command::new(given("ORLOP_PYTHON"));
    python.arg(&script).arg(p.dir.join("kubeconfig")).args([echoes.to_string(), one_line.to_string()]);
    assert_eq!(run(&mut python).text().trim(), "forwarded");
}

/// Without the API server in between: tokens are looked up, and who may what is asked.
fn strangers_are_refused(p: &Playground) {
    let address = p.get(&["node", "node1"])["status"]["addresses"][0]["address"].as_str().unwrap().to_owned();
    let ask = |path: &str, token: Option<&str>| {
        let mut curl = p.inside(1, "curl");
        curl.args(["-sk", "-w", "%{http_code}", &format!("https://{address}:10250/{path}")]);
        if let Some(token) = token {
            curl.args(["-H", &format!("Authorization: Bearer {token}")]);
        }
        run(&mut curl).text()
    };
    let token = p.kubectl(&["create", "token", "default"]).text();
    assert_eq!(ask("healthz", None), "Unauthorized\n401");
    assert_eq!(ask("healthz", Some("rubbish")), "Unauthorized\n401");
    let who = "user=system:serviceaccount:default:default";
    let refused =
        |verb, what| format!("Forbidden ({who}, verb={verb}, resource=nodes, subresource(s)=[{what}])\n403");
    assert_eq!(ask("healthz", Some(token.trim())), refused("get", "healthz proxy"));
    assert_eq!(ask("exec/default/p/c?output=1&command=id", Some(token.trim())), refused("create", "proxy"));
    assert_eq!(ask("metrics/resource", Some(token.trim())), refused("get", "metrics"));
    // With a certificate of the cluster's administrators, as a control plane has one.
    let admin = p.kubectl(&["config", "view", "--raw", "-o", "json"]).text();
    let admin: serde_json::Value = serde_json::from_str(&admin).unwrap();
    let mut identity = Vec::new();
    for (flag, field) in [("--cert", "client-certificate-data"), ("--key", "client-key-data")] {
        let (file, data) = (p.dir.join(field), admin["users"][0]["user"][field].as_str().unwrap());
        run(Command::new("sh").args(["-c", &format!("echo {data} | base64 -d > {}", file.display())])).text();
        identity.extend([flag.to_owned(), file.to_str().unwrap().to_owned()]);
    }
    let as_admin = |method: &str, path: &str| {
        let url = format!("https://{address}:10250/{path}");
        run(p.inside(1, "curl").args(["-sk", "-X", method, &url]).args(&identity)).text()
    };
    assert_eq!(as_admin("POST", "run/default/p/c?cmd=echo%20out"), "out\n");
    assert_eq!(as_admin("GET", "run/default/p/c?cmd=echo%20out"), "Method Not Allowed\n");
    assert_eq!(as_admin("POST", "run/default/nobody/c?cmd=true"), "pod does not exist\n");
    let metrics = as_admin("GET", "metrics/resource");
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {metrics}")).split(' ').next().unwrap().parse().unwrap()
    };
    let (of_pod, of_container) =
        ("{namespace=\"default\",pod=\"p\"}", "{container=\"c\",namespace=\"default\",pod=\"p\"}");
    assert!(value(&format!("pod_cpu_usage_seconds_total{of_pod}")) > 0.0);
    assert!(value(&format!("container_memory_working_set_bytes{of_container}")) > 100_000.0);
    assert!(value("node_memory_working_set_bytes") > 10_000_000.0);
    assert!((value("resource_scrape_error")).abs() < 0.5);
}

#[test]
#[ignore = "e2e tier"]
fn streams_of_kubectl() {
    let p = Playground::start();
    p.apply(PODS).text();
    p.kubectl(&["wait", "--for=condition=Ready", "pod/p", "pod/talks", "--timeout=60s"]).text();
    let (echoes, one_line) = (listen(&p, "p", echo), listen(&p, "p", one_line));
    for (env, word) in [(&[][..], "sockets"), (&SPDY, "spdy")] {
        commands(&p, env);
        copies(&p, env);
        attached(&p, env, word);
        forwards(&p, env, echoes);
    }
    python_forwards(&p, echoes, one_line);
    strangers_are_refused(&p);
    until("nothing of it is left in the pod", Duration::from_secs(10), || {
        let out = run(&mut kubectl(&p, &[], &["exec", "p", "--", "ps"])).text();
        if out.contains("stty") || out.contains("tar") { Err(out) } else { Ok(()) }
    });
}
