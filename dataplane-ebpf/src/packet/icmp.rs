//! ICMP errors about translated packets: the packet that is quoted must be the one the receiver had sent, or path MTU
//! discovery fails and refused connections hang.
//!
//! The quoted packet went the other way: its ends, swapped, are the key of a connection.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use orlop_abi::{Connection, ConnectionKey, Drop};

use super::{
    NEXT, SHOT, deliver, guard,
    parse::{Fragment, Headers, IPV4_HEADER, IPV6_HEADER, Ipv4, Ipv6, mapped},
    rewrite::{self, Refused, address_change, port_change, store},
    work::Work,
};
use crate::{count, maps::CONNECTIONS};

/// Length of an ICMP header before what it quotes.
const ICMP_HEADER: usize = 8;

#[inline(never)]
pub fn error(ctx: &TcContext, work: &mut Work, came_in: u32) -> i32 {
    let headers = &work.headers;
    if !is_error(ctx, headers) {
        return NEXT;
    }
    let Some(ports) = quoted(ctx, headers, &mut work.other) else { return NEXT };
    // SAFETY: the value is copied at once.
    let Some(connection) = (unsafe { CONNECTIONS.get(&work.other) }) else { return NEXT };
    if connection.flags & Connection::FOREIGN != 0 {
        return NEXT;
    }
    work.to = *connection;
    if came_in != 0 && !guard::honest(ctx, work) {
        return SHOT;
    }
    translate(ctx, work, ports)
}

/// Whether a packet quotes another.
#[inline(always)]
pub fn is_error(ctx: &TcContext, headers: &Headers) -> bool {
    let Ok(kind) = ctx.load::<u8>(headers.transport) else { return false };
    let is_error = if headers.v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    is_error && headers.fragment == Fragment::Whole
}

/// The quoted packet's ends, swapped, and where its ports stand.
#[inline(always)]
pub fn quoted(ctx: &TcContext, headers: &Headers, key: &mut ConnectionKey) -> Option<usize> {
    let at = headers.transport + ICMP_HEADER;
    let ports = if headers.v4 {
        let ip: Ipv4 = ctx.load(at).ok()?;
        let header = usize::from(ip.version_length & 0xf) * 4;
        let later = u16::from_be(ip.fragment) & 0x1fff != 0;
        if header < IPV4_HEADER || later {
            return None;
        }
        *key = ends(mapped(ip.destination), mapped(ip.source), ip.proto);
        at + header
    } else {
        let ip: Ipv6 = ctx.load(at).ok()?;
        *key = ends(ip.destination, ip.source, ip.next);
        at + IPV6_HEADER
    };
    let both: [u16; 2] = ctx.load(ports).ok()?;
    key.source_port = both[1];
    key.destination_port = both[0];
    Some(ports)
}

#[inline(always)]
fn ends(source: [u32; 4], destination: [u32; 4], proto: u8) -> ConnectionKey {
    ConnectionKey { source, destination, source_port: 0, destination_port: 0, proto: u32::from(proto) }
}

#[inline(always)]
fn translate(ctx: &TcContext, work: &mut Work, ports: usize) -> i32 {
    let Work { headers, to, other: key, route, .. } = work;
    // Who complains is the other end itself, or somebody on the way, who keeps the name.
    let source = if headers.key.source == key.source { to.source } else { headers.key.source };
    let result = deliver::find(ctx, headers, &source, &to.destination, route);
    let hop = deliver::is_way(result) && headers.ttl > 1;
    let old = (&headers.key.source, &headers.key.destination);
    let outer = address_change(headers.v4, old, (&source, &to.destination));
    let done = quotation(ctx, headers, key, to, ports, outer)
        .and_then(|()| rewrite::ip(ctx, headers, &source, &to.destination, outer, hop));
    if done.is_err() {
        count::dropped(Drop::Rewrite);
        return SHOT;
    }
    deliver::go(ctx, result, hop, to.flags, route)
}

/// The quoted packet becomes the one that was sent; the ICMP checksum covers it. The transport checksum inside is left
/// alone: it is often cut off, and nobody looks.
#[inline(always)]
fn quotation(
    ctx: &TcContext,
    headers: &Headers,
    key: &ConnectionKey,
    to: &Connection,
    ports: usize,
    outer: u32,
) -> Result<(), Refused> {
    let at = headers.transport + ICMP_HEADER;
    let inner = address_change(headers.v4, (&key.source, &key.destination), (&to.source, &to.destination));
    let numbers = port_change((key.destination_port, key.source_port), (to.destination_port, to.source_port));
    let checksum = headers.transport + 2;
    if headers.v4 {
        // The inner header's checksum makes up for the inner addresses.
        rewrite::l3_checksum(ctx, at + 10, inner)?;
        rewrite::l4_checksum(ctx, checksum, numbers, 0)?;
        store(ctx, at + 12, &[to.destination[3], to.source[3]])?;
    } else {
        rewrite::l4_checksum(ctx, checksum, outer, u64::from(BPF_F_PSEUDO_HDR))?;
        rewrite::l4_checksum(ctx, checksum, inner, 0)?;
        rewrite::l4_checksum(ctx, checksum, numbers, 0)?;
        store(ctx, at + 8, &[to.destination, to.source])?;
    }
    store(ctx, ports, &[to.destination_port, to.source_port])
}
