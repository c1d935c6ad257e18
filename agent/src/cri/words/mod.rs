//! `[p]` From the words of CRI to ours and back. Not for: files, sockets, asking the runtime.

pub(super) mod container;
pub(super) mod filter;
pub(super) mod kept;
pub(super) mod metrics;
pub(super) mod sandbox;
pub(super) mod stats;
pub(super) mod status;
pub(super) mod users;
