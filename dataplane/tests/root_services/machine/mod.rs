//! What takes a kernel with SCTP and IPVS, which not every one has: run in a machine of its own (`e2e_machine_services`),
//! and left out where the rest of the root tier runs.

use std::time::Duration;

mod ipvs;
mod sctp;
mod sockets;

/// Between what is sent: an emulated processor that has more to do than it can does not get to what is tested.
const PAUSE: Duration = Duration::from_millis(40);
