//! From a service address to one of its backends: what `connect()` and a first packet have in common.

use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
};
use orlop_abi::{
    ADDRESS_NODE_PORTS, Affinity, AffinityKey, BACKEND_CLUSTER, BACKEND_LOCAL, Backend, ConnectionKey, FRONTEND_ANY, FRONTEND_HASH,
    FRONTEND_LOCAL, FRONTEND_MASQUERADE, FRONTEND_OTHER_PORTS, FRONTEND_RANGES, FRONTEND_SHORTCUT, Frontend, FrontendKey, Ip, MAPPED, RANGE_NODES, RANGE_PODS, Range, ReceiverKey,
    SCOPE_ADDRESS, SCOPE_NODE, SET_CLUSTER, SET_LOCAL, SlotKey, TABLE, PLACES as PLACES_IN_PART,
};

use crate::maps::{ADDRESSES, AFFINITIES, BACKENDS, FRONTENDS, PLACES, RANGES, RECEIVERS, SLOTS};

/// A slot is rewritten while it is read at most for a moment: look a second time before giving up.
const ATTEMPTS: u32 = 2;

/// Why a service does not take a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint anywhere.
    NoEndpoint,
    /// There are endpoints, but none that the policy allows here.
    NoLocalEndpoint,
    /// The load balancer's source ranges.
    SourceRange,
}

/// Who dials.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A pod.
    Pod,
    /// The node itself.
    Node,
    /// Anybody else.
    Outside,
}

#[inline(always)]
pub const fn is_v4(ip: &Ip) -> bool {
    ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED
}

/// Seconds since the machine started.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: the helper takes no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
}

/// What stands behind an address; `loopback` if 127.0.0.1 is the node's own, and takes node ports.
#[inline(always)]
pub fn frontend(ip: &Ip, port: u16, proto: u8, loopback: bool) -> Option<Frontend> {
    let key = FrontendKey { ip: *ip, port, proto, scope: SCOPE_ADDRESS };
    // SAFETY: the value is copied; a concurrent update replaces the whole element.
    if let Some(frontend) = unsafe { FRONTENDS.get(&key) } {
        return Some(*frontend);
    }
    if !(takes_node_ports(ip) || loopback && is_v4(ip) && ip[3].to_ne_bytes()[0] == 127) {
        return other_ports(ip);
    }
    node_port(ip, port, proto)
}

#[inline(always)]
fn node_port(ip: &Ip, port: u16, proto: u8) -> Option<Frontend> {
    let any = [0, 0, if is_v4(ip) { MAPPED } else { 0 }, 0];
    let key = FrontendKey { ip: any, port, proto, scope: SCOPE_NODE };
    // SAFETY: as in `frontend`.
    unsafe { FRONTENDS.get(&key) }.copied()
}

/// What stands behind an address that another node was asked for, if that may send the packet on as it came. Which addresses the
/// other node has is not known here: what is no service's address is taken for one of them.
#[inline(always)]
pub fn frontend_elsewhere(ip: &Ip, port: u16, proto: u8) -> Option<Frontend> {
    let key = FrontendKey { ip: *ip, port, proto, scope: SCOPE_ADDRESS };
    // SAFETY: as in `frontend`.
    let own = unsafe { FRONTENDS.get(&key) }.copied();
    own.or_else(|| node_port(ip, port, proto)).filter(|frontend| frontend.flags & FRONTEND_MASQUERADE != 0)
}

/// The id of the endpoint on this node, of this address, that a service has; 0 if it has none.
#[inline(always)]
pub fn receiver(ip: &Ip, service: u32) -> u32 {
    // SAFETY: the value is copied at once.
    let Some(id) = (unsafe { RECEIVERS.get(&ReceiverKey { ip: *ip, service }) }).copied() else { return 0 };
    // SAFETY: it is read at once.
    let backend = unsafe { BACKENDS.get(&id) };
    if backend.is_some_and(|backend| backend.service == service && backend.ip == *ip) { id } else { 0 }
}

/// Whether an address is another node's.
#[inline(always)]
pub fn is_other_node(ip: &Ip) -> bool {
    in_range(RANGE_NODES, ip)
}

/// A cluster IP refuses what its service does not have.
#[inline(always)]
fn other_ports(ip: &Ip) -> Option<Frontend> {
    let key = FrontendKey { ip: *ip, port: 0, proto: 0, scope: SCOPE_ADDRESS };
    // SAFETY: as in `frontend`.
    let frontend = unsafe { FRONTENDS.get(&key) }.copied()?;
    Some(Frontend { flags: frontend.flags | FRONTEND_OTHER_PORTS, ..frontend })
}

#[inline(always)]
fn takes_node_ports(ip: &Ip) -> bool {
    // SAFETY: the value is copied at once.
    unsafe { ADDRESSES.get(ip) }.is_some_and(|flags| *flags & ADDRESS_NODE_PORTS != 0)
}

/// Who has this address.
#[inline(always)]
pub fn source(ip: &Ip) -> Source {
    // SAFETY: only whether it is there counts.
    if unsafe { ADDRESSES.get(ip) }.is_some() || is_v4(ip) && ip[3].to_ne_bytes()[0] == 127 {
        return Source::Node;
    }
    match in_range(RANGE_PODS, ip) {
        true => Source::Pod,
        false => Source::Outside,
    }
}

#[inline(always)]
fn in_range(service: u32, ip: &Ip) -> bool {
    RANGES.get(&Key::new(Range::WHOLE, Range { service, ip: *ip })).is_some()
}

/// Whether the service takes connections of this source at all.
#[inline(always)]
pub fn admit(frontend: &Frontend, source: &Ip) -> Result<(), Refusal> {
    match frontend.flags & FRONTEND_RANGES == 0 || in_range(frontend.service, source) {
        true => Ok(()),
        false => Err(Refusal::SourceRange),
    }
}

/// The set that a source uses, and how many slots it has. `shortcut` if the source is inside the cluster.
#[inline(always)]
fn set(frontend: &Frontend, shortcut: bool) -> (u8, u16) {
    let local = frontend.flags & FRONTEND_LOCAL != 0;
    match local && !(shortcut && frontend.flags & FRONTEND_SHORTCUT != 0) {
        true => (SET_LOCAL, frontend.local),
        false => (SET_CLUSTER, frontend.cluster),
    }
}

/// A backend for a new connection: the one that the client stays with, else one by chance, each with the same.
#[inline(always)]
pub fn backend(
    frontend: &Frontend,
    shortcut: bool,
    client: &Ip,
    packet: Option<&ConnectionKey>,
) -> Result<(u32, Backend), Refusal> {
    let (set, count) = set(frontend, shortcut);
    if count == 0 {
        return Err(match frontend.flags & FRONTEND_ANY {
            0 => Refusal::NoEndpoint,
            _ => Refusal::NoLocalEndpoint,
        });
    }
    if frontend.affinity_seconds == 0 {
        return anew(frontend, set, count, packet);
    }
    let key = AffinityKey { client: *client, service: frontend.service };
    let chosen = match bound(&key, set, frontend.affinity_seconds) {
        Some(chosen) => chosen,
        None => anew(frontend, set, count, packet)?,
    };
    let _ = AFFINITIES.insert(&key, &Affinity { backend: chosen.0, seen: now() }, 0);
    Ok(chosen)
}

/// Where this client went last, if that is not too long ago, and still in the set.
#[inline(always)]
fn bound(key: &AffinityKey, set: u8, seconds: u32) -> Option<(u32, Backend)> {
    // SAFETY: the value is copied at once.
    let affinity = unsafe { AFFINITIES.get(key) }.copied()?;
    if now().wrapping_sub(affinity.seen) >= seconds {
        return None;
    }
    let member = if set == SET_LOCAL { BACKEND_LOCAL } else { BACKEND_CLUSTER };
    let backend = by_id(affinity.backend, key.service).filter(|backend| backend.flags & member != 0)?;
    Some((affinity.backend, backend))
}

/// By the packet's hash if the service wants that, else by chance.
#[inline(always)]
fn anew(
    frontend: &Frontend,
    set: u8,
    count: u16,
    packet: Option<&ConnectionKey>,
) -> Result<(u32, Backend), Refusal> {
    if let Some(packet) = packet
        && frontend.flags & FRONTEND_HASH != 0
        && let Some(chosen) = by_hash(frontend.service, set, hash(packet))
    {
        return Ok(chosen);
    }
    by_chance(frontend.service, set, count)
}

/// Nothing where the table is being written.
#[inline(always)]
fn by_hash(service: u32, set: u8, hash: u32) -> Option<(u32, Backend)> {
    let place = hash % TABLE as u32;
    let key = SlotKey { service, set: u16::from(set), slot: (place / PLACES_IN_PART as u32) as u16 };
    // SAFETY: one word of it is copied at once.
    let part = unsafe { PLACES.get(&key) }?;
    let within = place % PLACES_IN_PART as u32;
    // SAFETY: a local variable. The compiler knows that it is within the part and would not compare; the verifier wants to see that.
    let within = unsafe { core::ptr::read_volatile(&within) };
    let id = *part.backends.get(within as usize)?;
    by_id(id, service).map(|backend| (id, backend))
}

#[inline(always)]
fn by_chance(service: u32, set: u8, count: u16) -> Result<(u32, Backend), Refusal> {
    for _ in 0..ATTEMPTS {
        // SAFETY: the helper takes no arguments.
        let slot = unsafe { bpf_get_prandom_u32() } % u32::from(count);
        let key = SlotKey { service, set: u16::from(set), slot: slot as u16 };
        // SAFETY: as in `frontend`.
        let Some(id) = (unsafe { SLOTS.get(&key) }).copied() else { continue };
        if let Some(backend) = by_id(id, service) {
            return Ok((id, backend));
        }
    }
    Err(Refusal::NoEndpoint)
}

/// Of what is the same wherever a packet comes in: who sends it. Murmur's steps (32 bits).
#[inline(always)]
fn hash(packet: &ConnectionKey) -> u32 {
    let ConnectionKey { source: [a, b, c, d], source_port, proto, .. } = *packet;
    let words = [a, b, c, d, u32::from(source_port) | proto << 16];
    let mut hash = 0;
    let mut at = 0;
    while at < words.len() {
        let word = words[at].wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
        hash = (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
        at += 1;
    }
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// The backend of this id, if it (still) belongs to the service.
#[inline(always)]
pub fn by_id(id: u32, service: u32) -> Option<Backend> {
    // SAFETY: as in `frontend`.
    unsafe { BACKENDS.get(&id) }.copied().filter(|backend| backend.service == service)
}
