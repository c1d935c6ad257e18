//! What a program works on. The stack of a program has 512 bytes, so it stands in a map: one value per CPU, and one packet
//! at a time on each.

use aya_ebpf::{bindings::bpf_fib_lookup as Route, btf_maps::PerCpuArray, macros::btf_map};
use orlop_abi::{Connection, ConnectionKey, Verdict};

use super::parse::Headers;

#[repr(C)]
pub struct Work {
    /// The packet as it came.
    pub headers: Headers,
    /// One that it carries.
    pub inner: Headers,
    /// What it becomes.
    pub to: Connection,
    /// The way back: key and value of an entry; or the connection that an ICMP error is about.
    pub other: ConnectionKey,
    pub back: Connection,
    /// The device that packets for its source would go out by, if it came from there: of a bridge's port, the bridge.
    pub here: u32,
    /// It is of a connection that netfilter translates.
    pub foreign: u32,
    /// The second that it is, of a packet of a service.
    pub now: u32,
    /// The way on.
    pub route: Route,
    /// The search for a port.
    pub search: Search,
    /// A flow that policies are asked about: key and value of an entry.
    pub flow: ConnectionKey,
    pub verdict: Verdict,
}

/// A walk through ports, host byte order.
#[repr(C)]
pub struct Search {
    /// Where it is.
    pub at: u32,
    pub first: u16,
    pub ports: u16,
    /// Not even the packet's own port is to be tried.
    pub any: u32,
    /// It has come to an end.
    pub found: u32,
}

#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// This CPU's.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: programs at a device are not interrupted by others of their kind on the same CPU: they run with bottom halves
    // off. So this is the only reference; and any bytes are valid integers, the enums are written before they are read.
    WORK.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}
