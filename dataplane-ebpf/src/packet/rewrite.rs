//! Changes of a packet, with its checksums in step: the kernel's helpers know whether a checksum is complete, or still to
//! be filled in by a device.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use orlop_abi::{Connection, Ip, PROTO_SCTP, PROTO_TCP, PROTO_UDP};

use super::{
    ETHERNET,
    parse::{Fragment, Headers},
};

/// The kernel did not let us.
pub struct Refused;

/// Adds what a word contributes to a checksum, and takes away what it did before.
#[inline(always)]
fn change(sum: u64, old: u32, new: u32) -> u64 {
    sum + u64::from(!old) + u64::from(new)
}

#[inline(always)]
const fn fold(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// The change of a checksum over both addresses.
#[inline(always)]
pub fn address_change(v4: bool, old: (&Ip, &Ip), new: (&Ip, &Ip)) -> u32 {
    let mut sum = change(change(0, old.0[3], new.0[3]), old.1[3], new.1[3]);
    if !v4 {
        for word in 0..3 {
            sum = change(change(sum, old.0[word], new.0[word]), old.1[word], new.1[word]);
        }
    }
    fold(sum)
}

/// The change of a checksum over both ports.
#[inline(always)]
pub fn port_change(old: (u16, u16), new: (u16, u16)) -> u32 {
    let sum = change(0, u32::from(old.0), u32::from(new.0));
    fold(change(sum, u32::from(old.1), u32::from(new.1)))
}

/// Gives the packet the connection's addresses and ports, and one hop less if it is sent on.
#[inline(always)]
pub fn translate(ctx: &TcContext, headers: &Headers, to: &Connection, hop: bool) -> Result<(), Refused> {
    let key = &headers.key;
    let addresses = address_change(headers.v4, (&key.source, &key.destination), (&to.source, &to.destination));
    if headers.fragment != Fragment::Later {
        transport(ctx, headers, to, addresses)?;
    }
    ip(ctx, headers, &to.source, &to.destination, addresses, hop)
}

/// Checksum and ports of the transport header.
#[inline(always)]
fn transport(ctx: &TcContext, headers: &Headers, to: &Connection, addresses: u32) -> Result<(), Refused> {
    let key = &headers.key;
    let old = (key.source_port, key.destination_port);
    let new = (to.source_port, to.destination_port);
    let (checksum, zero_is_none) = match key.proto as u8 {
        PROTO_TCP => (16, 0),
        PROTO_UDP => (6, u64::from(BPF_F_MARK_MANGLED_0)),
        // SCTP's covers no addresses.
        _ => (0, 0),
    };
    if key.proto != u32::from(PROTO_SCTP) {
        l4_checksum(ctx, headers.transport + checksum, addresses, u64::from(BPF_F_PSEUDO_HDR) | zero_is_none)?;
        if old != new {
            l4_checksum(ctx, headers.transport + checksum, port_change(old, new), zero_is_none)?;
        }
    } else if old != new {
        super::sctp::checksum(ctx, headers, old, new)?;
    }
    if old != new { store(ctx, headers.transport, &[new.0, new.1]) } else { Ok(()) }
}

/// The end of an IPv4 header, from the hop count on.
#[repr(C)]
pub struct End4 {
    hops: u8,
    proto: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

/// The end of an IPv6 header, from the word on that the hop count is in.
#[repr(C)]
pub struct End6 {
    pub payload: u16,
    pub next: u8,
    pub hops: u8,
    pub source: Ip,
    pub destination: Ip,
}

impl End4 {
    /// What it becomes on its way, with the change of the checksum over the addresses.
    #[inline(always)]
    pub fn one_hop_less(ttl: u8, proto: u8, checksum: u16, addresses: u32, to: &Connection) -> Self {
        let checksum = changed(checksum, fold(u64::from(addresses) + HOP));
        Self { hops: ttl - 1, proto, checksum, source: to.source[3], destination: to.destination[3] }
    }
}

/// What one hop less adds to a checksum: the hop count is the high byte of its word.
const HOP: u64 = !(0x0100_u16.to_be() as u32) as u64;

/// Addresses, hop count and checksum of the IP header, which stand in one piece.
#[inline(always)]
pub fn ip(
    ctx: &TcContext,
    headers: &Headers,
    source: &Ip,
    destination: &Ip,
    addresses: u32,
    hop: bool,
) -> Result<(), Refused> {
    let hops = headers.ttl - u8::from(hop);
    if headers.v4 {
        let less = if hop { HOP } else { 0 };
        let [proto, checksum] = headers.beside;
        let (proto, checksum) = (proto as u8, changed(checksum, fold(u64::from(addresses) + less)));
        let (source, destination) = (source[3], destination[3]);
        store(ctx, ETHERNET + 8, &End4 { hops, proto, checksum, source, destination })
    } else {
        let [next, payload] = headers.beside;
        let (source, destination) = (*source, *destination);
        store(ctx, ETHERNET + 4, &End6 { payload, next: next as u8, hops, source, destination })
    }
}

/// What a checksum becomes.
#[inline(always)]
pub const fn changed(checksum: u16, change: u32) -> u16 {
    let sum = (!checksum) as u32 + (change & 0xffff) + (change >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

#[inline(always)]
pub fn store<T>(ctx: &TcContext, offset: usize, value: &T) -> Result<(), Refused> {
    let (at, length) = ((&raw const *value).cast(), size_of::<T>() as u32);
    // SAFETY: `value` is `length` readable bytes; the kernel checks the place in the packet.
    let result = unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), offset as u32, at, length, 0) };
    if result == 0 { Ok(()) } else { Err(Refused) }
}

#[inline(always)]
pub fn l3_checksum(ctx: &TcContext, offset: usize, change: u32) -> Result<(), Refused> {
    // SAFETY: no addresses; the kernel checks the place in the packet.
    let result = unsafe { bpf_l3_csum_replace(ctx.skb.skb.cast(), offset as u32, 0, u64::from(change), 0) };
    if result == 0 { Ok(()) } else { Err(Refused) }
}

#[inline(always)]
pub fn l4_checksum(ctx: &TcContext, offset: usize, change: u32, flags: u64) -> Result<(), Refused> {
    // SAFETY: as above.
    let result = unsafe { bpf_l4_csum_replace(ctx.skb.skb.cast(), offset as u32, 0, u64::from(change), flags) };
    if result == 0 { Ok(()) } else { Err(Refused) }
}
