//! An API server with roles, before one that has none: lets through what a ClusterRole grants, refuses the rest, and remembers
//! what was asked.
//!
//! ```text
//!  client ──HTTP, bearer token──▶ Roles ──HTTP──▶ kubectl proxy ──TLS, as administrator──▶ API server
//! ```
//! Not for: roles of one namespace, names of objects, paths that mean no resource.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::Value;

/// Verb, API group and resource (with its subresource).
pub type Asked = (String, String, String);

/// What was asked so far.
#[derive(Debug, Default)]
struct Seen {
    granted: BTreeSet<Asked>,
    refused: BTreeSet<Asked>,
    token: String,
}

/// The server; ends with this.
#[derive(Debug)]
pub struct Roles {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    proxy: Child,
}

impl Roles {
    /// Serves at an address of this machine; `kubectl` is one that may do everything.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    pub fn serve(at: &str, mut kubectl: Command, role: &Value) -> Self {
        kubectl.args(["proxy", "--port=0"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut proxy = kubectl.spawn().expect("start kubectl proxy");
        let mut said = String::new();
        BufReader::new(proxy.stdout.take().expect("piped")).read_line(&mut said).expect("read what it says");
        let behind: SocketAddr =
            said.trim().rsplit(' ').next().expect("words").parse().unwrap_or_else(|_| panic!("{said}"));
        let listener = TcpListener::bind((at, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (noted, granted) = (Arc::clone(&seen), Arc::new(granted(role)));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, granted) = (Arc::clone(&noted), Arc::clone(&granted));
                // A client that goes away, or a proxy that ended, is an end of this connection alone.
                thread::spawn(move || pass(stream, behind, &granted, &noted).ok());
            }
        });
        Self { address, seen, proxy }
    }

    /// What was asked and granted.
    #[must_use]
    pub fn used(&self) -> BTreeSet<Asked> {
        self.seen.lock().expect("no panic").granted.clone()
    }

    /// What was asked and refused.
    #[must_use]
    pub fn refused(&self) -> BTreeSet<Asked> {
        self.seen.lock().expect("no panic").refused.clone()
    }

    /// The token that came last. Whose it is the API server behind can say.
    #[must_use]
    pub fn token(&self) -> String {
        self.seen.lock().expect("no panic").token.clone()
    }
}

impl Drop for Roles {
    fn drop(&mut self) {
        self.proxy.kill().ok();
        self.proxy.wait().ok();
    }
}

/// All that a ClusterRole grants, one by one.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn granted(role: &Value) -> BTreeSet<Asked> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        let all = rule[field].as_array().unwrap_or_else(|| panic!("{field} of {rule}"));
        all.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
    };
    let mut granted = BTreeSet::new();
    for rule in role["rules"].as_array().expect("rules") {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                let verbs = words(rule, "verbs").into_iter();
                granted.extend(verbs.map(|verb| (verb, group.clone(), resource.clone())));
            }
        }
    }
    granted
}

/// One request of a connection, and the connection with it.
fn pass(
    client: TcpStream,
    behind: SocketAddr,
    granted: &BTreeSet<Asked>,
    seen: &Mutex<Seen>,
) -> std::io::Result<()> {
    let mut from_client = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from_client.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let asked = asked(head.lines().next().unwrap_or_default());
    let mut client = client;
    let allowed = granted.contains(&asked);
    {
        let mut seen = seen.lock().expect("no panic");
        seen.token = token(&head).unwrap_or_default();
        if allowed {
            seen.granted.insert(asked)
        } else {
            seen.refused.insert(asked)
        };
    }
    if !allowed {
        let status = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","message":"no","code":403}"#;
        let length = status.len();
        return write!(
            client,
            "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{status}"
        );
    }
    let mut server = TcpStream::connect(behind)?;
    let hidden = ["authorization:", "connection:", "host:"];
    for (number, line) in head.trim_end().lines().enumerate() {
        if !hidden.iter().any(|name| line.to_ascii_lowercase().starts_with(name)) {
            write!(server, "{line}\r\n")?;
        }
        if number == 0 {
            write!(server, "Host: localhost\r\nConnection: close\r\n")?;
        }
    }
    server.write_all(b"\r\n")?;
    let (mut to_server, ended) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        std::io::copy(&mut from_client, &mut to_server).ok();
        to_server.shutdown(Shutdown::Both).ok();
    });
    let mut chunk = [0; 8192];
    loop {
        let read = server.read(&mut chunk)?;
        if read == 0 {
            return ended.shutdown(Shutdown::Both);
        }
        client.write_all(&chunk[..read])?;
    }
}

fn token(head: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = name.eq_ignore_ascii_case("authorization").then(|| value.trim().strip_prefix("Bearer "));
        value.flatten().map(str::to_owned)
    })
}

/// What a request line asks, in the words of roles.
fn asked(line: &str) -> Asked {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut parts = path.trim_matches('/').split('/').collect::<Vec<_>>();
    let group = match parts.first() {
        Some(&"apis") if parts.len() > 2 => parts.drain(..3).nth(1).unwrap_or_default(),
        Some(&"api") if parts.len() > 1 => parts.drain(..2).next().map_or("", |_| ""),
        _ => return (method.to_lowercase(), path.to_owned(), String::new()),
    };
    if parts.len() > 2 && parts[0] == "namespaces" {
        parts.drain(..2);
    }
    let watch = query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"));
    let verb = match (method, parts.len() > 1) {
        ("GET", _) if watch => "watch",
        ("GET", false) => "list",
        ("GET", true) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", false) => "deletecollection",
        ("DELETE", true) => "delete",
        _ => method,
    };
    let resource = match parts.as_slice() {
        [resource, _, sub, ..] => format!("{resource}/{sub}"),
        [resource, ..] => (*resource).to_owned(),
        [] => String::new(),
    };
    (verb.to_owned(), group.to_owned(), resource)
}

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn requests_are_read_as_an_authorizer_reads_them() {
        let check = |line: &str, verb: &str, group: &str, resource: &str| {
            assert_eq!(asked(line), (verb.into(), group.into(), resource.into()), "{line}");
        };
        check("GET /api/v1/services?limit=500 HTTP/1.1", "list", "", "services");
        check("GET /api/v1/services?watch=true&a=b HTTP/1.1", "watch", "", "services");
        check("GET /api/v1/namespaces/a/services/b HTTP/1.1", "get", "", "services");
        check("POST /api/v1/namespaces/a/events HTTP/1.1", "create", "", "events");
        check("GET /api/v1/namespaces HTTP/1.1", "list", "", "namespaces");
        check("GET /api/v1/namespaces/a HTTP/1.1", "get", "", "namespaces");
        check("PATCH /api/v1/nodes/n/status HTTP/1.1", "patch", "", "nodes/status");
        let slices = "GET /apis/discovery.k8s.io/v1/endpointslices?watch=1 HTTP/1.1";
        check(slices, "watch", "discovery.k8s.io", "endpointslices");
    }
}
