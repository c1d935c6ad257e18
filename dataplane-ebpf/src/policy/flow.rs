//! Flows of pods that a policy selects: who began, who the peer is, and what was decided.

use aya_ebpf::programs::TcContext;
use orlop_abi::{Connection, ConnectionKey, Ip, PROTO_TCP, Subject, Verdict};

use super::{DEPARTURE, rules};
use crate::{
    choose::now,
    count,
    maps::{ADDRESSES, CONNECTIONS, POLICY, VERDICTS},
    packet::{
        connection::UDP_SECONDS,
        guard,
        parse::{ACK, SYN},
        work::Work,
    },
};

/// The key of a packet's flow: the pod first.
#[inline(always)]
pub fn orient(packet: &ConnectionKey, flow: &mut ConnectionKey, way: u32) {
    *flow = match way {
        DEPARTURE => *packet,
        _ => ConnectionKey {
            source: packet.destination,
            destination: packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            proto: packet.proto,
        },
    };
}

/// 0 if the packet may pass, else the set of rules that does not let it. `work.verdict` has the peer.
#[inline(always)]
pub fn denied_by(ctx: &TcContext, work: &mut Work, subject: Subject, way: u32) -> u32 {
    orient(&work.headers.key, &mut work.flow, way);
    // SAFETY: as in `needed`.
    let generation = POLICY.get(0).map_or(0, |state| state.generation);
    let tcp = work.headers.key.proto == u32::from(PROTO_TCP);
    let begins = tcp && work.headers.flags & (SYN | ACK) == SYN;
    let entry = if begins { None } else { VERDICTS.get_ptr_mut(&work.flow) };
    if let Some(entry) = entry {
        // SAFETY: the map holds the element until the program ends; a concurrent write of the same fields does no harm.
        let known = unsafe { &mut *entry };
        let now = now();
        if tcp || now.wrapping_sub(known.seen) <= UDP_SECONDS {
            let ingress = known.flags & Verdict::INGRESS != 0;
            let set = if ingress { subject.ingress } else { subject.egress };
            if known.seen != now {
                known.seen = now;
            }
            let moved = way == DEPARTURE
                && !ingress
                && (known.peer != work.verdict.peer || known.peer_port != work.verdict.peer_port);
            if known.generation == generation && !moved {
                return if known.flags & Verdict::DENIED == 0 { 0 } else { set };
            }
            if !moved {
                work.verdict.peer = known.peer;
                work.verdict.peer_port = known.peer_port;
            }
            work.verdict.flags = known.flags & Verdict::INGRESS;
            return decide(work, set, generation, true);
        }
    }
    // What is for the node itself may go, also the answers to its processes, which no rule was asked about. A stranger that uses a pod's
    // name begins no flow of the pod's, or it could let itself in by one.
    if way == DEPARTURE && (is_own(&work.verdict.peer) || !guard::at_home(ctx, work)) {
        return 0;
    }
    let ingress = match tcp && !begins {
        // It is older than the rules, or was forgotten. Servers have the lower port.
        true => u16::from_be(work.flow.source_port) < u16::from_be(work.flow.destination_port),
        false => way != DEPARTURE,
    };
    if way != DEPARTURE {
        unmask(work);
    }
    work.verdict.flags = if ingress { Verdict::INGRESS } else { 0 };
    let set = if ingress { subject.ingress } else { subject.egress };
    decide(work, set, generation, false)
}

/// Asks the rules and remembers the answer. A flow that was allowed and is not any more is remembered, too, so that the pod's own
/// packets do not make a new one of it.
#[inline(always)]
fn decide(work: &mut Work, set: u32, generation: u32, old: bool) -> u32 {
    let by = rules::allowed_by(work, set);
    if by == rules::NOBODY && !old {
        return set;
    }
    let verdict = &mut work.verdict;
    verdict.generation = generation;
    verdict.seen = now();
    verdict.by = by;
    if by == rules::NOBODY {
        verdict.flags |= Verdict::DENIED;
        verdict.by = 0;
    } else if !old && by != 0 {
        count::allowed(by);
    }
    let _ = VERDICTS.insert(&work.flow, &work.verdict, 0);
    if by == rules::NOBODY { set } else { 0 }
}

/// Where the source is an address of this node and yet came from elsewhere, the client is behind our masquerade.
#[inline(always)]
fn unmask(work: &mut Work) {
    if !is_own(&work.verdict.peer) {
        return;
    }
    // SAFETY: the value is read at once.
    if let Some(back) = unsafe { CONNECTIONS.get(&work.flow) }
        && back.flags & Connection::REPLY != 0
    {
        work.verdict.peer = back.destination;
        work.verdict.peer_port = back.destination_port;
    }
}

#[inline(always)]
fn is_own(ip: &Ip) -> bool {
    // SAFETY: only whether it is there counts.
    unsafe { ADDRESSES.get(ip) }.is_some()
}
