//! NetworkPolicies as map entries: who may talk to whom, decided by label sets, not by pods.
//!
//! For: turning NetworkPolicies, Namespaces and Pods into the [tables](tables::Tables) that the programs look up for the first
//! packet of a flow, and judging with them as the programs do.
//! Not for: watching the API (the caller sends [`Change`]s), or services: addresses are those of the pods behind them.
//!
//! ```text
//! Change ─▶ ingest ─▶ world ─▶ compile ─▶ tables ─▶ diff ─▶ maps
//!
//! of a packet:  local pod ─▶ set of rules (one per direction)      peer ─▶ identity (pods), class (address blocks)
//!               set, identity | class | anybody, protocol, port ─▶ the policy that lets it in, or none
//! ```

mod blocks;
pub mod compile;
pub mod diff;
pub mod explain;
pub mod ingest;
pub mod model;
mod numbers;
mod ports;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod world;

pub use world::{Change, World};
