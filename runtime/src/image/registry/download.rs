//! One large blob into a file: goes on after breaks, from another host if need be, and proves the content.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use reqwest::header::CONTENT_RANGE;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::{
    Registry, Seat,
    error::RegistryError,
    retry::{self, Pace},
};
use crate::image::digest::{Digest, Mismatch};

/// Failures in a row at one host that lead no further.
const ATTEMPTS: u32 = 5;
/// An attempt that brought so much counts as a new beginning.
const STEP: u64 = 1 << 20;
/// Between two progress reports of one layer.
const REPORT_STEP: u64 = 256 << 10;

/// A blob on its way.
struct Download<'a> {
    file: tokio::fs::File,
    hasher: Sha256,
    done: u64,
    reported: u64,
    digest: &'a Digest,
    size: u64,
    report: &'a (dyn Fn(u64) + Send + Sync),
}

/// What became of one host.
enum Outcome {
    Whole,
    /// The next host may do better; where it is the last one, this is why.
    Failed(RegistryError),
}

impl Registry {
    /// Digest and size are checked.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        path: &Path,
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let file = tokio::fs::File::create(path).await.map_err(RegistryError::Write)?;
        let mut download =
            Download { file, hasher: Sha256::new(), done: 0, reported: 0, digest, size, report };
        let mut failures = Vec::new();
        for seat in self.seats.iter().filter(|seat| seat.host.pulls) {
            match self.ask_one(seat, &mut download).await? {
                Outcome::Whole => {
                    download.file.flush().await.map_err(RegistryError::Write)?;
                    report(size);
                    return Ok(());
                }
                Outcome::Failed(error) => failures.push((seat.host.name().to_owned(), error)),
            }
        }
        let Some((_, last)) = failures.pop() else { return Err(RegistryError::NoHost) };
        Err(last.after(failures))
    }

    async fn ask_one(&self, seat: &Seat, download: &mut Download<'_>) -> Result<Outcome, RegistryError> {
        // What another host sent may be what makes the whole wrong: then this one starts from nothing.
        let mut foreign = download.done > 0;
        // A server that gives more, then less, then more leads nowhere: only what was never reached before counts.
        let mut best = download.done;
        let mut attempt = 0;
        let mut broke_off = None;
        loop {
            let before = download.done;
            let error = match self.attempt(seat, download).await {
                Ok(()) if download.done == download.size => match download.check() {
                    Ok(()) => return Ok(Outcome::Whole),
                    Err(mismatch) => {
                        download.restart().await?;
                        if !std::mem::take(&mut foreign) {
                            return Ok(Outcome::Failed(mismatch.into()));
                        }
                        continue;
                    }
                },
                // Ended early without an error: go on only while that leads further.
                Ok(()) if download.done > before => RegistryError::from(download.wrong_size()),
                Ok(()) => {
                    return Ok(Outcome::Failed(broke_off.unwrap_or_else(|| download.wrong_size().into())));
                }
                Err(error @ RegistryError::Write(_)) => return Err(error),
                Err(error) if error.is_transient() => error,
                // Where it broke off says more than what a registry answers to being asked for the rest.
                Err(error) => return Ok(Outcome::Failed(broke_off.unwrap_or(error))),
            };
            attempt = if download.done.saturating_sub(best) >= STEP { 1 } else { attempt + 1 };
            best = best.max(download.done);
            let pause = retry::pause(attempt, error.asked_pause()).filter(|_| attempt < ATTEMPTS);
            tracing::debug!(digest = %download.digest, done = download.done, %error, "blob broke off");
            let says_more = matches!(error, RegistryError::BrokeOff { .. } | RegistryError::Mismatch(_));
            if says_more || broke_off.is_none() {
                broke_off = Some(error);
            }
            match (pause, broke_off.take()) {
                (None, Some(error)) => return Ok(Outcome::Failed(error)),
                (pause, error) => {
                    broke_off = error;
                    tokio::time::sleep(pause.unwrap_or_default()).await;
                }
            }
        }
    }

    async fn attempt(&self, seat: &Seat, download: &mut Download<'_>) -> Result<(), RegistryError> {
        let url = seat.host.url("blobs", download.digest.as_str());
        let from = Some(download.done).filter(|done| *done > 0);
        // Until the content begins; from then on its pace is what counts.
        let begun = tokio::time::timeout(self.timing.document, self.request(seat, &url, None, from)).await;
        let begun = begun.unwrap_or_else(|_| Err(RegistryError::Unreachable("no answer in time".into())));
        let response = begun?;
        match (response.status().as_u16(), from) {
            // Nothing there: the blob is shorter than promised.
            (416, _) => return Ok(()),
            (206, Some(from)) if starts_at(&response, from) => {}
            (206, _) => {
                return Err(RegistryError::Other("answered with another range than was asked for".into()));
            }
            // The server does not know ranges.
            (_, Some(_)) => download.restart().await?,
            (_, None) => {}
        }
        let began = Instant::now();
        let mut pace = Pace::new(self.timing.pace_window, self.timing.pace_bytes);
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| download.broke_off(io::Error::other(error.without_url())))?;
            download.write(&chunk).await?;
            if download.done < download.size && !pace.came(chunk.len() as u64, began.elapsed()) {
                return Err(download.broke_off(too_slow(self.timing.pace_window)));
            }
        }
        Ok(())
    }
}

fn too_slow(window: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("next to nothing came in {} s", window.as_secs_f32()))
}

fn starts_at(response: &reqwest::Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    // Some servers leave it out; the digest decides in the end.
    range.is_none_or(|range| {
        range.strip_prefix("bytes ").is_some_and(|range| range.starts_with(&format!("{from}-")))
    })
}

impl Download<'_> {
    async fn write(&mut self, chunk: &[u8]) -> Result<(), RegistryError> {
        self.done += chunk.len() as u64;
        if self.done > self.size {
            return Err(self.wrong_size().into());
        }
        self.hasher.update(chunk);
        self.file.write_all(chunk).await.map_err(RegistryError::Write)?;
        if self.done - self.reported >= REPORT_STEP {
            self.reported = self.done;
            (self.report)(self.done);
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), RegistryError> {
        self.file.set_len(0).await.map_err(RegistryError::Write)?;
        self.file.rewind().await.map_err(RegistryError::Write)?;
        (self.hasher, self.done, self.reported) = (Sha256::new(), 0, 0);
        Ok(())
    }

    fn check(&self) -> Result<(), Mismatch> {
        let actual = Digest::from_hasher(self.hasher.clone());
        if actual == *self.digest {
            return Ok(());
        }
        Err(Mismatch::Digest { expected: self.digest.clone(), actual })
    }

    fn broke_off(&self, source: io::Error) -> RegistryError {
        RegistryError::BrokeOff { done: self.done, size: self.size, source }
    }

    fn wrong_size(&self) -> Mismatch {
        Mismatch::Size { digest: self.digest.clone(), expected: self.size, actual: self.done }
    }
}
