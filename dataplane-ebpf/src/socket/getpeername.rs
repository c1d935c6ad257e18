//! `getpeername()`: a program that connected to a service is told the service, not the backend.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use super::{
    GO_ON,
    address::{Address, cookie},
};
use crate::maps::PEERS;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(service) = service_of(&ctx, &Address::v4(&ctx)) {
        service.write_v4(&ctx);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(service) = service_of(&ctx, &Address::v6(&ctx)) {
        service.write_v6(&ctx);
    }
    GO_ON
}

/// The service address a connected socket dialled, if `peer` is the backend it got.
#[inline(always)]
pub fn service_of(ctx: &SockAddrContext, peer: &Address) -> Option<Address> {
    // SAFETY: the value is copied at once.
    let known = unsafe { PEERS.get(&cookie(ctx)) }.copied()?;
    (known.backend_ip == peer.ip && known.backend_port == peer.port)
        .then_some(Address { ip: known.service_ip, port: known.service_port })
}
