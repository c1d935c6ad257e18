//! Connections under way: what their packets become, and when one is over.
//!
//! An established connection of TCP or SCTP stays with its backend whatever becomes of the service; UDP moves on when its backend no
//! longer serves, so that nothing needs to be flushed.

use core::ffi::{c_long, c_void};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_get_prandom_u32, bpf_loop},
};
use orlop_abi::{Connection, ConnectionKey, FragmentKey, Ip, PROTO_UDP, Ports, Way};

use super::{
    parse::{ACK, FIN, Fragment, Headers, RST, SYN},
    work::{Search, Work},
};
use crate::{
    choose::{self, now},
    maps::{CONNECTIONS, FRAGMENTS},
};

/// The routing table was not asked yet.
pub const NOWHERE: Way = Way { asked: 0, device: 0, hardware: [[0; 6]; 2] };

/// Seconds after which a silent connection makes room for one with the same addresses and ports.
const STREAM_SECONDS: u32 = 24 * 3600;
pub const UDP_SECONDS: u32 = 120;
/// The same for a stream whose endpoint has left its service.
const GONE_SECONDS: u32 = 3600;
/// Seconds after which a packet that opens a connection is no repetition of the first, where no answer is seen.
const OPENING_SECONDS: u32 = 120;
/// Tries to find a port that is free towards this backend.
const PORT_TRIES: u32 = 32;

/// Finds out what a packet of a known connection becomes. `false` if there is none, or it is over, and this a new beginning.
#[inline(never)]
pub fn known(work: &mut Work) -> bool {
    work.foreign = 0;
    let headers = &mut work.headers;
    if headers.fragment == Fragment::Later && !recall_ports(headers) {
        return false;
    }
    let Some(entry) = CONNECTIONS.get_ptr_mut(&headers.key) else { return false };
    // SAFETY: the map holds the element until the program ends; a concurrent write of the same fields does no harm.
    let connection = unsafe { &*entry };
    if over(headers, connection) {
        if connection.flags & Connection::REPLY != 0 {
            // SAFETY: as above.
            unsafe { (*entry).flags = Connection::REPLY | Connection::FOREIGN };
        }
        return false;
    }
    work.to = *connection;
    work.now = now();
    if work.to.seen != work.now {
        // SAFETY: as above.
        unsafe { (*entry).seen = work.now };
    }
    if headers.flags & (FIN | RST) != 0 && work.to.flags & Connection::CLOSED == 0 {
        // SAFETY: as above.
        unsafe { (*entry).flags |= Connection::CLOSED };
    }
    if work.to.flags & Connection::FOREIGN != 0 {
        work.foreign = 1;
        return false;
    }
    if headers.fragment == Fragment::First {
        remember_ports(headers);
    }
    true
}

/// Whether a packet with the addresses of a connection is not part of it.
#[inline(always)]
fn over(headers: &Headers, connection: &Connection) -> bool {
    if connection.flags & Connection::REPLY != 0 {
        // A connection of netfilter's to the same backend got the same port, after ours was over: now it is netfilter's.
        return headers.flags & (SYN | ACK) == SYN | ACK && closed(headers.key.proto, connection);
    }
    if headers.key.proto != u32::from(PROTO_UDP) {
        return headers.flags & (SYN | ACK) == SYN && dead(headers.key.proto, connection);
    }
    if headers.fragment != Fragment::Later {
        let silent = now().wrapping_sub(connection.seen) > UDP_SECONDS;
        return silent || !serves(connection) && any_serves(&headers.key);
    }
    false
}

/// Whether a service has somebody to go to. A flow whose backend is gone stays with it where nobody else is, as upstream's does:
/// the pod may be on its way out, and still answer.
#[inline(always)]
fn any_serves(key: &ConnectionKey) -> bool {
    choose::frontend(&key.destination, key.destination_port, key.proto as u8, false)
        .is_some_and(|service| service.cluster != 0 || service.local != 0)
}

#[inline(always)]
fn serves(connection: &Connection) -> bool {
    choose::by_id(connection.backend, connection.service)
        .is_some_and(|to| to.ip == connection.destination && to.port == connection.destination_port)
}

/// Either side has closed it, or its backend is gone, or nothing was heard of it for very long.
#[inline(always)]
fn dead(proto: u32, connection: &Connection) -> bool {
    let silence = match connection.flags & Connection::DIRECT {
        0 if proto == u32::from(PROTO_UDP) => UDP_SECONDS,
        0 => STREAM_SECONDS,
        _ => OPENING_SECONDS,
    };
    if connection.flags & Connection::CLOSED != 0 || now().wrapping_sub(connection.seen) > silence {
        return true;
    }
    if connection.flags & Connection::FOREIGN != 0 {
        return false;
    }
    // It has no other way here.
    if connection.flags & Connection::DIRECT != 0 {
        return !serves(connection);
    }
    let other = other_way(proto, connection);
    // SAFETY: the value is read at once.
    match unsafe { CONNECTIONS.get(&other) } {
        Some(other) => other.flags & Connection::CLOSED != 0 || !serves_either(connection, other),
        None => true,
    }
}

/// Whether the port of a connection may be another's. One whose endpoint has left the service lives on, and the endpoint may be back,
/// with another number: such a connection must have been silent for long.
#[inline(always)]
fn is_free(proto: u32, connection: &Connection) -> bool {
    let long = if proto == u32::from(PROTO_UDP) { UDP_SECONDS } else { GONE_SECONDS };
    let silent = now().wrapping_sub(connection.seen) > long;
    dead(proto, connection) && (silent || closed(proto, connection) || half_forgotten(proto, connection))
}

/// Its other way had to make room.
#[inline(always)]
fn half_forgotten(proto: u32, connection: &Connection) -> bool {
    // SAFETY: only whether it is there counts.
    unsafe { CONNECTIONS.get(&other_way(proto, connection)) }.is_none()
}

/// Either side has closed it.
#[inline(always)]
fn closed(proto: u32, connection: &Connection) -> bool {
    let other = other_way(proto, connection);
    // SAFETY: the value is read at once.
    let other = unsafe { CONNECTIONS.get(&other) }.map_or(0, |other| other.flags);
    (connection.flags | other) & Connection::CLOSED != 0
}

/// Only the way to the backend knows the backend's address as its destination.
#[inline(always)]
fn serves_either(connection: &Connection, other: &Connection) -> bool {
    serves(if connection.flags & Connection::REPLY == 0 { connection } else { other })
}

/// The key of the packets that answer a connection's translated packets.
#[inline(always)]
fn other_way(proto: u32, connection: &Connection) -> ConnectionKey {
    ConnectionKey {
        source: connection.destination,
        destination: connection.source,
        source_port: connection.destination_port,
        destination_port: connection.source_port,
        proto,
    }
}

/// Remembers a connection in both directions. `work.to` is the way to the backend; its source port is changed to one
/// from `ports` (first and how many, host byte order) if `any` says so, or if somebody else has it.
/// Fails with `false` if no port is free, with `true` if there is no room.
#[inline(always)]
pub fn remember(work: &mut Work, any: bool, (first, ports): (u16, u16)) -> Result<(), bool> {
    let Work { headers, to, other, back, .. } = &mut *work;
    let key = &headers.key;
    *back = Connection {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        flags: to.flags | Connection::REPLY,
        device: 0,
        way: NOWHERE,
        ..*to
    };
    *other = other_way(key.proto, to);
    // SAFETY: the helper takes no arguments.
    let at = unsafe { bpf_get_prandom_u32() };
    work.search = Search { at, first, ports, any: u32::from(any), found: 0 };
    let body = attempt as *const () as *mut c_void;
    let mut data: *mut Work = work;
    // SAFETY: the function has the form that the helper calls, and gets what it expects.
    unsafe { bpf_loop(PORT_TRIES, body, (&raw mut data).cast(), 0) };
    // SAFETY: it points to where it did, and nothing else does.
    let Work { headers, to, other, search, .. } = unsafe { &mut *data };
    if search.found == 0 {
        return Err(false);
    }
    to.source_port = other.destination_port;
    CONNECTIONS.insert(&headers.key, &*to, 0).map_err(|_| true)
}

/// One try to give the way back a port. Ends the search with 1.
extern "C" fn attempt(number: u32, data: *mut c_void) -> c_long {
    // SAFETY: `remember` passes a pointer to its work, and does not touch it meanwhile.
    let Work { other, back, search, .. } = unsafe { &mut **data.cast::<*mut Work>() };
    if search.any != 0 || number > 0 {
        let port = search.first.wrapping_add((search.at % u32::from(search.ports.max(1))) as u16);
        other.destination_port = port.to_be();
        search.at = search.at.wrapping_add(1);
    }
    if CONNECTIONS.insert(&*other, &*back, u64::from(BPF_NOEXIST)).is_err() && !takes_over(other, back) {
        return 0;
    }
    search.found = 1;
    1
}

/// Puts `back` in the place of the same connection's remains, or of one that is over.
#[inline(always)]
fn takes_over(key: &ConnectionKey, back: &Connection) -> bool {
    let Some(entry) = CONNECTIONS.get_ptr_mut(key) else { return false };
    // SAFETY: as in `known`.
    let held = unsafe { &*entry };
    let same = held.source == back.source
        && held.destination == back.destination
        && held.source_port == back.source_port
        && held.destination_port == back.destination_port;
    (same || is_free(key.proto, held)) && CONNECTIONS.insert(key, back, 0).is_ok()
}

/// Remembers a connection whose answers do not come by. `false` if there is no room.
#[inline(always)]
pub fn remember_one_way(work: &Work) -> bool {
    CONNECTIONS.insert(&work.headers.key, &work.to, 0).is_ok()
}

/// Whether a packet is of any connection.
#[inline(always)]
pub fn is_known(key: &ConnectionKey) -> bool {
    // SAFETY: only whether it is there counts.
    unsafe { CONNECTIONS.get(key) }.is_some()
}

/// Whether a packet is of a connection that goes to this address, in both ways by here.
#[inline(always)]
pub fn goes_to(key: &ConnectionKey, ip: &Ip) -> bool {
    // SAFETY: the value is read at once.
    unsafe { CONNECTIONS.get(key) }.is_some_and(|connection| leads_to(connection, ip))
}

/// The same of a connection.
#[inline(always)]
pub fn leads_to(connection: &Connection, ip: &Ip) -> bool {
    let one_way = connection.flags & (Connection::DIRECT | Connection::REPLY) != 0;
    !one_way && connection.destination == *ip
}

#[inline(always)]
fn fragment_key(headers: &Headers) -> FragmentKey {
    let ConnectionKey { source, destination, proto, .. } = headers.key;
    FragmentKey { source, destination, id: headers.id, proto }
}

/// The first fragment of a datagram is translated, or judged: the others must go the same way.
#[inline(always)]
pub fn remember_ports(headers: &Headers) {
    let ports = Ports { source: headers.key.source_port, destination: headers.key.destination_port };
    let _ = FRAGMENTS.insert(&fragment_key(headers), &ports, 0);
}

/// Fills in the ports of a later fragment, if its first was translated or judged.
#[inline(always)]
pub fn recall_ports(headers: &mut Headers) -> bool {
    // SAFETY: the value is copied at once.
    let Some(ports) = (unsafe { FRAGMENTS.get(&fragment_key(headers)) }).copied() else { return false };
    headers.key.source_port = ports.source;
    headers.key.destination_port = ports.destination;
    true
}
