//! WebSockets as clients of Kubernetes use them: numbered channels in one connection, or a tunnel for SPDY.
//!
//! ```text
//!  peer ─▶ reading task ─ channels ─▶ short queues       (or all payload ─▶ one byte stream)
//!   └──◀── writing task ◀── messages ── Writer
//! ```
//! Not for: what the channels mean.

use std::{collections::HashMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

pub(crate) use tokio_tungstenite::tungstenite::handshake::derive_accept_key as accept;

/// Data that waits in one channel.
const PIECES: usize = 8;
/// Messages that wait to be written.
const MESSAGES: usize = 16;
/// Largest message: clients send 32 KiB at most.
const MAX_MESSAGE: usize = 1 << 20;
/// How long a client may take to answer a farewell.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes between the tunnel and what it carries.
const TUNNEL: usize = 64 << 10;

/// Channel of standard input.
pub(crate) const STDIN: u8 = 0;
/// Channel of standard output.
pub(crate) const STDOUT: u8 = 1;
/// Channel of standard error.
pub(crate) const STDERR: u8 = 2;
/// Channel of the end.
pub(crate) const ERROR: u8 = 3;
/// Channel of window sizes.
pub(crate) const RESIZE: u8 = 4;
/// "I write no more to channel n" (v5).
const CLOSE: u8 = 255;

/// How payload is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Text: the channel's digit, and base64.
    pub(crate) base64: bool,
    /// The client may close its channels.
    pub(crate) close_signal: bool,
}

/// A connection with channels.
pub(crate) struct Channels {
    pub(crate) stdin: mpsc::Receiver<Bytes>,
    pub(crate) resize: mpsc::Receiver<Bytes>,
    pub(crate) messages: Messages,
    /// Cancelled when the peer is gone.
    pub(crate) closed: CancellationToken,
}

/// Where messages go.
#[derive(Clone)]
pub(crate) struct Messages {
    to: mpsc::Sender<Message>,
    framing: Framing,
}

/// Our side of a channel.
#[derive(Clone)]
pub(crate) struct Writer {
    channel: u8,
    messages: Messages,
}

impl Messages {
    pub(crate) fn channel(&self, channel: u8) -> Writer {
        Writer { channel, messages: self.clone() }
    }

    /// Says farewell.
    pub(crate) async fn close(&self) {
        let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.to.send(Message::Close(Some(farewell))).await.ok();
    }
}

impl Writer {
    /// False when the connection is gone.
    pub(crate) async fn write(&self, bytes: &[u8]) -> bool {
        let message = if self.messages.framing.base64 {
            // The digit of a channel; of those above nine what follows the digits.
            let channel = char::from(self.channel.saturating_add(b'0'));
            Message::Text(format!("{channel}{}", STANDARD.encode(bytes)).into())
        } else {
            Message::Binary([&[self.channel], bytes].concat().into())
        };
        self.messages.to.send(message).await.is_ok()
    }
}

fn socket<T: AsyncRead + AsyncWrite + Unpin>(transport: T) -> impl Future<Output = WebSocketStream<T>> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(transport, Role::Server, Some(config))
}

/// Serves the channels of a command; the lowest one that we write to is opened with an empty message, so that the client sees
/// us.
pub(crate) async fn channels<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    transport: T,
    framing: Framing,
    lowest: u8,
) -> Channels {
    let ((to_stdin, stdin), (to_resize, resize)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
    let inputs = HashMap::from([(STDIN, to_stdin), (RESIZE, to_resize)]);
    let (messages, closed) = serve(transport, framing, inputs).await;
    messages.channel(lowest).write(&[]).await;
    Channels { stdin, resize, messages, closed }
}

/// A connection with two channels for each port: `2n` for data, `2n + 1` for errors.
pub(crate) struct Pairs {
    /// What the client has for each.
    pub(crate) data: Vec<mpsc::Receiver<Bytes>>,
    pub(crate) messages: Messages,
    /// Cancelled when the peer is gone.
    pub(crate) closed: CancellationToken,
}

/// Serves channels of ports: 127 pairs at most.
pub(crate) async fn pairs<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    transport: T,
    framing: Framing,
    count: usize,
) -> Pairs {
    let (mut inputs, mut data) = (HashMap::new(), Vec::new());
    for channel in (0..u8::MAX).step_by(2).take(count) {
        let (to, from) = mpsc::channel(PIECES);
        inputs.insert(channel, to);
        data.push(from);
    }
    let (messages, closed) = serve(transport, framing, inputs).await;
    Pairs { data, messages, closed }
}

/// Reads and writes in tasks of their own. Messages on channels that are not there are passed over.
async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    transport: T,
    framing: Framing,
    mut inputs: HashMap<u8, mpsc::Sender<Bytes>>,
) -> (Messages, CancellationToken) {
    let (sink, mut stream) = socket(transport).await.split();
    let (to, messages) = mpsc::channel(MESSAGES);
    let closed = CancellationToken::new();
    tokio::spawn(write_all(sink, messages, closed.clone()));
    let (gone, guard) = (closed.clone(), closed.clone().drop_guard());
    tokio::spawn(async move {
        let _guard = guard;
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = gone.cancelled() => return,
            };
            let payload = match message {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) => Bytes::from(text),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                // The library answers pings.
                Some(Ok(_)) => continue,
            };
            let Some((channel, bytes)) = take(&payload, framing) else { continue };
            match &bytes[..] {
                &[named] if channel == CLOSE && framing.close_signal => {
                    if inputs.remove(&named).is_none() && named > RESIZE {
                        return;
                    }
                }
                _ if channel == CLOSE && framing.close_signal => return,
                _ => {
                    if let Some(to) = inputs.get(&channel) {
                        // Nobody may want it any more.
                        to.send(bytes).await.ok();
                    }
                }
            }
        }
    });
    (Messages { to, framing }, closed)
}

/// Channel and content of a message; what is neither is passed over.
fn take(payload: &Bytes, framing: Framing) -> Option<(u8, Bytes)> {
    let channel = *payload.first()?;
    let rest = payload.slice(1..);
    if !framing.base64 {
        return Some((channel, rest));
    }
    let channel = channel.checked_sub(b'0')?;
    Some((channel, STANDARD.decode(&rest).ok()?.into()))
}

async fn write_all<S: futures::Sink<Message> + Unpin>(
    mut sink: S,
    mut messages: mpsc::Receiver<Message>,
    closed: CancellationToken,
) {
    while let Some(message) = messages.recv().await {
        let last = matches!(message, Message::Close(_));
        let sent = tokio::select! {
            sent = sink.send(message) => sent.is_ok(),
            () = closed.cancelled() => false,
        };
        if sent && last {
            // What a client writes meanwhile must find somebody: it answers the farewell, or leaves (RFC 6455, 7.1.1).
            drop(tokio::time::timeout(FAREWELL, closed.cancelled()).await);
        }
        if !sent || last {
            break;
        }
    }
    closed.cancel();
}

/// The payload of a connection as one byte stream.
pub(crate) async fn tunnel<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(transport: T) -> DuplexStream {
    let (mut sink, mut stream) = socket(transport).await.split();
    let (ours, theirs) = tokio::io::duplex(TUNNEL);
    let (mut read, mut write) = tokio::io::split(theirs);
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
        write.shutdown().await.ok();
    });
    tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(TUNNEL);
        while let Ok(1..) = read.read_buf(&mut buffer).await {
            if sink.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                return;
            }
        }
        let farewell = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        sink.send(Message::Close(Some(farewell))).await.ok();
    });
    ours
}
