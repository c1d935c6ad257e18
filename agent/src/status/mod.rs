//! Statuses of pods on their way to the API server.
//!
//! ```text
//! worker ─ publish(pod, status) ─▶ Writer: one entry per pod, latest wins ─ PATCH pods/status ─▶ API server
//!                                        └─ Written ─▶ manager ─▶ worker
//! ```
//!
//! Not for: what a status says (that is `pod::status`).

pub mod diff;
mod writer;

pub use writer::Writer;
