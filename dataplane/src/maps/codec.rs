//! What stands in a map's bytes, and what it means: one way and back. Pure.
//!
//! Not for: reading and writing the maps.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use aya::maps::lpm_trie::Key;
use ipnet::IpNet;
use orlop_abi as abi;

use crate::compile::Rules;
use crate::model::{Family, Protocol};
use crate::tables::{Backend, BackendId, Frontend, Home, Host, Masquerade, Own, Places, ServiceId, Set, Vip};

/// As the programs hold it: what stands in the packet stands in memory.
pub(crate) fn words(ip: IpAddr) -> abi::Ip {
    let octets = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
    .octets();
    let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
    [word(0), word(4), word(8), word(12)]
}

/// The other way round.
pub(crate) fn address(words: abi::Ip) -> IpAddr {
    plain(words).to_canonical()
}

/// As it stands, in the form of IPv6.
pub(super) fn plain(words: abi::Ip) -> Ipv6Addr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets)
}

/// IPv4 prefixes are counted in `::ffff:0:0/96`.
pub(super) const MAPPED_BITS: u8 = 96;
const SERVICE_BITS: u32 = 32;

pub(super) fn range_key(service: ServiceId, net: IpNet) -> Key<abi::Range> {
    let bits = net.prefix_len() + if net.addr().is_ipv4() { MAPPED_BITS } else { 0 };
    Key::new(SERVICE_BITS + u32::from(bits), abi::Range { service: service.0, ip: words(net.addr()) })
}

/// `None` for what no version of ours wrote.
pub(super) fn range_of(key: &Key<abi::Range>) -> Option<(ServiceId, IpNet)> {
    let data = key.data();
    let ip = address(data.ip);
    let bits = u8::try_from(key.prefix_len().checked_sub(SERVICE_BITS)?).ok()?;
    let bits = if ip.is_ipv4() { bits.checked_sub(MAPPED_BITS)? } else { bits };
    Some((ServiceId(data.service), IpNet::new(ip, bits).ok()?))
}

pub(super) fn vip_key(vip: Vip) -> abi::FrontendKey {
    let proto = if vip.is_other_ports() { 0 } else { vip.protocol.number() };
    let (ip, scope) = match vip.host {
        Host::Ip(ip) => (words(ip), abi::SCOPE_ADDRESS),
        Host::Node(Family::V4) => ([0, 0, abi::MAPPED, 0], abi::SCOPE_NODE),
        Host::Node(Family::V6) => ([0; 4], abi::SCOPE_NODE),
    };
    abi::FrontendKey { ip, port: vip.port.to_be(), proto, scope }
}

/// `None` for what a later version wrote.
pub(super) fn vip_of(key: abi::FrontendKey) -> Option<Vip> {
    let protocol = match key.proto {
        0 if key.scope == abi::SCOPE_ADDRESS && key.port == 0 => {
            return Some(Vip::other_ports(address(key.ip)));
        }
        abi::PROTO_TCP => Protocol::Tcp,
        abi::PROTO_UDP => Protocol::Udp,
        abi::PROTO_SCTP => Protocol::Sctp,
        _ => return None,
    };
    let host = match key.scope {
        abi::SCOPE_ADDRESS => Host::Ip(address(key.ip)),
        abi::SCOPE_NODE => Host::Node(if key.ip[2] == abi::MAPPED { Family::V4 } else { Family::V6 }),
        _ => return None,
    };
    Some(Vip { host, port: u16::from_be(key.port), protocol })
}

pub(super) fn settings(own: Own) -> abi::Settings {
    let Own {
        netns,
        masquerade_v4,
        masquerade_v6,
        masquerade_ports,
        loopback_node_ports,
        pods_known,
        host_sockets_only,
        some_untranslated,
    } = own;
    let (first, last) = masquerade_ports;
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    abi::Settings {
        host_netns: netns,
        masquerade_v4: masquerade_v4.map(words).unwrap_or_default(),
        masquerade_v6: masquerade_v6.map(words).unwrap_or_default(),
        first_port: first,
        ports: last.saturating_sub(first).saturating_add(1),
        flags: flag(loopback_node_ports, abi::Settings::LOOPBACK_NODE_PORTS)
            | flag(pods_known, abi::Settings::PODS_KNOWN)
            | flag(host_sockets_only, abi::Settings::HOST_SOCKETS_ONLY)
            | flag(some_untranslated, abi::Settings::SOME_UNTRANSLATED),
    }
}

pub(super) fn own_of(value: &abi::Settings) -> Own {
    let ip = |ip: abi::Ip| (ip != abi::Ip::default()).then(|| address(ip));
    Own {
        netns: value.host_netns,
        masquerade_v4: ip(value.masquerade_v4),
        masquerade_v6: ip(value.masquerade_v6),
        masquerade_ports: (value.first_port, value.first_port.saturating_add(value.ports.saturating_sub(1))),
        loopback_node_ports: value.flags & abi::Settings::LOOPBACK_NODE_PORTS != 0,
        pods_known: value.flags & abi::Settings::PODS_KNOWN != 0,
        host_sockets_only: value.flags & abi::Settings::HOST_SOCKETS_ONLY != 0,
        some_untranslated: value.flags & abi::Settings::SOME_UNTRANSLATED != 0,
    }
}

pub(super) fn set_of(number: u16) -> Option<Set> {
    match u8::try_from(number).ok()? {
        abi::SET_CLUSTER => Some(Set::Cluster),
        abi::SET_LOCAL => Some(Set::Local),
        _ => None,
    }
}

pub(super) fn slot_key(service: ServiceId, (set, slot): (Set, u16)) -> abi::SlotKey {
    let set = match set {
        Set::Cluster => abi::SET_CLUSTER,
        Set::Local => abi::SET_LOCAL,
    };
    abi::SlotKey { service: service.0, set: set.into(), slot }
}

pub(super) fn places(to: &Places) -> abi::Places {
    abi::Places { backends: to.map(|id| id.0) }
}

pub(super) fn places_of(value: &abi::Places) -> Places {
    Places::new(value.backends.map(BackendId))
}

pub(super) fn frontend(service: ServiceId, to: Frontend) -> abi::Frontend {
    let Frontend { rules, cluster, local, any, affinity_seconds } = to;
    let Rules { local: policy, shortcut, guarded, by_hash, masquerade, direct } = rules;
    let flag = |on: bool, flag: u16| if on { flag } else { 0 };
    let flags = flag(policy, abi::FRONTEND_LOCAL)
        | flag(shortcut, abi::FRONTEND_SHORTCUT)
        | flag(any, abi::FRONTEND_ANY)
        | flag(guarded, abi::FRONTEND_RANGES)
        | flag(by_hash, abi::FRONTEND_HASH)
        | flag(masquerade == Masquerade::Always, abi::FRONTEND_MASQUERADE)
        | flag(masquerade == Masquerade::Outside, abi::FRONTEND_MASQUERADE_OUTSIDE)
        | flag(direct, abi::FRONTEND_DIRECT);
    abi::Frontend { service: service.0, cluster, local, flags, reserved: 0, affinity_seconds }
}

pub(super) fn frontend_of(value: &abi::Frontend) -> Frontend {
    let has = |flag: u16| value.flags & flag != 0;
    let rules = Rules {
        local: has(abi::FRONTEND_LOCAL),
        shortcut: has(abi::FRONTEND_SHORTCUT),
        guarded: has(abi::FRONTEND_RANGES),
        by_hash: has(abi::FRONTEND_HASH),
        direct: has(abi::FRONTEND_DIRECT),
        masquerade: match (has(abi::FRONTEND_MASQUERADE), has(abi::FRONTEND_MASQUERADE_OUTSIDE)) {
            (true, _) => Masquerade::Always,
            (false, true) => Masquerade::Outside,
            (false, false) => Masquerade::Never,
        },
    };
    Frontend {
        rules,
        cluster: value.cluster,
        local: value.local,
        any: has(abi::FRONTEND_ANY),
        affinity_seconds: value.affinity_seconds,
    }
}

pub(super) fn backend(service: ServiceId, to: Backend) -> abi::Backend {
    let cluster = if to.cluster { abi::BACKEND_CLUSTER } else { 0 };
    let local = if to.local { abi::BACKEND_LOCAL } else { 0 };
    let close = if to.close { abi::BACKEND_CLOSE } else { 0 };
    let home = match to.home {
        Home::Unsaid => 0,
        Home::Here => abi::BACKEND_HERE,
        Home::Away => abi::BACKEND_AWAY,
    };
    abi::Backend {
        ip: words(to.at.ip()),
        port: to.at.port().to_be(),
        flags: cluster | local | close | home,
        service: service.0,
    }
}

/// What packets that another node sent on as they came are found by, if the backend gets such.
pub(super) fn receiver_key(value: &abi::Backend) -> Option<abi::ReceiverKey> {
    (value.flags & abi::BACKEND_HERE != 0)
        .then_some(abi::ReceiverKey { ip: value.ip, service: value.service })
}

pub(super) fn backend_of(value: &abi::Backend) -> Backend {
    Backend {
        at: SocketAddr::new(address(value.ip), u16::from_be(value.port)),
        cluster: value.flags & abi::BACKEND_CLUSTER != 0,
        local: value.flags & abi::BACKEND_LOCAL != 0,
        close: value.flags & abi::BACKEND_CLOSE != 0,
        home: match value.flags & (abi::BACKEND_HERE | abi::BACKEND_AWAY) {
            abi::BACKEND_HERE => Home::Here,
            abi::BACKEND_AWAY => Home::Away,
            _ => Home::Unsaid,
        },
    }
}
