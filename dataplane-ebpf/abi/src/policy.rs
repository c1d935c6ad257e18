//! NetworkPolicies as the kernel programs look them up.
//!
//! A pod that a policy selects has a set of rules for each direction that a policy is about. Peers are known by a number:
//! identity of a pod, class of an address (its highest bit is set), or 0 for anybody.

use crate::Ip;

/// A pod of this node that a policy selects, by address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Subject {
    /// Set of rules for what comes to it; 0: everything may.
    pub ingress: u32,
    /// Set of rules for what it begins.
    pub egress: u32,
}

/// The data of a key of `BLOCKS`: matched bit by bit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// 4 or 6: `::/0` does not mean IPv4.
    pub family: u32,
    /// The network's address; IPv4 prefixes count from bit 96.
    pub ip: Ip,
}

impl Block {
    /// Length in bits of a key that names one address.
    pub const WHOLE: u32 = 32 + 128;
}

/// The data of a key of `RULES`: matched bit by bit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    /// The set it is in.
    pub set: u32,
    /// The peer.
    pub peer: u32,
    /// Protocol number.
    pub proto: u8,
    /// Port where the connection ends, network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: u8,
}

impl RuleKey {
    /// Length in bits of a key for every protocol.
    pub const PEER: u32 = 64;
    /// Length in bits of a key that names one port.
    pub const WHOLE: u32 = Self::PEER + 8 + 16;
}

/// What was decided about a flow of a pod that a policy selects. Its key has the pod as the source, whoever began.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Who the peer really is: the pod behind a service, the client behind a masquerade.
    pub peer: Ip,
    /// Its port, network byte order.
    pub peer_port: u16,
    /// `Verdict::…` bits.
    pub flags: u16,
    /// Generation of the rules that were asked.
    pub generation: u32,
    /// The policy that allowed it; 0: none needed to.
    pub by: u32,
    /// Second of the last packet, since the machine started.
    pub seen: u32,
}

impl Verdict {
    /// The peer began.
    pub const INGRESS: u16 = 1;
    /// It was allowed once, and is not any more.
    pub const DENIED: u16 = 1 << 1;
}

/// The one value of `POLICY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PolicyState {
    /// Grows with every change of the rules: what was decided before is asked again.
    pub generation: u32,
    /// How many subjects there are; 0: nothing needs to be looked at.
    pub subjects: u32,
}

/// What a policy let through, or a set of rules kept out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hits {
    /// Flows that it allowed (policies).
    pub allowed: u64,
    /// Packets that nothing in it allowed (sets).
    pub denied: u64,
}

const _: () = assert!(size_of::<Subject>() == 8 && align_of::<Subject>() == 4);
const _: () = assert!(size_of::<Block>() == 20 && align_of::<Block>() == 4);
const _: () = assert!(size_of::<RuleKey>() == 12 && align_of::<RuleKey>() == 4);
const _: () = assert!(size_of::<Verdict>() == 32 && align_of::<Verdict>() == 4);
const _: () = assert!(size_of::<PolicyState>() == 8 && align_of::<PolicyState>() == 4);
const _: () = assert!(size_of::<Hits>() == 16 && align_of::<Hits>() == 8);

#[cfg(feature = "user")]
mod pod {
    use super::{Block, Hits, PolicyState, RuleKey, Subject, Verdict};

    // SAFETY: `repr(C)`, integers only, and the fields add up to the asserted size: no padding.
    unsafe impl aya::Pod for Subject {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Block {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RuleKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for PolicyState {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Hits {}
}
