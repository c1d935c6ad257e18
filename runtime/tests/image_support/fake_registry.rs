//! A registry on a loopback port that answers as a test tells it to: what real ones do only on bad days.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// What was asked.
pub(crate) struct Ask {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
    /// How often this path was asked for before.
    pub(crate) before: usize,
}

/// What is answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Close the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Send so many bytes of the body, wait so long, and so on.
    pub(crate) drip: Option<(usize, std::time::Duration)>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None, drip: None }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

pub(crate) struct FakeRegistry {
    pub(crate) address: String,
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    pub(crate) most_at_once: Arc<AtomicUsize>,
}

impl FakeRegistry {
    /// Serves until the process ends.
    pub(crate) fn start(handler: impl Fn(&Ask) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let most_at_once = Arc::new(AtomicUsize::new(0));
        let (log, most, now) = (Arc::clone(&asked), Arc::clone(&most_at_once), Arc::new(AtomicUsize::new(0)));
        let handler = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                let (most, now) = (Arc::clone(&most), Arc::clone(&now));
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let Some((path, headers, body)) = read_request(&stream) else { return };
                    let before = {
                        let mut log = log.lock().unwrap();
                        let before = log.iter().filter(|p| **p == path).count();
                        log.push(path.clone());
                        before
                    };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let answer = handler(&Ask { path, headers, body, before });
                    now.fetch_sub(1, Ordering::SeqCst);
                    drop(write_answer(&mut stream, &answer));
                });
            }
        });
        Self { address, asked, most_at_once }
    }

    /// A well-behaved registry of a layout: its one manifest under every tag.
    pub(crate) fn of_layout(dir: &Path) -> impl Fn(&Ask) -> Answer + Send + Sync + use<> {
        let dir = dir.to_owned();
        move |ask| {
            let Some((_, name)) = ask.path.rsplit_once('/') else { return Answer::new(404, "") };
            if ask.path == "/v2/" {
                return Answer::new(200, "{}");
            }
            let name = match name.strip_prefix("sha256:") {
                Some(hex) => hex.to_owned(),
                None => manifest_of(&dir),
            };
            match std::fs::read(dir.join("blobs/sha256").join(name)) {
                Err(_) => Answer::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#),
                Ok(body) => match ask.headers.get("range").and_then(|range| range.strip_prefix("bytes=")) {
                    Some(range) => {
                        let from: usize = range.trim_end_matches('-').parse().unwrap();
                        Answer::new(206, &body[from..])
                    }
                    None => Answer::new(200, body),
                },
            }
        }
    }
}

fn manifest_of(dir: &Path) -> String {
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned()
}

fn read_request(stream: &TcpStream) -> Option<(String, BTreeMap<String, String>, String)> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body).ok()?;
    Some((path, headers, body))
}

fn write_answer(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    let Answer { status, headers, body, cut, drip } = answer;
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    let body = &body[..cut.unwrap_or(body.len())];
    let (piece, pause) = drip.unwrap_or((body.len().max(1), std::time::Duration::ZERO));
    for piece in body.chunks(piece) {
        stream.write_all(piece)?;
        stream.flush()?;
        std::thread::sleep(pause);
    }
    Ok(())
}
