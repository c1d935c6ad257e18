//! `sendto()` on an unconnected UDP socket: decided per datagram, so nothing is sent to a backend that is gone.
//!
//! A conversation (same socket, same service address) stays with its backend as long as that one serves: protocols
//! over UDP need more than one datagram to arrive at the same place. The kernel calls the hook of IPv4 for `::ffff:`
//! addresses of IPv6 sockets.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use orlop_abi::{Flow, FlowKey, Frontend, PROTO_UDP};

use super::{
    GO_ON,
    address::{Address, cookie},
    dial::{Caller, refuse, tell},
};
use crate::{
    choose::{self, Refusal},
    maps::FLOWS,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    match translate(&ctx, &Address::v4(&ctx)) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_v4(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    match translate(&ctx, &Address::v6(&ctx)) {
        Ok(None) => {}
        Ok(Some(backend)) => backend.write_v6(&ctx),
        Err(refused) => return refused,
    }
    GO_ON
}

#[inline(always)]
fn translate(ctx: &SockAddrContext, dialled: &Address) -> Result<Option<Address>, i32> {
    let caller = Caller::of(ctx);
    let Some(frontend) = caller.frontend(dialled, PROTO_UDP) else { return Ok(None) };
    let there = FlowKey {
        cookie: cookie(ctx),
        ip: dialled.ip,
        port: dialled.port,
        direction: FlowKey::TO_BACKEND,
        reserved: 0,
    };
    if let Some(backend) = known(&there, &frontend) {
        return Ok(Some(backend));
    }
    match begin(&there, &frontend, &caller) {
        Ok(backend) => {
            tell(dialled, PROTO_UDP, &frontend, &backend);
            Ok(Some(backend))
        }
        Err(why) => Err(refuse(dialled, PROTO_UDP, &frontend, why)),
    }
}

/// The backend of a conversation under way, unless it stopped serving.
#[inline(always)]
fn known(there: &FlowKey, frontend: &Frontend) -> Option<Address> {
    // SAFETY: the value is copied at once.
    let flow = unsafe { FLOWS.get(there) }.copied()?;
    let backend = choose::by_id(flow.backend, frontend.service)?;
    if backend.ip != flow.ip || backend.port != flow.port {
        return None;
    }
    let back = back(there, &flow);
    // SAFETY: only whether it is there counts. It may have made room for others while this direction was in use.
    if unsafe { FLOWS.get(&back) }.is_none() {
        let _ = FLOWS.insert(&back, &origin(there, &flow), 0);
    }
    Some(Address { ip: flow.ip, port: flow.port })
}

/// Choose, and remember both directions. If there is no memory for it, the datagram still goes out.
#[inline(always)]
fn begin(there: &FlowKey, frontend: &Frontend, caller: &Caller) -> Result<Address, Refusal> {
    let (id, backend) = caller.backend(frontend, &there.ip)?;
    let flow = Flow { ip: backend.ip, port: backend.port, reserved: 0, backend: id, service: frontend.service };
    let _ = FLOWS.insert(&back(there, &flow), &origin(there, &flow), 0);
    let _ = FLOWS.insert(there, &flow, 0);
    Ok(Address { ip: backend.ip, port: backend.port })
}

/// Where answers are looked up. A socket that asks two services with one backend in common sees the answers of both
/// under the address it asked last.
#[inline(always)]
fn back(there: &FlowKey, flow: &Flow) -> FlowKey {
    FlowKey { ip: flow.ip, port: flow.port, direction: FlowKey::TO_SERVICE, ..*there }
}

#[inline(always)]
fn origin(there: &FlowKey, flow: &Flow) -> Flow {
    Flow { ip: there.ip, port: there.port, ..*flow }
}
