//! The address a hook is asked about, read and written the way the verifier allows.

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie, programs::SockAddrContext};
use orlop_abi::{Ip, MAPPED, PROTO_TCP, PROTO_UDP};

const IPPROTO_MPTCP: u32 = 262;

/// Address and port, network byte order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub ip: Ip,
    pub port: u16,
}

impl Address {
    /// The address in a hook for IPv4 sockets.
    #[inline(always)]
    pub fn v4(ctx: &SockAddrContext) -> Self {
        // SAFETY: the kernel hands a valid context to every program of this type; both fields are readable.
        let (ip, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port as u16) };
        Self { ip: [0, 0, MAPPED, ip], port }
    }

    /// The address in a hook for IPv6 sockets.
    #[inline(always)]
    pub fn v6(ctx: &SockAddrContext) -> Self {
        // SAFETY: as above; the words of the address are readable one by one.
        unsafe {
            let ip = &raw const (*ctx.sock_addr).user_ip6;
            let ip = [
                ip.cast::<u32>().read_volatile(),
                ip.cast::<u32>().add(1).read_volatile(),
                ip.cast::<u32>().add(2).read_volatile(),
                ip.cast::<u32>().add(3).read_volatile(),
            ];
            Self { ip, port: (*ctx.sock_addr).user_port as u16 }
        }
    }

    #[inline(always)]
    pub fn write_v4(self, ctx: &SockAddrContext) {
        // SAFETY: as above; both fields are writable in four bytes.
        unsafe {
            (*ctx.sock_addr).user_ip4 = self.ip[3];
            (*ctx.sock_addr).user_port = u32::from(self.port);
        }
    }

    #[inline(always)]
    pub fn write_v6(self, ctx: &SockAddrContext) {
        // SAFETY: as above; the words are writable one by one, and must not be merged into wider stores.
        unsafe {
            let ip = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
            ip.write_volatile(self.ip[0]);
            ip.add(1).write_volatile(self.ip[1]);
            ip.add(2).write_volatile(self.ip[2]);
            ip.add(3).write_volatile(self.ip[3]);
            (*ctx.sock_addr).user_port = u32::from(self.port);
        }
    }
}

/// The protocol as services name it; `None` for what no hook translates.
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
