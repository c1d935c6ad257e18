//! Translation of packets that no socket hook saw: node ports and load-balancer addresses from outside, and cluster IPs for
//! whatever is no process of this node's cgroup.
//!
//! ```text
//! parse ─▶ CONNECTIONS: known ─▶ guard ───────────────────┐
//!             │ not known                                 ▼
//!             └─▶ begin: front end ─▶ guard ─▶ backend ─▶ policy ─▶ rewrite ─▶ deliver (to the device behind the new address)
//!                        └─▶ reject
//! ```
//! A packet that goes to another node as it came is not rewritten: [`direct`] packs it, and [`landing`] unpacks it there.
//! What pods send is judged here, with the address it is really for; what is sent to them, where it leaves for them.
//! A packet that belongs to no service is left alone, as is one in the middle of a connection of TCP or SCTP that we did not
//! see begin: it may be netfilter's, from before we came.

mod across;
mod begin;
mod direct;
pub mod connection;
pub mod deliver;
pub mod guard;
pub mod icmp;
mod landing;
pub mod parse;
pub mod port;
mod reject;
pub mod rewrite;
mod sctp;
pub mod work;

use aya_ebpf::{macros::classifier, programs::TcContext};
use orlop_abi::Connection;
use parse::Kind;

use crate::{count, policy};

/// The packet goes its way: the next program, then the stack.
pub const NEXT: i32 = -1;
/// It does not.
pub const SHOT: i32 = 2;
/// No verdict yet.
pub const GO_ON: i32 = i32::MAX;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

/// Where a program stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A packet that came in.
    In,
    /// A packet of a process of this machine, on its way out.
    Out,
}

/// At the node's devices and at the host's end of each pod's.
#[classifier]
pub fn packet_in(ctx: TcContext) -> i32 {
    packet(&ctx, Side::In)
}

/// As above, for what the node itself sends; and for what comes to pods.
#[classifier]
pub fn packet_out(ctx: TcContext) -> i32 {
    // What came in somewhere was translated there. What did not is the node's own, whom no policy keeps from its pods.
    if came_in(&ctx) { policy::arrival(&ctx) } else { packet(&ctx, Side::Out) }
}

/// Whether a packet on its way out came in by some device.
#[inline(always)]
fn came_in(ctx: &TcContext) -> bool {
    // SAFETY: the kernel hands a valid context; the field is readable.
    unsafe { (*ctx.skb.skb).ingress_ifindex != 0 }
}

/// Each step is a function of its own, which the verifier walks through for itself: what the steps before found out lies in
/// `work`, not in registers that would tell one way through the program from another.
#[inline(always)]
fn packet(ctx: &TcContext, side: Side) -> i32 {
    let Some(work) = work::work() else { return NEXT };
    work.here = guard::device(ctx);
    match parse::headers(ctx, &mut work.headers) {
        Kind::Foreign => return NEXT,
        Kind::Other if side == Side::In => {
            return match landing::recognise(ctx, work) {
                NEXT => leave(ctx, work, side, policy::NEVER),
                GO_ON => land(ctx, work),
                verdict => verdict,
            };
        }
        Kind::Other => return leave(ctx, work, side, policy::NEVER),
        Kind::Icmp => return message(ctx, work, side),
        Kind::Transport => {}
    }
    if connection::known(work) {
        if side == Side::In && !guard::still_honest(ctx, work) {
            return SHOT;
        }
        count::packet(work.to.service, work.headers.length);
    } else {
        let verdict = begin::begin(ctx, work, side);
        if verdict == NEXT {
            return match leave(ctx, work, side, policy::NEVER) {
                NEXT if side == Side::In => across::across(ctx, work),
                verdict => verdict,
            };
        }
        if verdict != GO_ON {
            return verdict;
        }
    }
    if leave(ctx, work, side, policy::TRANSLATED) == SHOT {
        return SHOT;
    }
    if work.to.flags & Connection::DIRECT != 0 {
        let verdict = direct::send(ctx, work);
        if verdict != GO_ON {
            return verdict;
        }
    }
    deliver::deliver(ctx, work)
}

/// What another node sent on as it came.
#[inline(always)]
fn land(ctx: &TcContext, work: &mut work::Work) -> i32 {
    if !landing::unpack(ctx, work) {
        return SHOT;
    }
    if connection::known(work) && connection::leads_to(&work.to, &work.other.destination) {
        count::packet(work.to.service, work.headers.length);
    } else if landing::begin(work) == SHOT {
        return SHOT;
    }
    deliver::deliver(ctx, work)
}

/// Whether policies let a packet go.
#[inline(always)]
fn leave(ctx: &TcContext, work: &mut work::Work, side: Side, translated: u32) -> i32 {
    if side == Side::Out { NEXT } else { policy::departure(ctx, work, translated) }
}

#[inline(always)]
fn message(ctx: &TcContext, work: &mut work::Work, side: Side) -> i32 {
    if side == Side::In && policy::message(ctx, work, policy::DEPARTURE) == SHOT {
        return SHOT;
    }
    icmp::error(ctx, work, u32::from(side == Side::In))
}
