//! A SPDY/3.1 connection as a server has it: streams that the client opens, each with data both ways.
//!
//! ```text
//!  peer ─▶ reading task ─ opened streams ─▶ Connection::accept
//!   ▲          ├─ data ─▶ Stream.input (short queue: who does not read holds the peer back)
//!   └─ writing task ◀─ frames ─┴─ Writer
//! ```
//! Not for: what the streams mean (`remote`, `forward`).

mod frame;
mod header;

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::frame::{CANCEL, Decoder, Encoder, Frame, MAX_DATA, REFUSED};
pub(crate) use self::header::Headers;

/// Pieces of data that wait in one stream.
const PIECES: usize = 8;
/// Frames that wait to be written.
const FRAMES: usize = 16;
/// How long a peer that does not read holds up the end of a connection.
const LAST_WORDS: Duration = Duration::from_secs(30);
/// Streams of one connection: a port-forward has two for each connection that it carries.
const MAX_STREAMS: usize = 2048;

/// The server's side of a connection.
pub(crate) struct Connection {
    opened: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Vec<u8>>,
    closed: CancellationToken,
    _ends_reading: DropGuard,
}

/// One stream that a client has opened.
pub(crate) struct Stream {
    /// Names in lower case.
    pub(crate) headers: Headers,
    /// Ends with the client's side.
    pub(crate) input: mpsc::Receiver<Bytes>,
    /// Our side.
    pub(crate) output: Writer,
}

impl Stream {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Our side of a stream.
#[derive(Clone)]
pub(crate) struct Writer {
    /// Odd, rising.
    pub(crate) id: u32,
    frames: mpsc::Sender<Vec<u8>>,
}

impl Writer {
    /// False when the connection is gone.
    pub(crate) async fn write(&self, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(MAX_DATA) {
            if self.frames.send(frame::data(self.id, piece, false)).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing follows.
    pub(crate) async fn finish(&self) {
        // A connection that is gone has ended it too.
        self.frames.send(frame::data(self.id, &[], true)).await.ok();
    }

    /// Ends both sides.
    pub(crate) async fn reset(&self) {
        self.frames.send(frame::reset(self.id, CANCEL)).await.ok();
    }

    /// The stream is not one that is served.
    pub(crate) async fn refuse(&self) {
        self.frames.send(frame::reset(self.id, REFUSED)).await.ok();
    }
}

impl Connection {
    /// Takes over a connection; what is written before it is dropped still goes out.
    pub(crate) fn new<T: AsyncRead + AsyncWrite + Send + 'static>(transport: T) -> Self {
        let (read, write) = tokio::io::split(transport);
        let (frames, to_write) = mpsc::channel(FRAMES);
        let (open, opened) = mpsc::channel(PIECES);
        let (closed, stop) = (CancellationToken::new(), CancellationToken::new());
        tokio::spawn(write_all(write, to_write, closed.clone(), stop.clone()));
        let (gone, stopped, replies) = (closed.clone(), stop.clone(), frames.clone());
        tokio::spawn(async move {
            tokio::select! {
                // What was said last still has to go out.
                () = stopped.cancelled() => {}
                ended = read_all(read, replies, open) => {
                    if let Err(error) = ended {
                        tracing::debug!(error = &error as &dyn std::error::Error, "SPDY connection");
                    }
                    gone.cancel();
                }
            }
        });
        Self { opened, frames, closed, _ends_reading: stop.drop_guard() }
    }

    /// The next stream; `None` when there will be no more.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.opened.recv().await
    }

    /// Cancelled when the peer is gone.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Says farewell.
    pub(crate) async fn close(self) {
        self.frames.send(frame::go_away(0)).await.ok();
    }
}

async fn write_all(
    mut write: impl AsyncWrite + Unpin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    closed: CancellationToken,
    stop: CancellationToken,
) {
    let late = async move {
        stop.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::pin!(late);
    while let Some(frame) = frames.recv().await {
        let written = async { write.write_all(&frame).await.is_ok() && write.flush().await.is_ok() };
        let written = tokio::select! {
            written = written => written,
            () = closed.cancelled() => false,
            () = &mut late => false,
        };
        if !written {
            closed.cancel();
            return;
        }
    }
    // Nobody writes any more.
    write.shutdown().await.ok();
}

async fn read_all(
    mut read: impl AsyncRead + Unpin,
    frames: mpsc::Sender<Vec<u8>>,
    open: mpsc::Sender<Stream>,
) -> Result<(), frame::SpdyError> {
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::default());
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut buffer = BytesMut::with_capacity(MAX_DATA);
    let mut last = 0;
    loop {
        while let Some(frame) = decoder.next(&mut buffer)? {
            match frame {
                Frame::Open { id, headers, fin } => {
                    if streams.len() >= MAX_STREAMS {
                        streams.retain(|_, to| !to.is_closed());
                    }
                    if id % 2 == 0 || id <= last || streams.len() >= MAX_STREAMS {
                        frames.send(frame::reset(id, REFUSED)).await.ok();
                        continue;
                    }
                    last = id;
                    let (to, input) = mpsc::channel(PIECES);
                    if !fin {
                        streams.insert(id, to);
                    }
                    frames.send(encoder.reply(id)).await.ok();
                    let output = Writer { id, frames: frames.clone() };
                    if open.send(Stream { headers, input, output }).await.is_err() {
                        streams.remove(&id);
                    }
                }
                Frame::Data { id, bytes, fin } => {
                    if let Some(to) = streams.get(&id)
                        && !bytes.is_empty()
                    {
                        // Nobody may want it any more.
                        to.send(bytes).await.ok();
                    }
                    if fin {
                        streams.remove(&id);
                    }
                }
                Frame::Reset { id } => drop(streams.remove(&id)),
                Frame::Ping(number) => drop(frames.send(frame::ping(number)).await),
                Frame::GoAway => {}
            }
        }
        match read.read_buf(&mut buffer).await {
            Ok(1..) => {}
            _ => return Ok(()),
        }
    }
}
