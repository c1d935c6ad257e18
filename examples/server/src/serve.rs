//! The server: one thread per connection, an echo on UDP, and a quiet end on SIGTERM.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    http::{Request, answer, parse_request, quote},
    number, signals,
};

const HEAD_MAX: usize = 16 << 10;
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open connections may take after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);

struct Server {
    name: String,
    greeting: String,
    /// Shown by `/`.
    file: PathBuf,
    /// What `/file` may read.
    files: PathBuf,
    not_ready: AtomicBool,
    not_healthy: AtomicBool,
    open: AtomicUsize,
}

pub(crate) fn run() -> Result<ExitCode, String> {
    let termination = signals::block();
    let setting = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let port: u16 = number(&setting("PORT", "8080"))?;
    let server = Arc::new(Server {
        name: host_name(),
        greeting: setting("GREETING", "hello"),
        file: setting("FILE", "/etc/hello/message").into(),
        files: setting("FILES", "/etc/hello").into(),
        not_ready: AtomicBool::new(false),
        not_healthy: AtomicBool::new(false),
        open: AtomicUsize::new(0),
    });
    // Dual stack where there is IPv6.
    let addresses = [SocketAddr::from(([0_u16; 8], port)), SocketAddr::from(([0_u8; 4], port))];
    let listener =
        TcpListener::bind(&addresses[..]).map_err(|e| format!("listen on TCP port {port}: {e}"))?;
    let echo = UdpSocket::bind(&addresses[..]).map_err(|e| format!("listen on UDP port {port}: {e}"))?;
    println!("{} serves on port {port}", server.name);
    let (http_server, udp_name) = (Arc::clone(&server), server.name.clone());
    thread::spawn(move || accept(&listener, &http_server));
    thread::spawn(move || reply(&echo, &udp_name));

    termination.wait();
    println!("SIGTERM: finishing {} connections", server.open.load(Ordering::SeqCst));
    server.not_ready.store(true, Ordering::SeqCst);
    let deadline = Instant::now() + DRAIN;
    while server.open.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

fn host_name() -> String {
    let kernel = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    env::var("HOSTNAME").unwrap_or_else(|_| kernel().trim().to_owned())
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for stream in listener.incoming().flatten() {
        let server = Arc::clone(server);
        server.open.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            let outcome = converse(stream, &server);
            server.open.fetch_sub(1, Ordering::SeqCst);
            if let Err(error) = outcome {
                eprintln!("connection: {error}");
            }
        });
    }
}

fn reply(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 1500];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let text = format!("{name} {}", String::from_utf8_lossy(&buffer[..length]));
        if let Err(error) = socket.send_to(text.as_bytes(), client) {
            eprintln!("answer {client}: {error}");
        }
    }
}

fn converse(mut stream: TcpStream, server: &Server) -> std::io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut head = Vec::new();
    let mut buffer = [0; 2048];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") && head.len() < HEAD_MAX {
        match stream.read(&mut buffer)? {
            0 if head.is_empty() => return Ok(()),
            0 => break,
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let text = match parse_request(&String::from_utf8_lossy(&head)) {
        Some(request) => server.handle(&request, local, peer),
        None => answer(400, "text/plain", "not a request\n"),
    };
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}

impl Server {
    fn handle(&self, request: &Request, local: SocketAddr, peer: SocketAddr) -> String {
        if request.method != "GET" && request.method != "POST" {
            return answer(405, "text/plain", "GET or POST\n");
        }
        match request.path.as_str() {
            "/" => self.who(request, local, peer),
            "/healthz" => state("healthy", !self.not_healthy.load(Ordering::SeqCst)),
            "/readyz" => state("ready", !self.not_ready.load(Ordering::SeqCst)),
            "/fail" => {
                let (name, flag) = match request.parameter("what") {
                    Some("healthz") => ("healthz", &self.not_healthy),
                    _ => ("readyz", &self.not_ready),
                };
                let failing = !flag.fetch_xor(true, Ordering::SeqCst);
                answer(200, "text/plain", &format!("{name} {}\n", if failing { "fails" } else { "succeeds" }))
            }
            "/env" => environment(request),
            "/file" => self.read_file(request),
            _ => answer(404, "text/plain", "not found\n"),
        }
    }

    fn who(&self, request: &Request, local: SocketAddr, peer: SocketAddr) -> String {
        let file = fs::read_to_string(&self.file).unwrap_or_default();
        let address = local.ip().to_canonical().to_string();
        let client = peer.ip().to_canonical().to_string();
        let version = env::var("VERSION").unwrap_or_default();
        let fields = [
            ("pod", self.name.as_str()),
            ("address", &address),
            ("client", &client),
            ("version", &version),
            ("greeting", &self.greeting),
            ("file", file.trim_end()),
        ];
        if request.wants_json {
            let members: Vec<_> = fields.iter().map(|(k, v)| format!("{}:{}", quote(k), quote(v))).collect();
            return answer(200, "application/json", &format!("{{{}}}\n", members.join(",")));
        }
        let lines: String = fields.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
        answer(200, "text/plain", &lines)
    }

    /// Symlinks are followed (ConfigMap volumes are made of them) but not out of the directory.
    fn read_file(&self, request: &Request) -> String {
        let Some(path) = request.parameter("path") else {
            return answer(400, "text/plain", "which path?\n");
        };
        let inside = |path: &Path| -> Option<PathBuf> {
            let root = self.files.canonicalize().ok()?;
            let path = root.join(path).canonicalize().ok()?;
            Some(path).filter(|path| path.starts_with(&root))
        };
        match inside(Path::new(path)) {
            None => answer(404, "text/plain", "no such file\n"),
            Some(path) => match fs::read(&path) {
                Ok(content) => answer(200, "text/plain", &String::from_utf8_lossy(&content)),
                Err(error) => answer(403, "text/plain", &format!("{error}\n")),
            },
        }
    }
}

fn state(name: &str, good: bool) -> String {
    match good {
        true => answer(200, "text/plain", "ok\n"),
        false => answer(503, "text/plain", &format!("not {name}\n")),
    }
}

fn environment(request: &Request) -> String {
    if let Some(name) = request.parameter("name") {
        return match env::var(name) {
            Ok(value) => answer(200, "text/plain", &format!("{value}\n")),
            Err(_) => answer(404, "text/plain", "not set\n"),
        };
    }
    let all: BTreeMap<_, _> = env::vars_os().collect();
    let lines: String = all.iter().map(|(k, v)| format!("{}={}\n", k.display(), v.display())).collect();
    answer(200, "text/plain", &lines)
}
