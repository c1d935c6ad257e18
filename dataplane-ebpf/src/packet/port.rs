//! At the ports of a bridge that other people's plugins put pods behind: what goes from pod to pod there passes no device at which the
//! other programs are, and policies are to be asked about it.
//!
//! Not for: services. Whatever is for one, or is its answer, is for the bridge itself, where it is judged with the address it is really for.

use aya_ebpf::{macros::classifier, programs::TcContext};

use super::{
    NEXT, came_in, connection, guard,
    parse::{self, Fragment, Kind},
    work::{self, Work},
};
use crate::{choose, maps::PORTS, policy};

/// What a pod sends.
#[classifier]
pub fn port_in(ctx: TcContext) -> i32 {
    if !policy::needed() {
        return NEXT;
    }
    // SAFETY: the value is read at once.
    let Some(bridge) = (unsafe { PORTS.get(&guard::device(&ctx)) }).copied() else { return NEXT };
    let Some(work) = work::work() else { return NEXT };
    let kind = parse::headers(&ctx, &mut work.headers);
    work.here = bridge;
    match kind {
        Kind::Foreign => NEXT,
        Kind::Icmp => policy::message(&ctx, work, policy::DEPARTURE),
        Kind::Transport if is_of_services(work) => NEXT,
        Kind::Transport | Kind::Other => policy::departure(&ctx, work, policy::NEVER),
    }
}

/// What it is sent. The node's own packets, which no policy keeps from its pods, came in nowhere.
#[classifier]
pub fn port_out(ctx: TcContext) -> i32 {
    if came_in(&ctx) { policy::arrival(&ctx) } else { NEXT }
}

#[inline(never)]
fn is_of_services(work: &mut Work) -> bool {
    let headers = &mut work.headers;
    if headers.fragment == Fragment::Later && !connection::recall_ports(headers) {
        return false;
    }
    let key = &headers.key;
    connection::is_known(key) || choose::frontend(&key.destination, key.destination_port, key.proto as u8, false).is_some()
}
