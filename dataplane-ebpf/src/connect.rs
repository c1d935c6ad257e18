//! `connect()`: TCP, and UDP that names its peer once. The choice holds for the life of the connection.
//!
//! A UDP socket that connected stays with its backend even when that is gone: the kernel asks no hook again. Ending such
//! sockets is user space's work, and to come.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use orlop_abi::{PROTO_UDP, Peer};

use crate::{
    GO_ON,
    address::{Address, cookie, protocol},
    choose,
    maps::PEERS,
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    match translate(&ctx, Address::v4(&ctx)) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_v4(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let Some(dialled) = Address::mapped(&ctx) else { return GO_ON };
    match translate(&ctx, dialled) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_mapped(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

/// The backend to connect to, nothing if no service was dialled, or the verdict.
#[inline(always)]
fn translate(ctx: &SockAddrContext, dialled: Address) -> Result<Option<Address>, i32> {
    let Some(proto) = protocol(ctx) else { return Ok(None) };
    let Some(frontend) = choose::frontend(dialled, proto) else {
        if proto == PROTO_UDP {
            forget(ctx);
        }
        return Ok(None);
    };
    let Some((id, backend)) = choose::backend(&frontend) else { return Err(choose::refuse(&frontend)) };
    remember(
        ctx,
        &Peer {
            service_addr: dialled.addr,
            backend_addr: backend.addr,
            service_port: dialled.port,
            backend_port: backend.port,
            backend: id,
            service: frontend.service,
            reserved: 0,
        },
    );
    Ok(Some(Address { addr: backend.addr, port: backend.port }))
}

/// Without room for the note the connection still works; only `getpeername` then shows the backend.
#[inline(always)]
fn remember(ctx: &SockAddrContext, peer: &Peer) {
    let _ = PEERS.insert(&cookie(ctx), peer, 0);
}

/// A UDP socket that now connects elsewhere must not report the service of before.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    let _ = PEERS.remove(&cookie(ctx));
}
