//! Which pod has which addresses: a pure [`Allocator`] and the file it is rebuilt from.
//!
//! ```text
//!  assign ─▶ allocator [p] ─▶ one line appended ─▶ (kernel work) ║ fdatasync ─▶ the caller may use it
//! ```
//!
//! Not in here: links. An address whose link was never made is found by attaching again (same uid, same
//! address) or by detaching.

mod allocator;
mod ledger;
#[cfg(test)]
mod model_tests;
mod record;

use std::{io, net::IpAddr, path::PathBuf};

pub(crate) use allocator::{Allocator, Full, Owner, Refused};
pub(crate) use ledger::Ledger;

/// An address could not be given, taken back or remembered.
#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    /// All addresses are in use.
    #[error(transparent)]
    Full(#[from] Full),
    /// The address that was asked for cannot be had.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Another process uses the same ledger.
    #[error("address ledger {} is used by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A line that is not the last one makes no sense.
    #[error("address ledger {} line {line} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// The file could not be read or written.
    #[error("{what} address ledger {}", path.display())]
    File {
        /// open, read, write, …
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// An assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The pod's addresses, in the order of the ranges.
    pub addresses: Vec<IpAddr>,
    /// They were given just now.
    pub new: bool,
}
