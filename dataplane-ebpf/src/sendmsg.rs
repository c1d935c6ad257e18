//! `sendto()` on an unconnected UDP socket: decided per datagram, so nothing is sent to a backend that is gone.
//!
//! A conversation (same socket, same service address) stays with its backend as long as that one serves: protocols
//! over UDP need more than one datagram to arrive at the same place. The kernel calls this hook for `::ffff:` addresses
//! of IPv6 sockets, too.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use orlop_abi::{Flow, FlowKey, Frontend, PROTO_UDP};

use crate::{
    GO_ON,
    address::{Address, cookie},
    choose,
    maps::FLOWS,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let dialled = Address::v4(&ctx);
    let Some(frontend) = choose::frontend(dialled, PROTO_UDP) else { return GO_ON };
    let cookie = cookie(&ctx);
    let there = FlowKey { cookie, addr: dialled.addr, port: dialled.port, direction: FlowKey::TO_BACKEND };
    let backend = match known(&there, &frontend) {
        Some(backend) => backend,
        None => match begin(&there, &frontend) {
            Some(backend) => backend,
            None => return choose::refuse(&frontend),
        },
    };
    backend.write_v4(&ctx);
    GO_ON
}

/// The backend of a conversation under way, unless it stopped serving.
#[inline(always)]
fn known(there: &FlowKey, frontend: &Frontend) -> Option<Address> {
    // SAFETY: the value is copied at once.
    let flow = unsafe { FLOWS.get(there) }.copied()?;
    let backend = choose::by_id(flow.backend, frontend.service)?;
    if backend.addr != flow.addr || backend.port != flow.port {
        return None;
    }
    let back = back(there, &flow);
    // SAFETY: only whether it is there counts. It may have made room for others while this direction was in use.
    if unsafe { FLOWS.get(&back) }.is_none() {
        let _ = FLOWS.insert(&back, &origin(there, &flow), 0);
    }
    Some(Address { addr: flow.addr, port: flow.port })
}

/// Choose, and remember both directions. If there is no memory for it, the datagram still goes out.
#[inline(always)]
fn begin(there: &FlowKey, frontend: &Frontend) -> Option<Address> {
    let (id, backend) = choose::backend(frontend)?;
    let flow =
        Flow { addr: backend.addr, port: backend.port, reserved: 0, backend: id, service: frontend.service };
    let _ = FLOWS.insert(&back(there, &flow), &origin(there, &flow), 0);
    let _ = FLOWS.insert(there, &flow, 0);
    Some(Address { addr: backend.addr, port: backend.port })
}

/// Where answers are looked up. A socket that asks two services with one backend in common sees the answers of both
/// under the address it asked last.
#[inline(always)]
fn back(there: &FlowKey, flow: &Flow) -> FlowKey {
    FlowKey { cookie: there.cookie, addr: flow.addr, port: flow.port, direction: FlowKey::TO_SERVICE }
}

#[inline(always)]
fn origin(there: &FlowKey, flow: &Flow) -> Flow {
    Flow { addr: there.addr, port: there.port, ..*flow }
}
