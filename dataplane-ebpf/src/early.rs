//! Before the stack (XDP): packets of known connections that only pass through this node, between devices where this program
//! stands. All else is left to the programs at the devices ([`crate::packet`]), which see it a moment later: first packets,
//! fragments, options, errors, packets for a pod of this node (which its policies judge), and whatever the routing table
//! knows no neighbour for.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, xdp_action},
    helpers::generated::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use orlop_abi::{Connection, ConnectionKey, DEVICE_EARLY, PROTO_TCP, PROTO_UDP};

use crate::{
    count,
    maps::DEVICES,
    packet::{
        connection, deliver,
        parse::{Fragment, Headers, IPV4, IPV4_HEADER, IPV6, IPV6_HEADER, Ipv4, Ipv6, Kind, SYN, Transport, mapped},
        rewrite::{End4, End6, address_change, changed, port_change},
        work::{self, Work},
    },
};

const PASS: u32 = xdp_action::XDP_PASS;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
const TRANSPORT4: usize = ETHERNET + IPV4_HEADER;
const TRANSPORT6: usize = ETHERNET + IPV6_HEADER;

/// At devices of the node that the operator named.
#[xdp]
pub fn early(ctx: XdpContext) -> u32 {
    let Some(work) = work::work() else { return PASS };
    // SAFETY: the verifier lets words be read at odd places on the machines that can, and we run on no others.
    if !unsafe { read(&ctx, &mut work.headers) } || !connection::known(work) {
        return PASS;
    }
    // SAFETY: as above.
    unsafe { pass_on(&ctx, work) }
}

#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let place = ctx.data() + offset;
    (place + size_of::<T>() <= ctx.data_end()).then_some(place as *mut T)
}

/// Reads the headers of a packet that is as simple as nearly all are.
#[inline(never)]
#[target_feature(enable = "allows-misaligned-mem-access")]
fn read(ctx: &XdpContext, into: &mut Headers) -> bool {
    let there = ((ctx.data_end() - ctx.data()) as u32).wrapping_sub(ETHERNET as u32);
    let Some(protocol) = at::<u16>(ctx, ETHERNET - 2) else { return false };
    // SAFETY: `at` has compared with the packet's end.
    let known = match unsafe { protocol.read_unaligned() } {
        IPV4 => four(ctx, there, into),
        IPV6 => six(ctx, there, into),
        _ => None,
    };
    known.is_some()
}

#[inline(always)]
fn four(ctx: &XdpContext, there: u32, into: &mut Headers) -> Option<()> {
    // SAFETY: `at` has compared with the packet's end.
    let ip = unsafe { at::<Ipv4>(ctx, ETHERNET)?.read_unaligned() };
    let length = u32::from(u16::from_be(ip.total));
    // Header of the usual length, no part of a larger datagram.
    if ip.version_length != 0x45 || u16::from_be(ip.fragment) & 0x3fff != 0 || length > there {
        return None;
    }
    let ends = (mapped(ip.source), mapped(ip.destination));
    *into = headers(ends, ip.proto, ip.ttl, TRANSPORT4, length);
    into.v4 = true;
    into.beside = [u16::from(ip.proto), ip.checksum];
    ports(ctx, TRANSPORT4, into)
}

#[inline(always)]
fn six(ctx: &XdpContext, there: u32, into: &mut Headers) -> Option<()> {
    // SAFETY: as above.
    let ip = unsafe { at::<Ipv6>(ctx, ETHERNET)?.read_unaligned() };
    let length = u32::from(u16::from_be(ip.payload)) + IPV6_HEADER as u32;
    if length > there {
        return None;
    }
    *into = headers((ip.source, ip.destination), ip.next, ip.hops, TRANSPORT6, length);
    into.beside = [u16::from(ip.next), ip.payload];
    ports(ctx, TRANSPORT6, into)
}

#[inline(always)]
fn headers(ends: ([u32; 4], [u32; 4]), proto: u8, ttl: u8, transport: usize, length: u32) -> Headers {
    let (source, destination) = ends;
    let proto = u32::from(proto);
    Headers {
        key: ConnectionKey { source, destination, source_port: 0, destination_port: 0, proto },
        kind: Kind::Transport,
        fragment: Fragment::Whole,
        v4: false,
        carried: false,
        flags: 0,
        ttl,
        beside: [0; 2],
        transport,
        length,
        id: 0,
    }
}

/// TCP that does not begin, and UDP.
#[inline(always)]
fn ports(ctx: &XdpContext, offset: usize, headers: &mut Headers) -> Option<()> {
    match headers.key.proto as u8 {
        PROTO_TCP => {
            // SAFETY: as above.
            let transport = unsafe { at::<Transport>(ctx, offset)?.read_unaligned() };
            headers.key.source_port = transport.source;
            headers.key.destination_port = transport.destination;
            headers.flags = transport.flags;
        }
        PROTO_UDP => {
            // SAFETY: as above.
            let [source, destination] = unsafe { at::<[u16; 2]>(ctx, offset)?.read_unaligned() };
            headers.key.source_port = source;
            headers.key.destination_port = destination;
        }
        _ => return None,
    }
    (headers.flags & SYN == 0).then_some(())
}

/// Translates the packet and sends it on, if it stays outside.
#[inline(never)]
#[target_feature(enable = "allows-misaligned-mem-access")]
fn pass_on(ctx: &XdpContext, work: &mut Work) -> u32 {
    let Work { headers, to, now, route, .. } = work;
    // SAFETY: the kernel hands a valid context.
    let device = unsafe { (*ctx.ctx).ingress_ifindex };
    // Whether the source may send by this device was asked where the connection began. What goes on as it came is the others'.
    if to.device != device || headers.ttl <= 1 || to.flags & Connection::DIRECT != 0 {
        return PASS;
    }
    if !deliver::way(*now, headers, to, route) {
        let (packet, ends) = ((device, headers.length as u16), (&to.source, &to.destination));
        let result = deliver::look_up(ctx.ctx.cast(), packet, headers, ends, route);
        if result != BPF_FIB_LKUP_RET_SUCCESS {
            return PASS;
        }
        deliver::remember(*now, headers, route, 0);
    }
    let out = route.ifindex;
    if out != device && !is_early(out) {
        return PASS;
    }
    let hardware = [route.dmac, route.smac];
    let done = if headers.v4 { rewrite4(ctx, headers, to) } else { rewrite6(ctx, headers, to) };
    if done.is_none() {
        return PASS;
    }
    let Some(place) = at::<[[u8; 6]; 2]>(ctx, 0) else { return PASS };
    // SAFETY: `at` has compared with the packet's end.
    unsafe { place.write_unaligned(hardware) };
    count::packet(to.service, headers.length);
    if out == device {
        return xdp_action::XDP_TX;
    }
    // SAFETY: no addresses.
    unsafe { bpf_redirect(out, 0) as u32 }
}

#[inline(always)]
fn is_early(device: u32) -> bool {
    // SAFETY: the value is read at once.
    unsafe { DEVICES.get(&device) }.is_some_and(|flags| *flags & DEVICE_EARLY != 0)
}

/// Nothing is written unless all can be.
#[inline(always)]
fn rewrite4(ctx: &XdpContext, headers: &Headers, to: &Connection) -> Option<()> {
    let addresses = addresses(headers, to);
    let end = at::<End4>(ctx, ETHERNET + 8)?;
    transport::<TRANSPORT4>(ctx, headers, to, addresses)?;
    let [proto, checksum] = headers.beside;
    let value = End4::one_hop_less(headers.ttl, proto as u8, checksum, addresses, to);
    // SAFETY: `at` has compared with the packet's end.
    unsafe { end.write_unaligned(value) };
    Some(())
}

#[inline(always)]
fn rewrite6(ctx: &XdpContext, headers: &Headers, to: &Connection) -> Option<()> {
    let end = at::<End6>(ctx, ETHERNET + 4)?;
    transport::<TRANSPORT6>(ctx, headers, to, addresses(headers, to))?;
    let [next, payload] = headers.beside;
    let value =
        End6 { payload, next: next as u8, hops: headers.ttl - 1, source: to.source, destination: to.destination };
    // SAFETY: as above.
    unsafe { end.write_unaligned(value) };
    Some(())
}

#[inline(always)]
fn addresses(headers: &Headers, to: &Connection) -> u32 {
    let key = &headers.key;
    address_change(headers.v4, (&key.source, &key.destination), (&to.source, &to.destination))
}

/// Ports and checksum.
#[inline(always)]
fn transport<const AT: usize>(
    ctx: &XdpContext,
    headers: &Headers,
    to: &Connection,
    addresses: u32,
) -> Option<()> {
    let key = &headers.key;
    let udp = key.proto == u32::from(PROTO_UDP);
    let checksum = if udp { at::<u16>(ctx, AT + 6)? } else { at::<u16>(ctx, AT + 16)? };
    let ports = at::<[u16; 2]>(ctx, AT)?;
    let new = [to.source_port, to.destination_port];
    let ports_change = port_change((key.source_port, key.destination_port), (new[0], new[1]));
    // SAFETY: `at` has compared with the packet's end.
    unsafe {
        let old = checksum.read_unaligned();
        let sum = changed(changed(old, addresses), ports_change);
        // UDP of IPv4 may have none, and then nothing is to be said.
        if !udp || old != 0 {
            checksum.write_unaligned(if udp && sum == 0 { 0xffff } else { sum });
        }
        ports.write_unaligned(new);
    }
    Some(())
}
