//! `recvfrom()` on UDP: an answer carries the address the program had sent to, or it would be taken for a stranger's.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use orlop_abi::FlowKey;

use super::{
    GO_ON,
    address::{Address, cookie},
    getpeername::service_of,
};
use crate::maps::FLOWS;

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(service) = asked(&ctx, &Address::v4(&ctx)) {
        service.write_v4(&ctx);
    }
    GO_ON
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(service) = asked(&ctx, &Address::v6(&ctx)) {
        service.write_v6(&ctx);
    }
    GO_ON
}

/// The service that was asked, if `source` is the backend that answers for it.
#[inline(always)]
fn asked(ctx: &SockAddrContext, source: &Address) -> Option<Address> {
    service_of(ctx, source).or_else(|| conversation(ctx, source))
}

#[inline(always)]
fn conversation(ctx: &SockAddrContext, source: &Address) -> Option<Address> {
    let back = FlowKey {
        cookie: cookie(ctx),
        ip: source.ip,
        port: source.port,
        direction: FlowKey::TO_SERVICE,
        reserved: 0,
    };
    // SAFETY: the value is copied at once.
    let origin = unsafe { FLOWS.get(&back) }.copied()?;
    Some(Address { ip: origin.ip, port: origin.port })
}
