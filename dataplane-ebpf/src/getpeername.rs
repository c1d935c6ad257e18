//! `getpeername()`: a program that connected to a service is told the service, not the backend.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    GO_ON,
    address::{Address, cookie},
    maps::PEERS,
};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(service) = service_of(&ctx, Address::v4(&ctx)) {
        service.write_v4(&ctx);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(service) = Address::mapped(&ctx).and_then(|peer| service_of(&ctx, peer)) {
        service.write_mapped(&ctx);
    }
    GO_ON
}

/// The service address a connected socket dialled, if `peer` is the backend it got.
#[inline(always)]
pub fn service_of(ctx: &SockAddrContext, peer: Address) -> Option<Address> {
    // SAFETY: the value is copied at once.
    let known = unsafe { PEERS.get(&cookie(ctx)) }.copied()?;
    (known.backend_addr == peer.addr && known.backend_port == peer.port)
        .then_some(Address { addr: known.service_addr, port: known.service_port })
}
