//! Statuses of pods on their way to the API server.
//!
//! ```text
//! worker ─ publish(pod, status) ─▶ Outlet ─▶ Writer: one entry per pod, latest wins ─ PATCH pods/status ─▶ API server
//!                                    │          └─ Written ─▶ manager ─▶ worker
//!                                    └─▶ memory; mirrors of static pods
//! ```
//!
//! Not for: what a status says (that is `pod::status`).

pub mod diff;
mod outlet;
mod writer;

pub use outlet::Outlet;
pub use writer::Writer;
