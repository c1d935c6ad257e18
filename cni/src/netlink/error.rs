//! What can go wrong between us and the kernel.

use std::io;

/// A netlink request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("open a netlink socket")]
    Open(#[source] io::Error),
    /// The request could not be sent or the answer not be read.
    #[error("talk to the kernel over netlink")]
    Talk(#[source] io::Error),
    /// The kernel refused, in its words.
    #[error("{}{}", errno, detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default())]
    Refused {
        /// The error number.
        errno: io::Error,
        /// The kernel's explanation, where it gives one.
        detail: Option<String>,
    },
    /// The answer makes no sense.
    #[error("unexpected netlink answer: {0}")]
    Malformed(String),
    /// A listing changed too often while it was read.
    #[error("the kernel's tables changed during every attempt to list them")]
    Unstable,
}

impl Error {
    /// Whether the kernel refused with one of these error numbers.
    pub fn is(&self, numbers: &[rustix::io::Errno]) -> bool {
        let Self::Refused { errno, .. } = self else { return false };
        numbers.iter().any(|n| errno.raw_os_error() == Some(n.raw_os_error()))
    }
}
