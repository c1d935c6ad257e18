//! Port-forward: pairs of SPDY streams, or of channels of a WebSocket, each joined to a connection to a port of the pod. Not
//! for: who may.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use orlop_runtime::Runtime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::{
    spdy::{Connection, Stream, Writer},
    websocket::{self, Pairs},
};

/// How long half a pair waits for the other half.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often that is looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Bytes read at once.
const PIECE: usize = 32 << 10;

/// The pod whose ports are meant.
pub(super) struct Pod {
    pub(super) runtime: Runtime,
    pub(super) uid: String,
}

/// Serves a connection until the client ends it.
pub(super) async fn serve(mut connection: Connection, pod: Pod) {
    let (pod, closed) = (Arc::new(pod), connection.closed());
    let mut halves: HashMap<String, (Stream, Instant)> = HashMap::new();
    let mut forwards = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_AGAIN);
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = forwards.join_next() => continue,
            _ = look.tick() => {
                halves.retain(|_, (_, since)| since.elapsed() < PATIENCE);
                continue;
            }
            () = closed.cancelled() => return,
        };
        let Some(stream) = stream else { break };
        let Some((port, request)) = purpose(&stream) else {
            stream.output.refuse().await;
            continue;
        };
        match halves.remove(&request) {
            None => {
                halves.insert(request, (stream, Instant::now()));
            }
            Some((other, _)) => match pair(stream, other) {
                Some((data, error)) => {
                    forwards.spawn(forward(Arc::clone(&pod), port, data, error));
                }
                None => tracing::debug!(request, "two streams of one kind for one port-forward"),
            },
        }
    }
    // Connections go on until they end, or the client does.
    tokio::select! {
        () = closed.cancelled() => {}
        () = async { while forwards.join_next().await.is_some() {} } => connection.close().await,
    }
}

/// Serves one connection to each port, for as long as the pod or the client has it: the older form of WebSockets, in which
/// nobody can say that only one direction has ended.
pub(super) async fn serve_pairs(pairs: Pairs, ports: Vec<u16>, pod: Pod) {
    let Pairs { data, messages, closed } = pairs;
    let pod = Arc::new(pod);
    let mut forwards = JoinSet::new();
    for ((input, port), channel) in data.into_iter().zip(ports).zip((0..u8::MAX).step_by(2)) {
        let (output, error) = (messages.channel(channel), messages.channel(channel + 1));
        // The client is told which channel is whose.
        for writer in [&output, &error] {
            writer.write(&port.to_le_bytes()).await;
        }
        forwards.spawn(forward_pair(Arc::clone(&pod), port, input, output, error));
    }
    tokio::select! {
        () = closed.cancelled() => {}
        () = async { while forwards.join_next().await.is_some() {} } => messages.close().await,
    }
}

async fn forward_pair(
    pod: Arc<Pod>,
    port: u16,
    input: mpsc::Receiver<Bytes>,
    output: websocket::Writer,
    error: websocket::Writer,
) {
    match pod.runtime.dial(&pod.uid, port).await {
        Ok(connection) => {
            let (mut read, write) = connection.into_split();
            let show = async {
                let mut piece = vec![0; PIECE];
                while let Ok(got @ 1..) = read.read(&mut piece).await {
                    if !output.write(&piece[..got]).await {
                        return;
                    }
                }
            };
            let give = async {
                give(input, write).await;
                // The pod may still have something to say.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = show => {}
                () = give => {}
            }
        }
        Err(why) => drop(error.write(failure(port, &pod.uid, &why).as_bytes()).await),
    }
}

fn failure(port: u16, uid: &str, why: &std::io::Error) -> String {
    format!("error forwarding port {port} to pod {uid}: {why}")
}

/// The port, and what tells which two streams belong together: old clients say nothing, and open data right behind error.
fn purpose(stream: &Stream) -> Option<(u16, String)> {
    let kind = stream.header("streamtype")?;
    let port = stream.header("port")?.parse::<u16>().ok().filter(|port| *port > 0)?;
    let id = stream.output.id;
    let request = match (stream.header("requestid"), kind) {
        (Some(request), "data" | "error") => request.to_owned(),
        (None, "error") => id.to_string(),
        (None, "data") => id.checked_sub(2)?.to_string(),
        _ => return None,
    };
    Some((port, request))
}

/// Data and error, in this order.
fn pair(one: Stream, other: Stream) -> Option<(Stream, Stream)> {
    match (one.header("streamtype"), other.header("streamtype")) {
        (Some("data"), Some("error")) => Some((one, other)),
        (Some("error"), Some("data")) => Some((other, one)),
        _ => None,
    }
}

async fn forward(pod: Arc<Pod>, port: u16, data: Stream, error: Stream) {
    match pod.runtime.dial(&pod.uid, port).await {
        Ok(connection) => {
            let (read, write) = connection.into_split();
            tokio::join!(give(data.input, write), show(read, &data.output));
        }
        Err(why) => {
            error.output.write(failure(port, &pod.uid, &why).as_bytes()).await;
            data.output.reset().await;
        }
    }
    error.output.finish().await;
}

async fn give(mut from: mpsc::Receiver<Bytes>, mut to: tokio::net::tcp::OwnedWriteHalf) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

async fn show(mut from: tokio::net::tcp::OwnedReadHalf, to: &Writer) {
    let mut piece = vec![0; PIECE];
    while let Ok(got @ 1..) = from.read(&mut piece).await {
        if !to.write(&piece[..got]).await {
            return;
        }
    }
    to.finish().await;
}
