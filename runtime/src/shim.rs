//! A connection to one shim: questions with answers, and events.
//!
//! ```text
//!  callers ── (request, oneshot) ──▶ task ── frames ──▶ shim
//!                                     └── number 0 ──▶ events
//! ```
//! Not for: what the answers mean.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    process::Stdio,
};

use futures::{StreamExt as _, channel::mpsc};
use orlop_shim::protocol::{LOGS, Request, Response, VERSION, next_frame};
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
};

use crate::{api::SandboxSpec, bundle, errors::ShimError};

/// What the shim tells unasked. Not tokio's channels: those have room for 32 messages from the start, for each pod.
pub(crate) type Events = mpsc::UnboundedReceiver<Response>;
type Question = (Request, oneshot::Sender<Response>);

/// Cheap to clone. Ends when the last clone is gone or the shim is.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    uid: String,
    /// Of the protocol that it speaks.
    pub(crate) version: u32,
    ask: mpsc::UnboundedSender<Question>,
}

impl Shim {
    /// Connects, greets and subscribes, to logs that reach `log_limit` too.
    pub(crate) async fn connect(dir: &Path, uid: &str, log_limit: u64) -> Result<(Shim, Events), ShimError> {
        let failed = |source| ShimError::Connect { dir: dir.to_owned(), source };
        let stream = open(dir).await.map_err(failed)?;
        let (ask, questions) = mpsc::unbounded();
        let (tell, events) = mpsc::unbounded();
        tokio::spawn(talk(stream, questions, tell));
        let mut shim = Shim { uid: uid.to_owned(), version: 0, ask };
        match shim.ask(Request::Hello { version: VERSION }).await? {
            Response::Hello { version, .. } => shim.version = version,
            other => return Err(ShimError::Unexpected(other)),
        }
        shim.done(Request::Subscribe).await?;
        if shim.tells_of_logs() {
            shim.done(Request::WatchLogs { limit: log_limit }).await?;
        }
        Ok((shim, events))
    }

    /// Others' logs have to be looked at.
    pub(crate) fn tells_of_logs(&self) -> bool {
        self.version >= LOGS
    }

    /// Any answer but a refusal.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, ShimError> {
        let (reply, answer) = oneshot::channel();
        let lost = || ShimError::Lost(self.uid.clone());
        self.ask.unbounded_send((request, reply)).map_err(|_| lost())?;
        match answer.await.map_err(|_| lost())? {
            Response::Error { step, text } => Err(ShimError::Refused { step, text }),
            other => Ok(other),
        }
    }

    /// Nothing but "done".
    pub(crate) async fn done(&self, request: Request) -> Result<(), ShimError> {
        match self.ask(request).await? {
            Response::Ok => Ok(()),
            other => Err(ShimError::Unexpected(other)),
        }
    }
}

/// Through a descriptor of the directory: the whole path may be longer than a socket address can be.
pub(crate) async fn open(dir: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir: OwnedFd = rustix::fs::open(dir, flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), bundle::SOCKET)).await
}

async fn talk(
    stream: UnixStream,
    mut questions: mpsc::UnboundedReceiver<Question>,
    events: mpsc::UnboundedSender<Response>,
) {
    let (mut read, mut write) = stream.into_split();
    let mut waiting: HashMap<u32, oneshot::Sender<Response>> = HashMap::new();
    let mut number = 0_u32;
    let mut input = Vec::new();
    loop {
        tokio::select! {
            question = questions.next() => {
                let Some((request, reply)) = question else { return };
                number = number.checked_add(1).unwrap_or(1);
                waiting.insert(number, reply);
                if write.write_all(&request.frame(number)).await.is_err() {
                    return;
                }
            }
            got = read.read_buf(&mut input) => {
                if !matches!(got, Ok(1..)) {
                    return;
                }
                while let Ok(Some(frame)) = next_frame(&mut input) {
                    match Response::parse(&frame) {
                        Ok((0, event)) => drop(events.unbounded_send(event)),
                        Ok((number, answer)) => {
                            // Whoever asked may have stopped waiting.
                            if let Some(reply) = waiting.remove(&number) {
                                drop(reply.send(answer));
                            }
                        }
                        Err(malformed) => tracing::warn!(%malformed, "frame of a shim"),
                    }
                }
            }
        }
    }
}

/// Starts a shim for a pod. Returns when it serves; it goes on without us.
pub(crate) async fn start(shim: &Path, dir: &Path, spec: &SandboxSpec, creator: &Path) -> Result<(), String> {
    let mut command = tokio::process::Command::new(shim);
    command.arg(dir).arg(&spec.pod.uid).arg(creator).args(spec.share_pid.then_some("share-pid")).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().await.map_err(|error| format!("{}: {error}", shim.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
