//! Translation where a program names an address (`connect`, `sendto`) or asks for one (`recvfrom`, `getpeername`):
//! one file per call. There is no cost per packet of a connection.
//!
//! Both families take the same way: the hooks for IPv6 sockets also see `::ffff:10.96.0.1`, which Java and .NET dial.

mod address;
mod connect;
mod dial;
mod getpeername;
mod recvmsg;
mod release;
mod sendmsg;

/// The program may go on with the (translated) address.
const GO_ON: i32 = 1;
/// The call fails, with the error set before, else `EPERM`.
const REFUSE: i32 = 0;
