//! A command in a container, or a look at one, joined to a client's streams.
//!
//! ```text
//!  stdin ─▶ pipe or terminal        resize ─▶ terminal
//!  stdout, stderr ◀─ pipes or terminal; then the end ─▶ error stream
//! ```
//! Not for: how streams travel (`spdy`, `websocket`), who may run what.

use std::{io, time::Duration};

use bytes::Bytes;
use orlop_runtime::{
    ExecError,
    stream::{Ends, Session, Window},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    spdy,
    status::{Version, words},
    websocket,
};
use crate::wire::chain;

/// What was written last is still handed on; a process that a command left behind may hold its output for ever.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes read at once.
const PIECE: usize = 32 << 10;
/// Longest text of one window size.
const MAX_SIZE: usize = 1024;

/// Our side of one of a client's streams.
pub(super) enum Output {
    /// A SPDY stream.
    Spdy(spdy::Writer),
    /// A channel of a WebSocket.
    Channel(websocket::Writer),
}

impl Output {
    async fn write(&self, bytes: &[u8]) -> bool {
        match self {
            Output::Spdy(writer) => writer.write(bytes).await,
            Output::Channel(writer) => writer.write(bytes).await,
        }
    }

    async fn finish(&self) {
        if let Output::Spdy(writer) = self {
            writer.finish().await;
        }
    }
}

/// A client's streams.
pub(super) struct Channels {
    pub(super) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(super) stdout: Option<Output>,
    pub(super) stderr: Option<Output>,
    pub(super) error: Output,
    pub(super) resize: Option<mpsc::Receiver<Bytes>>,
    pub(super) version: Version,
    /// Cancelled when the client is gone.
    pub(super) closed: CancellationToken,
}

/// Sets the size of a terminal that is not the session's own.
pub(super) type Resize = Box<dyn Fn(Window) + Send>;

impl Channels {
    /// Runs until the session has ended or the client is gone; says how it ended.
    pub(super) async fn serve(
        mut self,
        begin: impl Future<Output = Result<Session, ExecError>>,
        resize: Resize,
    ) {
        let closed = self.closed.clone();
        let end = tokio::select! {
            end = self.join(begin, resize) => end.map_err(|error| chain(&error)),
            // Dropping the session ends the command.
            () = closed.cancelled() => return,
        };
        let text = words(self.version, &end);
        if !text.is_empty() {
            self.error.write(text.as_bytes()).await;
        }
        for output in [self.stdout, self.stderr, Some(self.error)].into_iter().flatten() {
            output.finish().await;
        }
    }

    async fn join(
        &mut self,
        begin: impl Future<Output = Result<Session, ExecError>>,
        mut resize: Resize,
    ) -> Result<i32, ExecError> {
        let mut session = begin.await?;
        let Ends { stdin, stdout, stderr, terminal } = std::mem::take(&mut session.ends);
        let ended = CancellationToken::new();
        let (typed, sizes) = (self.stdin.take(), self.resize.take());
        let shown = async {
            match terminal {
                Some(terminal) => {
                    match terminal.window() {
                        Ok(window) => resize = Box::new(move |size| drop(window.resize(size))),
                        Err(error) => tracing::debug!(%error, "terminal without a size"),
                    }
                    let (out, into) = tokio::io::split(terminal);
                    let inputs = async { tokio::join!(give(typed, Some(into)), follow(sizes, resize)) };
                    until(show(Some(out), self.stdout.as_ref(), &ended), inputs).await;
                }
                None => {
                    let outputs = async {
                        tokio::join!(
                            show(stdout, self.stdout.as_ref(), &ended),
                            show(stderr, self.stderr.as_ref(), &ended)
                        );
                    };
                    let inputs = async { tokio::join!(give(typed, stdin), follow(sizes, resize)) };
                    until(outputs, inputs).await;
                }
            }
        };
        let code = async {
            let code = session.wait().await;
            ended.cancel();
            code
        };
        tokio::join!(shown, code).1
    }
}

/// Both, until the first is over.
async fn until(first: impl Future<Output = ()>, other: impl Future) {
    let other = async {
        other.await;
        std::future::pending().await
    };
    tokio::select! {
        () = first => {}
        () = other => {}
    }
}

/// Hands on what a client writes; the end of its stream is the end of the input.
async fn give(from: Option<mpsc::Receiver<Bytes>>, to: Option<impl AsyncWrite + Unpin>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            // Nobody reads it: the rest of what the client writes goes nowhere, but must not hold up its connection.
            while from.recv().await.is_some() {}
            return;
        }
    }
}

async fn show(from: Option<impl AsyncRead + Unpin>, to: Option<&Output>, ended: &CancellationToken) {
    let Some(mut from) = from else { return };
    let mut piece = vec![0; PIECE];
    loop {
        let quiet = async {
            ended.cancelled().await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        let got: io::Result<usize> = tokio::select! {
            got = from.read(&mut piece) => got,
            () = quiet => return,
        };
        let Ok(got @ 1..) = got else { return };
        if let Some(to) = to
            && !to.write(&piece[..got]).await
        {
            return;
        }
    }
}

#[derive(Debug, Deserialize)]
struct Size {
    #[serde(alias = "Width")]
    width: u16,
    #[serde(alias = "Height")]
    height: u16,
}

/// One JSON object after the other, cut anywhere.
async fn follow(from: Option<mpsc::Receiver<Bytes>>, resize: Resize) {
    let Some(mut from) = from else { return };
    let mut text: Vec<u8> = Vec::new();
    while let Some(bytes) = from.recv().await {
        text.extend(&bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&text).into_iter::<Size>();
        while let Some(Ok(Size { width, height })) = sizes.next() {
            if width > 0 && height > 0 {
                resize(Window { rows: height, columns: width });
            }
        }
        let read = sizes.byte_offset();
        text.drain(..read);
        if text.len() > MAX_SIZE {
            return;
        }
    }
}
