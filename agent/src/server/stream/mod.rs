//! exec, attach and port-forward for clients of Kubernetes, over SPDY/3.1 and WebSockets.
//!
//! ```text
//!  request ─ handshake [p] ─▶ 101 ─▶ spdy or websocket ─▶ remote (commands) or forward (ports) ─▶ runtime
//! ```
//! Used by every server that offers them: who calls and what they may is settled before. Not for: URLs.

mod forward;
mod handshake;
mod remote;
mod spdy;
mod status;
mod websocket;

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use orlop_runtime::{
    Runtime,
    stream::{StreamedCommand, Streams, Window},
};

use self::{
    forward::Pod,
    handshake::{ACCEPTED, Agreed, PROTOCOL, Purpose, Refusal, agree},
    remote::{Channels, Output, Resize},
    status::Version,
    websocket::Framing,
};
use super::{Body, text};

/// How long a client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until a client tells.
const WINDOW: Window = Window { rows: 24, columns: 80 };

/// What a client wants of a container or pod on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// A command.
    Exec {
        /// Of which container.
        target: Target,
        /// Program and arguments.
        command: Vec<String>,
        /// Which streams.
        wanted: Wanted,
    },
    /// A look at what the container writes, and a hand at its input.
    Attach {
        /// Which container.
        target: Target,
        /// Which streams.
        wanted: Wanted,
    },
    /// Connections to ports.
    Forward {
        /// Of which sandbox.
        uid: String,
        /// Which ones, as the request says it; those that open streams say it there.
        ports: Vec<String>,
    },
}

/// A container of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// UID of the sandbox.
    pub uid: String,
    /// Id of the container.
    pub id: String,
}

/// Streams of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; there is none with a terminal.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// Settles what goes together.
    ///
    /// # Errors
    /// Nothing is wanted.
    pub fn check(self) -> Result<Self, String> {
        if !self.stdin && !self.stdout && !self.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr".to_owned());
        }
        Ok(Self { stderr: self.stderr && !self.tty, ..self })
    }

    fn streams(self) -> Streams {
        Streams { stdin: self.stdin, stdout: self.stdout, stderr: self.stderr }
    }
}

/// Answers a request that is to become a stream. The work goes on behind the answer.
///
/// Why there is nothing to do, clients of the newest WebSocket protocol hear in the stream: upstream's API server has
/// accepted it before it asks the kubelet. All others are refused.
pub fn answer(request: Request<Incoming>, job: Result<Job, String>, runtime: Runtime) -> Response<Body> {
    let purpose = if matches!(job, Ok(Job::Forward { .. })) { Purpose::Forward } else { Purpose::Command };
    let agreed = match agree(request.headers(), purpose) {
        Ok(agreed) => agreed,
        Err(refusal) => return refuse(&refusal),
    };
    if let (Agreed::Channels(_), Ok(Job::Forward { ports, .. })) = (agreed, &job)
        && let Err(why) = handshake::ports(ports)
    {
        return text(StatusCode::BAD_REQUEST, &why);
    }
    if let Err(why) = &job
        && !agreed.tells_refusals()
    {
        return text(StatusCode::INTERNAL_SERVER_ERROR, why);
    }
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    match agreed {
        Agreed::Spdy(name) => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert(PROTOCOL, HeaderValue::from_static(name));
        }
        Agreed::Channels(name) => web_socket(headers, request.headers(), name),
        Agreed::Tunnel(name) => web_socket(headers, request.headers(), Some(name)),
    }
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => match job {
                Ok(job) => serve(TokioIo::new(upgraded), agreed, job, runtime).await,
                Err(why) => tell(TokioIo::new(upgraded), &why).await,
            },
            Err(error) => tracing::debug!(%error, "upgrade of a streaming request"),
        }
    });
    response
}

fn web_socket(answer: &mut http::HeaderMap, asked: &http::HeaderMap, name: Option<&'static str>) {
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let key = asked.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if let Ok(accept) = HeaderValue::from_str(&websocket::accept(key)) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(name) = name {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let mut response = text(refusal.status, &refusal.text);
    for name in refusal.accepted {
        response.headers_mut().append(ACCEPTED, HeaderValue::from_static(name));
    }
    response
}

/// The only message of a WebSocket.
async fn tell(transport: TokioIo<Upgraded>, why: &str) {
    let framing = Framing { base64: false, close_signal: true };
    let socket = websocket::channels(transport, framing, websocket::ERROR).await;
    let text = status::refused(why);
    socket.messages.channel(websocket::ERROR).write(text.as_bytes()).await;
    socket.messages.close().await;
}

async fn serve(transport: TokioIo<Upgraded>, agreed: Agreed, job: Job, runtime: Runtime) {
    match (agreed, job) {
        (Agreed::Spdy(_), Job::Forward { uid, .. }) => {
            forward::serve(spdy::Connection::new(transport), Pod { runtime, uid }).await;
        }
        (Agreed::Tunnel(_), Job::Forward { uid, .. }) => {
            let carried = websocket::tunnel(transport).await;
            forward::serve(spdy::Connection::new(carried), Pod { runtime, uid }).await;
        }
        (Agreed::Channels(name), Job::Forward { uid, ports }) => {
            let Ok(ports) = handshake::ports(&ports) else { return };
            let pairs = websocket::pairs(transport, framing(name), ports.len()).await;
            forward::serve_pairs(pairs, ports, Pod { runtime, uid }).await;
        }
        (Agreed::Spdy(_), job) => {
            let mut connection = spdy::Connection::new(transport);
            let wanted = job.wanted();
            match tokio::time::timeout(PATIENCE, over_spdy(&mut connection, wanted, agreed.version())).await {
                Ok(Some(channels)) => run(channels, job, runtime).await,
                Ok(None) => tracing::debug!("a client left before it had opened its streams"),
                Err(_) => tracing::debug!("timed out waiting for client to create streams"),
            }
            connection.close().await;
        }
        (Agreed::Channels(name), job) => {
            let framing = framing(name);
            let wanted = job.wanted();
            let lowest = match wanted {
                Wanted { stdout: true, .. } => websocket::STDOUT,
                Wanted { stderr: true, .. } => websocket::STDERR,
                _ => websocket::ERROR,
            };
            let socket = websocket::channels(transport, framing, lowest).await;
            let messages = socket.messages.clone();
            let output = |channel| Output::Channel(messages.channel(channel));
            let channels = Channels {
                stdin: wanted.stdin.then_some(socket.stdin),
                stdout: wanted.stdout.then(|| output(websocket::STDOUT)),
                stderr: wanted.stderr.then(|| output(websocket::STDERR)),
                error: output(websocket::ERROR),
                resize: wanted.tty.then_some(socket.resize),
                version: agreed.version(),
                closed: socket.closed,
            };
            run(channels, job, runtime).await;
            messages.close().await;
        }
        (Agreed::Tunnel(_), _) => {}
    }
}

fn framing(subprotocol: Option<&str>) -> Framing {
    let name = subprotocol.unwrap_or_default();
    Framing { base64: name.contains("base64"), close_signal: name.starts_with("v5.") }
}

/// Waits for all streams that a client has to open; which ones follows from what it wants.
async fn over_spdy(connection: &mut spdy::Connection, wanted: Wanted, version: Version) -> Option<Channels> {
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    // Clients of the first versions know no sizes.
    let sizes = wanted.tty && version == Version::Status;
    let complete = |error: bool, stdin: bool, stdout: bool, stderr: bool, resize: bool| {
        error
            && stdin >= wanted.stdin
            && stdout >= wanted.stdout
            && stderr >= wanted.stderr
            && resize >= sizes
    };
    while !complete(error.is_some(), stdin.is_some(), stdout.is_some(), stderr.is_some(), resize.is_some()) {
        let stream = connection.accept().await?;
        match stream.header("streamtype") {
            Some("error") => error = Some(Output::Spdy(stream.output)),
            Some("stdin") => stdin = Some(stream.input),
            Some("stdout") => stdout = Some(Output::Spdy(stream.output)),
            Some("stderr") => stderr = Some(Output::Spdy(stream.output)),
            Some("resize") => resize = Some(stream.input),
            _ => stream.output.refuse().await,
        }
    }
    let error = error?;
    Some(Channels { stdin, stdout, stderr, error, resize, version, closed: connection.closed() })
}

impl Job {
    fn wanted(&self) -> Wanted {
        match self {
            Job::Exec { wanted, .. } | Job::Attach { wanted, .. } => *wanted,
            Job::Forward { .. } => Wanted::default(),
        }
    }
}

async fn run(channels: Channels, job: Job, runtime: Runtime) {
    match job {
        Job::Exec { target: Target { uid, id }, command, wanted } => {
            let command = StreamedCommand {
                command,
                terminal: wanted.tty.then_some(WINDOW),
                streams: wanted.streams(),
                ..StreamedCommand::default()
            };
            let begin = runtime.stream(&uid, &id, command);
            channels.serve(begin, Box::new(|_| {})).await;
        }
        Job::Attach { target: Target { uid, id }, wanted } => {
            let resize: Resize = {
                let (runtime, uid, id) = (runtime.clone(), uid.clone(), id.clone());
                Box::new(move |window| {
                    let (runtime, uid, id) = (runtime.clone(), uid.clone(), id.clone());
                    tokio::spawn(async move { runtime.resize(&uid, &id, window).await.ok() });
                })
            };
            channels.serve(runtime.attach(&uid, &id, wanted.streams()), resize).await;
        }
        Job::Forward { .. } => {}
    }
}
