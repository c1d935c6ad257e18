//! NetworkPolicies, at the host's end of pods' devices: what a pod sends is judged as it comes in there, what it is sent as it
//! goes out. A pod that no policy selects costs one lookup.
//!
//! ```text
//! SUBJECTS: none ─▶ pass
//!    └─▶ VERDICTS: decided, by the rules of today ─▶ pass or drop
//!          └─▶ rules: the policy that allows it, or none ─▶ VERDICTS
//! ```
//! The first packet of a flow is judged, and the flow's other packets in both directions share its fate, until the rules change:
//! then it is judged again, by the way it was begun.
//!
//! Always allowed: what a process of the node sends, what is for the node itself, and a pod's talk to itself.

mod flow;
mod rules;

use aya_ebpf::programs::TcContext;
use orlop_abi::{Drop, FlowEvent, Subject, Verdict};

use crate::{
    count,
    events::{self, Outcome},
    maps::{POLICY, SUBJECTS, VERDICTS},
    packet::{
        NEXT, SHOT, connection, icmp,
        parse::{self, Fragment, Headers, Kind},
        work::{self, Work},
    },
};

/// The packet comes from the pod.
pub const DEPARTURE: u32 = 1;
/// It goes to the pod.
const ARRIVAL: u32 = 0;

/// The packet goes where it says.
pub const NEVER: u32 = 0;
/// It goes to `work.to`.
pub const TRANSLATED: u32 = 1;

/// Neighbour discovery: without it there is no network to have a policy about.
const NEIGHBOURS: core::ops::RangeInclusive<u8> = 133..=137;

/// Whether any policy selects a pod of this node.
#[inline(always)]
pub fn needed() -> bool {
    // SAFETY: user space writes it whole; a torn read concerns one packet.
    POLICY.get(0).is_some_and(|state| state.subjects != 0)
}

/// [`SHOT`] if no policy lets it out, else [`NEXT`].
#[inline(never)]
pub fn departure(ctx: &TcContext, work: &mut Work, translated: u32) -> i32 {
    if !needed() {
        return NEXT;
    }
    // SAFETY: the value is copied at once.
    let Some(subject) = (unsafe { SUBJECTS.get(&work.headers.key.source) }).copied() else { return NEXT };
    if !whole(&mut work.headers) {
        return SHOT;
    }
    let to = match translated {
        NEVER => (work.headers.key.destination, work.headers.key.destination_port),
        _ => (work.to.destination, work.to.destination_port),
    };
    (work.verdict.peer, work.verdict.peer_port) = to;
    judge(ctx, work, subject, DEPARTURE)
}

/// The same for a packet that came from elsewhere and leaves by this device.
#[inline(always)]
pub fn arrival(ctx: &TcContext) -> i32 {
    if !needed() {
        return NEXT;
    }
    let Some(work) = work::work() else { return NEXT };
    match parse::headers(ctx, &mut work.headers) {
        Kind::Foreign => NEXT,
        Kind::Icmp => message(ctx, work, ARRIVAL),
        Kind::Transport | Kind::Other => arrive(ctx, work),
    }
}

#[inline(never)]
pub fn arrive(ctx: &TcContext, work: &mut Work) -> i32 {
    // SAFETY: the value is copied at once.
    let Some(subject) = (unsafe { SUBJECTS.get(&work.headers.key.destination) }).copied() else {
        return NEXT;
    };
    if !whole(&mut work.headers) {
        return SHOT;
    }
    (work.verdict.peer, work.verdict.peer_port) = (work.headers.key.source, work.headers.key.source_port);
    judge(ctx, work, subject, ARRIVAL)
}

/// ICMP: errors of flows that are allowed pass, whoever sends them.
#[inline(never)]
pub fn message(ctx: &TcContext, work: &mut Work, way: u32) -> i32 {
    if !needed() {
        return NEXT;
    }
    let headers = &work.headers;
    let pod = if way == DEPARTURE { &headers.key.source } else { &headers.key.destination };
    // SAFETY: the value is copied at once.
    let Some(subject) = (unsafe { SUBJECTS.get(pod) }).copied() else { return NEXT };
    if !headers.v4 && ctx.load::<u8>(headers.transport).is_ok_and(|kind| NEIGHBOURS.contains(&kind)) {
        return NEXT;
    }
    if icmp::is_error(ctx, headers) && icmp::quoted(ctx, headers, &mut work.other).is_some() {
        flow::orient(&work.other, &mut work.flow, way);
        // SAFETY: the value is read at once.
        if unsafe { VERDICTS.get(&work.flow) }.is_some_and(|known| known.flags & Verdict::DENIED == 0) {
            return NEXT;
        }
    }
    if !whole(&mut work.headers) {
        return SHOT;
    }
    let key = &work.headers.key;
    work.verdict.peer = if way == DEPARTURE { key.destination } else { key.source };
    work.verdict.peer_port = 0;
    judge(ctx, work, subject, way)
}

/// Fills in the ports of a later fragment. `false`, and counted, if its first has not been let through.
#[inline(always)]
fn whole(headers: &mut Headers) -> bool {
    let known = headers.fragment != Fragment::Later || connection::recall_ports(headers);
    if !known {
        count::dropped(Drop::Fragment);
    }
    known
}

/// Judges the flow of a packet, `work.verdict` saying who its peer is.
#[inline(never)]
fn judge(ctx: &TcContext, work: &mut Work, subject: Subject, way: u32) -> i32 {
    let set = flow::denied_by(ctx, work, subject, way);
    if set == 0 {
        if work.headers.fragment == Fragment::First {
            connection::remember_ports(&work.headers);
        }
        return NEXT;
    }
    count::denied(set);
    let why = if set == subject.ingress { Drop::PolicyIngress } else { Drop::PolicyEgress };
    count::dropped(why);
    events::packet(&work.headers.key, &Outcome::nothing(0, FlowEvent::dropped(why)));
    SHOT
}
