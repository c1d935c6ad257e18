//! Direct server return, the second half: a packet that another node sent on as it came ([`super::direct`]). It is unpacked and
//! translated, and from then on it is a connection of this node's like any other, whose backend sees the client.
//!
//! ```text
//! outer: a node ─▶ endpoint      accepted only by a device of the node's, from a node's address
//!   inner: client ─▶ service     only a service that has this endpoint; the port is this node's to know
//! ```
//! The port does not stand in the packet: of the fields of an IPv4 header that would have room, the identification changes with
//! each segment that a device cuts. Tunnels of others are left alone, and what looks like ours and is not is dropped.

use aya_ebpf::{
    bindings::{BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO},
    helpers::generated::bpf_skb_adjust_room,
    programs::TcContext,
};
use orlop_abi::{Drop, PROTO_TCP};

use super::{
    ETHERNET, GO_ON, NEXT, SHOT, begin, connection, direct, guard,
    parse::{self, Fragment, Kind},
    work::Work,
};
use crate::{
    choose::{self, now},
    count,
    maps::BACKENDS,
};

/// [`GO_ON`] if the packet carries one that is for an endpoint of this node. `work.back` has the backend of a new connection;
/// 0 if there can be none; the endpoint is the destination of `work.other`.
#[inline(never)]
pub fn recognise(ctx: &TcContext, work: &mut Work) -> i32 {
    let Work { headers, inner, other, back, .. } = work;
    let proto = if headers.v4 { direct::PROTO_IPV4 } else { direct::PROTO_IPV6 };
    let plain = headers.transport == ETHERNET + direct::overhead(headers.v4);
    if headers.key.proto != u32::from(proto) || headers.fragment != Fragment::Whole || !plain {
        return NEXT;
    }
    if parse::inner(ctx, headers.v4, inner) != Kind::Transport {
        return NEXT;
    }
    if inner.fragment == Fragment::Later && !connection::recall_ports(inner) {
        return NEXT;
    }
    other.destination = headers.key.destination;
    let (key, device) = (&inner.key, guard::device(ctx));
    let frontend = choose::frontend_elsewhere(&key.destination, key.destination_port, key.proto as u8);
    let id = frontend.map_or(0, |frontend| choose::receiver(&other.destination, frontend.service));
    let known = connection::goes_to(key, &other.destination);
    if id == 0 && !known {
        return NEXT;
    }
    if guard::is_pods(device) || !choose::is_other_node(&headers.key.source) {
        count::dropped(Drop::Tunnel);
        return SHOT;
    }
    if let Some(frontend) = frontend
        && !known
        && choose::admit(&frontend, &key.source).is_err()
    {
        return begin::drop(inner, frontend.service, Drop::SourceRange);
    }
    (back.backend, back.device) = (id, device);
    GO_ON
}

/// Takes the outer header away. `false`, and counted, if the kernel does not let us.
#[inline(never)]
pub fn unpack(ctx: &TcContext, work: &mut Work) -> bool {
    let v4 = work.headers.v4;
    let less = direct::overhead(v4);
    let kind = if v4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 };
    let tcp = work.inner.key.proto == u32::from(PROTO_TCP);
    let flags = u64::from(kind | if tcp { 0 } else { BPF_F_ADJ_ROOM_FIXED_GSO });
    // SAFETY: no addresses.
    let result =
        unsafe { bpf_skb_adjust_room(ctx.skb.skb.cast(), -(less as i32), direct::BEHIND_ETHERNET, flags) };
    if result != 0 {
        count::dropped(Drop::Rewrite);
        return false;
    }
    work.headers = work.inner;
    work.headers.transport -= less;
    true
}

/// A connection that is new here. It need not be its first packet: a node that knows where it belongs sent it.
#[inline(never)]
pub fn begin(work: &mut Work) -> i32 {
    let (id, device) = (work.back.backend, work.back.device);
    // SAFETY: the value is copied at once.
    let Some(backend) =
        (unsafe { BACKENDS.get(&id) }).copied().filter(|_| work.headers.fragment != Fragment::Later)
    else {
        count::dropped(Drop::NoLocalEndpoint);
        return SHOT;
    };
    work.now = now();
    work.to = begin::to_backend(&work.headers.key, id, &backend, work.now, device);
    begin::enter(work, false, begin::CLIENT_PORTS)
}
