//! The pod network against the kernel, in network namespaces of each test's own.
//!
//! The node is a namespace, so are pods and the outside. What the library did is asked from `ip`, `nft` and
//! from packets, never from the library's own reader.

#![expect(clippy::unwrap_used, reason = "in a test, a failed unwrap is the report")]

mod attach;
mod chain;
mod crash;
mod node;
mod plugin;
mod runtimes;
mod support;
mod traffic;
