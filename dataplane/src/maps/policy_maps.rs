//! The maps of NetworkPolicies, pinned beside those of services.

use std::path::Path;

use aya::maps::{Array, HashMap, LpmTrie, MapData, MapError as AyaError, lpm_trie::Key};
use ipnet::IpNet;
use orlop_abi as abi;

use super::codec::{MAPPED_BITS, address, plain, words};
use super::{MapError, entries, gone, pinned, refused, unreadable};
use crate::policy::diff::Op;
use crate::policy::tables::{RuleKey, Subject, Tables};

/// Names of the maps, in the object and in the pin directory.
pub(crate) const NAMES: [&str; 7] = [SUBJECTS, IDENTITIES, BLOCKS, RULES, "VERDICTS", "HITS", POLICY];
const SUBJECTS: &str = "SUBJECTS";
const IDENTITIES: &str = "IDENTITIES";
const BLOCKS: &str = "BLOCKS";
const RULES: &str = "RULES";
const POLICY: &str = "POLICY";

const FAMILY_BITS: u32 = 32;

pub(super) struct PolicyMaps {
    subjects: HashMap<MapData, abi::Ip, abi::Subject>,
    identities: HashMap<MapData, abi::Ip, u32>,
    blocks: LpmTrie<MapData, abi::Block, u32>,
    rules: LpmTrie<MapData, abi::RuleKey, u32>,
    state: Array<MapData, abi::PolicyState>,
}

impl PolicyMaps {
    pub(super) fn open(pins: &Path) -> Result<Self, MapError> {
        Ok(Self {
            subjects: pinned(pins, SUBJECTS)?,
            identities: pinned(pins, IDENTITIES)?,
            blocks: pinned(pins, BLOCKS)?,
            rules: pinned(pins, RULES)?,
            state: pinned(pins, POLICY)?,
        })
    }

    pub(super) fn dump(&self) -> Result<Tables, MapError> {
        let mut tables = Tables::default();
        for (ip, subject) in entries(&self.subjects, SUBJECTS)? {
            let abi::Subject { ingress, egress } = subject;
            tables.subjects.insert(address(ip), Subject { ingress, egress });
        }
        for (ip, identity) in entries(&self.identities, IDENTITIES)? {
            tables.identities.insert(address(ip), identity);
        }
        for entry in self.blocks.iter() {
            let (key, class) = entry.map_err(|source| unreadable(BLOCKS, source))?;
            tables.blocks.extend(net(&key).map(|net| (net, class)));
        }
        for entry in self.rules.iter() {
            let (key, by) = entry.map_err(|source| unreadable(RULES, source))?;
            tables.rules.extend(rule(&key).map(|rule| (rule, by)));
        }
        Ok(tables)
    }

    pub(super) fn apply(&mut self, op: &Op) -> Result<(), MapError> {
        self.write(op).map_err(|source| refused(op.to_string(), source))
    }

    fn write(&mut self, op: &Op) -> Result<(), AyaError> {
        match *op {
            Op::PutRule(key, by) => self.rules.insert(&rule_key(key), by, 0),
            Op::PutBlock(net, class) => self.blocks.insert(&block_key(net), class, 0),
            Op::PutIdentity(ip, identity) => self.identities.insert(words(ip), identity, 0),
            Op::PutSubject(ip, Subject { ingress, egress }) => {
                self.subjects.insert(words(ip), abi::Subject { ingress, egress }, 0)
            }
            Op::DelSubject(ip) => gone(self.subjects.remove(&words(ip))),
            Op::DelIdentity(ip) => gone(self.identities.remove(&words(ip))),
            Op::DelBlock(net) => gone(self.blocks.remove(&block_key(net))),
            Op::DelRule(key) => gone(self.rules.remove(&rule_key(key))),
        }
    }

    /// Has every flow judged again.
    pub(super) fn publish(&mut self, subjects: u32) -> Result<(), MapError> {
        let known = self.state.get(&0, 0).map_err(|source| unreadable(POLICY, source))?;
        let generation = known.generation.wrapping_add(1);
        self.state
            .set(0, abi::PolicyState { generation, subjects }, 0)
            .map_err(|source| refused("publish the rules".to_owned(), source))
    }
}

fn block_key(net: IpNet) -> Key<abi::Block> {
    let (family, mapped) = if net.addr().is_ipv4() { (4, MAPPED_BITS) } else { (6, 0) };
    let bits = FAMILY_BITS + u32::from(net.prefix_len()) + u32::from(mapped);
    Key::new(bits, abi::Block { family, ip: words(net.addr()) })
}

fn net(key: &Key<abi::Block>) -> Option<IpNet> {
    let data = key.data();
    let bits = u8::try_from(key.prefix_len().checked_sub(FAMILY_BITS)?).ok()?;
    if data.family == 4 {
        return IpNet::new(address(data.ip), bits.checked_sub(MAPPED_BITS)?).ok();
    }
    // Not `address`: a network of IPv6 may begin like one of IPv4.
    IpNet::new(plain(data.ip).into(), bits).ok()
}

fn rule_key(key: RuleKey) -> Key<abi::RuleKey> {
    let RuleKey { set, peer, bits, proto, port } = key;
    let data = abi::RuleKey { set, peer, proto, port: port.to_be_bytes(), reserved: 0 };
    Key::new(abi::RuleKey::PEER + u32::from(bits), data)
}

fn rule(key: &Key<abi::RuleKey>) -> Option<RuleKey> {
    let abi::RuleKey { set, peer, proto, port, .. } = key.data();
    let bits = u8::try_from(key.prefix_len().checked_sub(abi::RuleKey::PEER)?).ok()?;
    Some(RuleKey { set, peer, bits, proto, port: u16::from_be_bytes(port) })
}
