//! Messages, server and client of the Kubernetes Container Runtime Interface, `runtime.v1`.
//!
//! `proto/api.proto` is upstream's file as a crate carries it (see NOTICE); `runtime.v1.rs` is made from it, by
//! `cargo run -p orlop-cri-api --features generate --example generate`, and kept here so that building needs neither
//! protoc nor the generator. Not for: anything written by hand.

#![forbid(unsafe_code)]

/// The messages and services of CRI v1, as upstream documents them.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    rustdoc::all,
    reason = "generated from upstream's file"
)]
pub mod v1 {
    include!("runtime.v1.rs");
}
