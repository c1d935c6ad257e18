//! OpenAPI documents out of rows and definitions.
//!
//! `operations` says what can be done where, once for both versions; `v2` and `v3` write it down in their ways;
//! `gnostic` turns a v2 document into the protobuf that older kubectls insist on.

mod gnostic;
mod operations;
mod schemas;
mod v2;
mod v3;

pub(super) use gnostic::encode as gnostic;
pub(super) use v2::document as v2;
pub(super) use v3::document as v3;
