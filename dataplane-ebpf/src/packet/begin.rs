//! The first packet of a connection to a service: judged once, by the rules of the front end it came to.

use aya_ebpf::programs::TcContext;
use orlop_abi::{
    Backend, Connection, ConnectionKey, Drop, FRONTEND_DIRECT, FRONTEND_LOCAL, FRONTEND_MASQUERADE, FRONTEND_MASQUERADE_OUTSIDE, FRONTEND_SHORTCUT, FlowEvent, Frontend,
    Ip, PROTO_UDP,
};

use super::{
    GO_ON, NEXT, SHOT, Side, connection, direct, guard,
    parse::{ACK, Fragment, Headers, SYN},
    reject,
    work::Work,
};
use crate::{
    choose::{self, Refusal, Source, now},
    count,
    events::{self, Outcome},
    maps::{ADDRESSES, settings},
};

/// Ports that a client's may become where it keeps its address: any but the well-known.
pub const CLIENT_PORTS: (u16, u16) = (1024, u16::MAX - 1024);

/// [`GO_ON`] if the packet is to be translated to `work.to`.
#[inline(never)]
pub fn begin(ctx: &TcContext, work: &mut Work, side: Side) -> i32 {
    let headers = &work.headers;
    let key = &headers.key;
    let has_beginning = key.proto != u32::from(PROTO_UDP);
    // A later fragment whose first was not translated begins nothing, either.
    if has_beginning && headers.flags & (SYN | ACK) != SYN || headers.fragment == Fragment::Later {
        return NEXT;
    }
    let Some(frontend) = choose::frontend(&key.destination, key.destination_port, key.proto as u8, false) else {
        return NEXT;
    };
    if side == Side::In && !guard::honest(ctx, work) {
        return SHOT;
    }
    let headers = &work.headers;
    let key = &headers.key;
    let source = source(&frontend, &key.source);
    let chosen = choose::admit(&frontend, &key.source)
        .and_then(|()| choose::backend(&frontend, source != Source::Outside, &key.source, Some(key)));
    let (id, backend) = match chosen {
        Ok(chosen) => chosen,
        Err(why) => return refuse(ctx, headers, &frontend, why, side),
    };
    work.now = now();
    let device = if side == Side::In { guard::device(ctx) } else { 0 };
    work.to = to_backend(key, id, &backend, work.now, device);
    let new = &mut work.to;
    if side == Side::In && source == Source::Outside && direct::may(&frontend, &backend, &key.source, device) {
        new.flags = Connection::DIRECT;
        return match connection::remember_one_way(work) {
            true => begun(work),
            false => drop(&work.headers, frontend.service, Drop::NoRoom),
        };
    }
    let mut ports = CLIENT_PORTS;
    let masquerade = masquerades(&frontend, source) || backend.ip == key.source;
    // What is delivered to the node itself needs no detour back, and a packet of its own address from outside would be
    // taken for a forgery.
    if masquerade && !is_own(&backend.ip) {
        let Some(settings) = settings() else { return NEXT };
        new.source = if headers.v4 { settings.masquerade_v4 } else { settings.masquerade_v6 };
        ports = (settings.first_port, settings.ports);
    }
    let other = new.source != key.source;
    enter(work, other, ports)
}

/// A connection to a backend that sees the client. `now` is the second, `device` where it came in.
#[inline(always)]
pub fn to_backend(key: &ConnectionKey, id: u32, backend: &Backend, now: u32, device: u32) -> Connection {
    Connection {
        source: key.source,
        destination: backend.ip,
        source_port: key.source_port,
        destination_port: backend.port,
        flags: 0,
        mtu: 0,
        backend: id,
        service: backend.service,
        seen: now,
        made: now,
        device,
        way: connection::NOWHERE,
    }
}

/// Remembers the connection `work.to`, whose source port becomes another of `ports` if `other` says so, or it must.
#[inline(always)]
pub fn enter(work: &mut Work, other: bool, ports: (u16, u16)) -> i32 {
    if let Err(full) = connection::remember(work, other, ports) {
        let why = if full { Drop::NoRoom } else { Drop::NoPort };
        return drop(&work.headers, work.to.service, why);
    }
    begun(work)
}

/// Tells of the connection `work.to`, and counts it.
#[inline(always)]
fn begun(work: &Work) -> i32 {
    if work.headers.fragment == Fragment::First {
        connection::remember_ports(&work.headers);
    }
    let Work { headers, to, .. } = work;
    let outcome = Outcome {
        backend: to.destination,
        backend_port: to.destination_port,
        service: to.service,
        verdict: FlowEvent::FORWARDED,
    };
    events::packet(&headers.key, &outcome);
    count::connection(to.service);
    count::packet(to.service, headers.length);
    GO_ON
}

/// Who sends, as far as the front end wants to know.
#[inline(always)]
fn source(frontend: &Frontend, ip: &Ip) -> Source {
    let wanted = FRONTEND_SHORTCUT | FRONTEND_MASQUERADE_OUTSIDE | FRONTEND_DIRECT;
    if frontend.flags & wanted == 0 { Source::Outside } else { choose::source(ip) }
}

#[inline(always)]
fn masquerades(frontend: &Frontend, source: Source) -> bool {
    let flags = frontend.flags;
    let shortcut = FRONTEND_LOCAL | FRONTEND_SHORTCUT;
    flags & FRONTEND_MASQUERADE != 0
        || flags & FRONTEND_MASQUERADE_OUTSIDE != 0 && source != Source::Pod
        || flags & shortcut == shortcut && source == Source::Node
}

#[inline(always)]
fn is_own(ip: &Ip) -> bool {
    // SAFETY: only whether it is there counts.
    unsafe { ADDRESSES.get(ip) }.is_some()
}

#[inline(always)]
fn refuse(ctx: &TcContext, headers: &Headers, frontend: &Frontend, why: Refusal, side: Side) -> i32 {
    match why {
        Refusal::NoEndpoint => {
            drop(headers, frontend.service, Drop::NoEndpoint);
            reject::port_unreachable(ctx, headers, side)
        }
        Refusal::NoLocalEndpoint => drop(headers, frontend.service, Drop::NoLocalEndpoint),
        Refusal::SourceRange => drop(headers, frontend.service, Drop::SourceRange),
    }
}

#[inline(always)]
pub fn drop(headers: &Headers, service: u32, why: Drop) -> i32 {
    events::packet(&headers.key, &Outcome::nothing(service, FlowEvent::dropped(why)));
    count::rejected(service);
    count::dropped(why);
    SHOT
}
