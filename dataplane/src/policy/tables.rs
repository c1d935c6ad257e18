//! What stands in the maps, in words; and how a packet is judged by it, as the programs do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{Direction, Key};

/// The peer of rules that are about anybody.
pub const ANYBODY: u32 = 0;
/// The bits of [`RuleKey`] that name a protocol.
pub const PROTOCOL_BITS: u8 = 8;
/// The bits of [`RuleKey`] that name one port of a protocol.
pub const PORT_BITS: u8 = PROTOCOL_BITS + 16;

/// A local pod that a policy selects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The rules for what comes to it; 0: everything may.
    pub ingress: u32,
    /// The rules for what goes out.
    pub egress: u32,
}

impl Subject {
    /// The rules of a direction.
    #[must_use]
    pub fn set(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Something that is allowed. Of protocol and port only the first `bits` bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleKey {
    /// The rules it is one of.
    pub set: u32,
    /// Identity of a pod, class of an address, or [`ANYBODY`].
    pub peer: u32,
    /// Bits of what follows that count.
    pub bits: u8,
    /// Protocol number.
    pub proto: u8,
    /// Port.
    pub port: u16,
}

/// Everything that the programs look up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Local pods that a policy selects.
    pub subjects: BTreeMap<IpAddr, Subject>,
    /// Pods that a rule speaks of.
    pub identities: BTreeMap<IpAddr, u32>,
    /// Classes of addresses, by the longest prefix.
    pub blocks: BTreeMap<IpNet, u32>,
    /// What is allowed, and by which policy.
    pub rules: BTreeMap<RuleKey, u32>,
}

/// What numbers of policies and sets stand for; not in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Policies that select pods of this node.
    pub policies: BTreeMap<u32, Key>,
    /// Sets of rules, by the direction and the policies they are made of.
    pub sets: BTreeMap<u32, (Direction, BTreeSet<Key>)>,
    /// Pods of this node that policies select.
    pub pods: BTreeMap<IpAddr, Key>,
}

impl Tables {
    /// The policy that allows a connection between a pod with these rules and this peer; `port` is where it ends.
    #[must_use]
    pub fn allowed_by(&self, set: u32, peer: IpAddr, proto: u8, port: u16) -> Option<u32> {
        let identity = self.identities.get(&peer).copied();
        let peers = [Some(ANYBODY), identity, self.class(peer)];
        peers.into_iter().flatten().find_map(|peer| self.rule(set, peer, proto, port))
    }

    fn class(&self, ip: IpAddr) -> Option<u32> {
        let nets = self.blocks.iter().filter(|(net, _)| net.contains(&ip));
        nets.max_by_key(|(net, _)| net.prefix_len()).map(|(_, class)| *class).filter(|class| *class != 0)
    }

    /// The longest prefix.
    fn rule(&self, set: u32, peer: u32, proto: u8, port: u16) -> Option<u32> {
        let bits = (PROTOCOL_BITS..=PORT_BITS).rev().chain([0]);
        bits.map(|bits| RuleKey::new(set, peer, bits, proto, port))
            .find_map(|key| self.rules.get(&key).copied())
    }
}

impl RuleKey {
    /// A key with the bits that do not count cleared.
    #[must_use]
    pub fn new(set: u32, peer: u32, bits: u8, proto: u8, port: u16) -> Self {
        let port_bits = bits.saturating_sub(PROTOCOL_BITS).min(16);
        let mask = u16::MAX.checked_shl(16 - u32::from(port_bits)).unwrap_or(0);
        Self { set, peer, bits, proto: if bits < PROTOCOL_BITS { 0 } else { proto }, port: port & mask }
    }
}

impl fmt::Display for RuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, peer, bits, proto, port } = self;
        write!(f, "set {set:08x} peer {peer:08x} protocol {proto} port {port} ({bits} bits)")
    }
}
