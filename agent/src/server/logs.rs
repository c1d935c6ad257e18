//! `/containerLogs/{namespace}/{pod}/{container}`: what a container wrote, in the kubelet's shapes and words.
//!
//! Reading goes on in a thread of its own that hands over pieces through a short queue, so that a slow reader holds
//! back its own thread and nothing else. Not for: writing logs (the shim does) and rotating them.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use orlop_runtime::log::{Options, Reader};
use tokio::sync::mpsc;

use super::{Body, text};

/// How often a followed log is looked at when it does not grow.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Pieces between the reading thread and the connection.
const PIECES: usize = 4;

/// Where a container's log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// CRI log file.
    pub path: PathBuf,
    /// Pod UID and container id, to ask again whether it still runs.
    pub container: (String, String),
}

/// Finds logs and knows whether their writers live.
pub trait LogSource: Send + Sync {
    /// The newest instance of the container, or with `previous` the one before; the error is for the user.
    fn find<'a>(
        &'a self,
        namespace: &'a str,
        pod: &'a str,
        container: &'a str,
        previous: bool,
    ) -> BoxFuture<'a, Result<LogFile, String>>;
    /// Whether the container may still write.
    fn running<'a>(&'a self, file: &'a LogFile) -> BoxFuture<'a, bool>;
}

/// The log endpoint.
pub struct Logs {
    source: std::sync::Arc<dyn LogSource>,
}

/// What the query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    follow: bool,
    previous: bool,
    options: Options,
}

impl Logs {
    /// Serves what `source` finds.
    #[must_use]
    pub fn new(source: std::sync::Arc<dyn LogSource>) -> Self {
        Self { source }
    }

    pub(super) async fn answer(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Response<Body> {
        let wanted = match parse(query, Timestamp::now()) {
            Ok(wanted) => wanted,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error),
        };
        let file = match self.source.find(namespace, pod, container, wanted.previous).await {
            Ok(file) => file,
            Err(error) => return text(StatusCode::BAD_REQUEST, &error),
        };
        let reader = match Reader::open(&file.path, &wanted.options) {
            Ok(reader) => reader,
            Err(error) => {
                let message = format!("open the log of container {container:?} in pod {pod:?}: {error}");
                return text(StatusCode::INTERNAL_SERVER_ERROR, &message);
            }
        };
        let (pieces, body) = mpsc::channel(PIECES);
        let source = std::sync::Arc::clone(&self.source);
        let running = tokio::runtime::Handle::current();
        let follow = wanted.follow;
        tokio::task::spawn_blocking(move || {
            let alive = || follow && running.block_on(source.running(&file));
            let sleep = || running.block_on(tokio::time::sleep(FOLLOW_EVERY));
            pump(reader, &pieces, alive, sleep);
        });
        let frames =
            futures::stream::unfold(body, |mut body| async move { Some((body.recv().await?, body)) });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let plain = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
        response
    }
}

type Piece = Result<Frame<Bytes>, std::io::Error>;

/// Sends the log until its end; with a living writer, until that has ended and all it wrote is read.
fn pump(mut reader: Reader, pieces: &mpsc::Sender<Piece>, alive: impl Fn() -> bool, sleep: impl Fn()) {
    loop {
        // Asked before reading to the end: what it wrote before it ended is then still read.
        let more_may_come = alive();
        loop {
            match reader.next() {
                Ok(Some(piece)) => {
                    if pieces.blocking_send(Ok(Frame::data(Bytes::from(piece)))).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    let _reader_is_gone = pieces.blocking_send(Err(error));
                    return;
                }
            }
        }
        if !more_may_come || reader.finished() || pieces.is_closed() {
            return;
        }
        sleep();
    }
}

fn parse(query: &str, now: Timestamp) -> Result<Wanted, String> {
    let mut wanted = Wanted::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decode(value);
        let bad = |error: &dyn std::fmt::Display| format!("invalid {key} {value:?}: {error}");
        let flag = || matches!(value.as_str(), "true" | "1" | "");
        match key {
            "follow" => wanted.follow = flag(),
            "previous" => wanted.previous = flag(),
            "timestamps" => wanted.options.timestamps = flag(),
            "tailLines" => wanted.options.tail = Some(value.parse().map_err(|error| bad(&error))?),
            "limitBytes" => wanted.options.limit_bytes = Some(value.parse().map_err(|error| bad(&error))?),
            "sinceSeconds" => {
                let seconds: u32 = value.parse().map_err(|error| bad(&error))?;
                let since = now
                    .checked_sub(SignedDuration::from_secs(i64::from(seconds)))
                    .map_err(|error| bad(&error))?;
                wanted.options.since = Some(since);
            }
            "sinceTime" => wanted.options.since = Some(value.parse().map_err(|error| bad(&error))?),
            _ => {}
        }
    }
    Ok(wanted)
}

/// `%41` and nothing else: `+` is a plus in the values used here (time zone offsets).
pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_kubectl_logs_is_understood() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let wanted = parse("follow=true&tailLines=3&sinceSeconds=60&timestamps=true", now).unwrap();
        let options = Options {
            tail: Some(3),
            since: "2026-01-01T00:00:00Z".parse().ok(),
            timestamps: true,
            ..Options::default()
        };
        assert_eq!(wanted, Wanted { follow: true, previous: false, options });
        let since = parse("sinceTime=2026-01-01T00%3A00%3A00Z", now).unwrap().options.since;
        assert_eq!(since, "2026-01-01T00:00:00Z".parse().ok());
        assert!(parse("tailLines=-1", now).unwrap_err().contains("tailLines"));
    }
}
