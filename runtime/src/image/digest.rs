//! `[p]` Content digests: parsing, computing, and readers that prove what passed through them.
//!
//! Only sha256 is known: it is what every registry serves and what names the files of the store.

use std::{
    cell::Cell,
    fmt,
    io::{self, Read},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `sha256:<64 lower-case hex digits>`; cannot hold anything else, so it is safe in file names.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest; the wording is upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex`.
    #[error("invalid checksum digest format")]
    Format,
    /// Not 64 digits.
    #[error("invalid checksum digest length")]
    Length,
    /// Not sha256.
    #[error("unsupported digest algorithm")]
    Algorithm,
}

impl Digest {
    /// Reads `sha256:…`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm);
        }
        if hex.len() != 64 {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::Format);
        }
        Ok(Self(text.to_owned()))
    }

    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hasher(Sha256::new_with_prefix(bytes))
    }

    /// The digest of what went into a hasher.
    pub(crate) fn from_hasher(hasher: Sha256) -> Self {
        Self(format!("sha256:{}", hex::encode(hasher.finalize())))
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

/// What a blob turned out to be instead of what its descriptor promised.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// Other bytes.
    #[error("content is {actual} where {expected} was promised")]
    Digest {
        /// Promised.
        expected: Digest,
        /// Found.
        actual: Digest,
    },
    /// Fewer or more bytes.
    #[error("content of {digest} is {actual} bytes long where {expected} were promised")]
    Size {
        /// Of which blob.
        digest: Digest,
        /// Promised.
        expected: u64,
        /// Found; for content that goes on too long, where reading stopped.
        actual: u64,
    },
}

/// Passes bytes through and, at the end, says whether they were the promised ones.
pub(crate) struct Verifying<'a, R> {
    inner: R,
    /// `None`: only counted, for content that was proved before.
    hasher: Option<Sha256>,
    count: &'a Cell<u64>,
}

impl<'a, R: Read> Verifying<'a, R> {
    /// `count` goes up with every byte read, so that others can watch the progress.
    pub(crate) fn new(inner: R, count: &'a Cell<u64>) -> Self {
        Self { inner, hasher: Some(Sha256::new()), count }
    }

    /// Only counts.
    pub(crate) fn counting(inner: R, count: &'a Cell<u64>) -> Self {
        Self { inner, hasher: None, count }
    }

    /// Reads to the end and compares.
    pub(crate) fn finish(mut self, expected: &Digest, size: Option<u64>) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        check_size(expected, size, self.count.get())?;
        match self.hasher.map(Digest::from_hasher) {
            Some(actual) if actual != *expected => {
                Err(io::Error::other(Mismatch::Digest { expected: expected.clone(), actual }))
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for Verifying<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        self.count.set(self.count.get() + n as u64);
        Ok(n)
    }
}

fn check_size(digest: &Digest, expected: Option<u64>, actual: u64) -> io::Result<()> {
    match expected {
        Some(expected) if expected != actual => {
            Err(io::Error::other(Mismatch::Size { digest: digest.clone(), expected, actual }))
        }
        _ => Ok(()),
    }
}

/// Checks bytes that are in memory.
pub(crate) fn verify(bytes: &[u8], expected: &Digest) -> Result<(), Mismatch> {
    let actual = Digest::of(bytes);
    if actual == *expected { Ok(()) } else { Err(Mismatch::Digest { expected: expected.clone(), actual }) }
}

/// The chain identity of a layer on top of others: what OCI calls chainID.
pub(crate) fn chain(parent: Option<&Digest>, diff: &Digest) -> Digest {
    match parent {
        None => diff.clone(),
        Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        let check = |text: &str, expected: Result<(), DigestError>| {
            assert_eq!(Digest::parse(text).map(drop), expected, "{text}");
        };
        check(ABC, Ok(()));
        check("ba7816bf", Err(DigestError::Format));
        check("sha256:ba7816bf", Err(DigestError::Length));
        check(&ABC.to_uppercase().replace("SHA", "sha"), Err(DigestError::Format));
        check(&format!("sha256:../../{}", "a".repeat(58)), Err(DigestError::Format));
        check(&format!("sha512:{}", "a".repeat(128)), Err(DigestError::Algorithm));
    }

    #[test]
    fn verifying_reads_to_the_end_and_compares() {
        let check = |bytes: &[u8], size: Option<u64>, expected: &str| {
            let count = Cell::new(0);
            let outcome = Verifying::new(bytes, &count).finish(&Digest::parse(ABC).unwrap(), size);
            assert_eq!(outcome.map_or_else(|e| e.to_string(), |()| "ok".into()), expected);
        };
        check(b"abc", Some(3), "ok");
        check(b"abc", None, "ok");
        check(b"abc", Some(4), &format!("content of {ABC} is 3 bytes long where 4 were promised"));
        check(b"ab", None, &format!("content is {} where {ABC} was promised", Digest::of(b"ab")));
    }

    #[test]
    fn chain_of_the_first_layer_is_its_diff() {
        let a = Digest::of(b"a");
        assert_eq!(chain(None, &a), a);
        assert_eq!(chain(Some(&a), &a), Digest::of(format!("{a} {a}").as_bytes()));
    }
}
