//! A small Kubernetes API server: see docs/architecture.md.
//!
//! Requests run path → request info → authentication → authorization → decoding → admission → validation →
//! store → encoding, in `rest`; `kinds` says what there is, `store` keeps bytes, `watch` streams changes.

pub mod admission;
pub mod auth;
pub mod codec;
pub mod discovery;
pub mod kinds;
pub mod kubelet;
pub mod manifest;
pub mod patch;
pub mod pki;
pub mod rest;
pub mod schema;
pub mod server;
pub mod store;
pub mod table;
pub mod watch;

pub use auth::Identity;
pub use server::{ApiServer, ClientService, Config, OpenError, ServeError};
