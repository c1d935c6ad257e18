//! Messages, server and client of the Kubernetes Container Runtime Interface, `runtime.v1`.
//!
//! Made from `proto/api.proto`, upstream's file as a crate carries it (see NOTICE), whenever this is built; that needs no
//! protoc. Not for: anything written by hand.

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
    tonic::include_proto!("runtime.v1");
}
