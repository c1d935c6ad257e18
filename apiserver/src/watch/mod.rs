//! Watches: from a place in history to a stream of JSON lines.
//!
//! ```text
//! initial objects ──▶ ADDED … ──▶ (BOOKMARK) ──▶ live: Cursor ──filter, transitions──▶ lines
//! ```
//! The stream is pulled by its reader: nothing is queued for a slow one, the store's ring moves on without it
//! and the watch ends with `Expired`. Not here: which revision to start from (`rest`).

mod transition;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::rest::encode::Encoder;
use crate::rest::filter::Filter;
use crate::rest::status::Failure;
use crate::store::{Cursor, Object};

/// How often a reader that asks for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Bookmarks shortly before the end save the next watch a relist.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Lines are gathered up to about this size before they are handed on.
const CHUNK: usize = 64 << 10;

/// Everything a watch needs.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) prefix: String,
    pub(crate) filter: Filter,
    pub(crate) encoder: Encoder,
    pub(crate) cursor: Cursor,
    pub(crate) initial: VecDeque<Arc<Object>>,
    /// Whether the initial objects end with a marked bookmark (`sendInitialEvents`).
    pub(crate) mark_initial: bool,
    pub(crate) bookmarks: bool,
    pub(crate) timeout: Duration,
    pub(crate) closing: CancellationToken,
}

struct Running {
    watch: Watch,
    ends: Instant,
    next_bookmark: Instant,
    last_sent: bool,
    over: bool,
}

/// The lines of a watch, several to a chunk.
pub(crate) fn stream(watch: Watch) -> impl Stream<Item = Bytes> + Send {
    let now = Instant::now();
    let ends = now + watch.timeout;
    let next_bookmark = now + BOOKMARK_EVERY;
    let running = Running { watch, ends, next_bookmark, last_sent: false, over: false };
    futures::stream::unfold(running, |mut running| async move {
        let chunk = running.next().await?;
        Some((Bytes::from(chunk), running))
    })
}

impl Running {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(lines) = self.initial() {
            return Some(lines);
        }
        loop {
            if self.over || self.watch.closing.is_cancelled() {
                return None;
            }
            let lines = self.live();
            if !lines.is_empty() {
                return Some(lines);
            }
            let (closing, wake_at) = (self.watch.closing.clone(), self.wake_at());
            tokio::select! {
                alive = self.watch.cursor.changed() => self.over = !alive,
                () = closing.cancelled() => self.over = true,
                () = tokio::time::sleep_until(wake_at) => {
                    if let Some(line) = self.on_time() {
                        return Some(line);
                    }
                }
            }
        }
    }

    fn wake_at(&self) -> Instant {
        if !self.watch.bookmarks {
            return self.ends;
        }
        let last = if self.last_sent { self.ends } else { self.ends - LAST_BOOKMARK.min(self.watch.timeout) };
        self.next_bookmark.min(last)
    }

    fn on_time(&mut self) -> Option<Vec<u8>> {
        let now = Instant::now();
        if now >= self.ends {
            self.over = true;
            return None;
        }
        self.last_sent = self.ends - now <= LAST_BOOKMARK;
        self.next_bookmark = now + BOOKMARK_EVERY;
        Some(self.bookmark(false))
    }

    fn initial(&mut self) -> Option<Vec<u8>> {
        let mut lines = Vec::new();
        while let Some(object) = self.watch.initial.pop_front() {
            if self.push(&mut lines, "ADDED", &object.value).is_err() {
                self.over = true;
                break;
            }
            if lines.len() >= CHUNK {
                return Some(lines);
            }
        }
        if self.watch.mark_initial {
            self.watch.mark_initial = false;
            lines.extend(self.bookmark(true));
        }
        (!lines.is_empty()).then_some(lines)
    }

    fn live(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < CHUNK {
            let events = match self.watch.cursor.take(&self.watch.prefix, 64) {
                Ok(events) if events.is_empty() => break,
                Ok(events) => events,
                Err(lost) => {
                    let revision = self.watch.cursor.revision();
                    let text = format!("too old resource version: {revision} ({})", lost.floor);
                    self.fail(&mut lines, &Failure::expired(text));
                    break;
                }
            };
            for event in events {
                let Some((word, bytes)) = transition::seen(&event, &self.watch.filter) else { continue };
                if let Err(failure) = self.push(&mut lines, word, &bytes) {
                    self.fail(&mut lines, &failure);
                    return lines;
                }
            }
        }
        lines
    }

    fn fail(&mut self, lines: &mut Vec<u8>, failure: &Failure) {
        lines.extend(error_line(failure));
        self.over = true;
    }

    fn push(&self, lines: &mut Vec<u8>, word: &str, object: &Bytes) -> Result<(), Failure> {
        let object = self.watch.encoder.one(object)?;
        lines.extend_from_slice(b"{\"type\":\"");
        lines.extend_from_slice(word.as_bytes());
        lines.extend_from_slice(b"\",\"object\":");
        lines.extend_from_slice(&object);
        lines.extend_from_slice(b"}\n");
        Ok(())
    }

    fn bookmark(&self, initial_end: bool) -> Vec<u8> {
        let kind = self.watch.encoder.kind;
        let mut metadata = json!({"resourceVersion": self.watch.cursor.revision().to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": kind.gvk.kind, "apiVersion": kind.gvk.api_version(), "metadata": metadata});
        line("BOOKMARK", &self.watch.encoder.value(object))
    }
}

fn line(word: &str, object: &Value) -> Vec<u8> {
    format!("{{\"type\":\"{word}\",\"object\":{object}}}\n").into_bytes()
}

/// A failure as the last line of a watch.
pub(crate) fn error_line(failure: &Failure) -> Vec<u8> {
    line("ERROR", &failure.to_json())
}
