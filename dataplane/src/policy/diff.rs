//! From what stands in the maps to what should: the writes, in an order that keeps out and lets in what it should meanwhile.
//!
//! What is allowed is written before the pods it is for are put under it, and taken away after they no longer are: numbers mean
//! the same before and after, so at no moment is a flow refused that is allowed on both sides of the change.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::tables::{RuleKey, Subject, Tables};

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Something is allowed, by this policy.
    PutRule(RuleKey, u32),
    /// A network has a class.
    PutBlock(IpNet, u32),
    /// A pod has an identity.
    PutIdentity(IpAddr, u32),
    /// A pod has rules.
    PutSubject(IpAddr, Subject),
    /// No policy selects the pod.
    DelSubject(IpAddr),
    /// No rule speaks of the pod.
    DelIdentity(IpAddr),
    /// No rule speaks of the network.
    DelBlock(IpNet),
    /// It is not allowed any more.
    DelRule(RuleKey),
}

/// What leads from `actual` to `desired`.
#[must_use]
pub fn diff(desired: &Tables, actual: &Tables) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(puts(&desired.rules, &actual.rules).map(|(key, by)| Op::PutRule(key, by)));
    ops.extend(puts(&desired.blocks, &actual.blocks).map(|(net, class)| Op::PutBlock(net, class)));
    ops.extend(puts(&desired.identities, &actual.identities).map(|(ip, id)| Op::PutIdentity(ip, id)));
    ops.extend(puts(&desired.subjects, &actual.subjects).map(|(ip, subject)| Op::PutSubject(ip, subject)));
    ops.extend(gone(&desired.subjects, &actual.subjects).map(Op::DelSubject));
    ops.extend(gone(&desired.identities, &actual.identities).map(Op::DelIdentity));
    ops.extend(gone(&desired.blocks, &actual.blocks).map(Op::DelBlock));
    ops.extend(gone(&desired.rules, &actual.rules).map(Op::DelRule));
    ops
}

fn puts<K: Ord + Copy, V: PartialEq + Copy>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
) -> impl Iterator<Item = (K, V)> {
    desired.iter().filter(|(key, value)| actual.get(key) != Some(value)).map(|(key, value)| (*key, *value))
}

fn gone<K: Ord + Copy, V>(desired: &BTreeMap<K, V>, actual: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    actual.keys().filter(|key| !desired.contains_key(key)).copied()
}

impl Tables {
    /// Does to these tables what the write does to the maps.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::PutRule(key, by) => drop(self.rules.insert(key, by)),
            Op::PutBlock(net, class) => drop(self.blocks.insert(net, class)),
            Op::PutIdentity(ip, identity) => drop(self.identities.insert(ip, identity)),
            Op::PutSubject(ip, subject) => drop(self.subjects.insert(ip, subject)),
            Op::DelSubject(ip) => drop(self.subjects.remove(&ip)),
            Op::DelIdentity(ip) => drop(self.identities.remove(&ip)),
            Op::DelBlock(net) => drop(self.blocks.remove(&net)),
            Op::DelRule(key) => drop(self.rules.remove(&key)),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutRule(key, by) => write!(f, "put rule {key} of policy {by:08x}"),
            Self::PutBlock(net, class) => write!(f, "put block {net} class {class:08x}"),
            Self::PutIdentity(ip, identity) => write!(f, "put identity {identity:08x} of pod {ip}"),
            Self::PutSubject(ip, _) => write!(f, "put rules of pod {ip}"),
            Self::DelSubject(ip) => write!(f, "remove rules of pod {ip}"),
            Self::DelIdentity(ip) => write!(f, "remove identity of pod {ip}"),
            Self::DelBlock(net) => write!(f, "remove block {net}"),
            Self::DelRule(key) => write!(f, "remove rule {key}"),
        }
    }
}
