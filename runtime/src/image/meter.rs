//! Decompression with bounds: what a layer may unpack to, and the digest of what it unpacked to.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Read},
};

use sha2::{Digest as _, Sha256};

use super::digest::Digest;

/// Bounds on one layer. The defaults leave room for every image that was seen in practice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after decompression, holes of sparse files included.
    pub layer_bytes: u64,
    /// Entries: each costs an inode.
    pub layer_entries: u64,
    /// Bytes after decompression for each byte before; looked at from [`Limits::ratio_from`] on.
    pub ratio: u64,
    /// Small layers may shrink as much as they like.
    pub ratio_from: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 64 << 30, layer_entries: 1_000_000, ratio: 400, ratio_from: 512 << 20 }
    }
}

/// A bound that was hit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// [`Limits::layer_bytes`].
    #[error("unpacks to more than {0} bytes")]
    Bytes(u64),
    /// [`Limits::ratio`].
    #[error("unpacks to more than {0} times its size: a decompression bomb")]
    Ratio(u64),
}

/// 32 MiB: what the encoders of builders use at most. The library's own limit of 128 MiB, times the layers that are
/// unpacked at once, would be a stranger's to take.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;

/// The stream without its compression, which is told by its first bytes: media types lie more often.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(128 << 10, source);
    let head = source.fill_buf()?;
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source)));
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(source))
}

/// Counts and hashes what is read, and stops where a bound is hit.
pub(crate) struct Metered<'a, R> {
    inner: R,
    hasher: Sha256,
    read: u64,
    compressed: &'a Cell<u64>,
    limits: Limits,
}

impl<'a, R: Read> Metered<'a, R> {
    /// `compressed` is how much of the source was consumed so far.
    pub(crate) fn new(inner: R, compressed: &'a Cell<u64>, limits: Limits) -> Self {
        Self { inner, hasher: Sha256::new(), read: 0, compressed, limits }
    }

    /// Reads to the end: what follows the archive's end mark belongs to the digest too.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::from_hasher(self.hasher))
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hasher.update(&buf[..n]);
        self.read += n as u64;
        let Limits { layer_bytes, ratio, ratio_from, .. } = self.limits;
        if self.read > layer_bytes {
            return Err(io::Error::other(Exceeded::Bytes(layer_bytes)));
        }
        if self.read > ratio_from && self.read / ratio > self.compressed.get() {
            return Err(io::Error::other(Exceeded::Ratio(ratio)));
        }
        Ok(n)
    }
}
