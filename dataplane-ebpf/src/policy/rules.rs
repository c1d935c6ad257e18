//! Which policy allows a flow: by anybody, by the pod that the peer is, or by the block its address is in.

use aya_ebpf::btf_maps::lpm_trie::Key;
use orlop_abi::{Block, RuleKey, Verdict};

use crate::{
    choose::is_v4,
    maps::{BLOCKS, IDENTITIES, RULES},
    packet::work::Work,
};

/// None does.
pub const NOBODY: u32 = u32::MAX;
/// The peer of rules that are about everybody.
const ANYBODY: u32 = 0;

/// The policy, 0 if none needs to, or [`NOBODY`]. `work.verdict` has the peer and who began.
#[inline(never)]
pub fn allowed_by(work: &Work, set: u32) -> u32 {
    let (verdict, flow) = (&work.verdict, &work.flow);
    if set == 0 || verdict.peer == flow.source {
        return 0;
    }
    let ingress = verdict.flags & Verdict::INGRESS != 0;
    let port = if ingress { flow.source_port } else { verdict.peer_port }.to_ne_bytes();
    let mut rule = RuleKey { set, peer: ANYBODY, proto: flow.proto as u8, port, reserved: 0 };
    if let Some(by) = find(&rule) {
        return by;
    }
    // SAFETY: the value is copied at once.
    if let Some(identity) = unsafe { IDENTITIES.get(&verdict.peer) } {
        rule.peer = *identity;
        if let Some(by) = find(&rule) {
            return by;
        }
    }
    let family = if is_v4(&verdict.peer) { 4 } else { 6 };
    let class = BLOCKS.get(&Key::new(Block::WHOLE, Block { family, ip: verdict.peer })).copied().unwrap_or(0);
    if class != 0 {
        rule.peer = class;
        if let Some(by) = find(&rule) {
            return by;
        }
    }
    NOBODY
}

#[inline(always)]
fn find(rule: &RuleKey) -> Option<u32> {
    RULES.get(&Key::new(RuleKey::WHOLE, *rule)).copied()
}
