//! What takes a kernel with SCTP and IPVS, which not every one has: run in a machine of its own (`e2e_machine_services`),
//! and left out where the rest of the root tier runs.

mod sctp;

/// The protocol's sockets and how they are reached from the town, for `sctp` and `ipvs`.
mod sockets;
