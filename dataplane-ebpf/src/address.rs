//! The address a hook is asked about, read and written the way the verifier allows.

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext};
use orlop_abi::{PROTO_TCP, PROTO_UDP};

const IPPROTO_MPTCP: u32 = 262;

/// IPv4 address and port, network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub addr: u32,
    pub port: u16,
}

/// `::ffff:0:0/96`, its third word in network byte order.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// The address in a hook for IPv4 sockets.
    #[inline(always)]
    pub fn v4(ctx: &SockAddrContext) -> Self {
        // SAFETY: the kernel hands a valid context to every program of this type; both fields are readable.
        unsafe { Self { addr: (*ctx.sock_addr).user_ip4, port: (*ctx.sock_addr).user_port as u16 } }
    }

    /// The IPv4 address in a hook for IPv6 sockets. Java and .NET open these for everything, and dial `::ffff:10.96.0.1`.
    #[inline(always)]
    pub fn mapped(ctx: &SockAddrContext) -> Option<Self> {
        // SAFETY: as above; the words of the address are readable one by one.
        let (ip, port) = unsafe { ((*ctx.sock_addr).user_ip6, (*ctx.sock_addr).user_port as u16) };
        (ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED).then_some(Self { addr: ip[3], port })
    }

    #[inline(always)]
    pub fn write_v4(self, ctx: &SockAddrContext) {
        // SAFETY: as above; both fields are writable in four bytes.
        unsafe {
            (*ctx.sock_addr).user_ip4 = self.addr;
            (*ctx.sock_addr).user_port = u32::from(self.port);
        }
    }

    /// Only the last word: the prefix is there already.
    #[inline(always)]
    pub fn write_mapped(self, ctx: &SockAddrContext) {
        // SAFETY: as above; the last word is writable on its own.
        unsafe {
            (*ctx.sock_addr).user_ip6[3] = self.addr;
            (*ctx.sock_addr).user_port = u32::from(self.port);
        }
    }
}

/// The protocol as services name it; `None` for what no service can have.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> Option<u8> {
    // SAFETY: as for `Address::v4`.
    match unsafe { (*ctx.sock_addr).protocol } {
        6 | IPPROTO_MPTCP => Some(PROTO_TCP),
        17 => Some(PROTO_UDP),
        _ => None,
    }
}

/// What the kernel calls this socket for as long as it lives.
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is this program's own.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}
