//! `connect()`: TCP, and UDP that names its peer once. The choice holds for the life of the connection.
//!
//! A UDP socket that connected stays with its backend even when that is gone: the kernel asks no hook again. Ending such
//! sockets is user space's work.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use orlop_abi::{FRONTEND_OTHER_PORTS, Frontend, PROTO_UDP, Peer};

use super::{
    GO_ON,
    address::{Address, cookie, protocol},
    dial::{Caller, refuse, tell},
};
use crate::maps::PEERS;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    match translate(&ctx, &Address::v4(&ctx)) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_v4(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    match translate(&ctx, &Address::v6(&ctx)) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_v6(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

/// The backend to connect to, nothing if no service was dialled, or the verdict.
#[inline(always)]
fn translate(ctx: &SockAddrContext, dialled: &Address) -> Result<Option<Address>, i32> {
    let Some(proto) = protocol(ctx) else { return Ok(None) };
    let caller = Caller::of(ctx);
    // A UDP socket that connects may only want to know whether there is a way, and from which address: C libraries sort
    // the addresses of a name so. What it sends there is refused at the devices.
    let asks = |frontend: &Frontend| proto == PROTO_UDP && frontend.flags & FRONTEND_OTHER_PORTS != 0;
    let Some(frontend) = caller.frontend(dialled, proto).filter(|frontend| !asks(frontend)) else {
        if proto == PROTO_UDP {
            forget(ctx);
        }
        return Ok(None);
    };
    let (id, backend) = match caller.backend(&frontend, &dialled.ip) {
        Ok(chosen) => chosen,
        Err(why) => return Err(refuse(dialled, proto, &frontend, why)),
    };
    remember(
        ctx,
        &Peer {
            service_ip: dialled.ip,
            backend_ip: backend.ip,
            service_port: dialled.port,
            backend_port: backend.port,
            backend: id,
            service: frontend.service,
            proto: u32::from(proto),
        },
    );
    let backend = Address { ip: backend.ip, port: backend.port };
    tell(dialled, proto, &frontend, &backend);
    Ok(Some(backend))
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
