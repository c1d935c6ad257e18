//! CRI log files, read back: lines, the last n, since when, and on as they grow.
//!
//! Not for: writing them (the shim does).

pub mod line;
pub mod read;
mod rotate;
mod rotation;

pub use line::Line;
pub use read::{Options, Reader};
pub(crate) use rotate::FullLogs;
pub use rotate::RotateError;
pub use rotation::Limits;
